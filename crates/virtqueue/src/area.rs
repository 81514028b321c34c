//! Memory shared with a driver or a front end, accessed as the little-endian integers of rings and records. Trusts
//! its callers for the offsets (they come from checked indexes), nobody for the contents.
#![allow(unsafe_code)] // atomic access at raw addresses

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use outboard_guest_memory::{MemoryMap, Segment, SharedRegion, prefetch, prefetch_for_write};

use crate::error::RingError;
use crate::ring::Descriptor;

/// A contiguous piece of shared memory.
///
/// Accesses are atomic, each at a multiple of its own size. An offset outside, which no caller computes, falls on
/// offset 0 instead: memory safety does not depend on ring arithmetic, and costs no branch to a panic.
#[derive(Debug)]
pub(crate) struct Area(Segment);

macro_rules! access {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        #[doc = concat!("Loads the integer at byte `at`.")]
        #[inline]
        pub(crate) fn $load(&self, at: usize, order: Ordering) -> $int {
            // SAFETY: `place` gives an aligned address within the area, which its segment keeps mapped. All
            // access within this process is atomic.
            <$int>::from_le(unsafe { <$atomic>::from_ptr(self.place::<$int>(at)) }.load(order))
        }

        #[doc = concat!("Stores an integer at byte `at`.")]
        #[inline]
        pub(crate) fn $store(&self, at: usize, value: $int, order: Ordering) {
            #[cfg(test)]
            crate::crash::step();
            // SAFETY: as for the load.
            unsafe { <$atomic>::from_ptr(self.place::<$int>(at)) }.store(value.to_le(), order);
        }
    };
}

impl Area {
    /// Alignment that admits every access.
    const WIDEST: usize = 8;

    /// The `len` bytes that the front end knows at `addr`.
    pub(crate) fn of_user(
        mem: &MemoryMap,
        what: &'static str,
        addr: u64,
        len: u64,
        align: usize,
    ) -> Result<Self, RingError> {
        let segment = mem.host_of_user(addr, len).map_err(|cause| RingError::RingUnmapped {
            what,
            addr,
            len,
            cause,
        })?;
        Self::of_segment(segment, align).ok_or(RingError::RingMisaligned { what, addr, align })
    }

    /// The `len` bytes of guest memory at `gpa`, as the driver's half sees its rings.
    pub(crate) fn of_guest(
        mem: &MemoryMap,
        what: &'static str,
        gpa: u64,
        len: u64,
        align: usize,
    ) -> Result<Self, RingError> {
        let segment =
            mem.segment(gpa, len).map_err(|cause| RingError::RingUnmapped { what, addr: gpa, len, cause })?;
        Self::of_segment(segment, align).ok_or(RingError::RingMisaligned { what, addr: gpa, align })
    }

    /// `len` bytes at `offset` of a shared buffer; `None` where they are outside of it or misaligned.
    pub(crate) fn of_shared(region: &SharedRegion, offset: usize, len: usize) -> Option<Self> {
        if len < Self::WIDEST {
            return None;
        }
        Self::of_segment(region.segment().slice(offset, len)?, Self::WIDEST)
    }

    fn of_segment(segment: Segment, align: usize) -> Option<Self> {
        let usable = segment.as_ptr().addr().is_multiple_of(align) && segment.len() >= align.min(4);
        usable.then_some(Self(segment))
    }

    /// Guest-physical address of the first byte; means nothing for a buffer outside guest memory.
    pub(crate) fn gpa(&self) -> u64 {
        self.0.gpa()
    }

    access!(load8, store8, u8, AtomicU8);
    access!(load16, store16, u16, AtomicU16);
    access!(load32, store32, u32, AtomicU32);
    access!(load64, store64, u64, AtomicU64);

    /// Loads both halves of a descriptor of 16 bytes: address, and what follows it. `order` is that of the second
    /// half, which is loaded first: it holds the packed ring's flags.
    #[inline]
    pub(crate) fn load_descriptor(&self, index: u16, order: Ordering) -> (u64, u64) {
        let both = self.place::<[u64; 2]>(usize::from(index) * Descriptor::SIZE).cast::<u64>();
        // SAFETY: as for a load; both words are within the area.
        let (addr, rest) = unsafe { (AtomicU64::from_ptr(both), AtomicU64::from_ptr(both.add(1))) };
        let rest = u64::from_le(rest.load(order));
        (u64::from_le(addr.load(Ordering::Relaxed)), rest)
    }

    /// Has the processor fetch a descriptor that will be loaded soon.
    #[inline]
    pub(crate) fn prefetch_descriptor(&self, index: u16) {
        prefetch(self.place::<[u64; 2]>(usize::from(index) * Descriptor::SIZE).cast());
    }

    /// Has the processor fetch what stands at byte `at`, which will be written soon.
    #[inline]
    pub(crate) fn prefetch_for_write(&self, at: usize) {
        prefetch_for_write(self.place::<u32>(at).cast());
    }

    #[inline]
    fn place<T>(&self, at: usize) -> *mut T {
        let size = size_of::<T>();
        debug_assert!(at.is_multiple_of(size), "offset {at} of {size} bytes");
        let (at, end) = (at & !(size - 1), self.0.len() & !(size - 1));
        debug_assert!(at < end, "offset {at} of {size} bytes in an area of {}", self.0.len());
        let at = if at < end { at } else { 0 };
        // SAFETY: `at` is within the area.
        let place = unsafe { self.0.as_ptr().add(at) };
        debug_assert!(place.addr().is_multiple_of(size), "the area is not aligned for this access");
        place.cast()
    }
}
