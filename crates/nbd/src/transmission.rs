//! Requests, and what comes back for them.
//!
//! A request is known by its cookie alone: who waits for it, and how long its data is, the caller knows. Chunks of a
//! structured reply may come in any order; [`Gaps`] makes sure that they fill a read exactly.

use crate::Error;
use crate::wire::{
    CHUNK_DATA, CHUNK_DONE, CHUNK_ERROR, CHUNK_ERROR_OFFSET, CHUNK_HOLE, CHUNK_IS_ERROR, CHUNK_MAGIC,
    CHUNK_NONE, MAX_STRING, REQUEST_MAGIC, SIMPLE_MAGIC, Take,
};

/// Bytes of a request before its data.
pub const REQUEST_BYTES: usize = 28;
/// The data is on stable storage when the reply comes (`NBD_CMD_FLAG_FUA`).
pub const FLAG_FUA: u16 = 1 << 0;
/// Zeroes keep their storage (`NBD_CMD_FLAG_NO_HOLE`).
pub const FLAG_NO_HOLE: u16 = 1 << 1;

/// The most pieces that a read may be outstanding in: a server that scatters more does it to hurt.
const MAX_GAPS: usize = 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Data comes with the reply.
    Read = 0,
    /// Data follows the request.
    Write = 1,
    /// The connection is over; there is no reply.
    Disconnect = 2,
    /// Everything that was replied to is made stable.
    Flush = 3,
    /// A range is not needed any more.
    Trim = 4,
    /// A range becomes zeroes.
    WriteZeroes = 6,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `FLAG_*`.
    pub flags: u16,
    /// What the reply will be known by.
    pub cookie: u64,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u32,
}

impl Request {
    /// As it goes over the wire; the data of a write follows.
    #[must_use]
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut out = [0; REQUEST_BYTES];
        let fields: [&[u8]; 6] = [
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &(self.command as u16).to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ];
        for (place, byte) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
        out
    }
}

/// What a server says about a request. Error numbers are those of Linux; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A simple reply: the request is over; if it was a read that went well, all of its data follows.
    Simple {
        /// The request.
        cookie: u64,
        /// Why it failed, or 0.
        error: u32,
    },
    /// So many bytes for this position of the disk follow.
    Data {
        /// The request.
        cookie: u64,
        /// Position on the disk, in bytes.
        offset: u64,
        /// In bytes, at least one.
        len: u32,
        /// No other chunk comes after it.
        last: bool,
    },
    /// So many bytes at this position of the disk are zeroes.
    Hole {
        /// The request.
        cookie: u64,
        /// Position on the disk, in bytes.
        offset: u64,
        /// In bytes, at least one.
        len: u32,
        /// No other chunk comes after it.
        last: bool,
    },
    /// The request fails.
    Failed {
        /// The request.
        cookie: u64,
        /// Why: not 0.
        error: u32,
        /// No other chunk comes after it.
        last: bool,
    },
    /// All was said before.
    End {
        /// The request.
        cookie: u64,
    },
}

impl Reply {
    /// Understands the reply that `bytes` begin with, and says how many of them it takes, up to the data if there is
    /// any. `None`: more bytes are needed, never more than 8 KiB in all. Chunks are understood only if they were
    /// agreed on.
    ///
    /// # Errors
    /// The server breaks the protocol.
    pub fn decode(bytes: &[u8], structured: bool) -> Result<Option<(Self, usize)>, Error> {
        let mut rest = bytes;
        match rest.u32() {
            None => Ok(None),
            Some(SIMPLE_MAGIC) => {
                let (Some(error), Some(cookie)) = (rest.u32(), rest.u64()) else { return Ok(None) };
                Ok(Some((Self::Simple { cookie, error }, bytes.len() - rest.len())))
            }
            Some(CHUNK_MAGIC) if structured => Self::chunk(bytes, rest),
            Some(_) => Err(Error::Protocol("a reply has no magic")),
        }
    }

