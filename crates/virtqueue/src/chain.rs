//! One request of the driver, checked as a whole before anybody sees it. What the bytes *mean* is the guest's word
//! only; how many there are and where they lie is settled.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::iovec;
use outboard_guest_memory::{MemoryMap, Segment};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::buffers::Buffers;
use crate::ring::QueueId;

/// Bytes on the stack that [`Chain::fill_with`] hands out at a time.
const FILL_BLOCK: usize = 4096;

static LOST: AtomicU64 = AtomicU64::new(0);
static ABANDONED: AtomicU64 = AtomicU64::new(0);

/// Chains dropped in this process that were neither completed nor put back nor abandoned: each is a bug, and a
/// request that the driver waits for in vain.
pub fn lost_chains() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Chains in this process that outlived their queue: abandoned, or completed or put back when it had stopped.
pub fn abandoned_chains() -> u64 {
    ABANDONED.load(Ordering::Relaxed)
}

/// One request of the driver: a device-readable part, then a device-writable one, each consumed from the front
/// and without regard to how the driver cut it into buffers (VIRTIO 1.3, 2.7.4).
///
/// A chain is a linear value. It goes back to the queue it was popped from ([`Virtqueue::complete`],
/// [`Virtqueue::put_back`]), or is [abandoned](Chain::abandon) once that queue has stopped. One that is dropped
/// instead panics in builds with debug assertions, and is counted ([`lost_chains`]) in others.
///
/// The memory of its buffers stays mapped while the chain lives, whatever becomes of the memory table; the
/// [iovecs](Chain::writable) stay where they are when the chain moves. Thus a chain beside an operation keeps
/// everything valid that the kernel was given.
///
/// [`Virtqueue::complete`]: crate::Virtqueue::complete
/// [`Virtqueue::put_back`]: crate::Virtqueue::put_back
#[must_use = "complete it, put it back, or abandon it"]
pub struct Chain {
    body: Box<Body>,
    bomb: Bomb,
}

/// What a chain holds; recycled by its queue.
pub(crate) struct Body {
    pub(crate) queue: QueueId,
    /// Which activation of which queue it belongs to.
    pub(crate) owner: u64,
    /// Order among the chains of that activation.
    pub(crate) sequence: u64,
    /// Split: head index. Packed: buffer id.
    pub(crate) id: u16,
    /// Descriptors of the ring that it takes.
    pub(crate) count: u16,
    /// In-flight entry (packed).
    pub(crate) slot: u16,
    /// Was in flight when a previous process died.
    pub(crate) recovered: bool,
    pub(crate) written: u32,
    pub(crate) buffers: Buffers,
}

/// Goes off when a chain is dropped.
pub(crate) struct Bomb;

/// Fewer bytes left in a chain than asked for. Nothing was consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes wanted of a request, {left} left")]
pub struct Short {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes left.
    pub left: usize,
}

/// The right to set the status byte of the chain that gave it ([`Chain::split_status`]), once.
#[derive(Debug)]
#[must_use = "a request without status looks unanswered"]
pub struct Status(());

impl Chain {
    pub(crate) fn new(body: Box<Body>) -> Self {
        Self { body, bomb: Bomb }
    }

    /// Takes the body out; the chain counts as dealt with.
    #[inline]
    pub(crate) fn into_body(self) -> Box<Body> {
        let Self { body, bomb } = self;
        std::mem::forget(bomb);
        body
    }

    /// The queue that it was popped from.
    #[inline]
    pub fn queue(&self) -> QueueId {
        self.body.queue
    }

    /// What identifies the request in its ring: the head's index (split), the buffer id (packed).
    #[inline]
    pub fn head(&self) -> u16 {
        self.body.id
    }

    /// Whether it was with a device already, which died before it could say what became of it: the request may have
    /// been carried out, in part or as a whole.
    #[inline]
    pub fn is_recovered(&self) -> bool {
        self.body.recovered
    }

