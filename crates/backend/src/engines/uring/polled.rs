//! The second ring: reads and writes that complete by polling the disk (`IORING_SETUP_IOPOLL`).
//!
//! Theory of operation. Such a ring holds nothing but reads and writes past the page cache, and what is in it
//! completes only while somebody enters the kernel to look. So it stands beside the ordinary ring, where kicks are
//! waited for and all else is done; and as long as something is in it, the worker does not sleep, but looks at both
//! rings and at its queues in turn. With nothing in it the worker sleeps as ever.
//!
//! A disk polls if its driver has queues for that, which are without interrupts. What sysfs says of it decides;
//! should the kernel refuse after all (EOPNOTSUPP), the file goes back to the ordinary ring.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use outboard_device::HostOp;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, major, minor};

use super::ring::{Kind, Ring};

pub(super) struct Polled {
    pub(super) ring: Ring,
    /// Operations in the ring.
    pub(super) out: usize,
    /// Operations that were polled for.
    pub(super) ended: u64,
}

impl Polled {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { ring: Ring::new(Kind::Polled)?, out: 0, ended: 0 })
    }

    /// Whether it takes this file, under the number `at`.
    pub(super) fn adopt(&self, at: u32, file: BorrowedFd<'_>) -> bool {
        is_polled(file) && self.ring.register_file(at, file.as_raw_fd()).is_ok()
    }

    /// The next operation that ended: user data and result.
    pub(super) fn completion(&mut self) -> Option<(u64, i32)> {
        let completion = self.ring.completion()?;
        self.out -= 1;
        self.ended += u64::from(completion.1 != -libc::EOPNOTSUPP);
        Some(completion)
    }
}

/// What such a ring can hold.
pub(super) fn is_transfer(host: &HostOp) -> bool {
    matches!(host, HostOp::ReadAt { .. } | HostOp::WriteAt { .. })
}

/// Whether a file is open past the page cache on a disk that polls.
fn is_polled(file: BorrowedFd<'_>) -> bool {
    let direct = fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
    direct && device_of(file).is_some_and(|device| has_poll_queues(&device))
}

/// The directory in sysfs of the device that a file is on, or is.
fn device_of(file: BorrowedFd<'_>) -> Option<PathBuf> {
    let stat = fstat(file).ok()?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    let device = if is_device { stat.st_rdev } else { stat.st_dev };
    Some(PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device))))
}

/// A partition has its disk's queue, which is in the directory above it.
fn has_poll_queues(device: &Path) -> bool {
    ["queue/io_poll", "../queue/io_poll"]
        .iter()
        .find_map(|path| std::fs::read_to_string(device.join(path)).ok())
        .is_some_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poll_queues_of_a_disk_are_those_of_its_partitions() {
        let disk = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(disk.path().join("queue")).unwrap();
        std::fs::create_dir(disk.path().join("part1")).unwrap();
        for (text, polled) in [("1\n", true), ("0\n", false), ("", false)] {
            std::fs::write(disk.path().join("queue/io_poll"), text).unwrap();
            assert_eq!(has_poll_queues(disk.path()), polled, "{text:?}");
            assert_eq!(has_poll_queues(&disk.path().join("part1")), polled, "{text:?}");
        }
        std::fs::remove_file(disk.path().join("queue/io_poll")).unwrap();
        assert!(!has_poll_queues(disk.path()));
    }
}
