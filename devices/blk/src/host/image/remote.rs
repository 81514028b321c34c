//! A disk that is no file, as imago wants it: to read, behind an image.
//!
//! What stands behind it is trusted with the disk's content; it may be slow, fail, or be gone.

#![allow(unsafe_code, reason = "imago's storage trait has unsafe methods")]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::Storage;
use imago::storage::drivers::CommonStorageHelper;

use super::chain::Stored;
use crate::host::store::since;

/// A disk elsewhere that is only read, by calls that return when they are done, from several threads at a time.
pub(crate) trait Remote: Send + Sync {
    /// What it measured when it was opened, in bytes: whole blocks.
    fn size(&self) -> u64;
    /// What is read is in blocks of so many bytes, a power of two.
    fn block(&self) -> usize;
    /// Reads `len` bytes from `offset` on, for a request that came at `since` and fails after the time that the user
    /// allows. Both are whole blocks within the disk.
    fn read(&self, offset: u64, len: usize, since: Instant) -> io::Result<Vec<u8>>;
    /// Fails what is under way and what is yet to come, as far as that can be done.
    fn close(&self);
}

/// Fills `data` from `offset` on, whatever the blocks. Nothing is behind the end.
pub(super) fn fill(remote: &dyn Remote, offset: u64, data: &mut [u8]) -> io::Result<()> {
    let block = remote.block() as u64;
    let start = offset - offset % block;
    let end = (offset + data.len() as u64).next_multiple_of(block).min(remote.size());
    let len = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
    let bytes = if len > 0 { remote.read(start, len, since())? } else { Vec::new() };
    let bytes = bytes.get((offset - start) as usize..).unwrap_or_default();
    let (there, behind) = data.split_at_mut(data.len().min(bytes.len()));
    there.copy_from_slice(bytes.get(..there.len()).unwrap_or_default());
    behind.fill(0);
    Ok(())
}

/// Such a disk, for imago.
pub(in crate::host) struct RemoteDisk {
    remote: Arc<dyn Remote>,
    blockers: CommonStorageHelper,
}

impl RemoteDisk {
    pub(in crate::host) fn stored(remote: Arc<dyn Remote>) -> Stored {
        Box::new(Self { remote, blockers: CommonStorageHelper::default() })
    }
}

impl Storage for RemoteDisk {
    fn req_align(&self) -> usize {
        self.remote.block()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.remote.size())
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_readv(&self, mut buffers: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        let mut data = vec![0; usize::try_from(buffers.len()).map_err(io::Error::other)?];
        fill(&*self.remote, offset, &mut data)?;
        buffers.copy_from_slice(&data);
        Ok(())
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_writev(&self, _: IoVector<'_>, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    // SAFETY: asks nothing of its caller.
    unsafe fn pure_discard(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    // SAFETY: asks nothing of its caller; there is nothing to invalidate.
    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.blockers
    }
}

impl fmt::Debug for RemoteDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RemoteDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk underneath")
    }
}
