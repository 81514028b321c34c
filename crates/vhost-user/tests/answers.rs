//! Who owes an answer, and in which form (vhost-user: Communication, REPLY_ACK).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::payload::{Inflight, Iotlb, ShmemConfig, device_state};
use outboard_vhost_user::{
    Answer, BackendSession, Frame, FrontendRequest as Code, Offer, ProtocolFeatures, Refusal, Reply, Request,
};
use support::*;
use zerocopy::FromBytes;

const NO_BODY: &[u8] = &[];

fn fail(code: Code) -> Result<Reply, Refusal> {
    Err(Refusal::failed(code, "no"))
}

/// Lets `session` take `frame` in and answer with `reply`.
fn exchange(session: &mut BackendSession, frame: Frame, reply: Reply) -> Answer {
    session.decode(frame).unwrap();
    session.answer(Ok(reply))
}

#[test]
fn setter_needing_reply_without_reply_ack_is_not_answered() {
    let mut session = with_protocol(ProtocolFeatures::EMPTY);
    assert!(matches!(
        exchange(&mut session, asking(Code::SET_OWNER, NO_BODY, 0), Reply::Ack),
        Answer::Nothing
    ));
}

#[test]
fn setter_needing_reply_with_reply_ack_is_answered_zero() {
    let answer = exchange(&mut ready(), asking(Code::SET_VRING_NUM, &state(0, 8), 0), Reply::Ack);
    let frame = sent(answer);
    assert_eq!((frame.request, frame.flags, frame.body.as_slice()), (8, 0x5, &[0; 8][..]));
}

#[test]
fn setter_not_needing_reply_is_not_answered() {
    let answer = exchange(&mut ready(), frame(Code::SET_VRING_NUM, &state(0, 8), 0), Reply::Ack);
    assert!(matches!(answer, Answer::Nothing));
}

#[test]
fn set_protocol_features_that_acknowledges_reply_ack_is_itself_answered() {
    let bits = ProtocolFeatures::REPLY_ACK.0;
    let answer = exchange(&mut fresh(), asking(Code::SET_PROTOCOL_FEATURES, &bits, 0), Reply::Ack);
    assert_eq!(number(answer), 0);
}

#[test]
fn set_protocol_features_that_gives_up_reply_ack_is_not_answered() {
    let answer = exchange(&mut ready(), asking(Code::SET_PROTOCOL_FEATURES, &0u64, 0), Reply::Ack);
    assert!(matches!(answer, Answer::Nothing));
}

#[test]
fn getter_needing_reply_is_answered_once_with_data_and_plain_flags() {
    for mut session in [fresh(), ready()] {
        let mut asked = asking(Code::GET_FEATURES, NO_BODY, 0);
        asked.flags |= 0xffff_fff0;
        let frame = sent(exchange(&mut session, asked, Reply::U64(FEATURES)));
        assert_eq!(frame.flags, flags::OF_REPLY);
        assert_eq!(frame.body, FEATURES.to_ne_bytes());
        assert!(matches!(session.answer(Ok(Reply::Ack)), Answer::Close));
    }
}

#[test]
fn refusal_is_told_where_an_answer_is_wanted_and_the_connection_lives() {
    let mut session = ready();
    for code in Code::ALL {
        // A message that no layout fits.
        let refusal = session.decode(asking(*code, &[0u8; 3], 0)).unwrap_err();
        let answer = session.answer(Err(refusal));
        let cannot_say_no = matches!(
            *code,
            Code::GET_FEATURES
                | Code::GET_PROTOCOL_FEATURES
                | Code::GET_QUEUE_NUM
                | Code::GET_MAX_MEM_SLOTS
                | Code::GET_STATUS
                | Code::GET_VRING_BASE
                | Code::GET_VRING_BASE_SKIP_DRAIN
                | Code::CREATE_CRYPTO_SESSION
                | Code::GET_SHMEM_CONFIG
        );
        match answer {
            Answer::Close => assert!(cannot_say_no, "{code}"),
            Answer::Send(frame) => {
                assert!(!cannot_say_no, "{code}");
                assert_eq!((frame.request, frame.flags), (code.0, 5));
            }
            Answer::Nothing => panic!("{code}: an answer is owed"),
        }
    }
    assert!(session.decode(frame(Code::GET_FEATURES, NO_BODY, 0)).is_ok());
}

