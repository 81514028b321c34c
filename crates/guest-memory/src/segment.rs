//! Contiguous pieces of guest memory by their address in this process.
#![allow(unsafe_code)] // raw addresses of guest memory

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::MemoryError;
use crate::copy::{copy_from_guest, copy_shared, copy_to_guest, fill_guest, prefetch};
use crate::mapping::Mapping;

/// Bytes of a cache line, on nearly every machine.
const LINE: usize = 64;
/// Lines that [`Segment::prefetch`] asks for.
const PREFETCHED_LINES: usize = 4;

/// The address of a contiguous piece of guest memory: in this process, in length, and for the guest.
///
/// Plain data that borrows nothing and keeps nothing alive, for those who hold the snapshot themselves: the buffers of
/// a request are such pieces. Nothing safe can be done with the memory behind it; for that there is [`Segment`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    start: NonNull<u8>,
    len: usize,
    gpa: u64,
}

// SAFETY: an address and two numbers, with which nothing safe can be done.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Piece {
    pub(crate) const fn new(start: NonNull<u8>, len: usize, gpa: u64) -> Self {
        Self { start, len, gpa }
    }

    /// Length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Guest-physical address of the first byte.
    #[inline]
    pub const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Address of the first byte in this process. It is mapped as long as a clone of the
    /// [`MemoryMap`](crate::MemoryMap) that the piece came from exists.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Address and length in the form of the vectored system calls.
    #[inline]
    pub const fn iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.as_ptr().cast(), iov_len: self.len }
    }

    /// No memory: nothing lies within it but an empty slice.
    pub const NONE: Self = Self { start: NonNull::dangling(), len: 0, gpa: 0 };

    /// The `len` bytes from guest address `gpa`; `None` unless all of them lie within. An empty piece at the end is
    /// within.
    #[inline]
    pub fn at(&self, gpa: u64, len: u64) -> Option<Self> {
        let offset = gpa.checked_sub(self.gpa)?;
        self.slice(usize::try_from(offset).ok()?, usize::try_from(len).ok()?)
    }

    /// The `len` bytes from `offset`; `None` unless all of them lie within. An empty slice at the end is within.
    #[inline]
    pub const fn slice(&self, offset: usize, len: usize) -> Option<Self> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: `offset <= self.len`, so the sum stays within the mapping or one past its end.
        let start = unsafe { self.start.add(offset) };
        // The sum can pass 2^64 only for an empty slice behind the last byte of the address space.
        Some(Self { start, len, gpa: self.gpa.wrapping_add(offset as u64) })
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} + {:#x} at {:p}", self.gpa, self.len, self.start)
    }
}

/// A contiguous piece of guest memory that stays mapped while it exists, whatever becomes of the memory table.
///
/// Accesses are copies, may tear, and may see any value: the guest writes the same memory at the same time.
#[derive(Clone)]
pub struct Segment {
    piece: Piece,
    mapping: Arc<Mapping>,
}

impl Segment {
    /// `piece` lies within `mapping`.
    pub(crate) fn new(piece: Piece, mapping: Arc<Mapping>) -> Self {
        Self { piece, mapping }
    }

    /// Where it is.
    #[inline]
    pub const fn piece(&self) -> Piece {
        self.piece
    }

