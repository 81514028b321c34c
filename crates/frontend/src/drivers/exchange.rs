//! Requests of a few bytes, copied in and out, and waited for: how the drivers of small devices talk. The device is not
//! trusted: it may answer late, never, or with less than an answer.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtqueue::driver::Buffer;

use crate::{Error, Frontend, Queue, Waiting};

/// What buffers hold before the device writes to them.
const UNWRITTEN: u8 = 0xff;

/// A queue and memory for what is out on it.
#[derive(Debug)]
pub(super) struct Exchange {
    queue: Queue,
    area: Segment,
    waiting: Waiting,
    timeout: Duration,
}

/// A request: buffers to read, and lengths of those to write. Empty ones are left out.
pub(super) type Ask<'a> = (&'a [&'a [u8]], &'a [usize]);

impl Exchange {
    /// Starts queue `index` with memory for so many bytes.
    pub(super) fn start(frontend: &mut Frontend, index: u16, depth: u16, room: usize) -> Result<Self, Error> {
        let (queue, timeout) = (frontend.start(index, depth)?, frontend.timeout());
        let area = frontend.allocate(room)?;
        Ok(Self { queue, area, waiting: Waiting::Interrupt, timeout })
    }

    pub(super) fn into_parts(self) -> (Queue, Segment) {
        (self.queue, self.area)
    }

    pub(super) fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    pub(super) fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// [`Self::all`] of one request.
    pub(super) fn one(&mut self, readable: &[&[u8]], writable: &[usize]) -> Result<(Vec<u8>, u32), Error> {
        self.all(&[(readable, writable)])?.pop().ok_or(Error::Invalid("no request"))
    }

    /// Sends requests at once, and waits until all are back. Of each: the bytes that the device may write, 0xff where it did
    /// not; and the length that it gives.
    ///
    /// # Errors
    /// They are longer than there is memory, or none; one is out that was not answered in time; the device does not answer
    /// in time; as [`Queue::wait`].
    pub(super) fn all(&mut self, asks: &[Ask<'_>]) -> Result<Vec<(Vec<u8>, u32)>, Error> {
        if self.queue.outstanding() != 0 {
            return Err(Error::Invalid("a request that was not answered is out"));
        }
        let mut at = 0;
        let mut next = |len: usize| {
            let piece = self.area.slice(at, len).ok_or(Error::Invalid("a request of this length"))?;
            at += len;
            Ok::<_, Error>(piece)
        };
        let mut written = Vec::new();
        for ((readable, writable), token) in asks.iter().zip(0..) {
            let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
            for bytes in readable.iter().filter(|bytes| !bytes.is_empty()) {
                let piece = next(bytes.len())?;
                piece.write_from(0, bytes)?;
                inputs.push(piece);
            }
            for &len in writable.iter().filter(|len| **len != 0) {
                let piece = next(len)?;
                piece.fill(UNWRITTEN);
                outputs.push(piece);
            }
            let buffers = |pieces: &[Segment]| pieces.iter().map(Buffer::from).collect::<Vec<_>>();
            self.queue.add(&buffers(&inputs), &buffers(&outputs), token)?;
            written.push((outputs, None));
        }
        self.queue.publish()?;
        while self.queue.outstanding() > 0 {
            if let Some((token, len)) = self.queue.poll()? {
                let place = usize::try_from(token).ok().and_then(|at| written.get_mut(at));
                place.ok_or(Error::Invalid("no such request"))?.1 = Some(len);
            } else if !self.queue.wait(self.waiting, self.timeout)? {
                return Err(Error::Timeout { what: "answer a request".to_owned(), after: self.timeout });
            }
        }
        written.into_iter().map(|(pieces, len)| Ok((bytes_of(&pieces)?, len.unwrap_or(0)))).collect()
    }
}

fn bytes_of(pieces: &[Segment]) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for piece in pieces {
        let mut bytes = vec![0; piece.len()];
        piece.read_into(0, &mut bytes)?;
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}