#[test]
fn refusal_that_nobody_wants_to_hear_closes_unless_harmless() {
    let mut session = ready();
    session.decode(frame(Code::SET_VRING_NUM, &state(0, 8), 0)).unwrap();
    assert!(matches!(session.answer(fail(Code::SET_VRING_NUM)), Answer::Close));
    session.decode(frame(Code::SET_CONFIG, &config(0, 1, 0, &[0])[..], 0)).unwrap();
    assert!(matches!(session.answer(fail(Code::SET_CONFIG)), Answer::Nothing));
    let refusal = session.decode(frame(Code::SET_VRING_CALL, &99u64, 1)).unwrap_err();
    assert!(matches!(session.answer(Err(refusal)), Answer::Nothing));
}

#[test]
fn unknown_request_is_refused_if_asking_and_else_closes() {
    let mut session = ready();
    let refusal = session.decode(asking(Code(46), NO_BODY, 0)).unwrap_err();
    assert_eq!(number(session.answer(Err(refusal))), 1);
    let refusal = session.decode(frame(Code(46), NO_BODY, 0)).unwrap_err();
    assert!(matches!(session.answer(Err(refusal)), Answer::Close));
}

#[test]
fn flags_of_another_version_or_of_a_reply_close() {
    for bad in [0x0, 0x2, 0x3, 0x5, 0xd] {
        let mut session = ready();
        let frame = Frame { flags: bad, ..frame(Code::SET_OWNER, NO_BODY, 0) };
        let refusal = session.decode(frame).unwrap_err();
        assert!(matches!(refusal, Refusal::BadFlags { flags, .. } if flags == bad));
        assert!(matches!(session.answer(Err(refusal)), Answer::Close));
    }
}

#[test]
fn message_before_the_answer_to_the_one_before_closes() {
    let mut session = ready();
    session.decode(frame(Code::GET_FEATURES, NO_BODY, 0)).unwrap();
    let refusal = session.decode(frame(Code::SET_OWNER, NO_BODY, 0)).unwrap_err();
    assert!(matches!(refusal, Refusal::OutOfTurn { .. }));
    assert!(matches!(session.answer(Err(refusal)), Answer::Close));
}

#[test]
fn answer_of_another_form_than_the_question_closes() {
    let mut session = ready();
    session.decode(frame(Code::GET_FEATURES, NO_BODY, 0)).unwrap();
    assert!(matches!(session.answer(Ok(Reply::Ack)), Answer::Close));
    session.decode(asking(Code::SET_OWNER, NO_BODY, 0)).unwrap();
    assert!(matches!(session.answer(Ok(Reply::U64(3))), Answer::Close));
}

#[test]
fn set_features_refused_by_the_device_leaves_the_old_ones() {
    let mut session = with_protocol(everything());
    session.decode(asking(Code::SET_FEATURES, &(1u64 << 32), 0)).unwrap();
    assert_eq!(session.features(), 1 << 32);
    assert_eq!(number(session.answer(fail(Code::SET_FEATURES))), 1);
    assert_eq!(session.features(), FEATURES);
}

#[test]
fn set_features_with_a_tolerated_bit_loses_it() {
    let mut session = BackendSession::new(Offer { tolerated_features: 1 << 2, ..offer() });
    let request = session.decode(frame(Code::SET_FEATURES, &(FEATURES | 1 << 2), 0)).unwrap();
    assert!(matches!(request, Request::SetFeatures(FEATURES)));
    session.answer(Ok(Reply::Ack));
    assert!(session.decode(frame(Code::SET_FEATURES, &(FEATURES | 1 << 3), 0)).is_err());
}

