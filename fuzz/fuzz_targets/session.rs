//! Bytes of a hostile front end against the pure half of the protocol: nothing panics, and each message gets at most
//! one answer, in the form that its sender can take.
//!
//! Input: messages, each one byte with the number of descriptors, a header of twelve bytes, and the payload.
#![no_main]

use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use outboard_vhost_user::{
    Answer, BackendSession, Frame, FrontendRequest, Offer, ProtocolFeatures, Refusal, Reply, Request,
    message::flags, payload::Inflight,
};

fn descriptors(count: u8) -> Vec<OwnedFd> {
    let null = std::fs::File::open("/dev/null").expect("there is a /dev/null");
    (0..count % 12).map(|_| null.try_clone().expect("descriptors are left").into()).collect()
}

/// What a device might answer.
fn serve(request: Request) -> Result<Reply, Refusal> {
    Ok(match request {
        Request::GetFeatures
        | Request::GetProtocolFeatures
        | Request::GetQueueNum
        | Request::GetMaxMemSlots => Reply::U64(1),
        Request::GetStatus => Reply::U64(0),
        Request::GetVringBase { index } | Request::GetVringBaseSkipDrain { index } => {
            Reply::VringState { index, num: 7 }
        }
        Request::SetLogBase { size, offset, .. } => Reply::LogBase { size, offset },
        Request::GetConfig { offset, size, flags } => Reply::Config {
            offset,
            flags,
            data: vec![0; usize::try_from(size).expect("a size that was let through")],
        },
        Request::GetInflightFd(wanted) => Reply::Inflight(Inflight { mmap_size: 4096, ..wanted }, None),
        Request::SetVringNum { num, .. } if num % 3 == 0 => {
            return Err(Refusal::failed(FrontendRequest::SET_VRING_NUM, "a multiple of three"));
        }
        _ => Reply::Ack,
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    // Every protocol feature on offer reaches every message; the default offer shows what is refused.
    let protocol =
        if choice & 1 == 0 { ProtocolFeatures::DEFAULT_OFFER } else { ProtocolFeatures((1 << 24) - 1) };
    let features = if choice & 2 == 0 { 1 << 30 | 1 << 32 } else { u64::MAX };
    let mut session = BackendSession::new(Offer { features, tolerated_features: 0, protocol, queues: 4 });
    while let Some((head, tail)) = rest.split_first_chunk::<13>() {
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let size = usize::try_from(word(9)).unwrap_or(usize::MAX).min(tail.len());
        let (body, next) = tail.split_at(size);
        rest = next;
        let frame =
            Frame { request: word(1), flags: word(5), body: body.to_vec(), fds: descriptors(head[0]) };
        let request = frame.request;
        let outcome = session.decode(frame).and_then(serve);
        match session.answer(outcome) {
            Answer::Send(reply) => {
                assert_eq!(reply.request, request);
                assert_eq!(reply.flags, flags::VERSION | flags::REPLY);
            }
            Answer::Nothing => {}
            Answer::Close => return,
        }
    }
});