    /// Entries of its ring that it takes, until it goes back: one if it lies in an indirect table.
    #[inline]
    pub fn entries(&self) -> u16 {
        self.body.count
    }

    /// Bytes left to read.
    #[inline]
    pub fn readable_len(&self) -> usize {
        self.body.buffers.readable_len()
    }

    /// Bytes left to write.
    #[inline]
    pub fn writable_len(&self) -> usize {
        self.body.buffers.writable_len()
    }

    /// Bytes written so far, the status byte included: the length that the driver will be told.
    #[inline]
    pub fn written(&self) -> u32 {
        self.body.written
    }

    /// Reads exactly `out.len()` bytes.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    #[inline]
    pub fn read_exact(&mut self, out: &mut [u8]) -> Result<(), Short> {
        short(out.len(), self.readable_len())?;
        self.body.buffers.read(out);
        Ok(())
    }

    /// Reads a value in its layout in memory.
    ///
    /// # Errors
    /// [`Short`] if fewer bytes are left than it has.
    #[inline]
    pub fn read_obj<T: FromBytes>(&mut self) -> Result<T, Short> {
        short(size_of::<T>(), self.readable_len())?;
        Ok(self.body.buffers.read_value())
    }

    /// The value that [`read_obj`](Chain::read_obj) would most likely give, without consuming it: a hint of what comes.
    /// The driver may change it until it is read. `None` if it is not in one piece.
    #[inline]
    pub fn peek_obj<T: FromBytes>(&self) -> Option<T> {
        self.body.buffers.peek_value()
    }

