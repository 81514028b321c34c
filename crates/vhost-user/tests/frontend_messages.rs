//! Every message of the front end: decoded where it is well-formed and negotiated, refused where it is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outboard_vhost_user::payload::{Iotlb, VringAddr};
use outboard_vhost_user::{Frame, FrontendRequest as Code, ProtocolFeatures, Refusal, Request};
use support::*;
use zerocopy::{Immutable, IntoBytes};

/// What a session that has negotiated everything makes of the message.
fn decode<T: IntoBytes + Immutable + ?Sized>(code: Code, body: &T, fd_count: usize) -> Request {
    let request = ready().decode(frame(code, body, fd_count)).expect("decoded");
    assert_eq!(request.code(), code);
    request
}

/// Why a session that has negotiated everything does not take the message.
fn refuse<T: IntoBytes + Immutable + ?Sized>(code: Code, body: &T, fd_count: usize) -> Refusal {
    let refusal = ready().decode(frame(code, body, fd_count)).expect_err("refused");
    assert_eq!(refusal.id(), code.into());
    refusal
}

/// The feature that a session misses which has negotiated everything but `feature`.
fn missed<T: IntoBytes + Immutable + ?Sized>(
    code: Code,
    body: &T,
    fd_count: usize,
    feature: ProtocolFeatures,
) -> &'static str {
    let mut session = with_protocol(everything() - feature - ProtocolFeatures::INBAND_NOTIFICATIONS);
    match session.decode(frame(code, body, fd_count)) {
        Err(Refusal::NotNegotiated { needs, .. }) => needs,
        other => panic!("{other:?}"),
    }
}

fn is_malformed(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Malformed { .. })
}

#[test]
fn get_features_decodes() {
    assert!(matches!(decode(Code::GET_FEATURES, &[0u8; 0], 0), Request::GetFeatures));
}

#[test]
fn get_features_with_payload_is_refused() {
    assert!(is_malformed(&refuse(Code::GET_FEATURES, &0u64, 0)));
}

#[test]
fn set_features_decodes() {
    assert!(matches!(decode(Code::SET_FEATURES, &FEATURES, 0), Request::SetFeatures(FEATURES)));
}

#[test]
fn set_features_with_unoffered_bits_is_refused() {
    let refusal = refuse(Code::SET_FEATURES, &(FEATURES | 0b101), 0);
    assert!(matches!(refusal, Refusal::NotOffered { bits: 0b101, .. }));
}

#[test]
fn set_owner_decodes() {
    assert!(matches!(decode(Code::SET_OWNER, &[0u8; 0], 0), Request::SetOwner));
}

#[test]
fn set_owner_with_payload_is_refused() {
    assert!(is_malformed(&refuse(Code::SET_OWNER, &0u32, 0)));
}

#[test]
fn reset_owner_decodes() {
    assert!(matches!(decode(Code::RESET_OWNER, &[0u8; 0], 0), Request::ResetOwner));
}

#[test]
fn reset_owner_with_payload_is_refused() {
    assert!(is_malformed(&refuse(Code::RESET_OWNER, &0u32, 0)));
}

#[test]
fn set_mem_table_decodes() {
    let Request::SetMemTable(regions) = decode(Code::SET_MEM_TABLE, &table(3)[..], 3) else { panic!() };
    let regions: Vec<_> = regions.into_iter().map(|(region, _)| region).collect();
    assert_eq!(regions, [region(0), region(1), region(2)]);
}

#[test]
fn set_mem_table_of_253_regions_decodes() {
    let Request::SetMemTable(regions) = decode(Code::SET_MEM_TABLE, &table(253)[..], 253) else { panic!() };
    assert_eq!(regions.len(), 253);
}

#[test]
fn set_mem_table_of_no_region_decodes() {
    assert!(
        matches!(decode(Code::SET_MEM_TABLE, &table(0)[..], 0), Request::SetMemTable(regions) if regions.is_empty())
    );
}

