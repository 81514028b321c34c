//! Indirect tables. The guest is their author, and may rewrite them while they are read.
#![allow(unsafe_code)] // atomic access at raw addresses

use std::sync::atomic::{AtomicU64, Ordering};

use outboard_guest_memory::{MemoryError, MemoryMap, Piece};

use crate::error::RingError;
use crate::ring::Descriptor;

/// An indirect table in guest memory. It may be of any alignment (VIRTIO 1.3, 2.7.5.3), and cross from one region to
/// the next.
pub(crate) struct Table<'a> {
    mem: &'a MemoryMap,
    addr: u64,
    len: u32,
    /// The whole of it, where it lies in one piece: of `mem`.
    whole: Option<Piece>,
}

impl<'a> Table<'a> {
    /// The table of an indirect descriptor that was checked.
    #[inline]
    pub(crate) fn of(descriptor: Descriptor, mem: &'a MemoryMap) -> Self {
        let Descriptor { addr, len, .. } = descriptor;
        Self { mem, addr, len, whole: mem.piece(addr, len.into()).ok() }
    }

    /// Entries.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.len / Descriptor::SIZE as u32
    }

    /// Both halves of entry `index`, which is below the length.
    #[inline]
    pub(crate) fn entry(&self, index: u32) -> Result<(u64, u64), RingError> {
        if let Some(both) = self.aligned_entry(index as usize) {
            return Ok(both);
        }
        let unmapped = |cause| RingError::IndirectUnmapped { addr: self.addr, cause };
        let offset = Descriptor::SIZE as u64 * u64::from(index);
        let end = MemoryError::Overflow { start: self.addr, len: self.len.into() };
        let addr = self.addr.checked_add(offset).ok_or(unmapped(end))?;
        let mut bytes = [0; Descriptor::SIZE];
        self.mem.read_into(addr, &mut bytes).map_err(unmapped)?;
        let both = u128::from_le_bytes(bytes);
        Ok((both as u64, (both >> 64) as u64))
    }

    /// Both halves of an entry, if the table lies in one piece, and aligned.
    #[inline]
    fn aligned_entry(&self, index: usize) -> Option<(u64, u64)> {
        let whole = self.whole?;
        let at = index.saturating_mul(Descriptor::SIZE);
        let place = whole.as_ptr().wrapping_add(at);
        if !place.addr().is_multiple_of(size_of::<u64>()) || at.saturating_add(Descriptor::SIZE) > whole.len()
        {
            return None;
        }
        #[expect(clippy::cast_ptr_alignment, reason = "checked above")]
        let words = place.cast::<u64>();
        // SAFETY: 16 aligned bytes within a piece of `mem`, which is borrowed and keeps them mapped. All access
        // within this process is atomic or a copy.
        let (addr, rest) = unsafe {
            (
                AtomicU64::from_ptr(words).load(Ordering::Relaxed),
                AtomicU64::from_ptr(words.add(1)).load(Ordering::Relaxed),
            )
        };
        Some((u64::from_le(addr), u64::from_le(rest)))
    }
}
