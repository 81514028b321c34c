//! Memory shared with the peer that is not guest memory (the in-flight buffer), and the making of memory files.
//! Trusts neither the descriptor nor the figures that come with it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::mapping::Mapping;
use crate::{MemoryError, Piece, Segment};

/// A shared mapping of a piece of a file, for buffers that both sides read and write, such as the one of
/// vhost-user: Inflight I/O tracking. Clones share the mapping, which goes with the last of them.
#[derive(Clone)]
pub struct SharedRegion(Arc<Mapping>);

impl SharedRegion {
    /// Maps `size` bytes at `offset` of a file that the peer sent. Neither needs to be page-aligned. `fd` is closed.
    ///
    /// # Errors
    /// Size 0, a file that ends before `offset + size`, one that cannot be written, or the host's refusal.
    pub fn map(fd: OwnedFd, size: u64, offset: u64) -> Result<Self, MemoryError> {
        let mapping = Mapping::map(fd.as_fd(), offset, size);
        drop(fd);
        Ok(Self(Arc::new(mapping?)))
    }

    /// Makes a zeroed memory file of `size` bytes and maps it. `name` is for debugging only (`/proc/*/maps`). The
    /// descriptor is for the peer; the file cannot be shrunk, by anybody.
    ///
    /// # Errors
    /// Size 0, or the host's refusal.
    pub fn create(name: &str, size: u64) -> Result<(Self, OwnedFd), MemoryError> {
        if size == 0 {
            return Err(MemoryError::Empty);
        }
        let fd = file(name, size, MemfdFlags::empty())?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).map_err(MemoryError::host("fcntl"))?;
        let mapping = Mapping::map(fd.as_fd(), 0, size)?;
        Ok((Self(Arc::new(mapping)), fd))
    }

    /// Address of the first byte. Valid while this or a clone of it exists; contents may change at any time, so
    /// access is by atomics, or by [`copy_from_guest`](crate::copy_from_guest) and its mirror. Aligned to a page if
    /// the offset was.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.data().as_ptr()
    }

    /// The whole of it as a segment, at guest address 0, which means nothing here.
    pub fn segment(&self) -> Segment {
        Segment::new(Piece::new(self.0.data(), self.0.size(), 0), self.0.clone())
    }

    /// Length in bytes, as asked for; never 0.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.size()
    }
}

impl fmt::Debug for SharedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedRegion({:#x} at {:p})", self.len(), self.as_ptr())
    }
}

/// Size of a huge page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    MiB2,
    /// 1 GiB.
    GiB1,
}

/// Makes a zeroed memory file of `size` bytes, for a front end to use as guest memory. `name` is for debugging only.
/// The file is not sealed, but can be.
///
/// # Errors
/// Those of memfd_create and ftruncate.
pub fn memfd(name: &str, size: u64) -> io::Result<OwnedFd> {
    file(name, size, MemfdFlags::empty()).map_err(into_io)
}

/// [`memfd`] on huge pages. `size` must be a multiple of the page. Whether enough pages are free shows at the
/// first access only.
///
/// # Errors
/// Those of memfd_create and ftruncate.
pub fn memfd_huge(name: &str, size: u64, page: HugePage) -> io::Result<OwnedFd> {
    let size_flag = match page {
        HugePage::MiB2 => MemfdFlags::HUGE_2MB,
        HugePage::GiB1 => MemfdFlags::HUGE_1GB,
    };
    file(name, size, MemfdFlags::HUGETLB | size_flag).map_err(into_io)
}

fn file(name: &str, size: u64, flags: MemfdFlags) -> Result<OwnedFd, MemoryError> {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create(name, flags).map_err(MemoryError::host("memfd_create"))?;
    rustix::fs::ftruncate(&fd, size).map_err(MemoryError::host("ftruncate"))?;
    Ok(fd)
}

fn into_io(error: MemoryError) -> io::Error {
    match error {
        MemoryError::Host { errno, .. } => io::Error::from_raw_os_error(errno),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
#[allow(unsafe_code)] // a look into raw memory
mod tests {
    use super::*;

    fn write(region: &SharedRegion, bytes: &[u8]) {
        assert!(bytes.len() <= region.len());
        // SAFETY: within the region, which is held.
        unsafe { crate::copy_to_guest(region.as_ptr(), bytes) };
    }

    fn read(region: &SharedRegion) -> Vec<u8> {
        let mut bytes = vec![1; region.len()];
        // SAFETY: as long as the region, which is held.
        unsafe { crate::copy_from_guest(region.as_ptr(), &mut bytes) };
        bytes
    }

    #[test]
    fn created_region_is_zeroed_and_the_same_for_whoever_maps_it() {
        let (ours, fd) = SharedRegion::create("region-test", 5000).unwrap();
        assert_eq!(read(&ours), [0; 5000]);
        let theirs = SharedRegion::map(fd, 5000, 0).unwrap();
        write(&ours, b"hello");
        drop(ours);
        assert_eq!(read(&theirs)[..6], *b"hello\0");
    }

    #[test]
    fn created_region_cannot_be_shrunk_but_grown() {
        let (_region, fd) = SharedRegion::create("region-test", 5000).unwrap();
        assert_eq!(rustix::fs::ftruncate(&fd, 4999), Err(rustix::io::Errno::PERM));
        rustix::fs::ftruncate(&fd, 10_000).unwrap();
    }

    #[test]
    fn map_at_unaligned_offset_sees_the_right_bytes() {
        let (whole, fd) = SharedRegion::create("region-test", 9000).unwrap();
        let part = SharedRegion::map(fd, 100, 4133).unwrap();
        write(&part, &[7; 100]);
        let seen = read(&whole);
        assert!(seen.iter().enumerate().all(|(at, &byte)| byte == 7 * u8::from((4133..4233).contains(&at))));
    }

    #[test]
    fn region_of_size_zero_or_short_file_is_refused() {
        assert_eq!(SharedRegion::create("region-test", 0).unwrap_err(), MemoryError::Empty);
        let short = MemoryError::ShortFile { offset: 96, size: 5, actual: 100 };
        assert_eq!(SharedRegion::map(memfd("region-test", 100).unwrap(), 5, 96).unwrap_err(), short);
        assert!(matches!(SharedRegion::create("region-test", u64::MAX), Err(MemoryError::Host { .. })));
    }

    #[test]
    fn clone_keeps_the_mapping() {
        let (region, _fd) = SharedRegion::create("region-test", 10).unwrap();
        let clone = region.clone();
        write(&region, b"0123456789");
        drop(region);
        assert_eq!(read(&clone), b"0123456789");
    }

    #[test]
    fn memfd_with_nul_in_its_name_is_refused() {
        assert!(memfd("a\0b", 1).is_err());
    }
}
