//! Memory shared with a driver or a front end, accessed as the little-endian integers of rings and records. Trusts
//! its callers for the offsets (they come from checked indexes), nobody for the contents.
#![allow(unsafe_code)] // atomic access at raw addresses

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use outboard_guest_memory::{MemoryError, MemoryMap, Segment, SharedRegion};

use crate::error::RingError;
use crate::ring::Descriptor;

/// A contiguous piece of shared memory, kept mapped by whatever it came from.
///
/// Accesses are atomic, each at a multiple of its own size. An offset outside, which no caller computes, falls on
/// offset 0 instead: memory safety does not depend on ring arithmetic, and costs no branch to a panic.
#[derive(Debug)]
pub(crate) struct Area {
    start: NonNull<u8>,
    len: usize,
    gpa: u64,
    _keep: Keep,
}

/// What keeps an area mapped.
#[derive(Debug)]
enum Keep {
    Guest { _mem: MemoryMap },
    Shared { _region: SharedRegion },
}

// SAFETY: an address, of memory that other processes write anyway; access is atomic throughout.
unsafe impl Send for Area {}

macro_rules! access {
    ($load:ident, $store:ident, $int:ty, $atomic:ty) => {
        #[doc = concat!("Loads the integer at byte `at`.")]
        #[inline]
        pub(crate) fn $load(&self, at: usize, order: Ordering) -> $int {
            // SAFETY: `place` gives an aligned address within the area, which `_keep` keeps mapped. All access
            // within this process is atomic.
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
        Self::of_segment(mem, segment, align).ok_or(RingError::RingMisaligned { what, addr, align })
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
        Self::of_segment(mem, segment, align).ok_or(RingError::RingMisaligned { what, addr: gpa, align })
    }

    /// `len` bytes at `offset` of a shared buffer; `None` where they are outside of it or misaligned.
    pub(crate) fn of_shared(region: &SharedRegion, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > region.len() || len < Self::WIDEST {
            return None;
        }
        // SAFETY: `offset` is within the mapping.
        let start = NonNull::new(unsafe { region.as_ptr().add(offset) })?;
        if !start.addr().get().is_multiple_of(Self::WIDEST) {
            return None;
        }
        Some(Self { start, len, gpa: 0, _keep: Keep::Shared { _region: region.clone() } })
    }

    fn of_segment(mem: &MemoryMap, segment: Segment, align: usize) -> Option<Self> {
        let start = NonNull::new(segment.as_ptr())?;
        let usable = start.addr().get().is_multiple_of(align) && segment.len() >= align.min(4);
        usable.then(|| Self {
            start,
            len: segment.len(),
            gpa: segment.gpa(),
            _keep: Keep::Guest { _mem: mem.clone() },
        })
    }

    /// Guest-physical address of the first byte; 0 for a buffer outside guest memory.
    pub(crate) fn gpa(&self) -> u64 {
        self.gpa
    }

    access!(load8, store8, u8, AtomicU8);
    access!(load16, store16, u16, AtomicU16);
    access!(load32, store32, u32, AtomicU32);
    access!(load64, store64, u64, AtomicU64);

    /// Loads both halves of a descriptor of 16 bytes: address, and what follows it. `order` is that of the second
    /// half, which is loaded first: it holds the packed ring's flags.
    #[inline]
    pub(crate) fn load_descriptor(&self, index: u16, order: Ordering) -> (u64, u64) {
        let at = usize::from(index) * Descriptor::SIZE;
        let rest = self.load64(at + 8, order);
        (self.load64(at, Ordering::Relaxed), rest)
    }

    #[inline]
    fn place<T>(&self, at: usize) -> *mut T {
        let size = size_of::<T>();
        debug_assert!(at.is_multiple_of(size), "offset {at} of {size} bytes");
        let (at, end) = (at & !(size - 1), self.len & !(size - 1));
        debug_assert!(at < end, "offset {at} of {size} bytes in an area of {}", self.len);
        let at = if at < end { at } else { 0 };
        // SAFETY: `at` is within the area.
        let place = unsafe { self.start.as_ptr().add(at) };
        debug_assert!(place.addr().is_multiple_of(size), "the area is not aligned for this access");
        place.cast()
    }
}

/// Reads descriptor `index` of a table that need not be aligned (VIRTIO 1.3, 2.7.5.3: an indirect table has no
/// alignment of its own).
#[inline]
pub(crate) fn table_descriptor(table: &Segment, index: usize) -> Result<(u64, u64), MemoryError> {
    let at = index.saturating_mul(Descriptor::SIZE);
    let place = table.as_ptr().wrapping_add(at);
    if place.addr().is_multiple_of(size_of::<u64>()) && at.saturating_add(Descriptor::SIZE) <= table.len() {
        #[expect(clippy::cast_ptr_alignment, reason = "checked above")]
        let words = place.cast::<u64>();
        // SAFETY: 16 bytes within the segment, aligned; mapped by the validity rule of `Segment`.
        let (addr, rest) = unsafe {
            (
                AtomicU64::from_ptr(words).load(Ordering::Relaxed),
                AtomicU64::from_ptr(words.add(1)).load(Ordering::Relaxed),
            )
        };
        return Ok((u64::from_le(addr), u64::from_le(rest)));
    }
    let mut addr = [0; 8];
    let mut rest = [0; 8];
    table.read_into(at, &mut addr)?;
    table.read_into(at.saturating_add(8), &mut rest)?;
    Ok((u64::from_le_bytes(addr), u64::from_le_bytes(rest)))
}
