//! Memory that is shared with the kernel: rings, as numbers that both sides change, and frames, each of which is the
//! kernel's or ours. The kernel is trusted to write to those frames only that it has; it is not trusted to give back frames
//! that it has.
#![allow(unsafe_code, reason = "mappings that the kernel writes to")]

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// What huge pages come in; there are larger ones, which nobody has to spare.
const HUGE_PAGE: usize = 2 << 20;

/// Memory, mapped as long as this is there.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: it is memory of its own, of no thread. Through a shared reference there are only atomic numbers, and the frames,
// which are given out to one owner each (`Frames::pair`).
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// A ring of a socket, of so many bytes.
    ///
    /// # Errors
    /// Those of `mmap(2)`.
    pub(super) fn of_ring(socket: BorrowedFd<'_>, len: usize, which: u64) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: the kernel finds a place where nothing is.
        Self::at(unsafe { mmap(null_mut(), len, protection, flags, socket, which)? }, len)
    }

    /// Memory of zeroes, in huge pages if there are some to spare.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let len = len.next_multiple_of(HUGE_PAGE);
        // SAFETY: the kernel finds a place where nothing is.
        let map = |flags| unsafe { mmap_anonymous(null_mut(), len, protection, MapFlags::PRIVATE | flags) };
        let start = map(MapFlags::HUGETLB).or_else(|_| map(MapFlags::empty()))?;
        let mapping = Self::at(start, len)?;
        // SAFETY: the memory is ours, and stays what it is. A child that is forked must not share it: the kernel has
        // fixed the pages for devices. Advice that is not taken changes nothing.
        unsafe {
            let _ = madvise(start, len, Advice::LinuxHugepage);
            let _ = madvise(start, len, Advice::LinuxDontFork);
        }
        Ok(mapping)
    }

    fn at(start: *mut c_void, len: usize) -> io::Result<Self> {
        NonNull::new(start).map(|start| Self { start, len }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Where it is.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr().addr() as u64
    }

    /// Bytes in it.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A number at an offset that is a multiple of its size; `None` for others, and beyond the end.
    pub(super) fn u32(&self, offset: usize) -> Option<&AtomicU32> {
        let place = self.place(offset, size_of::<AtomicU32>())?;
        // SAFETY: it lies in the mapping, which stays while it is borrowed; any bytes are a number, and both sides change
        // it as a whole.
        Some(unsafe { place.cast().as_ref() })
    }

    /// Likewise.
    pub(super) fn u64(&self, offset: usize) -> Option<&AtomicU64> {
        let place = self.place(offset, size_of::<AtomicU64>())?;
        // SAFETY: as in `u32`.
        Some(unsafe { place.cast().as_ref() })
    }

    /// Mappings begin at pages.
    fn place(&self, offset: usize, size: usize) -> Option<NonNull<u8>> {
        if !offset.is_multiple_of(size) || offset.checked_add(size)? > self.len {
            return None;
        }
        // SAFETY: it is within the mapping.
        Some(unsafe { self.start.cast().add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more. Pages that the kernel still writes to are its own as long.
        let _ = unsafe { munmap(self.start.as_ptr(), self.len) };
    }
}

/// Some frames of a mapping, all of the same size. Each is ours, or lent to the kernel.
#[derive(Debug)]
pub(super) struct Frames {
    memory: Arc<Mapping>,
    /// Where the first one begins.
    from: usize,
    /// Of one, in bytes: a power of two.
    size: usize,
    /// Which of them the kernel has.
    lent: Vec<bool>,
}

impl Frames {
    /// Two lots of frames of `size` bytes, and the memory that both are in.
    ///
    /// # Errors
    /// There is not so much memory.
    pub(super) fn pair(counts: [usize; 2], size: usize) -> io::Result<(Arc<Mapping>, Self, Self)> {
        let [first, second] = counts;
        let memory = Arc::new(Mapping::anonymous((first + second) * size)?);
        // They do not overlap, and nobody else makes any.
        let lot = |from, count| Self { memory: Arc::clone(&memory), from, size, lent: vec![false; count] };
        Ok((Arc::clone(&memory), lot(0, first), lot(first * size, second)))
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.lent.len()
    }

    /// The bytes of a frame; `None` if the kernel has it, or there is no such one.
    pub(super) fn bytes(&self, frame: usize) -> Option<&[u8]> {
        let place = self.place(frame)?;
        // SAFETY: the frame is in the mapping, and in no other lot. It is ours, so the kernel does not write to it, and
        // stays so while it is borrowed: `lend` takes all of them mutably. It was mapped as zeroes.
        Some(unsafe { slice::from_raw_parts(place.as_ptr(), self.size) })
    }

    /// The same, to write to.
    pub(super) fn bytes_mut(&mut self, frame: usize) -> Option<&mut [u8]> {
        let place = self.place(frame)?;
        // SAFETY: as in `bytes`; and there is no other reference to any frame of the lot.
        Some(unsafe { slice::from_raw_parts_mut(place.as_ptr(), self.size) })
    }

    fn place(&self, frame: usize) -> Option<NonNull<u8>> {
        let is_ours = self.lent.get(frame).is_some_and(|lent| !lent);
        if is_ours { self.memory.place(self.from + frame * self.size, self.size) } else { None }
    }

    /// Gives a frame to the kernel, by its address in the memory; `None` if it has it already.
    pub(super) fn lend(&mut self, frame: usize) -> Option<u64> {
        let lent = self.lent.get_mut(frame).filter(|lent| !**lent)?;
        *lent = true;
        Some((self.from + frame * self.size) as u64)
    }

    /// Takes the frame back that an address lies in, and says where in it; `None` if the kernel does not have it.
    pub(super) fn take_back(&mut self, address: u64) -> Option<(usize, usize)> {
        let at = usize::try_from(address).ok()?.checked_sub(self.from)?;
        let frame = at / self.size;
        let lent = self.lent.get_mut(frame).filter(|lent| **lent)?;
        *lent = false;
        Some((frame, at % self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_of_either_side_and_never_of_both() {
        let (memory, mut few, mut more) = Frames::pair([2, 3], 2048).unwrap();
        assert_eq!((few.count(), more.count(), memory.len()), (2, 3, HUGE_PAGE));
        few.bytes_mut(1).unwrap().fill(1);
        more.bytes_mut(0).unwrap().fill(2);
        assert_eq!((few.bytes(0).unwrap()[2047], few.bytes(1).unwrap()[2047]), (0, 1));
        assert!(few.bytes(2).is_none() && more.bytes_mut(3).is_none(), "beyond the end");

        assert_eq!((few.lend(1), more.lend(2)), (Some(2048), Some(4 * 2048)));
        assert!(few.bytes(1).is_none() && few.bytes_mut(1).is_none() && few.lend(1).is_none());
        for wrong in [0, 4095 + 1, 4 * 2048, u64::MAX] {
            assert_eq!(few.take_back(wrong), None, "{wrong}");
        }
        assert_eq!(more.take_back(2048), None, "of the other lot");
        assert_eq!(few.take_back(2048 + 256), Some((1, 256)));
        assert_eq!(few.take_back(2048 + 256), None, "twice");
        assert_eq!(few.bytes(1).unwrap()[0], 1);
        assert_eq!(more.take_back(4 * 2048), Some((2, 0)));
    }

    #[test]
    fn numbers_are_within_the_mapping_and_aligned() {
        let mapping = Mapping::anonymous(1).unwrap();
        assert!(mapping.u32(HUGE_PAGE - 4).is_some() && mapping.u64(HUGE_PAGE - 8).is_some());
        assert!(mapping.u32(2).is_none() && mapping.u64(4).is_none());
        assert!(mapping.u32(HUGE_PAGE).is_none() && mapping.u64(usize::MAX - 7).is_none());
    }
}
