//! The dirty log: a bitmap in shared memory, one bit per page of guest memory, set by the back end for each page
//! that it wrote, so that the front end can copy the page (again) to where the guest migrates (vhost-user:
//! Migration). The front end reads and clears it at any time. Trusts neither its figures nor the guest addresses.
#![allow(unsafe_code)] // atomics in shared memory

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use crate::{MemoryError, SharedRegion};

/// Bytes of guest memory that a bit of the log stands for, whatever the size of the host's pages.
pub const LOG_PAGE_SIZE: u64 = 4096;

const PAGES_PER_BYTE: u64 = 8;

/// A mapped dirty log. Clones share the mapping, which goes with the last of them.
#[derive(Clone)]
pub struct DirtyLog(SharedRegion);

impl DirtyLog {
    /// Maps a log of `size` bytes at `offset` of a file that the front end sent (SET_LOG_BASE). Neither needs to be
    /// page-aligned. `fd` is closed.
    ///
    /// # Errors
    /// Size 0, a file that ends before `offset + size`, one that cannot be written, or the host's refusal.
    pub fn map(fd: OwnedFd, size: u64, offset: u64) -> Result<Self, MemoryError> {
        SharedRegion::map(fd, size, offset).map(Self)
    }

    /// Makes an empty log of `size` bytes, for a front end; the descriptor is for the back end.
    ///
    /// # Errors
    /// Size 0, or the host's refusal.
    pub fn create(size: u64) -> Result<(Self, OwnedFd), MemoryError> {
        SharedRegion::create("dirty-log", size).map(|(region, fd)| (Self(region), fd))
    }

    /// Marks each page that the `len` bytes at guest address `gpa` touch. To be called after the write. Addresses
    /// beyond the log are ignored; so is a length of 0.
    pub fn mark(&self, gpa: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|rest| gpa.saturating_add(rest)) else { return };
        // The write must be visible before a bit is found set: otherwise the front end could clear that bit and copy
        // the page between the look and the write, and the write would be lost. Release on the `or` is not enough
        // for the case in which there is no `or`.
        fence(Ordering::SeqCst);
        let first_page = gpa / LOG_PAGE_SIZE;
        let last_page = last / LOG_PAGE_SIZE;
        let last_byte = (last_page / PAGES_PER_BYTE).min(self.0.len() as u64 - 1);
        for index in first_page / PAGES_PER_BYTE..=last_byte {
            let byte_starts = index * PAGES_PER_BYTE;
            let from = first_page.saturating_sub(byte_starts);
            let to = (last_page - byte_starts).min(PAGES_PER_BYTE - 1);
            let mask = (0xff_u8 << from) & (0xff_u8 >> (PAGES_PER_BYTE - 1 - to));
            let Some(byte) = self.byte(index) else { return };
            if byte.load(Ordering::Relaxed) & mask != mask {
                byte.fetch_or(mask, Ordering::Release);
            }
        }
    }

    /// Takes the marks off the log, and calls `each` with the guest address of every page that had one, ascending.
    /// This is the front end's half: it copies the page after that.
    pub fn take(&self, mut each: impl FnMut(u64)) {
        for index in 0..self.0.len() as u64 {
            let Some(byte) = self.byte(index) else { return };
            if byte.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let marks = byte.swap(0, Ordering::SeqCst);
            for bit in (0..PAGES_PER_BYTE).filter(|bit| marks & (1 << bit) != 0) {
                each((index * PAGES_PER_BYTE + bit) * LOG_PAGE_SIZE);
            }
        }
    }

    /// Length of the log in bytes. The log covers `len * 8` pages from guest address 0.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn byte(&self, index: u64) -> Option<&AtomicU8> {
        let index = usize::try_from(index).ok().filter(|&index| index < self.0.len())?;
        // SAFETY: within the region, which lives as long as the reference; a byte is always aligned; everybody in
        // this process accesses the log through atomics only.
        Some(unsafe { AtomicU8::from_ptr(self.0.as_ptr().add(index)) })
    }
}

