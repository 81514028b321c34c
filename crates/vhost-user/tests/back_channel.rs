//! Every message of the back end, between the two ends of the back channel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outboard_vhost_user::back_channel::{
    Message, Outcome, Requester, Responder, Terms, read_message, write_message,
};
use outboard_vhost_user::payload::{Iotlb, ShmemMapping};
use outboard_vhost_user::{Answer, BackendRequest as Code, Frame, ProtocolFeatures, Refusal};
use support::{everything, fd, fds, number, sent};

fn terms() -> Terms {
    Terms { protocol: everything(), access_platform: true, queues: 4 }
}

fn without(feature: ProtocolFeatures) -> Terms {
    Terms { protocol: (everything() - feature).effective(), ..terms() }
}

/// Carries `message` from a requester to a responder that have agreed on everything.
fn carry(message: Message) -> Message {
    let frame = Requester::new(terms()).encode(message, false).unwrap();
    assert!(!frame.needs_reply());
    Responder::new(terms()).decode(frame).unwrap()
}

/// What both ends say to `message` on terms that lack something.
fn refused_on(terms: Terms, message: fn() -> Message) -> &'static str {
    let local = Requester::new(terms).encode(message(), false).unwrap_err();
    let remote = Responder::new(terms).decode(write_message(message(), false).unwrap()).unwrap_err();
    assert_eq!(local, remote);
    match local {
        Refusal::NotNegotiated { needs, .. } => needs,
        other => panic!("{other}"),
    }
}

fn mapping() -> ShmemMapping {
    ShmemMapping {
        shmid: 1,
        padding: [0; 7],
        fd_offset: 4096,
        shm_offset: 8192,
        len: 4096,
        flags: ShmemMapping::WRITABLE,
    }
}

#[test]
fn iotlb_msg_decodes() {
    let miss = Iotlb { iova: 7, permission: 1, kind: Iotlb::MISS, ..Iotlb::default() };
    assert!(matches!(carry(Message::Iotlb(miss)), Message::Iotlb(carried) if carried == miss));
}

#[test]
fn iotlb_msg_without_access_platform_is_refused() {
    let terms = Terms { access_platform: false, ..terms() };
    assert_eq!(refused_on(terms, || Message::Iotlb(Iotlb::default())), "VIRTIO_F_ACCESS_PLATFORM");
}

#[test]
fn config_change_msg_decodes() {
    assert!(matches!(carry(Message::ConfigChange), Message::ConfigChange));
}

#[test]
fn config_change_msg_without_config_is_refused() {
    assert_eq!(refused_on(without(ProtocolFeatures::CONFIG), || Message::ConfigChange), "CONFIG");
    assert_eq!(refused_on(without(ProtocolFeatures::BACKEND_REQ), || Message::ConfigChange), "BACKEND_REQ");
}

#[test]
fn vring_host_notifier_msg_decodes() {
    let with_fd = carry(Message::VringHostNotifier { index: 3, size: 4096, offset: 8, fd: Some(fd()) });
    assert!(matches!(with_fd, Message::VringHostNotifier { index: 3, size: 4096, offset: 8, fd: Some(_) }));
    let removed = carry(Message::VringHostNotifier { index: 3, size: 0, offset: 0, fd: None });
    assert!(matches!(removed, Message::VringHostNotifier { index: 3, fd: None, .. }));
}

#[test]
fn vring_host_notifier_msg_without_host_notifier_is_refused() {
    let message = || Message::VringHostNotifier { index: 0, size: 4096, offset: 0, fd: None };
    assert_eq!(refused_on(without(ProtocolFeatures::HOST_NOTIFIER), message), "HOST_NOTIFIER");
    let beyond = Message::VringHostNotifier { index: 4, size: 0, offset: 0, fd: None };
    let refusal = Responder::new(terms()).decode(write_message(beyond, false).unwrap()).unwrap_err();
    assert!(matches!(refusal, Refusal::BadIndex { index: 4, .. }));
}

#[test]
fn vring_call_decodes() {
    assert!(matches!(carry(Message::VringCall { index: 2 }), Message::VringCall { index: 2 }));
}

