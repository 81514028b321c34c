//! What holds for any frame: no panic, one answer, and what is encoded decodes to the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outboard_vhost_user::back_channel::{Outcome, Responder, Terms, read_message, write_message};
use outboard_vhost_user::codec::{read_reply, read_request, write_reply, write_request};
use outboard_vhost_user::{
    Answer, Frame, FrontendRequest, FrontendSession, Refusal, Reply, ReplyKind, Request,
};
use proptest::prelude::*;
use support::{everything, fd, fds, fresh, ready};

/// Frames of any kind, mostly near those that make sense.
fn frames() -> impl Strategy<Value = (u32, u32, Vec<u8>, usize)> {
    let code = prop_oneof![8 => 0..48u32, 1 => any::<u32>()];
    let flags = prop_oneof![6 => Just(1u32), 6 => Just(9u32), 1 => any::<u32>()];
    let small = prop::collection::vec(prop_oneof![3 => 0..5u8, 1 => any::<u8>()], 0..80);
    let sized = prop::sample::select(vec![0usize, 8, 12, 13, 16, 20, 24, 32, 40, 72, 268, 2056])
        .prop_flat_map(|len| {
            prop::collection::vec(prop_oneof![6 => Just(0u8), 1 => 1..5u8, 1 => any::<u8>()], len)
        });
    (code, flags, prop_oneof![small, sized], 0..4usize)
}

fn frame((request, flags, body, fd_count): &(u32, u32, Vec<u8>, usize)) -> Frame {
    Frame { request: *request, flags: *flags, body: body.clone(), fds: fds(*fd_count) }
}

/// A reply of the form that `request` wants.
fn fitting(request: &Request) -> Reply {
    match ReplyKind::of(request.code()) {
        ReplyKind::Ack | ReplyKind::Verdict => Reply::Ack,
        ReplyKind::U64 => Reply::U64(7),
        ReplyKind::VringState => Reply::VringState { index: request.ring().unwrap_or(0), num: 3 },
        ReplyKind::LogBase => Reply::LogBase { size: 1, offset: 2 },
        ReplyKind::Config => Reply::ConfigRefused,
        ReplyKind::Inflight => Reply::Inflight(outboard_vhost_user::payload::Inflight::default(), Some(fd())),
        ReplyKind::DeviceState => Reply::DeviceState { value: 0x100, fd: None },
        ReplyKind::SharedObject => Reply::SharedObject(None),
        ReplyKind::Shmem => {
            Reply::Shmem(Box::new(outboard_vhost_user::payload::ShmemConfig::new([(1, 4096)])))
        }
        ReplyKind::Uffd => Reply::Uffd(Some(fd())),
        ReplyKind::CryptoSession => Reply::CryptoSession(vec![0; 24]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_dialogue_is_answered_without_panic(said in prop::collection::vec(frames(), 1..12), done: bool) {
        for mut session in [fresh(), ready()] {
            for said in &said {
                let code = FrontendRequest(said.0);
                let result = match session.decode(frame(said)) {
                    Ok(request) if done => Ok(fitting(&request)),
                    Ok(_) => Err(Refusal::failed(code, "no")),
                    Err(refusal) => Err(refusal),
                };
                let refused = result.is_err();
                match session.answer(result) {
                    Answer::Send(reply) => {
                        prop_assert_eq!((reply.request, reply.flags), (code.0, 5));
                    }
                    Answer::Nothing => {
                        prop_assert!(matches!(ReplyKind::of(code), ReplyKind::Ack | ReplyKind::LogBase));
                    }
                    Answer::Close => {
                        prop_assert!(refused);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn request_that_decodes_encodes_to_one_that_decodes_the_same(said in frames()) {
        if let Ok(request) = read_request(frame(&said)) {
            let shown = without_fds(&request);
            let again = write_request(request, said.1 & 8 != 0).unwrap();
            prop_assert_eq!(again.request, said.0);
            let request = read_request(again).unwrap();
            prop_assert_eq!(without_fds(&request), shown);
        }
    }

    #[test]
    fn back_channel_message_that_decodes_encodes_to_one_that_decodes_the_same(said in frames()) {
        if let Ok(message) = read_message(frame(&said)) {
            let shown = without_fds(&message);
            let again = write_message(message, false).unwrap();
            prop_assert_eq!(without_fds(&read_message(again).unwrap()), shown);
        }
    }

    #[test]
    fn any_back_channel_frame_is_answered_without_panic(said in frames(), done: bool) {
        let mut responder = Responder::new(Terms { protocol: everything(), access_platform: true, queues: 4 });
        let result = match responder.decode(frame(&said)) {
            Ok(_) if done => Ok(Outcome::Done),
            Ok(message) => Err(Refusal::failed(message.code(), "no")),
            Err(refusal) => Err(refusal),
        };
        if let Answer::Send(reply) = responder.answer(result) {
            prop_assert_eq!((reply.request, reply.flags), (said.0, 5));
        }
    }

    #[test]
    fn any_reply_is_read_without_panic(said in frames(), code in 1..46u32) {
        let code = FrontendRequest(code);
        let reply = Frame { request: code.0, flags: 5, ..frame(&said) };
        if let Ok(reply) = read_reply(code, ReplyKind::of(code), reply) {
            let again = write_reply(code, reply);
            prop_assert!(read_reply(code, ReplyKind::of(code), again).is_ok());
        }
        let mut front = FrontendSession::new();
        front.encode(Request::GetFeatures).unwrap();
        let _ = front.reply(frame(&said));
        prop_assert!(!front.expects_reply());
    }
}

/// What it says, without the numbers of its descriptors.
fn without_fds(value: &impl std::fmt::Debug) -> String {
    let shown = format!("{value:?}");
    let mut rest = shown.as_str();
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once("OwnedFd { fd: ") {
        kept.push_str(before);
        kept.push_str("OwnedFd");
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    kept + rest
}
