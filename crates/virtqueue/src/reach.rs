//! Guest memory as a running ring looks buffers up in it: most are where the one before was.
//!
//! The guest is the author of every address that is looked up here.

use std::cell::Cell;

use outboard_guest_memory::{MemoryError, MemoryMap, Piece, prefetch, prefetch_for_write};

use crate::ring::Descriptor;

/// Bytes of a cache line, on nearly every machine.
const LINE: u32 = 64;

/// A memory table, and the region of it that the last buffer was in.
///
/// Invariant: the region is one of `mem`, or none.
pub(crate) struct Reach {
    mem: MemoryMap,
    region: Cell<Piece>,
}

impl Reach {
    pub(crate) const fn new(mem: MemoryMap) -> Self {
        Self { mem, region: Cell::new(Piece::NONE) }
    }

    #[inline]
    pub(crate) const fn mem(&self) -> &MemoryMap {
        &self.mem
    }

    /// The buffer that a descriptor names, if that is not empty, and as a whole in the region where the last one was.
    #[inline]
    pub(crate) fn near(&self, descriptor: Descriptor) -> Option<Piece> {
        let Descriptor { addr, len, .. } = descriptor;
        self.region.get().at(addr, len.into()).filter(|_| len > 0)
    }

    /// Any buffer that a descriptor names, piece by piece. Others are looked for where it begins from now on.
    ///
    /// # Errors
    /// It is not in guest memory, or not as a whole. Some pieces may have been given by then.
    pub(crate) fn far(&self, descriptor: Descriptor, each: impl FnMut(Piece)) -> Result<(), MemoryError> {
        let Descriptor { addr, len, .. } = descriptor;
        self.mem.pieces(addr, len.into(), each)?;
        if let Some(region) = self.mem.region_around(addr) {
            self.region.set(region);
        }
        Ok(())
    }

    /// Has the processor fetch the front of what a descriptor names, for what will be done with it, if it is where the
    /// last buffer was: two lines, since a header may stand at the end of one.
    #[inline]
    pub(crate) fn prefetch(&self, descriptor: Descriptor) {
        let Descriptor { addr, len, .. } = descriptor;
        if let Some(piece) = self.region.get().at(addr, 0) {
            let first = piece.as_ptr().cast_const();
            let second = first.wrapping_add(len.saturating_sub(1).min(LINE) as usize);
            if descriptor.has(Descriptor::WRITE) {
                prefetch_for_write(first);
                prefetch_for_write(second);
            } else {
                prefetch(first);
                prefetch(second);
            }
        }
    }
}