    /// Reads exactly `out.len()` bytes of what the driver has put where the device is to write, and consumes them; they
    /// do not count as written. A device should not do this (VIRTIO 1.3, 2.7.5.1): it is for drivers that are wrong.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn read_writable(&mut self, out: &mut [u8]) -> Result<(), Short> {
        short(out.len(), self.writable_len())?;
        self.body.buffers.read_writable(out);
        Ok(())
    }

    /// Leaves out up to `n` bytes; returns how many there were.
    pub fn skip_readable(&mut self, n: usize) -> usize {
        let n = n.min(self.readable_len());
        self.body.buffers.advance_readable(n);
        n
    }

    /// Leaves out what follows the next `n` readable bytes.
    pub fn truncate_readable(&mut self, n: usize) {
        self.body.buffers.truncate_readable(n);
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// [`Short`] if there is less room; nothing is written then.
    #[inline]
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), Short> {
        short(data.len(), self.writable_len())?;
        self.body.buffers.write(data);
        self.body.count_written(data.len());
        Ok(())
    }

    /// Writes a value in its layout in memory.
    ///
    /// # Errors
    /// [`Short`] if there is less room than it has bytes; nothing is written then.
    #[inline]
    pub fn write_obj<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), Short> {
        self.write_all(value.as_bytes())
    }

    /// [`write_obj`](Chain::write_obj) and [`write_all`](Chain::write_all) in one: a header, and what is behind it.
    ///
    /// # Errors
    /// [`Short`] if there is less room for both; nothing is written then.
    #[inline]
    pub fn write_obj_with<T: IntoBytes + Immutable + Copy>(
        &mut self,
        value: &T,
        data: &[u8],
    ) -> Result<(), Short> {
        let len = size_of::<T>().saturating_add(data.len());
        short(len, self.writable_len())?;
        self.body.buffers.write_with(value, data);
        self.body.count_written(len);
        Ok(())
    }

    /// Writes up to `n` zero bytes; returns how many there was room for.
    pub fn write_zeroes(&mut self, n: usize) -> usize {
        let n = self.body.buffers.write_zeroes(n);
        self.body.count_written(n);
        n
    }

    /// Reads as much as `to` has room for from byte `at` on, straight into other shared memory, as of a RAM disk.
    /// Returns the bytes read.
    pub fn read_segment(&mut self, to: &Segment, at: usize) -> usize {
        self.body.buffers.read_segment(to, at)
    }

    /// Writes as much of `from`, from byte `at` on, as there is room for, straight out of other shared memory. Returns
    /// the bytes written.
    pub fn write_segment(&mut self, from: &Segment, at: usize) -> usize {
        let count = self.body.buffers.write_segment(from, at);
        self.body.count_written(count);
        count
    }

    /// Moves up to `len` bytes of what is left to read to what is left to write in `to`, in one copy, from guest to
    /// guest. Returns how many there were, and room for.
    #[inline]
    pub fn copy_to(&mut self, to: &mut Chain, len: usize) -> usize {
        let count = self.body.buffers.copy_to(&mut to.body.buffers, len);
        to.body.count_written(count);
        count
    }

    /// Places `data` over bytes that were written already, from byte `at` of all that was written on: for a field of
    /// a header that is known last.
    ///
    /// # Errors
    /// [`Short`] if they end before; nothing is written then.
    pub fn rewrite(&mut self, at: usize, data: &[u8]) -> Result<(), Short> {
        let wanted = at.saturating_add(data.len());
        self.body.buffers.rewrite(at, data).map_err(|left| Short { wanted, left })
    }

    /// Fills the writable part with what `source` puts into the slices it is given, at most 4 KiB at a time, until
    /// nothing is left to fill or it returns 0. Returns the bytes written by this call.
    ///
    /// # Errors
    /// The first error of `source`; what was written before stays, and counts.
    pub fn fill_with(&mut self, mut source: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let mut block = [0; FILL_BLOCK];
        let mut done = 0;
        while self.writable_len() > 0 {
            let room = self.writable_len().min(FILL_BLOCK);
            let count = source(block.get_mut(..room).unwrap_or(&mut []))?.min(room);
            if count == 0 {
                break;
            }
            self.body.buffers.write(block.get(..count).unwrap_or(&[]));
            self.body.count_written(count);
            done += count;
        }
        Ok(done)
    }

    /// Reads from `fd` straight into the writable part, until it is full or a read falls short. Returns the bytes
    /// written by this call: 0 at the end of the file, or without room.
    ///
    /// # Errors
    /// That of the read, if nothing was read before it; [`io::ErrorKind::WouldBlock`] is one. Interrupted calls
    /// are repeated.
    ///
    /// System calls: readv.
    pub fn fill_from(&mut self, fd: impl AsFd) -> io::Result<usize> {
        let count = self.body.buffers.fill_from(fd.as_fd(), None)?;
        self.body.count_written(count);
        Ok(count)
    }

    /// As [`Chain::fill_from`], from byte `offset` of a file.
    ///
    /// # Errors
    /// Likewise; [`io::ErrorKind::InvalidInput`] for an offset beyond 2^63.
    ///
    /// System calls: preadv.
    pub fn fill_from_at(&mut self, fd: impl AsFd, offset: u64) -> io::Result<usize> {
        let count = self.body.buffers.fill_from(fd.as_fd(), Some(offset))?;
        self.body.count_written(count);
        Ok(count)
    }

    /// Writes the readable part straight to `fd`, until nothing is left or a write falls short. Returns the bytes
    /// consumed by this call.
    ///
    /// # Errors
    /// That of the write, if nothing was written before it; [`io::ErrorKind::WouldBlock`] is one. Interrupted
    /// calls are repeated.
    ///
    /// System calls: writev.
    pub fn drain_to(&mut self, fd: impl AsFd) -> io::Result<usize> {
        self.body.buffers.drain_to(fd.as_fd(), None)
    }

    /// As [`Chain::drain_to`], to byte `offset` of a file.
    ///
    /// # Errors
    /// Likewise; [`io::ErrorKind::InvalidInput`] for an offset beyond 2^63.
    ///
    /// System calls: pwritev.
    pub fn drain_to_at(&mut self, fd: impl AsFd, offset: u64) -> io::Result<usize> {
        self.body.buffers.drain_to(fd.as_fd(), Some(offset))
    }

    /// Leaves no more than `n` bytes to write.
    pub fn truncate_writable(&mut self, n: usize) {
        self.body.buffers.truncate_writable(n);
    }

    /// Takes the last writable byte off the chain, for a status to be set later; `None` if nothing is left to
    /// write, and on a second call.
    #[inline]
    pub fn split_status(&mut self) -> Option<Status> {
        self.body.buffers.split_status().then_some(Status(()))
    }

    /// Writes the status byte and counts it as written. `status` must be this chain's; on a chain that gave none,
    /// nothing happens.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "a status is set once")]
    pub fn set_status(&mut self, status: Status, value: u8) {
        let Status(()) = status;
        if self.body.buffers.set_status(value) {
            self.body.count_written(1);
        }
    }

    /// What is left to read, for host operations. The addresses are valid as long as the chain lives, and so is
    /// the slice itself until the chain is next changed, also when the chain is moved.
    #[inline]
    pub fn readable(&self) -> &[iovec] {
        self.body.buffers.readable()
    }

    /// What is left to write, for host operations; validity as of [`Chain::readable`].
    #[inline]
    pub fn writable(&self) -> &[iovec] {
        self.body.buffers.writable()
    }

    /// Consumes `n` readable bytes (at most those left), which a host operation has taken.
    #[inline]
    pub fn advance_readable(&mut self, n: usize) {
        self.body.buffers.advance_readable(n);
    }

    /// Consumes `n` writable bytes (at most those left), which a host operation has written, and counts them.
    #[inline]
    pub fn advance_writable(&mut self, n: usize) {
        let n = n.min(self.writable_len());
        self.body.buffers.advance_writable(n);
        self.body.count_written(n);
    }

    /// Gives the request up: the way out for chains whose queue has stopped. On a ring with an in-flight buffer
    /// the next process serves it; on others it is lost to the driver. A queue that still runs will wait for it.
    pub fn abandon(self) {
        self.into_body().abandon();
    }
}

