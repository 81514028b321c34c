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
use outboard_vhost_user::observe::{Channel, Descriptor, DescriptorKind, Observer, Seen, Side};
use outboard_vhost_user::recording::{Recorder, Recording};
use outboard_vhost_user::{
    Answer, Frame, FrontendRequest, FrontendSession, Refusal, Reply, ReplyKind, Request,
};
use outboard_virtio_defs::DeviceId;
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

/// A frame as it passes by, perhaps cut short.
fn seen(frame: &(u32, u32, Vec<u8>, usize), channel: u16, from_back_end: bool, lost: usize) -> Seen {
    let &(request, flags, ref body, fd_count) = frame;
    let whole = Frame { request, flags, body: body.clone(), fds: Vec::new() }.to_bytes();
    let bytes = whole[..whole.len().saturating_sub(lost)].to_vec();
    let from = if from_back_end { Side::BackEnd } else { Side::FrontEnd };
    let fd = Descriptor { kind: DescriptorKind::File, size: 4096, name: "memfd:é".to_owned() };
    let (len, fds) = (bytes.len() as u64, vec![fd; fd_count]);
    let time = std::time::Duration::from_nanos(u64::from(flags));
    Seen { connection: 1, channel: Channel(channel), from, time, bytes, len, fds }
}

/// Frames on any channel, in either direction, a few of them cut short.
fn sightings() -> impl Strategy<Value = Seen> {
    let lost = prop_oneof![9 => Just(0usize), 1 => 0..40usize];
    (frames(), 0..3u16, any::<bool>(), lost)
        .prop_map(|(frame, channel, from_back_end, lost)| seen(&frame, channel, from_back_end, lost))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_dialogue_is_observed_without_panic(said in prop::collection::vec(sightings(), 1..12)) {
        let mut observer = Observer::new(Some(DeviceId::BLK));
        for (nth, seen) in said.iter().enumerate() {
            let observed = observer.see(seen);
            prop_assert_eq!(observed.number, nth as u64 + 1);
            let shown = observed.fields.iter().flatten().map(ToString::to_string).collect::<String>();
            prop_assert!(shown.is_ascii());
            // What cannot be decoded is never passed over in silence.
            prop_assert!(observed.fields.is_some() || !observed.warnings.is_empty());
        }
    }

    #[test]
    fn request_that_a_back_end_reads_is_one_that_an_observer_reads(said in frames()) {
        if read_request(frame(&said)).is_ok() {
            let observed = Observer::new(None).see(&seen(&said, 0, false, 0));
            prop_assert!(observed.fields.is_some(), "{:?}", observed.warnings);
        }
    }

    #[test]
    fn recording_damaged_anywhere_reads_without_panic(
        said in prop::collection::vec(sightings(), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes).unwrap();
        for seen in &said {
            recorder.add(seen).unwrap();
        }
        for (at, byte) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let mut found = Vec::new();
        if let Ok(mut recording) = Recording::open(bytes.as_slice()) {
            while let Ok(Some(seen)) = recording.next_message() {
                found.push(seen);
            }
        }
        prop_assert!(found.len() <= bytes.len());
        if damage.is_empty() {
            prop_assert_eq!(found, said);
        }
    }

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
