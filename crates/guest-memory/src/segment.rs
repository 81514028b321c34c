//! A contiguous piece of guest memory by its address in this process. Trusts that its snapshot is still held.
#![allow(unsafe_code)] // raw addresses of guest memory

use std::fmt;
use std::ptr::NonNull;

use crate::MemoryError;
use crate::copy::{copy_from_guest, copy_shared, copy_to_guest, fill_guest};

/// One contiguous piece of guest memory, as this process sees it: address, length, guest-physical address.
///
/// # Validity
/// A segment is plain data: it borrows nothing and keeps nothing alive. It is valid as long as a clone of the
/// [`MemoryMap`](crate::MemoryMap) that it came from (or of any snapshot derived from that one which still has the
/// region) exists. Whoever stores a segment stores that snapshot too, and drops it last; this includes segments
/// that were handed to the kernel. Out of [`Segment::from_raw_parts`], the caller of that function is the keeper.
///
/// Accesses are copies, may tear, and may see any value: the guest writes the same memory at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    start: NonNull<u8>,
    len: usize,
    gpa: u64,
}

// SAFETY: an address and two numbers. Access is by copies that tolerate concurrent writers, of which the guest is
// one at all times, so a second thread adds nothing.
unsafe impl Send for Segment {}
// SAFETY: as above; a shared segment gives no more than a copied one.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a segment of `len` bytes at `start` in this process, which the guest knows as `gpa`.
    ///
    /// # Safety
    /// The memory is mapped readable and writable for as long as this segment, its copies and its slices are used,
    /// and no Rust reference to any of it is used in that time. `len` is at most `isize::MAX`.
    pub const unsafe fn from_raw_parts(start: NonNull<u8>, len: usize, gpa: u64) -> Self {
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

    /// Address of the first byte in this process, for rings (which build their atomics from it) and system calls.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Address and length in the form of the vectored system calls.
    #[inline]
    pub const fn iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.as_ptr().cast(), iov_len: self.len }
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

    /// Copies out `buf.len()` bytes from `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideSegment`], and nothing is copied.
    #[inline]
    pub fn read_into(&self, offset: usize, buf: &mut [u8]) -> Result<(), MemoryError> {
        let piece = self.piece(offset, buf.len())?;
        // SAFETY: `piece` is as long as `buf`, and mapped by the validity rule of the type.
        unsafe { copy_from_guest(piece.as_ptr(), buf) };
        Ok(())
    }

    /// Copies `buf` in at `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutsideSegment`], and nothing is copied.
    #[inline]
    pub fn write_from(&self, offset: usize, buf: &[u8]) -> Result<(), MemoryError> {
        let piece = self.piece(offset, buf.len())?;
        // SAFETY: `piece` is as long as `buf`, and mapped by the validity rule of the type.
        unsafe { copy_to_guest(piece.as_ptr(), buf) };
        Ok(())
    }

    /// Copies bytes from the start of this segment to the start of `to`, as many as both have, and says how many.
    #[inline]
    pub fn copy_to(&self, to: &Self) -> usize {
        let len = self.len.min(to.len);
        // SAFETY: `len` is within both, which are mapped by the validity rule of the type.
        unsafe { copy_shared(self.as_ptr(), to.as_ptr(), len) };
        len
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        // SAFETY: exactly this segment, mapped by the validity rule of the type.
        unsafe { fill_guest(self.as_ptr(), self.len, byte) };
    }

    #[inline]
    fn piece(&self, offset: usize, len: usize) -> Result<Self, MemoryError> {
        self.slice(offset, len).ok_or(MemoryError::OutsideSegment { offset, len, segment: self.len })
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:#x} + {:#x} at {:p})", self.gpa, self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(bytes: &mut [u8], gpa: u64) -> Segment {
        let len = bytes.len();
        // SAFETY: each test keeps its vector, and looks at it only through the segment until the end.
        unsafe { Segment::from_raw_parts(NonNull::new(bytes.as_mut_ptr()).unwrap(), len, gpa) }
    }

    #[test]
    fn slice_within_moves_both_addresses() {
        let mut bytes = vec![0; 16];
        let whole = segment(&mut bytes, 0x1000);
        let part = whole.slice(4, 8).unwrap();
        assert_eq!((part.len(), part.gpa()), (8, 0x1004));
        assert_eq!(part.as_ptr() as usize, whole.as_ptr() as usize + 4);
        assert_eq!(part.iovec().iov_len, 8);
        assert!(whole.slice(16, 0).unwrap().is_empty());
    }

    #[test]
    fn slice_outside_is_none() {
        let mut bytes = vec![0; 16];
        let whole = segment(&mut bytes, 0);
        for (offset, len) in [(0, 17), (16, 1), (17, 0), (1, 16), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!(whole.slice(offset, len), None);
        }
    }

    #[test]
    fn access_outside_is_refused_and_copies_nothing() {
        let mut bytes = vec![7; 4];
        let whole = segment(&mut bytes, 0);
        let mut buf = [1; 3];
        let refused = Err(MemoryError::OutsideSegment { offset: 2, len: 3, segment: 4 });
        assert_eq!(whole.read_into(2, &mut buf), refused);
        assert_eq!(whole.write_from(2, &buf), refused);
        assert_eq!(buf, [1; 3]);
        assert_eq!(bytes, [7; 4]);
    }

    #[test]
    fn what_was_written_is_read_back() {
        let mut bytes = vec![0; 32];
        let whole = segment(&mut bytes, 0);
        whole.fill(0xaa);
        whole.write_from(3, b"hello").unwrap();
        let mut buf = [0; 7];
        whole.read_into(2, &mut buf).unwrap();
        assert_eq!(&buf, b"\xaahello\xaa");
    }

    #[test]
    fn copy_between_segments_ends_with_the_shorter() {
        let (mut from, mut to) = (vec![7; 8], vec![0; 6]);
        let (from, dest) = (segment(&mut from, 0), segment(&mut to, 0));
        assert_eq!(from.copy_to(&dest), 6);
        assert_eq!(from.slice(0, 2).unwrap().copy_to(&dest.slice(6, 0).unwrap()), 0);
        assert_eq!(to, [7; 6]);
    }

    #[test]
    fn slice_behind_the_last_address_is_empty_at_zero() {
        let mut bytes = vec![0; 16];
        let top = segment(&mut bytes, u64::MAX - 15);
        assert_eq!(top.slice(16, 0).unwrap().gpa(), 0);
    }
}
