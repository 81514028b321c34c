//! The driver of an entropy device (VIRTIO 1.3, 5.4). The device is not trusted with lengths; its bytes are what
//! they are.

use std::time::Duration;

use outboard_guest_memory::{Piece, Segment};

use crate::{Error, Frontend, Queue, Waiting, Wishes};

/// Bytes of each request, and how many requests are out at once.
const CHUNK: usize = 4096;
const DEPTH: u16 = 16;

/// An entropy device.
#[derive(Debug)]
pub struct Rng {
    frontend: Frontend,
    queue: Queue,
    buffers: Vec<Segment>,
    waiting: Waiting,
    timeout: Duration,
}

impl Rng {
    /// Agrees with the device as wished, and starts its queue.
    ///
    /// # Errors
    /// As [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, wishes: &Wishes) -> Result<Self, Error> {
        let timeout = frontend.timeout();
        frontend.agree(wishes)?;
        let queue = frontend.start(0, DEPTH)?;
        frontend.driver_ok()?;
        let buffers = (0..DEPTH).map(|_| frontend.allocate(CHUNK)).collect::<Result<_, _>>()?;
        Ok(Self { frontend, queue, buffers, waiting: Waiting::Interrupt, timeout })
    }

    /// How to wait for the device; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Fills `out` with the device's bytes, 16 requests of 4 KiB at once.
    ///
    /// # Errors
    /// The device returns nothing in time, claims to have written more than it could, or is gone.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        let mut rest = out;
        while !rest.is_empty() {
            let read = self.round(rest)?;
            if read == 0 {
                return Err(Error::Invalid("the device returned requests without any entropy"));
            }
            rest = rest.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    /// Asks for as much as is wanted, or as fits, and copies what comes to the start of `out`.
    fn round(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        for (token, (buffer, piece)) in self.buffers.iter().zip(out.chunks(CHUNK)).enumerate() {
            let wanted = buffer.piece().slice(0, piece.len());
            let wanted = wanted.ok_or(Error::Invalid("a piece beyond its buffer"))?;
            self.queue.add::<Piece, _>(&[], &[wanted], token as u64)?;
        }
        self.queue.publish()?;
        let mut filled = 0;
        while self.queue.outstanding() > 0 {
            let Some((token, len)) = self.queue.poll()? else {
                if !self.queue.wait(self.waiting, self.timeout)? {
                    let what = "return entropy".to_owned();
                    return Err(Error::Timeout { what, after: self.timeout });
                }
                continue;
            };
            // The device may return less than was asked for, so what comes is put together as it comes.
            let buffer = usize::try_from(token).ok().and_then(|token| self.buffers.get(token));
            let room = out.get_mut(filled..).unwrap_or_default();
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let piece = room
                .get_mut(..len)
                .filter(|_| len <= CHUNK)
                .ok_or(Error::Invalid("the device claims more than was asked for"))?;
            buffer.ok_or(Error::Invalid("no such request"))?.read_into(0, piece)?;
            filled += len;
        }
        Ok(filled)
    }

    /// The front end, for what it can do while the queue runs.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The front end and the queue, both for tests that step aside from the driver.
    pub fn parts(&mut self) -> (&mut Frontend, &mut Queue) {
        (&mut self.frontend, &mut self.queue)
    }

    /// Stops the queue and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, queue, buffers, .. } = self;
        frontend.reset([queue])?;
        for buffer in buffers {
            frontend.memory().free(buffer);
        }
        Ok(frontend)
    }
}