#[test]
fn offer_with_a_bit_that_lacks_its_needs_does_not_offer_it() {
    let offer = Offer { protocol: ProtocolFeatures::SHMEM | ProtocolFeatures::MQ, ..offer() };
    assert_eq!(BackendSession::new(offer).offer().protocol, ProtocolFeatures::MQ);
}

#[test]
fn get_config_is_answered_in_the_size_asked_for() {
    let mut session = ready();
    let reply = Reply::Config { offset: 9, flags: 9, data: vec![1, 2, 3] };
    let frame = sent(exchange(&mut session, frame(Code::GET_CONFIG, &config(4, 57, 1, &[])[..], 0), reply));
    let mut expected = config(4, 57, 1, &[1, 2, 3]);
    expected.resize(12 + 57, 0);
    assert_eq!(frame.body, expected);
}

#[test]
fn get_config_refused_is_answered_empty() {
    let mut session = ready();
    for result in [Ok(Reply::ConfigRefused), fail(Code::GET_CONFIG)] {
        session.decode(asking(Code::GET_CONFIG, &config(0, 8, 0, &[0; 8])[..], 0)).unwrap();
        assert_eq!(sent(session.answer(result)).body, NO_BODY);
    }
    let mut without = with_protocol(ProtocolFeatures::EMPTY);
    let refusal = without.decode(frame(Code::GET_CONFIG, &config(0, 8, 0, &[0; 8])[..], 0)).unwrap_err();
    assert_eq!(sent(without.answer(Err(refusal))).body, NO_BODY);
}

#[test]
fn get_config_answered_with_more_than_asked_for_is_refused() {
    let reply = Reply::Config { offset: 0, flags: 0, data: vec![0; 9] };
    let answer = exchange(&mut ready(), frame(Code::GET_CONFIG, &config(0, 8, 0, &[])[..], 0), reply);
    assert_eq!(sent(answer).body, NO_BODY);
}

#[test]
fn set_log_base_is_answered_with_the_log_if_log_shmfd() {
    let log = || Reply::LogBase { size: 4096, offset: 8 };
    let body = [4096u64, 8];
    for need_reply in [0, flags::NEED_REPLY] {
        let mut frame = frame(Code::SET_LOG_BASE, &body, 1);
        frame.flags |= need_reply;
        let reply = sent(exchange(&mut ready(), frame, log()));
        assert_eq!((reply.flags, reply.body.len()), (5, 16));
    }
    let mut without = with_protocol(ProtocolFeatures::REPLY_ACK);
    assert!(matches!(exchange(&mut without, frame(Code::SET_LOG_BASE, &body, 0), log()), Answer::Nothing));
    assert_eq!(number(exchange(&mut without, asking(Code::SET_LOG_BASE, &body, 0), log())), 0);
}

#[test]
fn set_log_base_that_cannot_be_mapped_closes_unless_asking() {
    let mut session = ready();
    session.decode(frame(Code::SET_LOG_BASE, &[1u64, 0], 1)).unwrap();
    assert!(matches!(session.answer(fail(Code::SET_LOG_BASE)), Answer::Close));
    session.decode(asking(Code::SET_LOG_BASE, &[1u64, 0], 1)).unwrap();
    assert_eq!(number(session.answer(fail(Code::SET_LOG_BASE))), 1);
}

#[test]
fn get_inflight_fd_is_answered_in_24_bytes_with_fd() {
    let reply = Reply::Inflight(Inflight::new(8192, 0, 2, 128), Some(fd()));
    let frame =
        sent(exchange(&mut ready(), frame(Code::GET_INFLIGHT_FD, &inflight(0, 2, 128)[..20], 0), reply));
    assert_eq!((frame.body.len(), frame.fds.len()), (24, 1));
}