    fn chunk(bytes: &[u8], mut rest: &[u8]) -> Result<Option<(Self, usize)>, Error> {
        let (Some(flags), Some(kind), Some(cookie), Some(len)) =
            (rest.u16(), rest.u16(), rest.u64(), rest.u32())
        else {
            return Ok(None);
        };
        let last = flags & CHUNK_DONE != 0;
        let wrong = Error::Protocol("a chunk has a wrong length");
        let reply = match kind {
            CHUNK_NONE if len != 0 => return Err(wrong),
            CHUNK_NONE if !last => return Err(Error::Protocol("an empty chunk is not the last")),
            CHUNK_NONE => Self::End { cookie },
            CHUNK_DATA => {
                let data = len.checked_sub(8).filter(|&data| data > 0).ok_or(wrong)?;
                let Some(offset) = rest.u64() else { return Ok(None) };
                Self::Data { cookie, offset, len: data, last }
            }
            CHUNK_HOLE if len != 12 => return Err(wrong),
            CHUNK_HOLE => {
                let (Some(offset), Some(len)) = (rest.u64(), rest.u32()) else { return Ok(None) };
                if len == 0 {
                    return Err(wrong);
                }
                Self::Hole { cookie, offset, len, last }
            }
            kind if kind & CHUNK_IS_ERROR != 0 => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                if !(6..=MAX_STRING + 16).contains(&len) {
                    return Err(wrong);
                }
                let Some(mut payload) = rest.split_off(..len) else { return Ok(None) };
                let (error, message) = (payload.u32().unwrap_or(0), payload.u16().unwrap_or(0));
                let tail = match kind {
                    CHUNK_ERROR => Some(0),
                    CHUNK_ERROR_OFFSET => Some(8),
                    _ => None,
                };
                if tail.is_some_and(|tail| payload.len() != usize::from(message) + tail) {
                    return Err(wrong);
                }
                if error == 0 {
                    return Err(Error::Protocol("it reports an error that is none"));
                }
                Self::Failed { cookie, error, last }
            }
            _ => return Err(Error::Protocol("a chunk is of a type that was not agreed on")),
        };
        Ok(Some((reply, bytes.len() - rest.len())))
    }
}

/// A part of a read, in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where it begins.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
}

/// The parts of a read that have not come yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gaps(Vec<Gap>);

impl Gaps {
    /// Nothing of `len` bytes has come. Keeps what it has allocated.
    pub fn reset(&mut self, len: u32) {
        self.0.clear();
        if len > 0 {
            self.0.push(Gap { start: 0, end: len });
        }
    }

    /// Everything has come.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.0.is_empty()
    }

    /// `len` bytes come for `offset` of a disk on which the read began at `start`. Returns where they belong, in bytes
    /// from the start of the read.
    ///
    /// # Errors
    /// They were not asked for, or came before.
    pub fn fill(&mut self, start: u64, offset: u64, len: u32) -> Result<u32, Error> {
        let wrong = Error::Protocol("it sends data that was not asked for, or twice");
        let from = offset.checked_sub(start).and_then(|from| u32::try_from(from).ok());
        let Some((from, to)) = from.and_then(|from| Some((from, from.checked_add(len)?))) else {
            return Err(wrong);
        };
        let at = self.0.iter().position(|gap| gap.start <= from && to <= gap.end).ok_or(wrong)?;
        let Some(gap) = self.0.get_mut(at) else { return Ok(from) };
        let after = Gap { start: to, end: gap.end };
        gap.end = from;
        if gap.start == gap.end {
            self.0.remove(at);
            if after.start < after.end {
                self.0.insert(at, after);
            }
        } else if after.start < after.end {
            if self.0.len() >= MAX_GAPS {
                return Err(Error::Protocol("it scatters a read without end"));
            }
            self.0.insert(at + 1, after);
        }
        Ok(from)
    }
}

#[cfg(test)]
mod tests;
