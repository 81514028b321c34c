//! One mapping of a file, from the offset and size that a peer gave. Trusts neither, nor the file.
//!
//! Own `mmap` instead of vm-memory's `MmapRegion`, which takes only page-aligned offsets and knows no huge pages:
//! here the offset is aligned down to the file's page size, the length up, and the difference kept.
#![allow(unsafe_code)] // mmap

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::{MemoryError, sigbus};

/// `f_type` of hugetlbfs, also of a memfd with huge pages; the low 32 bits count on every architecture.
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;

/// A shared, writable mapping of `[offset, offset + size)` of a file. Unmapped when dropped; holds no descriptor.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Guarded against SIGBUS while mapped; `None` when the guard's table is full.
    guard: Option<sigbus::Guard>,
    /// What was mapped, in whole pages.
    start: NonNull<u8>,
    length: usize,
    /// What was asked for.
    data: NonNull<u8>,
    size: usize,
}

// SAFETY: owns address space, not tied to a thread; only addresses are handed out.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing in it changes after construction.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn map(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Self, MemoryError> {
        if size == 0 {
            return Err(MemoryError::Empty);
        }
        let overflow = MemoryError::Overflow { start: offset, len: size };
        let end = offset.checked_add(size).ok_or(overflow)?;
        check_writable(fd)?;
        check_length(fd, offset, size)?;
        let page = page_size(fd)?;
        let delta = offset % page;
        let from = offset - delta;
        let length =
            end.checked_next_multiple_of(page).and_then(|end| end.checked_sub(from)).ok_or(overflow)?;
        let length =
            usize::try_from(length).ok().filter(|&len| isize::try_from(len).is_ok()).ok_or(overflow)?;

        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                from,
            )
        };
        let start = start.map_err(|errno| match errno {
            Errno::PERM => MemoryError::ReadOnly, // sealed against writing
            errno => MemoryError::host("mmap")(errno),
        })?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(overflow)?;
        // SAFETY: `delta < page <= length`.
        let data = unsafe { start.add(delta as usize) };
        // SAFETY: exactly what was mapped above, in whole pages; the guard is dropped before it is unmapped.
        let guard = unsafe { sigbus::guard(start, length, page as usize) };
        Ok(Self { guard, start, length, data, size: size as usize })
    }

    /// Address of the byte at the offset that was asked for.
    pub(crate) fn data(&self) -> NonNull<u8> {
        self.data
    }

    /// Size that was asked for.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How often memory was put in place of pages that the file no longer has.
    pub(crate) fn patches(&self) -> u64 {
        self.guard.as_ref().map_or(0, sigbus::Guard::patches)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First, so that a fault elsewhere cannot match an address that is somebody else's by then.
        self.guard = None;
        // SAFETY: exactly what `map` mapped; every user of its addresses held this mapping, and is gone.
        // Cannot fail on whole pages; and if, only address space is lost.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Refuses early, with a plain reason, what `mmap` would refuse as EACCES. There is no downgrade to a read-only
/// mapping: a ring that cannot be written is of no use.
fn check_writable(fd: BorrowedFd<'_>) -> Result<(), MemoryError> {
    let flags = rustix::fs::fcntl_getfl(fd).map_err(MemoryError::host("fcntl"))?;
    if flags.contains(OFlags::PATH) || !flags.contains(OFlags::RDWR) {
        return Err(MemoryError::ReadOnly);
    }
    Ok(())
}

/// A file must reach to the end of the range. Devices (DAX) have no length; `mmap` judges them.
fn check_length(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<(), MemoryError> {
    let stat = rustix::fs::fstat(fd).map_err(MemoryError::host("fstat"))?;
    let actual = u64::try_from(stat.st_size).unwrap_or(0);
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if regular && actual.checked_sub(offset).is_none_or(|rest| rest < size) {
        return Err(MemoryError::ShortFile { offset, size, actual });
    }
    Ok(())
}

/// The unit in which the file can be mapped: the huge page on hugetlbfs, whose block size it is.
fn page_size(fd: BorrowedFd<'_>) -> Result<u64, MemoryError> {
    let ordinary = rustix::param::page_size() as u64;
    let fs = rustix::fs::fstatfs(fd).map_err(MemoryError::host("fstatfs"))?;
    if fs.f_type as u32 != HUGETLBFS_MAGIC {
        return Ok(ordinary);
    }
    let huge = u64::try_from(fs.f_bsize).unwrap_or(0);
    Ok(if huge.is_power_of_two() { huge.max(ordinary) } else { ordinary })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;
    use crate::{HugePage, memfd, memfd_huge};

    fn file(size: u64) -> OwnedFd {
        memfd("mapping-test", size).unwrap()
    }

    #[test]
    fn map_unaligned_offset_and_size_sees_the_right_bytes() {
        let fd = file(3 * 4096 + 77);
        let bytes: Vec<u8> = (0..3 * 4096 + 77).map(|i| (i % 251) as u8).collect();
        rustix::io::pwrite(&fd, &bytes, 0).unwrap();
        for (offset, size) in [(0, 1), (1, 4096), (4095, 2), (4097, 2 * 4096 + 76), (3 * 4096, 77)] {
            let mapping = Mapping::map(fd.as_fd(), offset, size).unwrap();
            let mut got = vec![0; mapping.size()];
            // SAFETY: the mapping is that long, and held.
            unsafe { crate::copy_from_guest(mapping.data().as_ptr(), &mut got) };
            assert_eq!(got, &bytes[offset as usize..(offset + size) as usize]);
        }
    }

    #[test]
    fn map_of_short_file_is_refused_with_figures() {
        let fd = file(8192);
        let refused = |offset, size| Mapping::map(fd.as_fd(), offset, size).unwrap_err();
        assert_eq!(refused(4096, 4097), MemoryError::ShortFile { offset: 4096, size: 4097, actual: 8192 });
        assert_eq!(refused(8192, 1), MemoryError::ShortFile { offset: 8192, size: 1, actual: 8192 });
        assert_eq!(refused(1 << 60, 1), MemoryError::ShortFile { offset: 1 << 60, size: 1, actual: 8192 });
        assert!(Mapping::map(fd.as_fd(), 4096, 4096).is_ok());
    }

    #[test]
    fn map_size_zero_or_overflow_is_refused() {
        let fd = file(4096);
        assert_eq!(Mapping::map(fd.as_fd(), 0, 0).unwrap_err(), MemoryError::Empty);
        let (start, len) = (u64::MAX, 1);
        assert_eq!(Mapping::map(fd.as_fd(), start, len).unwrap_err(), MemoryError::Overflow { start, len });
    }

    #[test]
    fn map_read_only_file_is_refused() {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(4096).unwrap();
        let read_only = File::open(path.path()).unwrap();
        assert_eq!(Mapping::map(read_only.as_fd(), 0, 4096).unwrap_err(), MemoryError::ReadOnly);
        let write_only = File::options().write(true).open(path.path()).unwrap();
        assert_eq!(Mapping::map(write_only.as_fd(), 0, 4096).unwrap_err(), MemoryError::ReadOnly);
        let sealed = file(4096);
        rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
        assert_eq!(Mapping::map(sealed.as_fd(), 0, 4096).unwrap_err(), MemoryError::ReadOnly);
    }

    #[test]
    fn map_of_what_is_no_memory_is_refused() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(Mapping::map(reader.as_fd(), 0, 4096).unwrap_err(), MemoryError::ReadOnly);
        assert_eq!(Mapping::map(writer.as_fd(), 0, 4096).unwrap_err(), MemoryError::ReadOnly);
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let refused = Mapping::map(socket.as_fd(), 0, 4096).unwrap_err();
        assert!(matches!(refused, MemoryError::Host { call: "mmap", .. }), "{refused:?}");
    }

    #[test]
    fn map_of_character_device_needs_no_length() {
        let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
        assert_eq!(Mapping::map(zero.as_fd(), 0, 10_000).unwrap().size(), 10_000);
    }

    /// Needs two free huge pages (`vm.nr_hugepages`); without them the mapping is patched, and that is the test.
    #[test]
    fn map_huge_pages_at_unaligned_offset_sees_the_right_bytes() {
        let page = 2 << 20;
        let fd = match memfd_huge("mapping-test", 2 * page, HugePage::MiB2) {
            Ok(fd) => fd,
            Err(error) => return println!("skipped: no huge pages in this kernel ({error})"),
        };
        let whole = Mapping::map(fd.as_fd(), 0, 2 * page).unwrap();
        let part = Mapping::map(fd.as_fd(), 4096, page).unwrap();
        assert_eq!((part.data().as_ptr() as u64 % page, part.size() as u64), (4096, page));
        let mut got = [0; 4];
        // SAFETY: within the mappings.
        unsafe {
            crate::copy_to_guest(whole.data().as_ptr().add(page as usize), b"four");
            crate::copy_from_guest(part.data().as_ptr().add(page as usize - 4096), &mut got);
        }
        if whole.patches() == 0 {
            assert_eq!(&got, b"four");
        } else {
            // One fault for the huge page, not one for each 4 KiB in it.
            // SAFETY: within the mapping.
            unsafe { crate::fill_guest(whole.data().as_ptr().add(page as usize), page as usize, 1) };
            assert_eq!(whole.patches(), 1);
        }
    }
}
