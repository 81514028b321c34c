//! Requests of one buffer, as packets and messages are: read or written at once, without all that makes a [`Chain`]. They
//! are checked as any chain is, and what does not do for them is left to be taken as one.
//!
//! The guest is the author of the buffers' places; they were translated when the request was taken.
#![allow(unsafe_code)] // copies from and to raw addresses

use outboard_guest_memory::{Piece, copy_from_guest, copy_to_guest, write_to_guest};
use zerocopy::{Immutable, IntoBytes};

use crate::chain::{Bomb, Chain};
use crate::queue::Virtqueue;
use crate::ring::{Descriptor, Done};

/// The buffer of a request that was taken from the ring and recorded in flight.
pub(crate) struct Single {
    /// As it will be completed, with nothing written.
    pub(crate) done: Done,
    pub(crate) descriptor: Descriptor,
    /// Where it is: of the memory of the ring that it was taken from, not empty.
    pub(crate) piece: Piece,
}

/// A request to be read, of which a copy of the front was [looked at](Virtqueue::glance). It goes back to its queue by
/// [`Virtqueue::dismiss`] or [`Virtqueue::open`].
#[must_use = "dismiss it, or open it"]
pub struct Glanced {
    pub(crate) owner: u64,
    pub(crate) sequence: u64,
    pub(crate) done: Done,
    pub(crate) descriptor: Descriptor,
    bomb: Bomb,
}

impl Glanced {
    /// Its length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.descriptor.len as usize
    }

    /// Whether there is nothing to read: never.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.descriptor.len == 0
    }

    /// Gives it up, as [`Chain::abandon`] does.
    pub fn abandon(self) {
        self.dealt_with();
        crate::chain::count_abandoned();
    }

    #[inline]
    fn dealt_with(self) {
        std::mem::forget(self.bomb);
    }
}

impl std::fmt::Debug for Glanced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Glanced({}, {} to read)", self.done.id, self.len())
    }
}

impl Virtqueue {
    /// Completes the next request with a value and `data` in it, as if its chain had been written so, if it is a single buffer that
    /// holds both. False, and nothing has happened, if it is not, or if there is none, or one that was put back:
    /// [`take`](Virtqueue::take) tells.
    #[inline]
    pub fn put<T: IntoBytes + Immutable + Copy>(&mut self, value: &T, data: &[u8]) -> bool {
        let (front, len) = (size_of::<T>(), size_of::<T>() + data.len());
        let Some(Single { done, piece, .. }) = self.take_single(Descriptor::WRITE, len) else { return false };
        // SAFETY: the piece has room for `front` bytes and those of `data`, and is of the queue's own memory table, which
        // keeps it mapped. No reference into guest memory exists.
        unsafe {
            write_to_guest(piece.as_ptr(), value);
            copy_to_guest(piece.as_ptr().add(front), data);
        }
        self.log_piece(piece, len);
        let sequence = self.next_sequence();
        // It is in a piece, whose length is that of a descriptor.
        self.settle(sequence, Done { len: len as u32, ..done });
        true
    }

    /// Takes the next request, if it is a single buffer to be read, and copies as much of its front as there is, and room for
    /// in `front`. `None`, and nothing has happened, if it is not, or if there is none, or one that was put back:
    /// [`take`](Virtqueue::take) tells.
    #[inline]
    pub fn glance(&mut self, front: &mut [u8]) -> Option<Glanced> {
        let Single { done, descriptor, piece } = self.take_single(0, 1)?;
        let len = front.len().min(piece.len());
        if let Some(front) = front.get_mut(..len) {
            // SAFETY: so many bytes of a piece of the queue's own memory table, which keeps it mapped. No reference into
            // guest memory exists.
            unsafe { copy_from_guest(piece.as_ptr(), front) };
        }
        self.give_out(1);
        let sequence = self.next_sequence();
        Some(Glanced { owner: self.owner(), sequence, done, descriptor, bomb: Bomb })
    }

    /// Completes a request that was looked at, with nothing written. One that is not of this activation is abandoned.
    #[inline]
    pub fn dismiss(&mut self, glanced: Glanced) {
        if glanced.owner != self.owner() {
            return glanced.abandon();
        }
        let Glanced { sequence, done, .. } = glanced;
        glanced.dealt_with();
        self.get_back(1);
        self.settle(sequence, done);
    }

    /// Makes a chain of a request that was looked at: whole, and as it would have been [taken](Virtqueue::take). One that is
    /// not of this activation is abandoned.
    pub fn open(&mut self, glanced: Glanced) -> Option<Chain> {
        if glanced.owner != self.owner() {
            glanced.abandon();
            return None;
        }
        let Glanced { sequence, done, descriptor, .. } = glanced;
        glanced.dealt_with();
        let mut body = self.body();
        (body.id, body.count, body.slot, body.sequence) = (done.id, done.count, done.slot, sequence);
        let mut filling = body.buffers.fill(self.reach());
        // It was found there when it was taken. If that memory is gone by now, there is nothing to read.
        let _ = filling.push(descriptor);
        filling.seal();
        Some(Chain::new(body))
    }
}
