//! What several tests build on: sessions in a known state, frames, descriptors.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::File;
use std::os::fd::OwnedFd;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::payload::{MemRegion, VringState};
use outboard_vhost_user::{Answer, BackendSession, Frame, FrontendRequest, Offer, ProtocolFeatures};
use outboard_virtio_defs::features::{
    VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
};
use zerocopy::{Immutable, IntoBytes};

/// How many rings the device of these tests has.
pub(crate) const QUEUES: u32 = 4;

/// Virtio features of the device of these tests.
pub(crate) const FEATURES: u64 =
    VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL;

/// Everything there is but XEN_MMAP and GPA_ADDRESSES, which change the meaning of other messages.
pub(crate) fn everything() -> ProtocolFeatures {
    ProtocolFeatures((1 << 24) - 1) - ProtocolFeatures::XEN_MMAP - ProtocolFeatures::GPA_ADDRESSES
}

pub(crate) fn offer() -> Offer {
    Offer { features: FEATURES, tolerated_features: 0, protocol: everything(), queues: QUEUES }
}

/// Everything offered, nothing negotiated.
pub(crate) fn fresh() -> BackendSession {
    BackendSession::new(offer())
}

/// Everything offered, `protocol` and all virtio features negotiated.
pub(crate) fn with_protocol(protocol: ProtocolFeatures) -> BackendSession {
    let mut session = fresh();
    agree(&mut session, FEATURES, protocol);
    session
}

/// Everything offered and negotiated.
pub(crate) fn ready() -> BackendSession {
    with_protocol(everything())
}

pub(crate) fn agree(session: &mut BackendSession, features: u64, protocol: ProtocolFeatures) {
    for (code, value) in
        [(FrontendRequest::SET_FEATURES, features), (FrontendRequest::SET_PROTOCOL_FEATURES, protocol.0)]
    {
        session.decode(frame(code, &value, 0)).unwrap();
        assert!(matches!(session.answer(Ok(outboard_vhost_user::Reply::Ack)), Answer::Nothing));
    }
}

/// A descriptor that does nothing.
pub(crate) fn fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

pub(crate) fn fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| fd()).collect()
}

pub(crate) fn frame<T: IntoBytes + Immutable + ?Sized>(
    code: FrontendRequest,
    body: &T,
    fd_count: usize,
) -> Frame {
    Frame { request: code.0, flags: flags::VERSION, body: body.as_bytes().to_vec(), fds: fds(fd_count) }
}

/// The same, with NEED_REPLY.
pub(crate) fn asking<T: IntoBytes + Immutable + ?Sized>(
    code: FrontendRequest,
    body: &T,
    fd_count: usize,
) -> Frame {
    Frame { flags: flags::VERSION | flags::NEED_REPLY, ..frame(code, body, fd_count) }
}

pub(crate) fn state(index: u32, num: u32) -> VringState {
    VringState { index, num }
}

pub(crate) fn region(n: u64) -> MemRegion {
    MemRegion { guest_addr: n << 32, size: 0x1000 + n, user_addr: (n << 32) + (1 << 44), mmap_offset: n }
}

/// The payload of SET_MEM_TABLE.
pub(crate) fn table(regions: u32) -> Vec<u8> {
    let mut body = [regions, 0].as_bytes().to_vec();
    for n in 0..regions {
        body.extend_from_slice(region(n.into()).as_bytes());
    }
    body
}

/// The payload of ADD_MEM_REG and REM_MEM_REG.
pub(crate) fn single(n: u64) -> Vec<u8> {
    let mut body = 0u64.to_ne_bytes().to_vec();
    body.extend_from_slice(region(n).as_bytes());
    body
}

/// The payload of GET_CONFIG and SET_CONFIG.
pub(crate) fn config(offset: u32, size: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let mut body = [offset, size, flags].as_bytes().to_vec();
    body.extend_from_slice(data);
    body
}

/// The payload of the in-flight messages.
pub(crate) fn inflight(mmap_size: u64, num_queues: u16, queue_size: u16) -> Vec<u8> {
    let mut body = mmap_size.to_ne_bytes().to_vec();
    body.extend_from_slice(&0u64.to_ne_bytes());
    body.extend_from_slice(&num_queues.to_ne_bytes());
    body.extend_from_slice(&queue_size.to_ne_bytes());
    body.extend_from_slice(&[0xee; 4]);
    body
}

/// The frame that an answer sends.
pub(crate) fn sent(answer: Answer) -> Frame {
    match answer {
        Answer::Send(frame) => frame,
        other => panic!("nothing is sent: {other:?}"),
    }
}

/// The `u64` that an answer sends.
pub(crate) fn number(answer: Answer) -> u64 {
    let frame = sent(answer);
    assert_eq!(frame.flags, 0x5);
    u64::from_ne_bytes(frame.body.try_into().expect("8 bytes"))
}
