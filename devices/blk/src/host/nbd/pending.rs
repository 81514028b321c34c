//! A request on its way: what it is, how far it has come, and what to ask the server next for it.
//!
//! What the guest asks for in one request may take several of the protocol's, one after the other: for lengths beyond
//! what the server takes, and for a flush behind a write that the server cannot make stable itself.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use outboard_device::{Chain, Durability, Short};
use outboard_nbd::{Command, Error, Export, FLAG_FUA, FLAG_NO_HOLE, Gaps, REQUEST_BYTES, Request};

use crate::host::store::{Job, Task};

/// The most data of one request to the server, in bytes: others get their turn, and time limits have a meaning.
const PIECE: u64 = 4 << 20;
/// The longest range of one request without data, in bytes.
const RANGE: u64 = 64 << 20;

/// Who waits for a request, and has its data.
pub(super) enum Owner {
    Job(Job),
    Call(Call),
}

/// A request of this program itself.
pub(super) struct Call {
    pub(super) data: Vec<u8>,
    pub(super) answer: SyncSender<Answer>,
}

/// How it ended, and its data.
pub(super) type Answer = (io::Result<()>, Vec<u8>);

impl Owner {
    fn chain(&self) -> Option<&Chain> {
        match self {
            Self::Job(job) => job.request(),
            Self::Call(_) => None,
        }
    }

    pub(super) fn finish(self, done: u64, task: Task, result: io::Result<()>) {
        match self {
            Self::Job(mut job) => {
                if let Some(chain) = job.chain() {
                    let done = usize::try_from(done).unwrap_or(usize::MAX);
                    match task {
                        Task::Read { .. } => chain.advance_writable(done),
                        Task::Write { .. } => chain.advance_readable(done),
                        _ => {}
                    }
                }
                job.finish(result);
            }
            // Who called has a right not to wait any longer.
            Self::Call(call) => drop(call.answer.send((result, call.data))),
        }
    }
}

/// What is asked of the server.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    pub(super) command: Command,
    flags: u16,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// How a request goes on.
pub(super) enum Next {
    Ask(Asked),
    End(io::Result<()>),
}

/// A request on its way.
pub(super) struct Pending {
    owner: Owner,
    task: Task,
    /// Bytes of the task that are done.
    done: u64,
    flushed: bool,
    pub(super) asked: Asked,
    pub(super) cookie: u64,
    pub(super) header: [u8; REQUEST_BYTES],
    /// All of it has been sent.
    pub(super) sent: bool,
    /// Of a read that is answered in chunks.
    pub(super) gaps: Gaps,
    /// The first error that a chunk told of.
    pub(super) error: Option<u32>,
    pub(super) deadline: Instant,
}

impl Pending {
    pub(super) fn new(owner: Owner, task: Task, deadline: Instant) -> Self {
        Self {
            owner,
            task,
            done: 0,
            flushed: false,
            asked: Asked { command: Command::Flush, flags: 0, offset: 0, len: 0 },
            cookie: 0,
            header: [0; REQUEST_BYTES],
            sent: false,
            gaps: Gaps::default(),
            error: None,
            deadline,
        }
    }

    /// What to ask next of a server that serves such an export.
    pub(super) fn next(&self, export: &Export) -> Next {
        let result = match self.task {
            Task::Read { offset } => self.transfer(export, Command::Read, 0, offset),
            Task::Write { .. } | Task::WriteZeroes { .. } if export.is_read_only() => refuse(libc::EPERM),
            Task::Write { offset, durability } => {
                let stable = durability == Durability::Synchronous;
                let flags = if stable && export.can_fua() { FLAG_FUA } else { 0 };
                match self.transfer(export, Command::Write, flags, offset) {
                    Ok(None) if stable && flags == 0 => Ok(self.flush(export)),
                    next => next,
                }
            }
            Task::WriteZeroes { offset, .. } => self.transfer(export, Command::Write, 0, offset),
            Task::Zero { .. } if !export.can_zero() => refuse(libc::EOPNOTSUPP),
            Task::Zero { offset, unmap, .. } => {
                self.transfer(export, Command::WriteZeroes, if unmap { 0 } else { FLAG_NO_HOLE }, offset)
            }
            Task::Discard { .. } if !export.can_trim() => refuse(libc::EOPNOTSUPP),
            Task::Discard { offset, len } => Ok(self.trim(export, offset, len)),
            Task::Sync => Ok(self.flush(export)),
        };
        match result {
            Ok(Some(asked)) => Next::Ask(asked),
            Ok(None) => Next::End(Ok(())),
            Err(error) => Next::End(Err(error)),
        }
    }

    /// The next piece of a range, if there is one. Servers want whole blocks: half of one could only be written by
    /// reading the other half before, and whoever writes that meanwhile would lose.
    fn transfer(
        &self,
        export: &Export,
        command: Command,
        flags: u16,
        offset: u64,
    ) -> io::Result<Option<Asked>> {
        let block = u64::from(export.minimum_block);
        let (offset, left) = (offset.saturating_add(self.done), self.len().saturating_sub(self.done));
        if !(offset | left).is_multiple_of(block) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let most = match command {
            Command::WriteZeroes => RANGE,
            _ => PIECE.min(export.maximum_payload.into()),
        };
        let len = left.min(most) as u32;
        Ok((len > 0).then_some(Asked { command, flags, offset, len }))
    }

