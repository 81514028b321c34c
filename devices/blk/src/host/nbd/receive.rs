//! What comes from the server: replies, and the data of reads.
//!
//! Much of it is small, so it is received in large pieces into a buffer and copied from there. What is large goes
//! straight into guest memory, as soon as its beginning was met in the buffer, and what follows it into the buffer with
//! the same system call.

use std::io;
use std::os::fd::BorrowedFd;

use outboard_nbd::{Command, Error, Reply};
use rustix::net::{RecvFlags, recv};

use super::link::Line;
use super::pending::Pending;
use super::state::State;
use super::transfer;

/// Size of the buffer, in bytes: what a socket has at a time, more or less.
const INBOX: usize = 128 << 10;
/// From so many bytes on it is worth a system call of its own not to copy data.
const DIRECT: usize = 32 << 10;
/// How many calls are made before others are looked after.
const ROUNDS: usize = 16;
/// The server is going away (`NBD_ESHUTDOWN`).
const SHUTDOWN: u32 = 108;

/// The receiving end of a connection.
pub(super) struct Receiver {
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    structured: bool,
    tls: bool,
    /// Data is coming.
    current: Option<Incoming>,
}

/// Data that is coming for a read.
struct Incoming {
    slot: usize,
    pending: Pending,
    /// Where the next byte belongs, from the start of the read.
    at: usize,
    left: usize,
    /// The request is over with it.
    last: bool,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { inbox: Vec::new(), start: 0, end: 0, structured: false, tls: false, current: None }
    }

    /// A new connection.
    pub(super) fn reset(&mut self, structured: bool, tls: bool) {
        (self.start, self.end, self.structured, self.tls) = (0, 0, structured, tls);
        self.inbox.resize(INBOX, 0);
    }

    /// The connection is over: the request whose data was coming goes back to the others.
    pub(super) fn give_up(&mut self, state: &mut State) {
        if let Some(Incoming { slot, pending, .. }) = self.current.take() {
            state.put_back(slot, pending);
        }
    }

    /// Receives what there is, or much of it.
    pub(super) fn receive(&mut self, line: &Line, socket: BorrowedFd<'_>) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let room = self.inbox.len();
            let (result, wanted) = match &mut self.current {
                Some(data) if !self.tls && data.left >= DIRECT => {
                    let Incoming { pending, at, left, .. } = data;
                    let inbox = self.inbox.as_mut_slice();
                    let result = transfer::receive(socket, pending.room(*at, *left), *left, inbox);
                    let wanted = *left;
                    let direct = result.as_ref().map_or(0, |&count| wanted.min(count));
                    (data.at, data.left) = (data.at + direct, data.left - direct);
                    (result.inspect(|&count| self.end = count - direct), wanted)
                }
                _ => {
                    self.inbox.copy_within(self.start..self.end, 0);
                    (self.start, self.end) = (0, self.end - self.start);
                    let inbox = self.inbox.get_mut(self.end..).unwrap_or_default();
                    let wanted = inbox.len();
                    let result = if self.tls {
                        line.state().receive(inbox)
                    } else {
                        match recv(socket, &mut *inbox, RecvFlags::DONTWAIT) {
                            Ok((count, _)) => Ok(count),
                            Err(error) => Err(error.into()),
                        }
                    };
                    (result.inspect(|&count| self.end += count), wanted)
                }
            };
            match result {
                Ok(0) => return Err("the server hung up".to_owned()),
                Ok(count) => {
                    self.digest(line).map_err(|error| error.to_string())?;
                    if count < wanted.min(room) && !self.tls {
                        return Ok(());
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error.to_string()),
                },
            }
        }
        Ok(())
    }

    /// Takes in what is in the buffer.
    fn digest(&mut self, line: &Line) -> Result<(), Error> {
        loop {
            if let Some(data) = &mut self.current {
                let bytes = self.inbox.get(self.start..self.end).unwrap_or_default();
                let bytes = bytes.get(..data.left).unwrap_or(bytes);
                data.pending.take(data.at, bytes)?;
                self.start += bytes.len();
                (data.at, data.left) = (data.at + bytes.len(), data.left - bytes.len());
                if data.left > 0 {
                    break;
                }
                if let Some(Incoming { slot, pending, last, .. }) = self.current.take() {
                    settle(line, slot, pending, last)?;
                }
                continue;
            }
            let bytes = self.inbox.get(self.start..self.end).unwrap_or_default();
            let Some((reply, len)) = Reply::decode(bytes, self.structured)? else { break };
            self.start += len;
            self.reply(line, reply)?;
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(())
    }

    fn reply(&mut self, line: &Line, reply: Reply) -> Result<(), Error> {
        let (Reply::Simple { cookie, .. }
        | Reply::Data { cookie, .. }
        | Reply::Hole { cookie, .. }
        | Reply::Failed { cookie, .. }
        | Reply::End { cookie }) = reply;
        let (slot, mut pending) = line.state().take(cookie)?;
        match self.judge(reply, &mut pending) {
            Ok(Verdict::Data { at, left, last }) => {
                self.current = Some(Incoming { slot, pending, at, left, last });
                Ok(())
            }
            Ok(Verdict::Settle { last }) => settle(line, slot, pending, last),
            Err(error) => {
                line.state().put_back(slot, pending);
                Err(error)
            }
        }
    }

    /// What a reply means for its request.
    fn judge(&self, reply: Reply, pending: &mut Pending) -> Result<Verdict, Error> {
        let reading = pending.asked.command == Command::Read;
        let start = pending.asked.offset;
        match reply {
            Reply::Simple { error: SHUTDOWN, .. } | Reply::Failed { error: SHUTDOWN, .. } => {
                Err(Error::Refused("the server is shutting down".to_owned()))
            }
            Reply::Simple { error: 0, .. } if reading && self.structured => {
                Err(Error::Protocol("it answers a read as was not agreed on"))
            }
            Reply::Simple { error: 0, .. } if reading => {
                pending.gaps.reset(0);
                Ok(Verdict::Data { at: 0, left: pending.asked.len as usize, last: true })
            }
            Reply::Simple { error, .. } => {
                pending.error = (error != 0).then_some(error);
                Ok(Verdict::Settle { last: true })
            }
            Reply::Data { offset, len, last, .. } if reading => {
                let at = pending.gaps.fill(start, offset, len)? as usize;
                Ok(Verdict::Data { at, left: len as usize, last })
            }
            Reply::Hole { offset, len, last, .. } if reading => {
                let at = pending.gaps.fill(start, offset, len)? as usize;
                pending.take_zeroes(at, len as usize)?;
                Ok(Verdict::Settle { last })
            }
            Reply::Data { .. } | Reply::Hole { .. } => {
                Err(Error::Protocol("it sends data for what is no read"))
            }
            Reply::Failed { error, last, .. } => {
                pending.error.get_or_insert(error);
                Ok(Verdict::Settle { last })
            }
            Reply::End { .. } => Ok(Verdict::Settle { last: true }),
        }
    }
}

