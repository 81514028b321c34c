//! What stands behind the disk: a file or block device of the host, memory, or a store that answers by itself.
//!
//! [`Host`] is the control half's, opened before the first front end; each handler gets a [`Medium`] of it. The
//! host is trusted to be no enemy, but not to work: files shrink, disks fail and fill up.

mod errands;
pub(crate) mod file;
mod holder;
pub(crate) mod image;
pub(crate) mod ioctl;
mod lock;
mod nbd;
mod overlay;
mod ram;
#[cfg(feature = "rbd")]
mod rbd;
pub(crate) mod store;
mod wear;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use outboard_device::defs::blk::SECTOR_SIZE;
use outboard_device::{Chain, Cx, DeviceError, FileId, Patience, Segment};

use crate::options::{BlkOptions, DEFAULT_RAM, ImageFormat};
use crate::zones::{Ground, Zones};
pub(crate) use errands::{DiskErrands, Errand};
pub(crate) use file::ZoneLimits;
use file::{Alignment, DiskFile};
use image::{Durable, Image};
pub use lock::Locking;
pub(crate) use lock::{Access, Lock};
use nbd::Nbd;
use overlay::{Place, Source};
use ram::RamDisk;
pub(crate) use store::{Flight, Job, Store, Task, is_loss};
use store::{Handles, Pool, Spot};
pub(crate) use wear::Wear;

/// What no engine knows: operations on it fail.
const NO_FILE: FileId = FileId(u16::MAX);

/// What a disk is like, for the configuration space. Lengths in bytes, blocks in powers of two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) bytes: u64,
    pub(crate) logical_block: u32,
    pub(crate) physical_block: u32,
    /// The best transfer; 0 if unknown.
    pub(crate) optimal_io: u32,
    /// What discards come in; `None` if the host has none.
    pub(crate) discard: Option<u32>,
}

/// The disk, opened.
pub(crate) enum Host {
    File(DiskFile),
    Ram(RamDisk),
    Store(Arc<dyn Store>),
}

impl Host {
    pub(crate) fn open(options: &BlkOptions) -> Result<Self, DeviceError> {
        if options.blk_file.is_none() && options.format != ImageFormat::Raw {
            // Clap does not say so where there is another disk.
            let what = format!("--format {} is for an image (--blk-file)", options.format.name());
            return Err(DeviceError::Invalid(what));
        }
        let overlay = match &options.overlay {
            Some(path) => Some(Place::File(path)),
            None => options.snapshot.then_some(Place::Nowhere),
        };
        if let Some(place) = overlay {
            return Self::image(overlay::open(
                &place,
                Source::open(options)?,
                options.direct,
                options.locking,
            )?);
        }
        if let Some(uri) = &options.nbd {
            return Ok(Self::Store(Arc::new(Nbd::open(uri, options)?)));
        }
        if let Some(name) = &options.rbd {
            return Ok(Self::Store(rbd(name, options)?));
        }
        let access = if options.read_only { Access::Read } else { Access::Write };
        match &options.blk_file {
            Some(path) if options.format == ImageFormat::Raw => {
                let file = DiskFile::open(path, access, options.direct, options.locking)?;
                if let Some(format) = image::looks_like(file.file()) {
                    let path = path.display();
                    tracing::warn!("{path} begins like a {format} image, and is served as raw (--format)");
                }
                Ok(Self::File(file))
            }
            Some(path) => {
                Self::image(Image::new(image::open(path, access, options)?, options.read_only, Durable::Yes))
            }
            None => Ok(Self::Ram(RamDisk::create(options.ram.unwrap_or(DEFAULT_RAM))?)),
        }
    }

    fn image(image: Image) -> Result<Self, DeviceError> {
        let threads = image.threads();
        Ok(Self::Store(Arc::new(Pool::start(image, threads, "blk-image")?)))
    }

    pub(crate) fn shape(&self) -> &Shape {
        match self {
            Self::File(file) => file.shape(),
            Self::Ram(ram) => ram.shape(),
            Self::Store(store) => store.shape(),
        }
    }

    /// What it measures now, in bytes: at least one block of `block` bytes.
    pub(crate) fn size(&self, block: u32) -> Result<u64, DeviceError> {
        match self {
            Self::File(file) => file.size(block),
            Self::Ram(ram) => Ok(ram.shape().bytes),
            Self::Store(store) => {
                let size = store
                    .size()
                    .map_err(|error| DeviceError::host("cannot find the size of the disk", error))?;
                if size < u64::from(block) {
                    let what = format!("the disk has {size} bytes: at least one block of {block} is needed");
                    return Err(DeviceError::Invalid(what));
                }
                Ok(size)
            }
        }
    }

