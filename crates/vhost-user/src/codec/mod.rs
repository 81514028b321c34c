//! Frame to value and back. Syntax only: what is legal now is the session's business.
//!
//! Both directions of both halves live here, one file each. Decoding takes a frame apart and closes what does not
//! belong to it: a descriptor that nobody asked for (front ends do send such) is dropped with the frame.

mod read_reply;
mod read_request;
mod write_reply;
mod write_request;

pub use read_reply::{read_reply, read_verdict};
pub use read_request::read_request;
pub use write_reply::{write_refusal, write_reply, write_verdict};
pub use write_request::write_request;

use std::os::fd::OwnedFd;

use zerocopy::FromBytes;

use crate::message::MessageId;
use crate::refusal::Refusal;

/// The descriptors of one message. Whatever is not taken is closed.
pub(crate) struct Fds {
    id: MessageId,
    fds: Vec<OwnedFd>,
}

impl Fds {
    pub(crate) fn new(id: MessageId, fds: Vec<OwnedFd>) -> Self {
        Self { id, fds }
    }

    /// The first descriptor, if one came.
    pub(crate) fn optional(self) -> Option<OwnedFd> {
        self.fds.into_iter().next()
    }

    /// The first descriptor, which must be there.
    pub(crate) fn required(self) -> Result<OwnedFd, Refusal> {
        let id = self.id;
        self.optional().ok_or(Refusal::WrongFdCount { id, found: 0, wanted: 1 })
    }

    /// The only descriptor, if one came. Where it becomes memory, guessing which of several is meant would map a
    /// wrong file.
    pub(crate) fn at_most_one(self) -> Result<Option<OwnedFd>, Refusal> {
        match self.fds.len() {
            0 | 1 => Ok(self.optional()),
            found => Err(Refusal::WrongFdCount { id: self.id, found, wanted: 1 }),
        }
    }

    /// The only descriptor, which must be there. As [`at_most_one`](Self::at_most_one), for memory.
    pub(crate) fn only(self) -> Result<OwnedFd, Refusal> {
        match self.fds.len() {
            1 => self.required(),
            found => Err(Refusal::WrongFdCount { id: self.id, found, wanted: 1 }),
        }
    }

    /// Exactly `wanted` descriptors.
    pub(crate) fn exactly(self, wanted: usize) -> Result<Vec<OwnedFd>, Refusal> {
        match self.fds.len() {
            found if found == wanted => Ok(self.fds),
            found => Err(Refusal::WrongFdCount { id: self.id, found, wanted }),
        }
    }
}

/// The whole payload as one layout.
pub(crate) fn exact<T: FromBytes>(id: MessageId, body: &[u8]) -> Result<T, Refusal> {
    T::read_from_bytes(body)
        .map_err(|_| Refusal::Malformed { id, reason: "the payload does not have the size of its layout" })
}

/// The start of the payload as a layout, and the rest.
pub(crate) fn prefix<T: FromBytes>(id: MessageId, body: &[u8]) -> Result<(T, &[u8]), Refusal> {
    T::read_from_prefix(body).map_err(|_| Refusal::Malformed { id, reason: "the payload is too short" })
}

/// No payload.
pub(crate) fn empty(id: MessageId, body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Malformed { id, reason: "a payload came where none belongs" })
    }
}