#[test]
fn set_mem_table_with_too_few_or_too_many_fds_is_refused() {
    for found in [0, 2, 4] {
        let refusal = refuse(Code::SET_MEM_TABLE, &table(3)[..], found);
        assert!(matches!(refusal, Refusal::WrongFdCount { wanted: 3, found: n, .. } if n == found));
    }
}

#[test]
fn set_mem_table_whose_count_does_not_fit_is_refused() {
    assert!(is_malformed(&refuse(Code::SET_MEM_TABLE, &table(2)[..60], 2)));
    assert!(is_malformed(&refuse(Code::SET_MEM_TABLE, &[1u32, 0], 1)));
    let refusal = refuse(Code::SET_MEM_TABLE, &[u32::MAX, 0], 1);
    assert!(matches!(refusal, Refusal::Oversized { size: 0xffff_ffff, max: 253, .. }));
}

#[test]
fn set_log_base_decodes() {
    let request = decode(Code::SET_LOG_BASE, &[4096u64, 8], 1);
    assert!(matches!(request, Request::SetLogBase { size: 4096, offset: 8, fd: Some(_) }));
}

#[test]
fn set_log_base_without_log_shmfd_decodes_without_fd() {
    for body in [&[0u64][..], &[4096, 8]] {
        let mut session = with_protocol(ProtocolFeatures::EMPTY);
        let request = session.decode(frame(Code::SET_LOG_BASE, body, 1)).unwrap();
        assert!(matches!(request, Request::SetLogBase { fd: None, .. }));
    }
}

#[test]
fn set_log_base_without_fd_is_refused() {
    let refusal = refuse(Code::SET_LOG_BASE, &[4096u64, 8], 0);
    assert!(matches!(refusal, Refusal::WrongFdCount { found: 0, wanted: 1, .. }));
    assert!(is_malformed(&refuse(Code::SET_LOG_BASE, &[1u32; 3], 1)));
}

#[test]
fn set_log_fd_decodes() {
    assert!(matches!(decode(Code::SET_LOG_FD, &[0u8; 0], 1), Request::SetLogFd(_)));
    assert!(matches!(decode(Code::SET_LOG_FD, &0u64, 1), Request::SetLogFd(_)));
}

#[test]
fn set_log_fd_without_fd_is_refused() {
    assert!(matches!(refuse(Code::SET_LOG_FD, &[0u8; 0], 0), Refusal::WrongFdCount { .. }));
    assert!(is_malformed(&refuse(Code::SET_LOG_FD, &0u32, 1)));
}

#[test]
fn set_vring_num_decodes() {
    let request = decode(Code::SET_VRING_NUM, &state(1, 0x8000), 0);
    assert!(matches!(request, Request::SetVringNum { index: 1, num: 0x8000 }));
}

#[test]
fn set_vring_num_out_of_range_is_refused() {
    for num in [0, 0x8001, u32::MAX] {
        let refusal = refuse(Code::SET_VRING_NUM, &state(0, num), 0);
        assert!(matches!(refusal, Refusal::BadValue { value, .. } if value == u64::from(num)));
    }
}

#[test]
fn set_vring_addr_decodes() {
    let addr = VringAddr { index: 3, flags: VringAddr::LOG, descriptor: 1, used: 2, available: 3, log: 4 };
    assert!(
        matches!(decode(Code::SET_VRING_ADDR, &addr, 0), Request::SetVringAddr(decoded) if decoded == addr)
    );
}

#[test]
fn set_vring_addr_of_a_ring_that_is_not_there_is_refused() {
    let refusal = refuse(Code::SET_VRING_ADDR, &VringAddr { index: 4, ..VringAddr::default() }, 0);
    assert!(matches!(refusal, Refusal::BadIndex { index: 4, queues: 4, .. }));
    assert!(is_malformed(&refuse(Code::SET_VRING_ADDR, &[0u8; 39], 0)));
}

#[test]
fn set_vring_base_decodes() {
    let request = decode(Code::SET_VRING_BASE, &state(2, 0x8000_8000), 0);
    assert!(matches!(request, Request::SetVringBase { index: 2, num: 0x8000_8000 }));
}

