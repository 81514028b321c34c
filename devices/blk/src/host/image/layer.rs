//! One file of an image, as imago wants it.
//!
//! What imago's own file storage lacks: transfers and syncs do not wait for each other, data is made stable by
//! `fdatasync`, whole pages may go past the page cache while metadata goes through it, and what a truncated image lost
//! is an error instead of zeroes.

#![allow(unsafe_code, reason = "imago's storage trait has unsafe methods")]

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::storage::{PreallocateMode, Storage};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::ledger::{Header, Ledger};
use crate::host::file::DiskFile;
use crate::host::store::Handles;

/// What zeroing and punching are aligned to, in bytes: pages, and blocks of any device.
const ZERO_ALIGNMENT: usize = 4096;

/// A file or block device that is a part of an image.
pub(crate) struct ImageFile {
    part: Arc<Part>,
    /// Its number among the files that queues may read and write themselves.
    number: Option<usize>,
    ledger: Option<Arc<Ledger>>,
    blockers: CommonStorageHelper,
}

/// The file itself.
pub(crate) struct Part {
    disk: DiskFile,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// What a test has become of changes to a file.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Faults {
    /// How many changes happen yet.
    left: AtomicI64,
    /// How many do not happen then.
    fail: AtomicI64,
    /// Syncs fail.
    unstable: AtomicBool,
}

#[cfg(test)]
impl Faults {
    /// From now on so many changes happen, and then `fail` do not.
    pub(crate) fn after(&self, changes: i64, fail: i64) {
        self.left.store(changes, Ordering::Relaxed);
        self.fail.store(fail, Ordering::Relaxed);
    }

    /// From now on so many changes happen, and no more: then the program is as good as killed.
    pub(crate) fn burn_after(&self, changes: i64) {
        self.after(changes, i64::MAX);
    }

    /// How many of the changes are left.
    pub(crate) fn left(&self) -> i64 {
        self.left.load(Ordering::Relaxed)
    }

    pub(crate) fn fail_syncs(&self) {
        self.unstable.store(true, Ordering::Relaxed);
    }

    fn change(&self) -> io::Result<()> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        if left <= 0 && left.saturating_neg() < self.fail.load(Ordering::Relaxed) {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.unstable.load(Ordering::Relaxed) { Err(Errno::IO.into()) } else { Ok(()) }
    }
}

impl Part {
    fn new(disk: DiskFile) -> Self {
        Self {
            disk,
            #[cfg(test)]
            faults: Faults { left: i64::MAX.into(), fail: i64::MAX.into(), unstable: false.into() },
        }
    }

    pub(super) fn handles(&self) -> io::Result<Handles> {
        let share = |file: &File| file.as_fd().try_clone_to_owned();
        let direct = match self.disk.direct() {
            Some((file, alignment)) => Some((share(file)?, *alignment)),
            None => None,
        };
        Ok(Handles { file: share(self.disk.file())?, direct })
    }

    fn changes(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.change()?;
        Ok(())
    }

    fn end(&self) -> io::Result<u64> {
        // Positions play no part in transfers.
        self.disk.file().seek(SeekFrom::End(0))
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        self.changes()?;
        retry(|| rustix::fs::fallocate(self.disk.file(), mode, offset, len))
    }

    /// Fills what `buffers` have room for; the last page of a file is followed by zeroes, but nothing beyond that is.
    fn read_all(&self, file: &File, mut buffers: &mut [IoSliceMut<'_>], mut offset: u64) -> io::Result<()> {
        let begin = offset;
        while buffers.iter().any(|buffer| !buffer.is_empty()) {
            let count = retry(|| rustix::io::preadv(file, buffers, offset))?;
            if count == 0 {
                if offset == begin && self.end()? <= offset {
                    let what = format!("{} ends before {offset}", self.disk.path().display());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                }
                buffers.iter_mut().for_each(|buffer| buffer.fill(0));
                return Ok(());
            }
            offset += count as u64;
            IoSliceMut::advance_slices(&mut buffers, count);
        }
        Ok(())
    }

    fn write_all(&self, file: &File, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        self.changes()?;
        while buffers.iter().any(|buffer| !buffer.is_empty()) {
            let count = retry(|| rustix::io::pwritev(file, buffers, offset))?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += count as u64;
            IoSlice::advance_slices(&mut buffers, count);
        }
        Ok(())
    }

    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all(self.disk.file(), &mut [IoSlice::new(bytes)], offset)
    }
}

impl ImageFile {
    pub(crate) fn new(disk: DiskFile) -> Self {
        Self {
            part: Arc::new(Part::new(disk)),
            number: None,
            ledger: None,
            blockers: CommonStorageHelper::default(),
        }
    }

    /// One of the files that queues may read and write themselves.
    pub(crate) fn listed(mut self, files: &mut Vec<Arc<Part>>) -> Self {
        self.number = Some(files.len());
        files.push(Arc::clone(&self.part));
        self
    }

    pub(super) const fn number(&self) -> Option<usize> {
        self.number
    }

    /// A qcow2 image that is written to, and the ledger for what is written to its tables.
    pub(crate) fn kept(disk: DiskFile) -> io::Result<(Self, Arc<Ledger>)> {
        let header = Header::read(disk.file())?;
        let part = Arc::new(Part::new(disk));
        let ledger = Arc::new(Ledger::new(Arc::clone(&part), &header));
        let blockers = CommonStorageHelper::default();
        Ok((Self { part, number: None, ledger: Some(Arc::clone(&ledger)), blockers }, ledger))
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

impl Storage for ImageFile {
    fn zero_align(&self) -> usize {
        ZERO_ALIGNMENT
    }

    fn discard_align(&self) -> usize {
        ZERO_ALIGNMENT
    }

    fn size(&self) -> io::Result<u64> {
        self.part.end()
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, relative: P) -> io::Result<PathBuf> {
        Ok(self.part.disk.path().parent().unwrap_or(Path::new("")).join(relative))
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.part.disk.path().to_owned())
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        // SAFETY: the descriptions of the buffers are only looked at.
        let file = self.part.disk.file_for(offset, unsafe { buffers.as_iovec() });
        self.part.read_all(file, &mut buffers.into_inner(), offset)
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_writev(&self, buffers: IoVector<'_>, offset: u64) -> io::Result<()> {
        if let Some(ledger) = &self.ledger
            && ledger.takes(&buffers, offset)?
        {
            return Ok(());
        }
        // SAFETY: the descriptions of the buffers are only looked at.
        let file = self.part.disk.file_for(offset, unsafe { buffers.as_iovec() });
        self.part.write_all(file, &mut buffers.into_inner(), offset)
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_write_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        let (old, end) = (self.part.end()?, offset.saturating_add(len));
        if offset < old {
            self.part.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?;
        }
        if end > old {
            // Makes the file longer, and never shorter, whoever else does so at the same time.
            self.part.write(&[0], end - 1)?;
        }
        Ok(())
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        self.part.allocate(FallocateFlags::ZERO_RANGE, offset, len)
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.part.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        self.part.faults.sync()?;
        self.part.disk.file().sync_data()
    }

    // SAFETY: asks nothing of its caller; there is nothing to invalidate.
    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.blockers
    }

    /// Preallocation is left to the file system: the file has a hole there.
    fn resize(&self, size: u64, _: PreallocateMode) -> io::Result<()> {
        self.part.changes()?;
        self.part.disk.file().set_len(size)
    }
}

impl fmt::Debug for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageFile({})", self.part.disk.path().display())
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.part.disk.path().display().fmt(f)
    }
}
