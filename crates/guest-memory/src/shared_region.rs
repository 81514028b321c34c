//! Memory shared with the peer that is not guest memory (the in-flight buffer), and the making of memory files.
//! Trusts neither the descriptor nor the figures that come with it.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::mapping::Mapping;
use crate::{MemoryError, Segment};

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

    /// The whole of it as a segment, at guest address 0, which means nothing here. Valid while this or a clone of it
    /// exists.
    pub fn segment(&self) -> Segment {
        self.0.segment()
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