#[test]
fn set_vring_base_of_a_ring_that_is_not_there_is_refused() {
    assert!(matches!(
        refuse(Code::SET_VRING_BASE, &state(0x10000, 0), 0),
        Refusal::BadIndex { index: 0x10000, .. }
    ));
}

#[test]
fn get_vring_base_decodes() {
    assert!(matches!(decode(Code::GET_VRING_BASE, &state(3, 0), 0), Request::GetVringBase { index: 3 }));
}

#[test]
fn get_vring_base_of_a_ring_that_is_not_there_is_refused() {
    assert!(matches!(refuse(Code::GET_VRING_BASE, &state(4, 0), 0), Refusal::BadIndex { index: 4, .. }));
}

#[test]
fn set_vring_kick_decodes() {
    let request = decode(Code::SET_VRING_KICK, &1u64, 1);
    assert!(matches!(request, Request::SetVringKick { index: 1, fd: Some(_) }));
    // The descriptor is not announced, so it is not the kick.
    let request = decode(Code::SET_VRING_KICK, &0x101u64, 1);
    assert!(matches!(request, Request::SetVringKick { index: 1, fd: None }));
}

#[test]
fn set_vring_kick_without_its_fd_is_refused() {
    let refusal = refuse(Code::SET_VRING_KICK, &1u64, 0);
    assert!(matches!(refusal, Refusal::WrongFdCount { found: 0, wanted: 1, .. }));
}

#[test]
fn set_vring_call_decodes() {
    let request = decode(Code::SET_VRING_CALL, &3u64, 2);
    assert!(matches!(request, Request::SetVringCall { index: 3, fd: Some(_) }));
    let request = decode(Code::SET_VRING_CALL, &0x103u64, 0);
    assert!(matches!(request, Request::SetVringCall { index: 3, fd: None }));
}

#[test]
fn set_vring_call_of_a_ring_that_is_not_there_is_refused() {
    assert!(matches!(refuse(Code::SET_VRING_CALL, &4u64, 1), Refusal::BadIndex { index: 4, .. }));
    // Ring 512: cut to eight bits it would be ring 0.
    assert!(matches!(refuse(Code::SET_VRING_CALL, &0x200u64, 1), Refusal::BadValue { value: 0x200, .. }));
}

#[test]
fn set_vring_err_decodes() {
    let request = decode(Code::SET_VRING_ERR, &0u64, 1);
    assert!(matches!(request, Request::SetVringErr { index: 0, fd: Some(_) }));
}

#[test]
fn set_vring_err_without_its_fd_is_refused() {
    assert!(matches!(refuse(Code::SET_VRING_ERR, &0u64, 0), Refusal::WrongFdCount { .. }));
    assert!(is_malformed(&refuse(Code::SET_VRING_ERR, &0u32, 1)));
}

#[test]
fn get_protocol_features_decodes() {
    assert!(matches!(decode(Code::GET_PROTOCOL_FEATURES, &[0u8; 0], 0), Request::GetProtocolFeatures));
    let before_anything = fresh().decode(frame(Code::GET_PROTOCOL_FEATURES, &[0u8; 0], 0));
    assert!(matches!(before_anything, Ok(Request::GetProtocolFeatures)));
}

/// A session whose device does not offer VHOST_USER_F_PROTOCOL_FEATURES.
fn without_protocol(frame: Frame) -> Refusal {
    let offer = outboard_vhost_user::Offer { features: 1 << 32, ..offer() };
    outboard_vhost_user::BackendSession::new(offer).decode(frame).unwrap_err()
}

#[test]
fn get_protocol_features_without_protocol_features_is_refused() {
    let refusal = without_protocol(frame(Code::GET_PROTOCOL_FEATURES, &[0u8; 0], 0));
    assert!(matches!(refusal, Refusal::NotNegotiated { .. }));
}