enum Verdict {
    /// Data follows.
    Data { at: usize, left: usize, last: bool },
    /// Nothing does.
    Settle { last: bool },
}

/// A reply was taken in: the request waits for the next one, goes on, or is over.
fn settle(line: &Line, slot: usize, pending: Pending, last: bool) -> Result<(), Error> {
    let mut state = line.state();
    if !last {
        state.put_back(slot, pending);
        return Ok(());
    }
    if let Some(error) = pending.error {
        state.release(slot);
        drop(state);
        pending.finish(Err(io::Error::from_raw_os_error(errno(error))));
        return Ok(());
    }
    if !pending.gaps.is_filled() {
        state.put_back(slot, pending);
        return Err(Error::Protocol("it does not send all of a read"));
    }
    let over = state.go_on(slot, pending);
    drop(state);
    if let Some((pending, result)) = over {
        pending.finish(result);
    }
    Ok(())
}

/// The errors that the protocol knows; their numbers are those of Linux.
const fn errno(error: u32) -> i32 {
    match error as i32 {
        known @ (libc::EPERM
        | libc::ENOMEM
        | libc::EINVAL
        | libc::ENOSPC
        | libc::EOVERFLOW
        | libc::EOPNOTSUPP) => known,
        _ => libc::EIO,
    }
}