#[test]
fn vring_call_without_inband_notifications_is_refused() {
    let terms = without(ProtocolFeatures::INBAND_NOTIFICATIONS);
    assert_eq!(refused_on(terms, || Message::VringCall { index: 2 }), "INBAND_NOTIFICATIONS");
}

#[test]
fn vring_err_decodes() {
    assert!(matches!(carry(Message::VringErr { index: 2 }), Message::VringErr { index: 2 }));
}

#[test]
fn vring_err_without_inband_notifications_is_refused() {
    let terms = without(ProtocolFeatures::INBAND_NOTIFICATIONS);
    assert_eq!(refused_on(terms, || Message::VringErr { index: 2 }), "INBAND_NOTIFICATIONS");
}

#[test]
fn shared_object_add_decodes() {
    assert!(matches!(carry(Message::SharedObjectAdd([5; 16])), Message::SharedObjectAdd([5, ..])));
}

#[test]
fn shared_object_add_without_shared_object_is_refused() {
    let terms = without(ProtocolFeatures::SHARED_OBJECT);
    assert_eq!(refused_on(terms, || Message::SharedObjectAdd([5; 16])), "SHARED_OBJECT");
}

#[test]
fn shared_object_remove_decodes() {
    assert!(matches!(carry(Message::SharedObjectRemove([5; 16])), Message::SharedObjectRemove([5, ..])));
}

#[test]
fn shared_object_remove_without_shared_object_is_refused() {
    let terms = without(ProtocolFeatures::SHARED_OBJECT);
    assert_eq!(refused_on(terms, || Message::SharedObjectRemove([5; 16])), "SHARED_OBJECT");
}

#[test]
fn shared_object_lookup_decodes() {
    let frame = Requester::new(terms()).encode(Message::SharedObjectLookup([5; 16]), true).unwrap();
    let message = Responder::new(terms()).decode(frame).unwrap();
    assert!(matches!(message, Message::SharedObjectLookup([5, ..])));
}

#[test]
fn shared_object_lookup_without_shared_object_is_refused() {
    let terms = without(ProtocolFeatures::SHARED_OBJECT);
    assert_eq!(refused_on(terms, || Message::SharedObjectLookup([5; 16])), "SHARED_OBJECT");
}

#[test]
fn shmem_map_decodes() {
    assert!(
        matches!(carry(Message::ShmemMap(mapping(), fd())), Message::ShmemMap(carried, _) if carried == mapping())
    );
}

#[test]
fn shmem_map_without_exactly_one_fd_is_refused() {
    for count in [0, 2] {
        let frame =
            Frame { fds: fds(count), ..write_message(Message::ShmemMap(mapping(), fd()), false).unwrap() };
        let refusal = Responder::new(terms()).decode(frame).unwrap_err();
        assert!(matches!(refusal, Refusal::WrongFdCount { wanted: 1, .. }));
    }
    assert_eq!(refused_on(without(ProtocolFeatures::SHMEM), || Message::ShmemMap(mapping(), fd())), "SHMEM");
}

#[test]
fn shmem_unmap_decodes() {
    assert!(
        matches!(carry(Message::ShmemUnmap(mapping())), Message::ShmemUnmap(carried) if carried == mapping())
    );
}

#[test]
fn shmem_unmap_without_shmem_is_refused() {
    assert_eq!(refused_on(without(ProtocolFeatures::SHMEM), || Message::ShmemUnmap(mapping())), "SHMEM");
}

#[test]
fn unknown_message_is_refused() {
    // crosvm's private ids among them.
    for code in [0, 11, 1002, 1007, u32::MAX] {
        let frame = Frame { request: code, flags: 0x9, ..Frame::default() };
        let mut responder = Responder::new(terms());
        let refusal = responder.decode(frame).unwrap_err();
        assert_eq!(refusal, Refusal::UnknownRequest { id: Code(code).into() });
        assert_eq!(number(responder.answer(Err(refusal))), 1);
    }
}