#[test]
fn set_protocol_features_decodes() {
    let bits = everything().0;
    assert!(
        matches!(decode(Code::SET_PROTOCOL_FEATURES, &bits, 0), Request::SetProtocolFeatures(b) if b == bits)
    );
}

#[test]
fn set_protocol_features_with_unoffered_bits_is_refused() {
    let refusal = refuse(Code::SET_PROTOCOL_FEATURES, &(1u64 << 17 | 1 << 40), 0);
    assert!(matches!(refusal, Refusal::NotOffered { bits, .. } if bits == 1 << 17 | 1 << 40));
    let refusal = without_protocol(frame(Code::SET_PROTOCOL_FEATURES, &0u64, 0));
    assert!(matches!(refusal, Refusal::NotNegotiated { .. }));
}

#[test]
fn set_protocol_features_inband_without_its_needs_is_refused_and_closes() {
    let inband = ProtocolFeatures::INBAND_NOTIFICATIONS | ProtocolFeatures::REPLY_ACK;
    let mut session = ready();
    let refusal = session.decode(asking(Code::SET_PROTOCOL_FEATURES, &inband.0, 0)).unwrap_err();
    assert!(matches!(refusal, Refusal::DependencyMissing { .. }));
    assert!(matches!(session.answer(Err(refusal)), outboard_vhost_user::Answer::Close));
}

#[test]
fn get_queue_num_decodes() {
    assert!(matches!(decode(Code::GET_QUEUE_NUM, &[0u8; 0], 0), Request::GetQueueNum));
    // SPDK asks without MQ.
    assert!(matches!(fresh().decode(frame(Code::GET_QUEUE_NUM, &[0u8; 0], 0)), Ok(Request::GetQueueNum)));
}

#[test]
fn get_queue_num_with_payload_is_refused() {
    assert!(is_malformed(&refuse(Code::GET_QUEUE_NUM, &0u64, 0)));
}

#[test]
fn set_vring_enable_decodes() {
    let request = decode(Code::SET_VRING_ENABLE, &state(1, 1), 0);
    assert!(matches!(request, Request::SetVringEnable { index: 1, enable: true }));
    // QEMU's net enables before SET_FEATURES.
    let request = fresh().decode(frame(Code::SET_VRING_ENABLE, &state(0, 0), 0));
    assert!(matches!(request, Ok(Request::SetVringEnable { index: 0, enable: false })));
}

#[test]
fn set_vring_enable_without_protocol_features_is_refused() {
    let mut session = fresh();
    agree(&mut session, 1 << 32, ProtocolFeatures::EMPTY);
    let refusal = session.decode(frame(Code::SET_VRING_ENABLE, &state(0, 1), 0)).unwrap_err();
    assert!(matches!(refusal, Refusal::NotNegotiated { .. }));
    assert!(matches!(refuse(Code::SET_VRING_ENABLE, &state(0, 2), 0), Refusal::BadValue { value: 2, .. }));
    assert!(matches!(refuse(Code::SET_VRING_ENABLE, &state(4, 1), 0), Refusal::BadIndex { .. }));
}

#[test]
fn send_rarp_decodes() {
    let request = decode(Code::SEND_RARP, &[1u8, 2, 3, 4, 5, 6, 0, 0], 0);
    assert!(matches!(request, Request::SendRarp([1, 2, 3, 4, 5, 6])));
}

#[test]
fn send_rarp_without_rarp_is_refused() {
    assert_eq!(missed(Code::SEND_RARP, &0u64, 0, ProtocolFeatures::RARP), "RARP");
}

#[test]
fn net_set_mtu_decodes() {
    assert!(matches!(decode(Code::NET_SET_MTU, &1500u64, 0), Request::NetSetMtu(1500)));
}

#[test]
fn net_set_mtu_without_mtu_is_refused() {
    assert_eq!(missed(Code::NET_SET_MTU, &1500u64, 0, ProtocolFeatures::MTU), "MTU");
}