    /// What can be made longer and shorter.
    pub(crate) fn resizable(&self) -> Result<(), DeviceError> {
        match self {
            Self::File(file) => file.resizable(),
            Self::Ram(_) => Err(DeviceError::Invalid("a RAM disk keeps its size".to_owned())),
            // It says so itself.
            Self::Store(_) => Ok(()),
        }
    }

    /// Makes it so many bytes long, if it is [resizable](Self::resizable). What is new reads as zeroes. A store's size
    /// is stable after the next [sync](Self::sync).
    pub(crate) fn set_size(&self, bytes: u64) -> Result<(), DeviceError> {
        match self {
            Self::File(file) => file.set_size(bytes),
            Self::Ram(_) => self.resizable(),
            Self::Store(store) => store
                .set_size(bytes)
                .map_err(|error| DeviceError::host(format!("cannot set the disk to {bytes} bytes"), error)),
        }
    }

    /// Whether its size is known for the price of a system call, and may change by itself.
    pub(crate) fn is_cheap_to_look_at(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Ram(_) => false,
            Self::Store(store) => store.knows_its_size(),
        }
    }

    /// Makes what was written stable.
    pub(crate) fn sync(&self, patience: &Patience<'_>) -> Result<(), DeviceError> {
        match self {
            Self::File(file) => file.sync(),
            Self::Ram(_) => Ok(()),
            Self::Store(store) => {
                store.sync(patience).map_err(|error| DeviceError::host("cannot sync the disk", error))
            }
        }
    }

    /// What zones can be emulated over.
    pub(crate) fn ground(&self, read_only: bool) -> Option<Ground<'_>> {
        match self {
            Self::File(file) => match file.zoned() {
                Some(limits) => Some(Ground::Device { file: file.file().as_fd(), limits }),
                None => file.image().map(|(path, file)| Ground::File { path, file, read_only }),
            },
            Self::Ram(_) => Some(Ground::Memory),
            Self::Store(_) => None,
        }
    }

    /// What secure erases come in, in bytes, where what is erased is really gone. Never for files: what a file
    /// system does with a block that is overwritten is its own affair.
    pub(crate) fn erase(&self) -> Option<u32> {
        match self {
            Self::File(file) => file.erase(),
            Self::Ram(ram) => Some(ram.shape().physical_block),
            Self::Store(_) => None,
        }
    }

    /// Where its first aligned block is, in bytes.
    pub(crate) fn aligned_from(&self) -> u32 {
        match self {
            Self::File(file) => file.aligned_from(),
            Self::Ram(_) | Self::Store(_) => 0,
        }
    }

    /// Where the disk says how worn it is.
    pub(crate) fn wear(&self) -> Option<Wear> {
        match self {
            Self::File(file) => file.wear(Path::new("/sys")),
            Self::Ram(_) | Self::Store(_) => None,
        }
    }

    /// Somebody to make the calls that block, if it takes any.
    pub(crate) fn errands(
        &self,
        erase: bool,
        wear: Option<Wear>,
        zones: Option<&Arc<Zones>>,
    ) -> Result<Option<DiskErrands>, DeviceError> {
        match self {
            Self::File(file) if erase || wear.is_some() || file.zoned().is_some() => {
                file.errands(wear, zones.cloned()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What a handler works on.
    pub(crate) fn medium(&self) -> Result<Medium, DeviceError> {
        match self {
            Self::File(file) => file.medium(),
            Self::Ram(ram) => ram.medium(),
            Self::Store(store) => {
                let files =
                    store.files().map_err(|error| DeviceError::host("cannot share the disk", error))?;
                let files = files.into_iter().map(Mirrored::new).collect();
                Ok(Medium::Store { store: Arc::clone(store), files })
            }
        }
    }
}

#[cfg(feature = "rbd")]
fn rbd(name: &str, options: &BlkOptions) -> Result<Arc<dyn Store>, DeviceError> {
    Ok(Arc::new(rbd::Rbd::open(name, options)?))
}

#[cfg(not(feature = "rbd"))]
fn rbd(name: &str, _: &BlkOptions) -> Result<Arc<dyn Store>, DeviceError> {
    let how = "this program was built without librbd (cargo build --release -p outboard-blk --features rbd)";
    Err(DeviceError::Invalid(format!("cannot open {name}: {how}")))
}

/// The disk, as one handler sees it.
pub(crate) enum Medium {
    File(Mirrored),
    /// The file is the memory's: punched and synced like any other.
    Memory {
        memory: Segment,
        file: Adopted,
    },
    Store {
        store: Arc<dyn Store>,
        /// Where data of it may be.
        files: Vec<Mirrored>,
    },
}

/// A file, and the same past the page cache.
pub(crate) struct Mirrored {
    file: Adopted,
    direct: Option<(Adopted, Alignment)>,
}

impl Mirrored {
    fn new(handles: Handles) -> Self {
        Self {
            file: Adopted::new(handles.file),
            direct: handles.direct.map(|(file, alignment)| (Adopted::new(file), alignment)),
        }
    }

    fn adopt<Op>(&mut self, cx: &mut Cx<'_, Op>) -> io::Result<()> {
        self.file.adopt(cx)?;
        self.direct.as_mut().map_or(Ok(()), |(direct, _)| direct.adopt(cx))
    }

    /// The one for a transfer between `offset` and these buffers: past the page cache if the host can.
    fn id_for(&self, offset: u64, buffers: &[libc::iovec]) -> FileId {
        match &self.direct {
            Some((direct, alignment)) if alignment.suits(offset, buffers) => direct.id,
            _ => self.file.id,
        }
    }
}

/// A file before and after the engine took it.
pub(crate) struct Adopted {
    fd: Option<OwnedFd>,
    id: FileId,
}

impl Adopted {
    /// Until it is taken, operations on it fail in the engine.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd: Some(fd), id: NO_FILE }
    }

    /// What the engine calls it.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    pub(crate) fn adopt<Op>(&mut self, cx: &mut Cx<'_, Op>) -> io::Result<()> {
        if let Some(fd) = self.fd.take() {
            self.id = cx.adopt(fd)?;
        }
        Ok(())
    }
}

impl Medium {
    /// Hands the files to the engine.
    pub(crate) fn start<Op>(&mut self, cx: &mut Cx<'_, Op>) -> io::Result<()> {
        match self {
            Self::File(file) => file.adopt(cx),
            Self::Memory { file, .. } => file.adopt(cx),
            Self::Store { files, .. } => files.iter_mut().try_for_each(|file| file.adopt(cx)),
        }
    }

    /// Where the next `len` bytes of a store are, if the queue may move them itself.
    pub(crate) fn locate(
        &self,
        offset: u64,
        buffers: &[libc::iovec],
        len: usize,
        write: bool,
    ) -> Option<(FileId, u64, Flight)> {
        let Self::Store { store, files } = self else { return None };
        let Spot { file, offset, flight } = store.locate(offset, len as u64, write)?;
        Some((files.get(file)?.id_for(offset, buffers), offset, flight))
    }

    /// Nothing of it outlives the program: there is nothing to make stable.
    pub(crate) fn is_volatile(&self) -> bool {
        matches!(self, Self::Memory { .. })
    }

    /// What does the work, if it is none of the engine's files.
    pub(crate) fn store(&self) -> Option<&dyn Store> {
        match self {
            Self::Store { store, .. } => Some(&**store),
            Self::File(_) | Self::Memory { .. } => None,
        }
    }

    /// The file for everything but the data of reads and writes.
    pub(crate) fn file(&self) -> FileId {
        match self {
            Self::File(file) => file.file.id,
            Self::Memory { file, .. } => file.id,
            Self::Store { .. } => NO_FILE,
        }
    }

    /// The file for a transfer between `offset` and these buffers: past the page cache if the host can.
    pub(crate) fn file_for(&self, offset: u64, buffers: &[libc::iovec]) -> FileId {
        match self {
            Self::File(file) => file.id_for(offset, buffers),
            _ => self.file(),
        }
    }

    /// Has the processor fetch the data at `sector`, where it is memory that will be accessed soon. The number may be
    /// anything.
    pub(crate) fn prefetch(&self, sector: u64) {
        if let Self::Memory { memory, .. } = self
            && let Ok(offset) = usize::try_from(sector.wrapping_mul(SECTOR_SIZE))
        {
            memory.prefetch(offset);
        }
    }

    /// Whether a transfer between `offset` and these buffers goes past the page cache.
    pub(crate) fn is_direct(&self, offset: u64, buffers: &[libc::iovec]) -> bool {
        self.file_for(offset, buffers) != self.file()
    }

    /// Fills the chain's writable part from memory. `None`: not in memory; `Some(false)`: not all of it is.
    pub(crate) fn read_memory(&self, chain: &mut Chain, offset: u64) -> Option<bool> {
        Some(ram::read(self.memory()?, chain, offset))
    }

    /// Takes the chain's readable part into memory; the result is as above.
    pub(crate) fn write_memory(&self, chain: &mut Chain, offset: u64) -> Option<bool> {
        Some(ram::write(self.memory()?, chain, offset))
    }

    /// Zeroes `len` bytes of memory; the result is as above.
    pub(crate) fn zero_memory(&self, offset: u64, len: u64) -> Option<bool> {
        Some(ram::zero(self.memory()?, offset, len))
    }

    pub(crate) fn memory(&self) -> Option<&Segment> {
        match self {
            Self::Memory { memory, .. } => Some(memory),
            Self::File(_) | Self::Store { .. } => None,
        }
    }
}
