//! The fuzz seeds: there is one for every message, and it gets as far as the message itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::path::Path;

use outboard_vhost_user::back_channel::{Responder, Terms};
use outboard_vhost_user::{
    BackendRequest, BackendSession, Frame, FrontendRequest, Offer, ProtocolFeatures, Reply,
};
use support::fds;

/// The messages of a seed: a byte of choice, then each a byte with the number of descriptors, header and payload.
fn messages(target: &str, name: &str) -> Vec<Frame> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target).join(name.to_lowercase());
    let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rest = &seed[1..];
    let mut messages = Vec::new();
    while let [fd_count, after @ ..] = rest {
        let word = |at: usize| u32::from_le_bytes(after[at..at + 4].try_into().unwrap());
        let (body, next) = after[12..].split_at(usize::try_from(word(8)).unwrap());
        let fds = fds(usize::from(*fd_count));
        messages.push(Frame { request: word(0), flags: word(4), body: body.to_vec(), fds });
        rest = next;
    }
    messages
}

#[test]
#[cfg(target_endian = "little")]
fn session_seed_of_every_message_decodes() {
    for code in FrontendRequest::ALL {
        let everything = ProtocolFeatures((1 << 24) - 1);
        let offer = Offer { features: u64::MAX, tolerated_features: 0, protocol: everything, queues: 4 };
        let mut session = BackendSession::new(offer);
        let mut decoded = false;
        for frame in messages("session", code.name().unwrap()) {
            let request = session.decode(frame).unwrap_or_else(|refusal| panic!("{code}: {refusal}"));
            decoded |= request.code() == *code;
            // Any answer will do, as long as it closes the turn.
            session.answer(Ok(Reply::Ack));
        }
        assert!(decoded, "{code}");
    }
}

#[test]
#[cfg(target_endian = "little")]
fn back_channel_seed_of_every_message_decodes() {
    for code in BackendRequest::ALL {
        let protocol = ProtocolFeatures((1 << 24) - 1);
        let mut responder = Responder::new(Terms { protocol, access_platform: true, queues: 4 });
        let [frame]: [Frame; 1] = messages("back_channel", code.name().unwrap()).try_into().unwrap();
        let message = responder.decode(frame).unwrap_or_else(|refusal| panic!("{code}: {refusal}"));
        assert_eq!(message.code(), *code);
    }
}