#[test]
fn set_backend_req_fd_decodes() {
    assert!(matches!(decode(Code::SET_BACKEND_REQ_FD, &[0u8; 0], 1), Request::SetBackendReqFd(_)));
}

#[test]
fn set_backend_req_fd_without_backend_req_is_refused() {
    assert_eq!(missed(Code::SET_BACKEND_REQ_FD, &[0u8; 0], 1, ProtocolFeatures::BACKEND_REQ), "BACKEND_REQ");
    assert!(matches!(refuse(Code::SET_BACKEND_REQ_FD, &[0u8; 0], 0), Refusal::WrongFdCount { .. }));
}

#[test]
fn iotlb_msg_decodes() {
    let iotlb =
        Iotlb { iova: 1, size: 2, user_addr: 3, permission: 3, kind: Iotlb::UPDATE, ..Iotlb::default() };
    assert!(matches!(decode(Code::IOTLB_MSG, &iotlb, 0), Request::IotlbMsg(decoded) if decoded == iotlb));
}

#[test]
fn iotlb_msg_without_access_platform_is_refused() {
    let mut session = fresh();
    agree(&mut session, 1 << 32, ProtocolFeatures::EMPTY);
    let refusal = session.decode(frame(Code::IOTLB_MSG, &Iotlb::default(), 0)).unwrap_err();
    assert!(matches!(refusal, Refusal::NotNegotiated { needs: "VIRTIO_F_ACCESS_PLATFORM", .. }));
}

#[test]
fn set_vring_endian_decodes() {
    let request = decode(Code::SET_VRING_ENDIAN, &state(1, 1), 0);
    assert!(matches!(request, Request::SetVringEndian { index: 1, big: true }));
}

#[test]
fn set_vring_endian_without_cross_endian_is_refused() {
    assert_eq!(
        missed(Code::SET_VRING_ENDIAN, &state(0, 0), 0, ProtocolFeatures::CROSS_ENDIAN),
        "CROSS_ENDIAN"
    );
    assert!(matches!(refuse(Code::SET_VRING_ENDIAN, &state(0, 2), 0), Refusal::BadValue { .. }));
}

#[test]
fn get_config_decodes() {
    let request = decode(Code::GET_CONFIG, &config(4, 57, 1, &[0xff; 57])[..], 0);
    assert!(matches!(request, Request::GetConfig { offset: 4, size: 57, flags: 1 }));
    let request = decode(Code::GET_CONFIG, &config(0, 4084, 0, &[0; 4084])[..], 0);
    assert!(matches!(request, Request::GetConfig { size: 4084, .. }));
}

#[test]
fn get_config_without_config_is_refused() {
    assert_eq!(missed(Code::GET_CONFIG, &config(0, 0, 0, &[])[..], 0, ProtocolFeatures::CONFIG), "CONFIG");
    let refusal = refuse(Code::GET_CONFIG, &config(0, 4085, 0, &[])[..], 0);
    assert!(matches!(refusal, Refusal::Oversized { size: 4085, max: 4084, .. }));
    assert!(is_malformed(&refuse(Code::GET_CONFIG, &[0u8; 11], 0)));
}

#[test]
fn set_config_decodes() {
    let request = decode(Code::SET_CONFIG, &config(32, 1, 1, &[7])[..], 0);
    assert!(matches!(request, Request::SetConfig { offset: 32, flags: 1, data } if data == [7]));
    // SPDK sends its whole buffer.
    let request = decode(Code::SET_CONFIG, &config(0, 2, 0, &[7; 256])[..], 0);
    assert!(matches!(request, Request::SetConfig { data, .. } if data == [7, 7]));
}

#[test]
fn set_config_with_less_than_announced_is_refused() {
    assert!(is_malformed(&refuse(Code::SET_CONFIG, &config(0, 3, 0, &[1, 2])[..], 0)));
    assert_eq!(missed(Code::SET_CONFIG, &config(0, 0, 0, &[])[..], 0, ProtocolFeatures::CONFIG), "CONFIG");
}