impl fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirtyLog({:#x})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memfd;

    const PAGE: u64 = LOG_PAGE_SIZE;

    fn taken(log: &DirtyLog) -> Vec<u64> {
        let mut pages = Vec::new();
        log.take(|gpa| pages.push(gpa / PAGE));
        pages
    }

    #[test]
    fn mark_touches_every_page_of_the_range_once() {
        let (log, _fd) = DirtyLog::create(16).unwrap();
        for (gpa, len, pages) in [
            (0, 1, 0..1),
            (PAGE - 1, 1, 0..1),
            (PAGE - 1, 2, 0..2),
            (PAGE, PAGE, 1..2),
            (7 * PAGE, 2 * PAGE, 7..9),
            (3 * PAGE + 5, 30 * PAGE, 3..34),
            (0, 128 * PAGE, 0..128),
        ] {
            log.mark(gpa, len);
            log.mark(gpa, len);
            assert_eq!(taken(&log), pages.collect::<Vec<_>>(), "{gpa:#x} + {len:#x}");
        }
    }

    #[test]
    fn mark_of_nothing_marks_nothing() {
        let (log, _fd) = DirtyLog::create(1).unwrap();
        log.mark(0, 0);
        assert!(taken(&log).is_empty());
    }

    #[test]
    fn mark_beyond_the_log_is_clipped() {
        let (log, _fd) = DirtyLog::create(1).unwrap();
        for gpa in [8 * PAGE, 1 << 47, u64::MAX] {
            log.mark(gpa, 1);
            log.mark(gpa, u64::MAX);
            assert!(taken(&log).is_empty());
        }
        log.mark(7 * PAGE, u64::MAX);
        assert_eq!(taken(&log), [7]);
        log.mark(0, u64::MAX);
        assert_eq!(taken(&log), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn mark_at_unaligned_offset_writes_only_the_log() {
        let fd = memfd("log-test", 3 * 4096).unwrap();
        let log = DirtyLog::map(fd.try_clone().unwrap(), 4100, 4095).unwrap();
        log.mark(0, 1);
        log.mark(4099 * 8 * PAGE, 8 * PAGE);
        log.mark(4100 * 8 * PAGE, PAGE);
        let mut file = vec![0; 3 * 4096];
        assert_eq!(rustix::io::pread(&fd, &mut file, 0).unwrap(), file.len());
        let set: Vec<_> = file.iter().enumerate().filter(|(_, byte)| **byte != 0).collect();
        assert_eq!(set, [(4095, &1), (4095 + 4099, &0xff)]);
    }

    #[test]
    fn mark_keeps_marks_of_others() {
        let (log, fd) = DirtyLog::create(1).unwrap();
        rustix::io::pwrite(&fd, &[0b1000_0001], 0).unwrap();
        log.mark(PAGE, PAGE);
        assert_eq!(taken(&log), [0, 1, 7]);
    }

    #[test]
    fn map_of_empty_or_short_log_is_refused() {
        let fd = || memfd("log-test", 100).unwrap();
        assert_eq!(DirtyLog::map(fd(), 0, 0).unwrap_err(), MemoryError::Empty);
        assert_eq!(DirtyLog::create(0).unwrap_err(), MemoryError::Empty);
        let short = MemoryError::ShortFile { offset: 1, size: 100, actual: 100 };
        assert_eq!(DirtyLog::map(fd(), 100, 1).unwrap_err(), short);
        let overflow = MemoryError::Overflow { start: u64::MAX, len: 100 };
        assert_eq!(DirtyLog::map(fd(), 100, u64::MAX).unwrap_err(), overflow);
        assert_eq!(DirtyLog::map(fd(), 100, 0).unwrap().len(), 100);
    }

    #[test]
    fn marks_of_many_threads_all_land() {
        let (log, _fd) = DirtyLog::create(8).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = log.clone();
                scope.spawn(move || (thread..64).step_by(4).for_each(|page| log.mark(page * PAGE, 1)));
            }
        });
        assert_eq!(taken(&log), (0..64).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn mark_agrees_with_page_by_page_model(
            size in 1_u64..6, marks in prop::collection::vec((0..60 * PAGE, 0..20 * PAGE), 1..8),
        ) {
            let (log, _fd) = DirtyLog::create(size).unwrap();
            for &(gpa, len) in &marks {
                log.mark(gpa, len);
            }
            let touches = |page: &u64| marks.iter().any(|&(gpa, len)| {
                len > 0 && gpa / PAGE <= *page && *page <= (gpa + len - 1) / PAGE
            });
            prop_assert_eq!(taken(&log), (0..size * 8).filter(touches).collect::<Vec<_>>());
        }
    }
}