#[test]
fn malformed_payload_is_refused_for_every_message() {
    for code in Code::ALL {
        let frame = Frame { request: code.0, flags: 1, body: vec![0; 3], fds: fds(1) };
        assert!(matches!(read_message(frame), Err(Refusal::Malformed { .. })), "{code}");
    }
}

#[test]
fn descriptor_without_backend_send_fd_is_not_sent() {
    let terms = Terms { protocol: ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::SHMEM, ..terms() };
    let refusal = Requester::new(terms).encode(Message::ShmemMap(mapping(), fd()), false).unwrap_err();
    assert!(matches!(refusal, Refusal::NotNegotiated { needs: "BACKEND_SEND_FD", .. }));
}

#[test]
fn need_reply_without_reply_ack_is_neither_sent_nor_answered() {
    let terms = without(ProtocolFeatures::REPLY_ACK);
    let mut requester = Requester::new(terms);
    let frame = requester.encode(Message::ConfigChange, true).unwrap();
    assert!(!frame.needs_reply() && !requester.expects_reply());
    let mut responder = Responder::new(terms);
    responder.decode(write_message(Message::ConfigChange, true).unwrap()).unwrap();
    assert!(matches!(responder.answer(Ok(Outcome::Done)), Answer::Nothing));
}

#[test]
fn need_reply_is_answered_zero_or_one() {
    let (mut requester, mut responder) = (Requester::new(terms()), Responder::new(terms()));
    responder.decode(requester.encode(Message::ConfigChange, true).unwrap()).unwrap();
    assert!(matches!(requester.encode(Message::ConfigChange, true), Err(Refusal::OutOfTurn { .. })));
    let done = requester.reply(sent(responder.answer(Ok(Outcome::Done))));
    assert!(matches!(done, Ok(Outcome::Done)));

    responder.decode(requester.encode(Message::ConfigChange, true).unwrap()).unwrap();
    let failed = responder.answer(Err(Refusal::failed(Code::CONFIG_CHANGE_MSG, "no")));
    assert!(matches!(requester.reply(sent(failed)), Err(Refusal::Nack { value: 1, .. })));
    assert!(!requester.expects_reply());
}

#[test]
fn lookup_is_always_answered_with_verdict_and_fd() {
    let (mut requester, mut responder) = (Requester::new(terms()), Responder::new(terms()));
    for known in [true, false] {
        let frame = requester.encode(Message::SharedObjectLookup([1; 16]), false).unwrap();
        assert!(requester.expects_reply());
        responder.decode(frame).unwrap();
        let result = if known {
            Ok(Outcome::SharedObject(fd()))
        } else {
            Err(Refusal::failed(Code::SHARED_OBJECT_LOOKUP, "no"))
        };
        let reply = sent(responder.answer(result));
        assert_eq!(reply.fds.len(), usize::from(known));
        assert_eq!(matches!(requester.reply(reply), Ok(Outcome::SharedObject(_))), known);
    }
}

#[test]
fn reply_that_does_not_fit_is_refused() {
    let spoilt: [fn(&mut Frame); 3] =
        [|frame| frame.request = 4, |frame| frame.flags = 0xd, |frame| frame.body.truncate(4)];
    for spoil in spoilt {
        let (mut requester, mut responder) = (Requester::new(terms()), Responder::new(terms()));
        responder.decode(requester.encode(Message::ConfigChange, true).unwrap()).unwrap();
        let mut reply = sent(responder.answer(Ok(Outcome::Done)));
        spoil(&mut reply);
        let refusal = requester.reply(reply).unwrap_err();
        assert!(!matches!(refusal, Refusal::Nack { .. }));
    }
    let unasked = Frame { request: 2, flags: 5, body: vec![0; 8], fds: Vec::new() };
    assert!(matches!(Requester::new(terms()).reply(unasked), Err(Refusal::OutOfTurn { .. })));
}

#[test]
fn flags_of_a_reply_close_the_responder() {
    let mut responder = Responder::new(terms());
    let refusal = responder.decode(Frame { request: 2, flags: 5, ..Frame::default() }).unwrap_err();
    assert!(matches!(responder.answer(Err(refusal)), Answer::Close));
}
