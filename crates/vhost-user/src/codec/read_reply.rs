//! The front end's eyes: a frame of the back end becomes a [`Reply`].

use super::{Fds, exact, prefix};
use crate::message::{Frame, FrontendRequest, MAX_CONFIG_DATA, MessageId, flags};
use crate::payload::{ConfigHeader, Inflight, Log, ShmemConfig, VringState};
use crate::refusal::Refusal;
use crate::reply::{Reply, ReplyKind};

/// Parses the answer to `code`, which is to have the form `kind`.
///
/// Code and flags must fit exactly, and so must the size where it is fixed. A verdict that says no is an error,
/// [`Refusal::Nack`].
pub fn read_reply(code: FrontendRequest, kind: ReplyKind, frame: Frame) -> Result<Reply, Refusal> {
    let id = MessageId::from(code);
    check_header(id, code.0, &frame)?;
    let body = frame.body.as_slice();
    let fds = Fds::new(id, frame.fds);
    Ok(match kind {
        ReplyKind::Ack | ReplyKind::Verdict => verdict(id, body)?,
        ReplyKind::U64 => Reply::U64(exact(id, body)?),
        ReplyKind::VringState => {
            let VringState { index, num } = exact(id, body)?;
            Reply::VringState { index, num }
        }
        ReplyKind::LogBase => log_base(id, body)?,
        ReplyKind::Config => config(id, body)?,
        ReplyKind::Inflight => Reply::Inflight(exact::<Inflight>(id, body)?, fds.optional()),
        ReplyKind::DeviceState => Reply::DeviceState { value: exact(id, body)?, fd: fds.optional() },
        ReplyKind::SharedObject => Reply::SharedObject(fds.optional()),
        ReplyKind::Uffd => Reply::Uffd(fds.optional()),
        ReplyKind::Shmem => Reply::Shmem(Box::new(exact::<ShmemConfig>(id, body)?)),
        ReplyKind::CryptoSession => Reply::CryptoSession(frame.body),
    })
}

/// Parses a `u64` answer on either channel; its code is `code`.
pub fn read_verdict(id: MessageId, code: u32, frame: &Frame) -> Result<u64, Refusal> {
    check_header(id, code, frame)?;
    exact(id, &frame.body)
}

fn check_header(id: MessageId, code: u32, frame: &Frame) -> Result<(), Refusal> {
    if frame.request != code {
        return Err(Refusal::OutOfTurn { id, reason: "the answer to another message came" });
    }
    if frame.flags != flags::OF_REPLY {
        return Err(Refusal::BadFlags { id, flags: frame.flags });
    }
    Ok(())
}

fn verdict(id: MessageId, body: &[u8]) -> Result<Reply, Refusal> {
    match exact::<u64>(id, body)? {
        0 => Ok(Reply::Ack),
        value => Err(Refusal::Nack { id, value }),
    }
}

/// The specification leaves the payload open: back ends send the log back, a number, or nothing.
fn log_base(id: MessageId, body: &[u8]) -> Result<Reply, Refusal> {
    match body.len() {
        0 => Ok(Reply::Ack),
        8 => verdict(id, body),
        _ => {
            let Log { size, offset } = exact(id, body)?;
            Ok(Reply::LogBase { size, offset })
        }
    }
}

fn config(id: MessageId, body: &[u8]) -> Result<Reply, Refusal> {
    if body.is_empty() {
        return Ok(Reply::ConfigRefused);
    }
    let (ConfigHeader { offset, size, flags }, data) = prefix(id, body)?;
    if size > MAX_CONFIG_DATA {
        return Err(Refusal::Oversized { id, size: size.into(), max: MAX_CONFIG_DATA.into() });
    }
    if usize::try_from(size).ok() != Some(data.len()) {
        return Err(Refusal::Malformed { id, reason: "configuration of another size than announced" });
    }
    Ok(Reply::Config { offset, flags, data: data.to_vec() })
}
