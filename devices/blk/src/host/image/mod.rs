//! Disks in image files: qcow2 and the like, by the crate imago.
//!
//! Theory of operation. Requests come from the threads of a [`Pool`]. Reads, and writes to what is there already, share
//! the image; whatever changes its tables has it alone. imago lets more happen at a time, and leaves some of the order
//! to its user.
//!
//! A request that completed survives this program: before it completes, the tables that point to what it wrote are in
//! the file, in an order that may be cut off anywhere ([`ledger`]). A program that is killed and started again under a
//! running guest must not forget what the guest has been told, flushed or not.
//!
//! Whoever made an image may be an enemy: what imago makes of it may be an error, or a panic, after which the image is
//! left alone.

pub(crate) mod chain;
pub(crate) mod create;
pub(crate) mod layer;
pub(crate) mod ledger;
mod over;
pub(crate) mod remote;

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::format::PreallocateMode;
use imago::{FormatAccess, Mapping, StorageExt};
use outboard_device::DeviceError;

use super::store::{Blocking, Flights, Handles, Spot, kept};
use super::{Access, Shape};
use crate::options::BlkOptions;
use chain::{Mode, Opened, Stored};
use layer::{ImageFile, Part};
use ledger::Ledger;
use remote::Remote;

/// Threads that work on an image, and on one over a disk elsewhere, for which they mostly wait.
const THREADS: (usize, usize) = (4, 16);

/// An image, open.
pub(crate) struct Image {
    access: RwLock<FormatAccess<Stored>>,
    shape: Shape,
    /// What it measures now: nobody has to wait for the image to know.
    bytes: AtomicU64,
    ledger: Option<Arc<Ledger>>,
    /// Changes of the tables could not be put into the file yet. Nobody knows whose, so every write tries it again.
    unstored: AtomicBool,
    /// The library gave up in the middle of something: what it holds in memory is not to be trusted.
    broken: AtomicBool,
    durable: Durable,
    files: Vec<Arc<Part>>,
    flights: Arc<Flights>,
    /// What stands behind it, if that is no file.
    remote: Option<Arc<dyn Remote>>,
}

/// The format of images that begin like this file, for a hint to the user.
pub(crate) fn looks_like(file: &File) -> Option<&'static str> {
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

/// Whether an image outlives the program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    /// There is nothing to make stable.
    No,
}

/// Opens an image with everything that it names.
pub(crate) fn open(path: &Path, access: Access, options: &BlkOptions) -> Result<Opened, DeviceError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mode = Mode {
        access,
        locking: options.locking,
        direct: options.direct,
        follow: options.follow,
        directory: directory.unwrap_or(Path::new(".")),
    };
    catch_unwind(|| chain::open(path, options.format, mode))
        .unwrap_or_else(|_| Err(io::Error::other("its format is broken")))
        .map_err(|error| DeviceError::host(format!("cannot open the image {}", path.display()), error))
}

impl Image {
    pub(crate) fn new(opened: Opened, read_only: bool, durable: Durable) -> Self {
        let Opened { access, ledger, files, remote } = opened;
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
            bytes: shape.bytes.into(),
            shape,
            ledger,
            unstored: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            durable,
            files,
            flights: Arc::default(),
            remote,
        }
    }

    /// How many threads it is worth.
    pub(in crate::host) const fn threads(&self) -> usize {
        if self.remote.is_some() { THREADS.1 } else { THREADS.0 }
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
        if self.durable == Durable::No {
            return Ok(());
        }
        self.unstored.store(true, Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            if ledger.is_adrift() {
                self.broken.store(true, Ordering::Relaxed);
                self.whole()?;
            }
            ledger.catch_up()?;
        }
        access.flush()?;
        self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.settle())?;
        self.unstored.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.unstored.load(Ordering::Relaxed)
            && let Ok((access, _alarm)) = self.alone()
            && let Err(error) = self.store(&access)
        {
            tracing::error!("the tables of the image could not be written: {error}");
        }
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
        Ok(self.bytes.load(Ordering::Relaxed))
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        if let Some(remote) = &self.remote {
            return self.read_over(&**remote, offset, data);
        }
        let (access, _alarm) = self.shared()?;
        access.read(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (access, alarm) = self.shared()?;
        if !self.unstored.load(Ordering::Relaxed) {
            let (mapping, len) = access.get_mapping(offset, data.len() as u64)?;
            if matches!(mapping, Mapping::Raw { writable: true, .. }) && len >= data.len() as u64 {
                return access.write(data, offset);
            }
        }
        drop((access, alarm));
        if let Some(remote) = &self.remote {
            return self.write_over(&**remote, offset, data);
        }
        let (access, _alarm) = self.alone()?;
        let result = access.write(data, offset);
        // Also when it failed half way.
        self.store(&access).and(result)
    }

    fn zero(&self, mut offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let (mut access, _alarm) = self.alone()?;
        // Clusters may be given up that queues still read and write.
        let _closed = self.flights.close();
        let end = offset.saturating_add(len);
        let cluster = access.inner().zero_granularity().ok_or(io::ErrorKind::Unsupported)?;
        // No more tables than the library keeps at a time: what it writes to make room is out of order.
        let most = cluster.saturating_mul(cluster).saturating_mul(8);
        while offset < end {
            let piece = most.min(end - offset);
            let result =
                if unmap { discard(&mut access, offset, piece) } else { access.write_zeroes(offset, piece) };
            self.store(&access).and(result)?;
            offset += piece;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }

    fn sync(&self) -> io::Result<()> {
        if self.durable == Durable::No {
            return Ok(());
        }
        if self.unstored.load(Ordering::Relaxed) {
            let (access, _alarm) = self.alone()?;
            self.store(&access).map_err(kept)?;
        }
        let (access, _alarm) = self.shared()?;
        access.sync()
    }

    fn close(&self) {
        if let Some(remote) = &self.remote {
            remote.close();
        }
    }

    fn files(&self) -> io::Result<Vec<Handles>> {
        self.files.iter().map(|part| part.handles()).collect()
    }

    fn locate(&self, offset: u64, len: u64, write: bool) -> Option<Spot> {
        let flight = self.flights.begin()?;
        self.whole().ok()?;
        let access = self.access.try_read().ok()?;
        if write && self.unstored.load(Ordering::Relaxed) {
            return None;
        }
        // Called on a queue's own thread, which has nobody else to catch it.
        let mapping = catch_unwind(AssertUnwindSafe(|| {
            let _alarm = Alarm(&self.broken);
            access.get_mapping(offset, len)
        }));
        let (mapping, mapped) = mapping.ok()?.ok()?;
        let Mapping::Raw { storage, offset, writable, .. } = mapping else { return None };
        let storage: &dyn Any = &**storage;
        let file = storage.downcast_ref::<ImageFile>()?.number()?;
        (mapped >= len && (writable || !write)).then_some(Spot { file, offset, flight })
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let (access, _alarm) = self.alone()?;
        if bytes < access.size() {
            let what = "images only grow: qemu-img resize --shrink while nobody uses it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        // What stands behind the image may be longer than the image was, and must not come to light.
        let result = access.resize_grow(bytes, PreallocateMode::Zero);
        self.bytes.store(access.size(), Ordering::Relaxed);
        self.store(&access).and(result)
    }
}

/// Gives clusters up, to the image and to the host's file system. They are punched first: once they are free, the next
/// table may be in them.
fn discard(access: &mut FormatAccess<Stored>, offset: u64, len: u64) -> io::Result<()> {
    let cluster = access.inner().zero_granularity().ok_or(io::ErrorKind::Unsupported)?;
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
