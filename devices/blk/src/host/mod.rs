//! What stands behind the disk: a file or block device of the host, memory, or a store that answers by itself.
//!
//! [`Host`] is the control half's, opened before the first front end; each handler gets a [`Medium`] of it. The
//! host is trusted to be no enemy, but not to work: files shrink, disks fail and fill up.

pub(crate) mod file;
mod holder;
pub(crate) mod image;
mod lock;
mod nbd;
mod ram;
mod store;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use outboard_device::defs::blk::SECTOR_SIZE;
use outboard_device::{Chain, Cx, DeviceError, FileId, Segment};

use crate::options::{BlkOptions, DEFAULT_RAM, ImageFormat};
use crate::zones::Ground;
use file::{Alignment, DiskFile};
use image::Image;
pub use lock::Locking;
pub(crate) use lock::{Access, Lock};
use nbd::Nbd;
use ram::RamDisk;
use store::Pool;
pub(crate) use store::{Job, Store, Task};

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
        if let Some(uri) = &options.nbd {
            return Ok(Self::Store(Arc::new(Nbd::open(uri, options)?)));
        }
        match &options.blk_file {
            Some(path) if options.format == ImageFormat::Raw => {
                let access = if options.read_only { Access::Read } else { Access::Write };
                let file = DiskFile::open(path, access, options.direct, options.locking)?;
                if let Some(format) = image::looks_like(file.file()) {
                    let path = path.display();
                    tracing::warn!("{path} begins like a {format} image, and is served as raw (--format)");
                }
                Ok(Self::File(file))
            }
            Some(path) => {
                let image = Image::open(path, options.format, options)?;
                Ok(Self::Store(Arc::new(Pool::start(image, image::THREADS, "blk-image")?)))
            }
            None => Ok(Self::Ram(RamDisk::create(options.ram.unwrap_or(DEFAULT_RAM))?)),
        }
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
    pub(crate) fn resizable(&self) -> Result<&DiskFile, DeviceError> {
        match self {
            Self::File(file) => file.resizable().map(|()| file),
            Self::Ram(_) => Err(DeviceError::Invalid("a RAM disk keeps its size".to_owned())),
            Self::Store(_) => Err(DeviceError::Invalid(
                "its size is set where it is kept; resize without a size looks at it again".to_owned(),
            )),
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
    pub(crate) fn sync(&self) -> Result<(), DeviceError> {
        match self {
            Self::File(file) => file.sync(),
            Self::Ram(_) => Ok(()),
            Self::Store(store) => {
                store.sync().map_err(|error| DeviceError::host("cannot sync the disk", error))
            }
        }
    }

    /// What zones can be emulated over.
    pub(crate) fn ground(&self, read_only: bool) -> Option<Ground<'_>> {
        match self {
            Self::File(file) => file.image().map(|(path, file)| Ground::File { path, file, read_only }),
            Self::Ram(_) => Some(Ground::Memory),
            Self::Store(_) => None,
        }
    }

    /// What a handler works on.
    pub(crate) fn medium(&self) -> Result<Medium, DeviceError> {
        match self {
            Self::File(file) => file.medium(),
            Self::Ram(ram) => ram.medium(),
            Self::Store(store) => Ok(Medium::Store(Arc::clone(store))),
        }
    }
}

/// The disk, as one handler sees it.
pub(crate) enum Medium {
    File {
        file: Adopted,
        direct: Option<(Adopted, Alignment)>,
    },
    /// The file is the memory's: punched and synced like any other.
    Memory {
        memory: Segment,
        file: Adopted,
    },
    Store(Arc<dyn Store>),
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
            Self::File { file, direct } => {
                file.adopt(cx)?;
                direct.as_mut().map_or(Ok(()), |(direct, _)| direct.adopt(cx))
            }
            Self::Memory { file, .. } => file.adopt(cx),
            Self::Store(_) => Ok(()),
        }
    }

    /// Nothing of it outlives the program: there is nothing to make stable.
    pub(crate) fn is_volatile(&self) -> bool {
        matches!(self, Self::Memory { .. })
    }

    /// What does the work, if it is none of the engine's files.
    pub(crate) fn store(&self) -> Option<&dyn Store> {
        match self {
            Self::Store(store) => Some(&**store),
            Self::File { .. } | Self::Memory { .. } => None,
        }
    }

    /// The file for everything but the data of reads and writes.
    pub(crate) fn file(&self) -> FileId {
        match self {
            Self::File { file, .. } | Self::Memory { file, .. } => file.id,
            Self::Store(_) => NO_FILE,
        }
    }

    /// The file for a transfer between `offset` and these buffers: past the page cache if the host can.
    pub(crate) fn file_for(&self, offset: u64, buffers: &[libc::iovec]) -> FileId {
        match self {
            Self::File { direct: Some((direct, alignment)), .. } if alignment.suits(offset, buffers) => {
                direct.id
            }
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
            Self::File { .. } | Self::Store(_) => None,
        }
    }
}
