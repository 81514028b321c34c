//! The back end's hand: a [`Reply`], or a refusal, becomes a frame.

use std::os::fd::OwnedFd;

use zerocopy::{Immutable, IntoBytes};

use crate::message::{Frame, FrontendRequest, flags};
use crate::payload::{ConfigHeader, Inflight, Log, VringState, device_state};
use crate::reply::{Reply, ReplyKind};

/// The answer to a message that has one of its own. `Ack` becomes a zero.
pub fn write_reply(code: FrontendRequest, reply: Reply) -> Frame {
    match reply {
        Reply::Ack => write_verdict(code.0, 0),
        Reply::U64(value) => frame(code.0, &value, None),
        Reply::VringState { index, num } => frame(code.0, &VringState { index, num }, None),
        Reply::Config { offset, flags, data } => {
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let mut frame = frame(code.0, &ConfigHeader { offset, size, flags }, None);
            frame.body.extend_from_slice(&data);
            frame
        }
        Reply::ConfigRefused => empty(code, None),
        Reply::LogBase { size, offset } => frame(code.0, &Log { size, offset }, None),
        Reply::Inflight(inflight, fd) => frame(code.0, &inflight, fd),
        Reply::DeviceState { value, fd } => frame(code.0, &value, fd),
        Reply::SharedObject(fd) | Reply::Uffd(fd) => empty(code, fd),
        Reply::Shmem(config) => frame(code.0, &*config, None),
        Reply::CryptoSession(session) => {
            Frame { request: code.0, flags: flags::OF_REPLY, body: session, fds: Vec::new() }
        }
    }
}

/// A `u64` under any code of either channel: 0 for done, anything else for refused.
pub fn write_verdict(code: u32, value: u64) -> Frame {
    frame(code, &value, None)
}

/// The form in which a message that has an answer of its own is refused; `None` where its answer cannot say no.
pub fn write_refusal(code: FrontendRequest, kind: ReplyKind) -> Option<Frame> {
    Some(match kind {
        ReplyKind::Verdict => write_verdict(code.0, 1),
        ReplyKind::Config | ReplyKind::SharedObject | ReplyKind::Uffd => empty(code, None),
        ReplyKind::Inflight => frame(code.0, &Inflight::default(), None),
        ReplyKind::DeviceState => frame(code.0, &device_state::REFUSED, None),
        ReplyKind::Ack
        | ReplyKind::LogBase
        | ReplyKind::U64
        | ReplyKind::VringState
        | ReplyKind::Shmem
        | ReplyKind::CryptoSession => return None,
    })
}

fn frame<T: IntoBytes + Immutable>(code: u32, value: &T, fd: Option<OwnedFd>) -> Frame {
    Frame {
        request: code,
        flags: flags::OF_REPLY,
        body: value.as_bytes().to_vec(),
        fds: fd.into_iter().collect(),
    }
}

fn empty(code: FrontendRequest, fd: Option<OwnedFd>) -> Frame {
    Frame { request: code.0, flags: flags::OF_REPLY, body: Vec::new(), fds: fd.into_iter().collect() }
}
