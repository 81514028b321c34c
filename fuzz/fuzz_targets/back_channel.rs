//! Bytes of a hostile back end against the front end's half of the back channel: nothing panics, and each message gets
//! at most one answer.
//!
//! Input: a byte that says what is agreed, then messages, each one byte with the number of descriptors, a header of
//! twelve bytes, and the payload.
#![no_main]

use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use outboard_vhost_user::{
    Answer, Frame, ProtocolFeatures, Refusal,
    back_channel::{Outcome, Responder, Terms},
    message::flags,
};

fn descriptors(count: u8) -> Vec<OwnedFd> {
    let null = std::fs::File::open("/dev/null").expect("there is a /dev/null");
    (0..count % 12).map(|_| null.try_clone().expect("descriptors are left").into()).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let protocol =
        if choice & 1 == 0 { ProtocolFeatures::DEFAULT_OFFER } else { ProtocolFeatures((1 << 24) - 1) };
    let mut responder = Responder::new(Terms { protocol, access_platform: choice & 2 != 0, queues: 4 });
    while let Some((head, tail)) = rest.split_first_chunk::<13>() {
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let size = usize::try_from(word(9)).unwrap_or(usize::MAX).min(tail.len());
        let (body, next) = tail.split_at(size);
        rest = next;
        let frame =
            Frame { request: word(1), flags: word(5), body: body.to_vec(), fds: descriptors(head[0]) };
        let request = frame.request;
        let outcome = responder.decode(frame).and_then(|message| match choice & 4 {
            0 => Ok(Outcome::Done),
            _ => Err(Refusal::failed(message.code(), "not now")),
        });
        match responder.answer(outcome) {
            Answer::Send(reply) => {
                assert_eq!(reply.request, request);
                assert_eq!(reply.flags, flags::OF_REPLY);
            }
            Answer::Nothing => {}
            Answer::Close => return,
        }
    }
});