#[test]
fn get_inflight_fd_refused_is_answered_with_no_buffer() {
    let mut session = ready();
    session.decode(frame(Code::GET_INFLIGHT_FD, &inflight(0, 2, 128)[..], 0)).unwrap();
    let frame = sent(session.answer(fail(Code::GET_INFLIGHT_FD)));
    assert_eq!((frame.body, frame.fds.len()), (vec![0; 24], 0));
}

#[test]
fn verdicts_are_answered_without_being_asked_for() {
    let mut session =
        with_protocol(everything() - ProtocolFeatures::REPLY_ACK - ProtocolFeatures::INBAND_NOTIFICATIONS);
    let iotlb = || frame(Code::IOTLB_MSG, &Iotlb::default(), 0);
    assert_eq!(number(exchange(&mut session, iotlb(), Reply::Ack)), 0);
    session.decode(iotlb()).unwrap();
    assert_eq!(number(session.answer(fail(Code::IOTLB_MSG))), 1);
    for code in [Code::POSTCOPY_LISTEN, Code::POSTCOPY_END, Code::CHECK_DEVICE_STATE] {
        assert_eq!(number(exchange(&mut session, frame(code, NO_BODY, 0), Reply::Ack)), 0);
    }
}

#[test]
fn set_device_state_fd_refused_is_answered_0x101() {
    let mut session = ready();
    session.decode(frame(Code::SET_DEVICE_STATE_FD, &state(7, 7), 1)).unwrap();
    assert_eq!(number(session.answer(fail(Code::SET_DEVICE_STATE_FD))), device_state::REFUSED);
    let reply = Reply::DeviceState { value: 0, fd: Some(fd()) };
    let frame = sent(exchange(&mut session, frame(Code::SET_DEVICE_STATE_FD, &state(0, 0), 1), reply));
    assert_eq!((frame.body, frame.fds.len()), (vec![0; 8], 1));
}

#[test]
fn create_crypto_session_refused_is_answered_with_a_negative_id() {
    let mut session = ready();
    session.decode(frame(Code::CREATE_CRYPTO_SESSION, &[7u8; 32], 0)).unwrap();
    let body = sent(session.answer(fail(Code::CREATE_CRYPTO_SESSION))).body;
    assert_eq!(body[..24], [7; 24]);
    assert_eq!(i64::read_from_bytes(&body[24..]), Ok(-1));
}

#[test]
fn descriptor_answers_carry_it_or_nothing() {
    let mut session = ready();
    for (code, body) in [(Code::GET_SHARED_OBJECT, &[1u8; 16][..]), (Code::POSTCOPY_ADVISE, NO_BODY)] {
        let reply =
            |fd| if code == Code::POSTCOPY_ADVISE { Reply::Uffd(fd) } else { Reply::SharedObject(fd) };
        let frame_with = sent(exchange(&mut session, frame(code, body, 0), reply(Some(fd()))));
        assert_eq!((frame_with.body.len(), frame_with.fds.len()), (0, 1));
        session.decode(frame(code, body, 0)).unwrap();
        let frame_without = sent(session.answer(fail(code)));
        assert_eq!((frame_without.body.len(), frame_without.fds.len()), (0, 0));
    }
}

#[test]
fn get_shmem_config_is_answered_in_2056_bytes() {
    let reply = Reply::Shmem(Box::new(ShmemConfig::new([(0, 4096)])));
    assert_eq!(
        sent(exchange(&mut ready(), frame(Code::GET_SHMEM_CONFIG, NO_BODY, 0), reply)).body.len(),
        2056
    );
}

#[test]
fn get_vring_base_is_answered_with_ring_and_index() {
    let reply = Reply::VringState { index: 2, num: 77 };
    let body = sent(exchange(&mut ready(), asking(Code::GET_VRING_BASE, &state(2, 0), 0), reply)).body;
    assert_eq!(<[u32; 2]>::read_from_bytes(&body), Ok([2, 77]));
}
