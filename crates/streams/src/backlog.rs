//! Bytes that the host did not take yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use outboard_device::Chain;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

/// Bytes moved at a time.
const BLOCK: usize = 4096;
/// What an empty backlog keeps of its memory in any case, in bytes, twice over.
const KEPT: usize = 64 << 10;

/// Bytes on their way to a descriptor that has no room for them. How many there may be is the caller's to bound.
///
/// What is emptied and filled again keeps its memory: as much as it has needed since it was empty the last time, twice over.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: VecDeque<u8>,
    /// The most that there was since there was nothing.
    most: usize,
}

impl Backlog {
    /// Adds all that is left to read of `chain`.
    pub fn take(&mut self, chain: &mut Chain) {
        if chain.readable_len() == 0 {
            // As nearly always: a block costs more than that.
            return;
        }
        let mut block = [0; BLOCK];
        loop {
            let len = chain.readable_len().min(BLOCK);
            let Some(block) = block.get_mut(..len).filter(|block| !block.is_empty()) else { return };
            if chain.read_exact(block).is_err() {
                return;
            }
            self.bytes.extend(&*block);
        }
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Sends as much as the host takes. Returns how much that was; 0 if it has no room.
    ///
    /// # Errors
    /// As of `sendmsg(2)`, but neither EINTR nor EAGAIN. What was not sent stays.
    pub fn flush(&mut self, fd: impl AsFd) -> io::Result<usize> {
        let mut sent = 0;
        while !self.bytes.is_empty() {
            let (front, back) = self.bytes.as_slices();
            let slices = [IoSlice::new(front), IoSlice::new(back)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&fd, &slices, &mut SendAncillaryBuffer::default(), flags) {
                Ok(0) | Err(Errno::WOULDBLOCK) => break,
                Ok(count) => {
                    sent += count;
                    self.skip(count);
                }
                Err(Errno::INTR) => {}
                Err(error) if sent == 0 => return Err(error.into()),
                // It comes again.
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// Takes the first `len` bytes away, at most all.
    pub fn skip(&mut self, len: usize) {
        self.most = self.most.max(self.bytes.len());
        self.bytes.drain(..len.min(self.bytes.len()));
        if self.bytes.is_empty() {
            let used = std::mem::take(&mut self.most).max(KEPT);
            if self.bytes.capacity() / 4 > used {
                self.bytes.shrink_to(used * 2);
            }
        }
    }

    /// The bytes, in two pieces, the first of which is empty only if there are none.
    #[must_use]
    pub fn pieces(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Form, pair};

    #[test]
    fn bytes_arrive_in_order_however_little_the_host_takes() {
        let (one, other) = pair(Form::Bytes).unwrap();
        one.send_room(0);
        let mut backlog = Backlog::default();
        let (mut given, mut got) = (Vec::new(), Vec::<u8>::new());
        let mut room = vec![0; 3000];
        for round in 0..300_u32 {
            let bytes: Vec<u8> = (0..1000 + round).map(|at| (at * 7 + round) as u8).collect();
            backlog.add(&bytes);
            given.extend(bytes);
            backlog.flush(&one).unwrap();
            let len = other.receive(&mut room, false).unwrap();
            got.extend(&room[..len]);
        }
        while got.len() < given.len() {
            backlog.flush(&one).unwrap();
            let len = other.receive(&mut room, false).unwrap();
            got.extend(&room[..len]);
        }
        assert_eq!(given, got);
        assert!(backlog.is_empty() && backlog.pieces().0.is_empty());
    }

    #[test]
    fn end_that_is_gone_is_an_error_and_loses_nothing() {
        let (one, other) = pair(Form::Bytes).unwrap();
        drop(other);
        let mut backlog = Backlog::default();
        backlog.add(b"left");
        assert_eq!(backlog.flush(&one).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(backlog.len(), 4);
        backlog.skip(99);
        assert!(backlog.is_empty());
    }
}