    /// What a discard can give up: whole blocks.
    fn trim(&self, export: &Export, offset: u64, len: u64) -> Option<Asked> {
        let block = u64::from(export.minimum_block);
        let end = offset.saturating_add(len) / block * block;
        let start = offset.next_multiple_of(block).saturating_add(self.done);
        let len = end.checked_sub(start)?.min(RANGE) as u32;
        (len > 0).then_some(Asked { command: Command::Trim, flags: 0, offset: start, len })
    }

    fn flush(&self, export: &Export) -> Option<Asked> {
        let asked = Asked { command: Command::Flush, flags: 0, offset: 0, len: 0 };
        (export.can_flush() && !self.flushed).then_some(asked)
    }

    fn len(&self) -> u64 {
        match (self.task, &self.owner) {
            (Task::Read { .. }, Owner::Job(_)) => {
                self.owner.chain().map_or(0, |chain| chain.writable_len() as u64)
            }
            (Task::Write { .. }, Owner::Job(_)) => {
                self.owner.chain().map_or(0, |chain| chain.readable_len() as u64)
            }
            (Task::Read { .. } | Task::Write { .. }, Owner::Call(call)) => call.data.len() as u64,
            (Task::WriteZeroes { len, .. } | Task::Zero { len, .. } | Task::Discard { len, .. }, _) => len,
            (Task::Sync, _) => 0,
        }
    }

    /// Makes ready to ask this.
    pub(super) fn ask(&mut self, asked: Asked, cookie: u64) {
        let Asked { command, flags, offset, len } = asked;
        (self.asked, self.cookie, self.sent, self.error) = (asked, cookie, false, None);
        self.header = Request { command, flags, cookie, offset, len }.encode();
        self.gaps.reset(if command == Command::Read { len } else { 0 });
    }

    /// The server has done what was asked.
    pub(super) fn advance(&mut self) {
        self.done += u64::from(self.asked.len);
        self.flushed |= self.asked.command == Command::Flush;
    }

    pub(super) fn finish(self, result: io::Result<()>) {
        self.owner.finish(self.done, self.task, result);
    }

    /// Bytes of data that follow the header.
    pub(super) fn payload_len(&self) -> usize {
        if self.asked.command == Command::Write { self.asked.len as usize } else { 0 }
    }

    /// The data that follows the header, from byte `at` on.
    pub(super) fn payload(&self, at: usize) -> Payload<'_> {
        let at = at + self.done as usize;
        match (&self.owner, self.task) {
            (_, Task::WriteZeroes { .. }) => Payload::Zeroes,
            (Owner::Job(_), _) => {
                self.owner.chain().map_or(Payload::Zeroes, |chain| Payload::Chain(chain, at))
            }
            (Owner::Call(call), _) => Payload::Bytes(call.data.get(at..).unwrap_or_default()),
        }
    }

    /// Room for `len` bytes of the read that is under way, from byte `at` on.
    pub(super) fn room(&mut self, at: usize, len: usize) -> Room<'_> {
        let at = at + self.done as usize;
        match &mut self.owner {
            Owner::Job(job) => match job.chain() {
                Some(chain) => Room::Chain(chain, at),
                None => Room::Bytes(&mut []),
            },
            Owner::Call(call) => Room::Bytes(call.data.get_mut(at..at + len).unwrap_or_default()),
        }
    }

    /// Takes `data` that has come for byte `at` of the read that is under way.
    pub(super) fn take(&mut self, at: usize, data: &[u8]) -> Result<(), Error> {
        match self.room(at, data.len()) {
            Room::Chain(chain, at) => chain.put(at, data).map_err(too_much),
            Room::Bytes(room) if room.len() == data.len() => {
                room.copy_from_slice(data);
                Ok(())
            }
            Room::Bytes(_) => Err(Error::Protocol("it sends more than was asked for")),
        }
    }

    /// Takes zeroes likewise.
    pub(super) fn take_zeroes(&mut self, at: usize, len: usize) -> Result<(), Error> {
        match self.room(at, len) {
            Room::Chain(chain, at) => chain.put_zeroes(at, len).map_err(too_much),
            Room::Bytes(room) => {
                room.fill(0);
                Ok(())
            }
        }
    }
}

/// Where the data of a write is.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    /// In a chain, from this byte on.
    Chain(&'a Chain, usize),
    Bytes(&'a [u8]),
    /// Nothing but zeroes.
    Zeroes,
}

/// Where the data of a read goes.
pub(super) enum Room<'a> {
    /// To a chain, from this byte on.
    Chain(&'a mut Chain, usize),
    Bytes(&'a mut [u8]),
}

fn refuse(errno: i32) -> io::Result<Option<Asked>> {
    Err(io::Error::from_raw_os_error(errno))
}

fn too_much(_: Short) -> Error {
    Error::Protocol("it sends more than was asked for")
}