#[test]
fn create_crypto_session_decodes() {
    let request = decode(Code::CREATE_CRYPTO_SESSION, &[3u8; 1072], 0);
    assert!(matches!(request, Request::CreateCryptoSession(session) if session.len() == 1072));
}

#[test]
fn create_crypto_session_without_crypto_session_is_refused() {
    let needs = missed(Code::CREATE_CRYPTO_SESSION, &[0u8; 16], 0, ProtocolFeatures::CRYPTO_SESSION);
    assert_eq!(needs, "CRYPTO_SESSION");
    assert!(is_malformed(&refuse(Code::CREATE_CRYPTO_SESSION, &[0u8; 15], 0)));
}

#[test]
fn close_crypto_session_decodes() {
    assert!(matches!(decode(Code::CLOSE_CRYPTO_SESSION, &9u64, 0), Request::CloseCryptoSession(9)));
}

#[test]
fn close_crypto_session_without_crypto_session_is_refused() {
    let needs = missed(Code::CLOSE_CRYPTO_SESSION, &0u64, 0, ProtocolFeatures::CRYPTO_SESSION);
    assert_eq!(needs, "CRYPTO_SESSION");
}

#[test]
fn postcopy_advise_decodes() {
    assert!(matches!(decode(Code::POSTCOPY_ADVISE, &[0u8; 0], 0), Request::PostcopyAdvise));
}

#[test]
fn postcopy_advise_without_pagefault_is_refused() {
    assert_eq!(missed(Code::POSTCOPY_ADVISE, &[0u8; 0], 0, ProtocolFeatures::PAGEFAULT), "PAGEFAULT");
}

#[test]
fn postcopy_listen_decodes() {
    assert!(matches!(decode(Code::POSTCOPY_LISTEN, &[0u8; 0], 0), Request::PostcopyListen));
}

#[test]
fn postcopy_listen_without_pagefault_is_refused() {
    assert_eq!(missed(Code::POSTCOPY_LISTEN, &[0u8; 0], 0, ProtocolFeatures::PAGEFAULT), "PAGEFAULT");
}

#[test]
fn postcopy_end_decodes() {
    assert!(matches!(decode(Code::POSTCOPY_END, &[0u8; 0], 0), Request::PostcopyEnd));
}

#[test]
fn postcopy_end_without_pagefault_is_refused() {
    assert_eq!(missed(Code::POSTCOPY_END, &[0u8; 0], 0, ProtocolFeatures::PAGEFAULT), "PAGEFAULT");
}

#[test]
fn get_inflight_fd_decodes() {
    for len in [20, 24] {
        let Request::GetInflightFd(wanted) = decode(Code::GET_INFLIGHT_FD, &inflight(0, 2, 128)[..len], 0)
        else {
            panic!()
        };
        assert_eq!((wanted.num_queues, wanted.queue_size, wanted.padding), (2, 128, [0; 4]));
    }
}

#[test]
fn get_inflight_fd_without_inflight_shmfd_is_refused() {
    let needs = missed(Code::GET_INFLIGHT_FD, &inflight(0, 1, 1)[..], 0, ProtocolFeatures::INFLIGHT_SHMFD);
    assert_eq!(needs, "INFLIGHT_SHMFD");
    for len in [0, 19, 25] {
        assert!(is_malformed(&refuse(Code::GET_INFLIGHT_FD, &vec![0u8; len][..], 0)));
    }
}

#[test]
fn set_inflight_fd_decodes() {
    for len in [20, 24] {
        let request = decode(Code::SET_INFLIGHT_FD, &inflight(4096, 2, 128)[..len], 1);
        assert!(matches!(request, Request::SetInflightFd(given, _) if given.mmap_size == 4096));
    }
}

#[test]
fn set_inflight_fd_without_fd_is_refused() {
    for found in [0, 2] {
        let refusal = refuse(Code::SET_INFLIGHT_FD, &inflight(4096, 2, 128)[..], found);
        assert!(matches!(refusal, Refusal::WrongFdCount { wanted: 1, .. }));
    }
    let needs = missed(Code::SET_INFLIGHT_FD, &inflight(0, 1, 1)[..], 1, ProtocolFeatures::INFLIGHT_SHMFD);
    assert_eq!(needs, "INFLIGHT_SHMFD");
}

