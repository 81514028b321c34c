//! Disks in image files: qcow2 and the like, by the crate imago.
//!
//! Theory of operation. Requests come from the threads of a [`Pool`]. Reads and writes share the image, all that gives
//! clusters up or looks at more than it changes has it alone: imago leaves that to its user.
//!
//! A request that completed survives this program: before it completes, the tables that point to what it wrote are in
//! the file, if they changed at all. A program that is killed and started again under a running guest must not forget
//! what the guest has been told, flushed or not. Threads that wait for this at the same time share the work.
//!
//! Whoever made an image may be an enemy: what imago makes of it may be an error, or a panic, after which the image is
//! left alone.

mod chain;
#[cfg(test)]
pub(crate) mod create;
mod layer;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::{FormatAccess, Mapping, StorageExt};
use outboard_device::DeviceError;

use super::store::Blocking;
use super::{Access, Shape};
use crate::options::{BlkOptions, ImageFormat};
use chain::{Mode, Seen, Stored};

/// Threads that work on an image.
pub(super) const THREADS: usize = 4;

/// An image, open.
pub(super) struct Image {
    access: RwLock<FormatAccess<Stored>>,
    shape: Shape,
    /// Changes of the tables that were made, and how many of them are known to be in the file.
    changes: AtomicU64,
    stored: Mutex<u64>,
    /// The library gave up in the middle of something: what it holds in memory is not to be trusted.
    broken: AtomicBool,
}

/// The format of images that begin like this file, for a hint to the user.
pub(super) fn looks_like(file: &File) -> Option<&'static str> {
    let mut beginning = [0; 21];
    let count = file.read_at(&mut beginning, 0).ok()?;
    let beginning = beginning.get(..count)?;
    let formats: [(&[u8], &str); 6] = [
        (b"QFI\xfb", "qcow2"),
        (b"KDMV", "vmdk"),
        (b"# Disk DescriptorFile", "vmdk"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vhd"),
        (b"QED\0", "qed"),
    ];
    formats.into_iter().find(|(magic, _)| beginning.starts_with(magic)).map(|(_, format)| format)
}

impl Image {
    pub(super) fn open(path: &Path, format: ImageFormat, options: &BlkOptions) -> Result<Self, DeviceError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let mode = Mode {
            access: if options.read_only { Access::Read } else { Access::Write },
            locking: options.locking,
            direct: options.direct,
            follow: options.follow,
            directory: directory.unwrap_or(Path::new(".")),
        };
        let opened = catch_unwind(|| match format {
            ImageFormat::Vmdk if !options.read_only => Err(io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "images of this format are only read (--read-only)",
            )),
            ImageFormat::Vmdk => Ok(FormatAccess::new(chain::open_vmdk(path, mode)?)),
            ImageFormat::Raw | ImageFormat::Qcow2 => {
                Ok(FormatAccess::new(chain::open_qcow2(path, mode, &mut Seen::default())?))
            }
        });
        let opened = opened.unwrap_or_else(|_| Err(io::Error::other("its format is broken")));
        let access = opened
            .map_err(|error| DeviceError::host(format!("cannot open the image {}", path.display()), error))?;
        Ok(Self::new(access, options.read_only))
    }

    fn new(access: FormatAccess<Stored>, read_only: bool) -> Self {
        let cluster = access.inner().zero_granularity().and_then(|bytes| u32::try_from(bytes).ok());
        let shape = Shape {
            bytes: access.size(),
            logical_block: 512,
            physical_block: 4096,
            optimal_io: cluster.unwrap_or(0),
            discard: cluster.filter(|_| !read_only),
        };
        Self {
            access: RwLock::new(access),
            shape,
            changes: AtomicU64::new(0),
            stored: Mutex::new(0),
            broken: AtomicBool::new(false),
        }
    }

    fn shared(&self) -> io::Result<(RwLockReadGuard<'_, FormatAccess<Stored>>, Alarm<'_>)> {
        self.whole()?;
        Ok((self.access.read().unwrap_or_else(PoisonError::into_inner), Alarm(&self.broken)))
    }

    fn alone(&self) -> io::Result<(RwLockWriteGuard<'_, FormatAccess<Stored>>, Alarm<'_>)> {
        self.whole()?;
        Ok((self.access.write().unwrap_or_else(PoisonError::into_inner), Alarm(&self.broken)))
    }

    fn whole(&self) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("the image is broken: it is left alone since its driver failed"));
        }
        Ok(())
    }

    /// Puts the tables that were changed into the file.
    fn store(&self, access: &FormatAccess<Stored>) -> io::Result<()> {
        let mine = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if *stored < mine {
            let all = self.changes.load(Ordering::SeqCst);
            access.flush()?;
            *stored = all;
        }
        Ok(())
    }
}

/// Notices that the library panics.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Blocking for Image {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.shared()?.0.size())
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let (access, _alarm) = self.shared()?;
        access.read(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (access, _alarm) = self.shared()?;
        let (mapping, len) = access.get_mapping(offset, data.len() as u64)?;
        let in_place = matches!(mapping, Mapping::Raw { writable: true, .. }) && len >= data.len() as u64;
        access.write(data, offset)?;
        if in_place { Ok(()) } else { self.store(&access) }
    }

    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let (mut access, _alarm) = self.alone()?;
        if unmap {
            discard(&mut access, offset, len)?;
        } else {
            access.write_zeroes(offset, len)?;
        }
        self.store(&access)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }

    fn sync(&self) -> io::Result<()> {
        let (access, _alarm) = self.shared()?;
        access.flush()?;
        access.sync()
    }
}

/// Gives clusters up, to the image and to the host's file system. They are punched first: once they are free, the next
/// table may be in them.
fn discard(access: &mut FormatAccess<Stored>, offset: u64, len: u64) -> io::Result<()> {
    let cluster = access.inner().zero_granularity().unwrap_or(1);
    let end = (offset + len) / cluster * cluster;
    let mut at = offset.next_multiple_of(cluster);
    while at < end {
        let (mapping, len) = access.get_mapping(at, end - at)?;
        if let Mapping::Raw { storage, offset, writable: true, .. } = mapping {
            storage.discard(offset, len)?;
        }
        at += len.max(1);
    }
    access.discard_to_zero(offset, len)
}
