//! Access to a chain's bytes by their place in what is left, for those that learn of data out of order or may have to
//! send it twice: nothing is consumed. The guest may change its bytes at any moment, so they are only copied.
#![allow(unsafe_code)] // copies from and to raw addresses

use libc::iovec;
use outboard_guest_memory::{copy_from_guest, copy_to_guest, fill_guest};

use crate::chain::{Chain, Short};

impl Chain {
    /// Copies what lies at byte `at` of what is left to read.
    ///
    /// # Errors
    /// [`Short`] if less is left.
    pub fn peek(&self, at: usize, out: &mut [u8]) -> Result<(), Short> {
        check(at, out.len(), self.readable_len())?;
        let mut rest = out;
        for piece in pieces(self.readable(), at, rest.len()) {
            let (now, later) = rest.split_at_mut(piece.iov_len.min(rest.len()));
            // SAFETY: a part of a piece, which the chain keeps mapped; no reference into guest memory exists.
            unsafe { copy_from_guest(piece.iov_base.cast(), now) };
            rest = later;
        }
        Ok(())
    }

    /// Puts `data` at byte `at` of what is left to write. It is not counted as written before
    /// [`Chain::advance_writable`] has gone over it.
    ///
    /// # Errors
    /// [`Short`] if there is less room.
    pub fn put(&mut self, at: usize, data: &[u8]) -> Result<(), Short> {
        check(at, data.len(), self.writable_len())?;
        let mut rest = data;
        for piece in pieces(self.writable(), at, rest.len()) {
            let (now, later) = rest.split_at(piece.iov_len.min(rest.len()));
            // SAFETY: as above.
            unsafe { copy_to_guest(piece.iov_base.cast(), now) };
            rest = later;
        }
        Ok(())
    }

    /// Puts `len` zeroes at byte `at` of what is left to write, as [`Chain::put`] does.
    ///
    /// # Errors
    /// Likewise.
    pub fn put_zeroes(&mut self, at: usize, len: usize) -> Result<(), Short> {
        check(at, len, self.writable_len())?;
        for piece in pieces(self.writable(), at, len) {
            // SAFETY: as above.
            unsafe { fill_guest(piece.iov_base.cast(), piece.iov_len, 0) };
        }
        Ok(())
    }
}

/// The parts of `all` that the `len` bytes from byte `at` on lie in, as far as there are any.
pub fn pieces(all: &[iovec], at: usize, len: usize) -> impl Iterator<Item = iovec> {
    let (mut skip, mut left) = (at, len);
    all.iter().filter_map(move |piece| {
        let skipped = skip.min(piece.iov_len);
        skip -= skipped;
        let len = (piece.iov_len - skipped).min(left);
        left -= len;
        let start = piece.iov_base.cast::<u8>().wrapping_add(skipped);
        (len > 0).then_some(iovec { iov_base: start.cast(), iov_len: len })
    })
}

fn check(at: usize, len: usize, left: usize) -> Result<(), Short> {
    let wanted = at.saturating_add(len);
    if wanted > left { Err(Short { wanted, left }) } else { Ok(()) }
}