#[test]
fn gpu_set_socket_decodes() {
    assert!(matches!(decode(Code::GPU_SET_SOCKET, &[0u8; 0], 1), Request::GpuSetSocket(_)));
}

#[test]
fn gpu_set_socket_without_fd_is_refused() {
    assert!(matches!(refuse(Code::GPU_SET_SOCKET, &[0u8; 0], 0), Refusal::WrongFdCount { .. }));
}

#[test]
fn reset_device_decodes() {
    assert!(matches!(decode(Code::RESET_DEVICE, &[0u8; 0], 0), Request::ResetDevice));
}

#[test]
fn reset_device_without_reset_device_is_refused() {
    assert_eq!(missed(Code::RESET_DEVICE, &[0u8; 0], 0, ProtocolFeatures::RESET_DEVICE), "RESET_DEVICE");
}

#[test]
fn vring_kick_decodes() {
    assert!(matches!(decode(Code::VRING_KICK, &state(2, 0), 0), Request::VringKick { index: 2 }));
}

#[test]
fn vring_kick_without_inband_notifications_is_refused() {
    let needs = missed(Code::VRING_KICK, &state(2, 0), 0, ProtocolFeatures::INBAND_NOTIFICATIONS);
    assert_eq!(needs, "INBAND_NOTIFICATIONS");
    assert!(matches!(refuse(Code::VRING_KICK, &state(4, 0), 0), Refusal::BadIndex { .. }));
}

#[test]
fn get_max_mem_slots_decodes() {
    assert!(matches!(decode(Code::GET_MAX_MEM_SLOTS, &[0u8; 0], 0), Request::GetMaxMemSlots));
}