impl Body {
    pub(crate) fn new(queue: QueueId, owner: u64, mem: MemoryMap) -> Box<Self> {
        let buffers = Buffers::new(mem);
        Box::new(Self {
            queue,
            owner,
            sequence: 0,
            id: 0,
            count: 0,
            slot: 0,
            recovered: false,
            written: 0,
            buffers,
        })
    }

    /// Ready for another request.
    #[inline]
    pub(crate) fn recycle(&mut self, mem: &MemoryMap) {
        self.buffers.recycle(mem);
        self.recovered = false;
        self.written = 0;
    }

    /// Its chain is given up.
    pub(crate) fn abandon(&self) {
        count_abandoned();
    }

    #[inline]
    fn count_written(&mut self, n: usize) {
        // No overflow: a chain has fewer than 2^32 bytes.
        self.written = self.written.wrapping_add(n as u32);
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (queue, head) = (self.queue().0, self.head());
        let (readable, writable) = (self.readable_len(), self.writable_len());
        write!(
            f,
            "Chain({queue}:{head}, {readable} to read, {writable} to write, {} written)",
            self.written()
        )
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        LOST.fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) && !std::thread::panicking() {
            #[expect(clippy::panic, reason = "a bug that tests must not miss")]
            {
                panic!("a chain was dropped: complete it, put it back, or abandon it");
            }
        }
    }
}

/// One more that outlived its queue.
pub(crate) fn count_abandoned() {
    ABANDONED.fetch_add(1, Ordering::Relaxed);
}

#[inline]
fn short(wanted: usize, left: usize) -> Result<(), Short> {
    if wanted > left { Err(Short { wanted, left }) } else { Ok(()) }
}