    /// Length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.piece.len
    }

    /// Whether there is no byte in it.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.piece.len == 0
    }

    /// Guest-physical address of the first byte.
    #[inline]
    pub const fn gpa(&self) -> u64 {
        self.piece.gpa
    }

    /// Address of the first byte in this process, for rings (which build their atomics from it) and system calls.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.piece.as_ptr()
    }

    /// The `len` bytes from `offset`; `None` unless all of them lie within. An empty slice at the end is within.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Self> {
        let piece = self.piece.slice(offset, len)?;
        Some(Self { piece, mapping: self.mapping.clone() })
    }

    /// Copies out `buf.len()` bytes from `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideSegment`], and nothing is copied.
    #[inline]
    pub fn read_into(&self, offset: usize, buf: &mut [u8]) -> Result<(), MemoryError> {
        let piece = self.within(offset, buf.len())?;
        // SAFETY: `piece` is as long as `buf`, and `mapping` keeps it mapped.
        unsafe { copy_from_guest(piece.as_ptr(), buf) };
        Ok(())
    }

    /// Copies `buf` in at `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideSegment`], and nothing is copied.
    #[inline]
    pub fn write_from(&self, offset: usize, buf: &[u8]) -> Result<(), MemoryError> {
        let piece = self.within(offset, buf.len())?;
        // SAFETY: `piece` is as long as `buf`, and `mapping` keeps it mapped.
        unsafe { copy_to_guest(piece.as_ptr(), buf) };
        Ok(())
    }

    /// Copies bytes from the start of this segment to the start of `to`, as many as both have, and says how many.
    #[inline]
    pub fn copy_to(&self, to: &Self) -> usize {
        let len = self.len().min(to.len());
        // SAFETY: `len` is within both, and each keeps its own mapping.
        unsafe { copy_shared(self.as_ptr(), to.as_ptr(), len) };
        len
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        // SAFETY: exactly this segment, which `mapping` keeps mapped.
        unsafe { fill_guest(self.as_ptr(), self.len(), byte) };
    }

    /// Has the processor fetch the start of what is at `offset`, which will be accessed soon: the rest follows by
    /// itself. An offset outside has no effect.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if let Some(piece) = self.piece.slice(offset, PREFETCHED_LINES * LINE) {
            for line in 0..PREFETCHED_LINES {
                prefetch(piece.as_ptr().wrapping_add(line * LINE));
            }
        }
    }

    #[inline]
    fn within(&self, offset: usize, len: usize) -> Result<Piece, MemoryError> {
        self.piece.slice(offset, len).ok_or(MemoryError::OutsideSegment { offset, len, segment: self.len() })
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:?})", self.piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryMap, Region, memfd};

    fn segment(len: u64, gpa: u64) -> Segment {
        let region = Region { gpa, size: len, user_addr: 0, mmap_offset: 0 };
        let map = MemoryMap::from_table(vec![(region, memfd("test", len).unwrap())]).unwrap();
        map.segment(gpa, len).unwrap()
    }

    fn contents(of: &Segment) -> Vec<u8> {
        let mut bytes = vec![0; of.len()];
        of.read_into(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn segment_outlives_its_map() {
        let whole = segment(16, 0);
        whole.write_from(0, b"still here").unwrap();
        assert_eq!(&contents(&whole)[..10], b"still here");
    }

    #[test]
    fn slice_within_moves_both_addresses() {
        let whole = segment(16, 0x1000);
        let part = whole.slice(4, 8).unwrap();
        assert_eq!((part.len(), part.gpa()), (8, 0x1004));
        assert_eq!(part.as_ptr() as usize, whole.as_ptr() as usize + 4);
        assert_eq!(part.piece().iovec().iov_len, 8);
        assert!(whole.slice(16, 0).unwrap().is_empty());
    }

    #[test]
    fn slice_outside_is_none() {
        let whole = segment(16, 0);
        for (offset, len) in [(0, 17), (16, 1), (17, 0), (1, 16), (usize::MAX, 1), (1, usize::MAX)] {
            assert!(whole.slice(offset, len).is_none());
        }
    }

    #[test]
    fn access_outside_is_refused_and_copies_nothing() {
        let whole = segment(4, 0);
        whole.fill(7);
        let mut buf = [1; 3];
        let refused = Err(MemoryError::OutsideSegment { offset: 2, len: 3, segment: 4 });
        assert_eq!(whole.read_into(2, &mut buf), refused);
        assert_eq!(whole.write_from(2, &buf), refused);
        assert_eq!(buf, [1; 3]);
        assert_eq!(contents(&whole), [7; 4]);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let whole = segment(32, 0);
        whole.fill(0xaa);
        whole.write_from(3, b"hello").unwrap();
        let mut buf = [0; 7];
        whole.read_into(2, &mut buf).unwrap();
        assert_eq!(&buf, b"\xaahello\xaa");
    }

    #[test]
    fn copy_between_segments_ends_with_the_shorter() {
        let (from, to) = (segment(8, 0), segment(6, 0));
        from.fill(7);
        assert_eq!(from.copy_to(&to), 6);
        assert_eq!(from.slice(0, 2).unwrap().copy_to(&to.slice(6, 0).unwrap()), 0);
        assert_eq!(contents(&to), [7; 6]);
    }

    #[test]
    fn slice_behind_the_last_address_is_empty_at_zero() {
        let top = segment(16, u64::MAX - 15);
        assert_eq!(top.slice(16, 0).unwrap().gpa(), 0);
    }
}