#[test]
fn get_max_mem_slots_without_configure_mem_slots_is_refused() {
    let needs = missed(Code::GET_MAX_MEM_SLOTS, &[0u8; 0], 0, ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    assert_eq!(needs, "CONFIGURE_MEM_SLOTS");
}

#[test]
fn add_mem_reg_decodes() {
    let request = decode(Code::ADD_MEM_REG, &single(5)[..], 1);
    assert!(matches!(request, Request::AddMemReg(added, _) if added == region(5)));
}

#[test]
fn add_mem_reg_without_exactly_one_fd_is_refused() {
    for found in [0, 2] {
        let refusal = refuse(Code::ADD_MEM_REG, &single(5)[..], found);
        assert!(matches!(refusal, Refusal::WrongFdCount { wanted: 1, .. }));
    }
    let needs = missed(Code::ADD_MEM_REG, &single(5)[..], 1, ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    assert_eq!(needs, "CONFIGURE_MEM_SLOTS");
}

#[test]
fn rem_mem_reg_decodes() {
    // libblkio sends a descriptor along.
    for fd_count in [0, 1] {
        let request = decode(Code::REM_MEM_REG, &single(5)[..], fd_count);
        assert!(matches!(request, Request::RemMemReg(removed) if removed == region(5)));
    }
}

#[test]
fn rem_mem_reg_without_configure_mem_slots_is_refused() {
    let needs = missed(Code::REM_MEM_REG, &single(5)[..], 0, ProtocolFeatures::CONFIGURE_MEM_SLOTS);
    assert_eq!(needs, "CONFIGURE_MEM_SLOTS");
    assert!(is_malformed(&refuse(Code::REM_MEM_REG, &region(5), 0)));
}

#[test]
fn set_status_decodes() {
    assert!(matches!(decode(Code::SET_STATUS, &0xfu64, 0), Request::SetStatus(0xf)));
}

#[test]
fn set_status_without_status_is_refused() {
    assert_eq!(missed(Code::SET_STATUS, &0u64, 0, ProtocolFeatures::STATUS), "STATUS");
}

#[test]
fn get_status_decodes() {
    assert!(matches!(decode(Code::GET_STATUS, &[0u8; 0], 0), Request::GetStatus));
}

#[test]
fn get_status_without_status_is_refused() {
    assert_eq!(missed(Code::GET_STATUS, &[0u8; 0], 0, ProtocolFeatures::STATUS), "STATUS");
}

#[test]
fn get_shared_object_decodes() {
    assert!(matches!(decode(Code::GET_SHARED_OBJECT, &[6u8; 16], 0), Request::GetSharedObject([6, ..])));
    // QEMU 11 forgets the payload.
    assert!(matches!(decode(Code::GET_SHARED_OBJECT, &[0u8; 0], 0), Request::GetSharedObject([0, ..])));
}

#[test]
fn get_shared_object_without_shared_object_is_refused() {
    let needs = missed(Code::GET_SHARED_OBJECT, &[6u8; 16], 0, ProtocolFeatures::SHARED_OBJECT);
    assert_eq!(needs, "SHARED_OBJECT");
    assert!(is_malformed(&refuse(Code::GET_SHARED_OBJECT, &[6u8; 15], 0)));
}

#[test]
fn set_device_state_fd_decodes() {
    let request = decode(Code::SET_DEVICE_STATE_FD, &state(1, 0), 1);
    assert!(matches!(request, Request::SetDeviceStateFd { direction: 1, phase: 0, .. }));
}

#[test]
fn set_device_state_fd_without_fd_is_refused() {
    assert!(matches!(refuse(Code::SET_DEVICE_STATE_FD, &state(1, 0), 0), Refusal::WrongFdCount { .. }));
    let needs = missed(Code::SET_DEVICE_STATE_FD, &state(1, 0), 1, ProtocolFeatures::DEVICE_STATE);
    assert_eq!(needs, "DEVICE_STATE");
}

#[test]
fn check_device_state_decodes() {
    assert!(matches!(decode(Code::CHECK_DEVICE_STATE, &[0u8; 0], 0), Request::CheckDeviceState));
}

#[test]
fn check_device_state_without_device_state_is_refused() {
    let needs = missed(Code::CHECK_DEVICE_STATE, &[0u8; 0], 0, ProtocolFeatures::DEVICE_STATE);
    assert_eq!(needs, "DEVICE_STATE");
}

#[test]
fn get_shmem_config_decodes() {
    assert!(matches!(decode(Code::GET_SHMEM_CONFIG, &[0u8; 0], 0), Request::GetShmemConfig));
}

#[test]
fn get_shmem_config_without_shmem_is_refused() {
    assert_eq!(missed(Code::GET_SHMEM_CONFIG, &[0u8; 0], 0, ProtocolFeatures::SHMEM), "SHMEM");
}

#[test]
fn get_vring_base_skip_drain_decodes() {
    let request = decode(Code::GET_VRING_BASE_SKIP_DRAIN, &state(1, 0), 0);
    assert!(matches!(request, Request::GetVringBaseSkipDrain { index: 1 }));
}

#[test]
fn get_vring_base_skip_drain_without_its_feature_is_refused() {
    let code = Code::GET_VRING_BASE_SKIP_DRAIN;
    let needs = missed(code, &state(1, 0), 0, ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN);
    assert_eq!(needs, "GET_VRING_BASE_SKIP_DRAIN");
    // Acknowledged without what it needs, it has no force.
    let needs = missed(code, &state(1, 0), 0, ProtocolFeatures::INFLIGHT_SHMFD);
    assert_eq!(needs, "GET_VRING_BASE_SKIP_DRAIN");
    assert!(matches!(refuse(code, &state(4, 0), 0), Refusal::BadIndex { .. }));
}

#[test]
fn unknown_request_is_refused() {
    for code in [0, 46, 47, 1000, u32::MAX] {
        assert!(matches!(refuse(Code(code), &[0u8; 0], 0), Refusal::UnknownRequest { .. }));
    }
}
