//! A disk in a file or block device of the host.
//!
//! With `--direct` there are two descriptors of the same file. Whole pages that are aligned as the host wants it go past
//! the page cache, the rest goes through it. Linux keeps the two coherent: a direct read first writes back what the
//! cache holds of its range, a direct write drops it from the cache. Parts of a page go through the cache always, since
//! a page that was read for one part would be written back over a direct write of another. Only requests for
//! overlapping ranges that are in flight at the same time see no order, as on any disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outboard_device::DeviceError;
use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxFlags};
use rustix::io::Errno;

use super::{Access, DiskErrands, Handles, Lock, Locking, Medium, Mirrored, Shape, Wear, ioctl};
use crate::zones::Zones;

/// Larger physical blocks than this are reported as the best transfer size instead.
const MAX_PHYSICAL_BLOCK: u32 = 4096;
/// A page of the host's cache, in bytes; larger ones are multiples.
const PAGE: u64 = 4096;
/// What direct transfers are aligned to where the kernel does not tell (Linux before 6.1).
const CAUTIOUS_ALIGNMENT: u32 = 4096;

/// The image, open.
pub(crate) struct DiskFile {
    path: PathBuf,
    file: File,
    direct: Option<(File, Alignment)>,
    shape: Shape,
    /// A host-managed zoned device.
    zoned: Option<ZoneLimits>,
    /// Until the disk is closed.
    lock: Option<Lock>,
}

/// What a zoned device says of itself in sysfs. Numbers of zones are 0 for any number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ZoneLimits {
    pub(crate) max_open: u32,
    pub(crate) max_active: u32,
    /// What writes come in, in bytes.
    pub(crate) granularity: u32,
}

/// What direct transfers must be aligned to: powers of two, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Alignment {
    memory: usize,
    offset: usize,
    /// What a transfer is made of, at least: see the head of the file.
    whole: u64,
}

impl Alignment {
    /// Whether a transfer between `offset` and these buffers may go past the page cache.
    pub(super) fn suits(&self, offset: u64, buffers: &[libc::iovec]) -> bool {
        let total: u64 = buffers.iter().map(|buffer| buffer.iov_len as u64).sum();
        let pages = (offset | total) & (self.whole.max(self.offset as u64) - 1) == 0;
        let memory = (self.memory - 1) as u64;
        let length = (self.offset - 1) as u64;
        pages
            && buffers.iter().all(|buffer| {
                buffer.iov_base.addr() as u64 & memory == 0 && buffer.iov_len as u64 & length == 0
            })
    }
}

impl DiskFile {
    pub(crate) fn open(
        path: &Path,
        access: Access,
        direct: bool,
        locking: Locking,
    ) -> Result<Self, DeviceError> {
        let read_only = access == Access::Read;
        let failed = |error| DeviceError::host(format!("cannot open {}", path.display()), error);
        // Before it is opened: to open a FIFO would wait for somebody to write.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() { "a directory" } else { "neither a file nor a block device" };
            return Err(DeviceError::Invalid(format!("cannot open {}: it is {what}", path.display())));
        }
        let file = match open(path, read_only, OFlags::empty()) {
            Err(error) if !read_only && is_refusal(&error) && open(path, true, OFlags::empty()).is_ok() => {
                let what = format!("cannot open {} for writing (--read-only serves it)", path.display());
                return Err(DeviceError::host(what, error));
            }
            result => result.map_err(failed)?,
        };
        let lock = locking.lock(path, access)?;
        let mut disk =
            Self { path: path.to_owned(), file, direct: None, shape: Shape::UNKNOWN, zoned: None, lock };
        disk.confirm(&disk.file)?;
        disk.shape = disk.look(kind.is_block_device(), read_only)?;
        if kind.is_block_device() {
            disk.zoned = disk.look_at_zones()?;
        }
        // The page cache writes in no order.
        if direct || disk.zoned.is_some() {
            let file = open(path, read_only, OFlags::DIRECT)
                .map_err(|error| disk.failed("cannot bypass the page cache (--direct) for", error))?;
            disk.confirm(&file)?;
            let mut alignment = alignment(&file, kind.is_block_device().then_some(disk.shape.logical_block));
            if disk.zoned.is_some() {
                alignment.whole = 1;
            }
            disk.direct = Some((file, alignment));
        }
        Ok(disk)
    }

    /// Makes a file that is not there yet, empty, which only its maker knows.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, direct: None, shape: Shape::UNKNOWN, zoned: None, lock: None })
    }

    /// Makes a file without a name, empty, in a directory where others may make files, too: nobody else can open it.
    pub(crate) fn unnamed(directory: &Path) -> io::Result<Self> {
        let flags = (OFlags::TMPFILE | OFlags::EXCL).bits().cast_signed();
        let made = OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o600).open(directory);
        let file = match made {
            // Not every file system has such files.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)) =>
            {
                renounced(directory)?
            }
            made => made?,
        };
        let path = directory.join("(a temporary file)");
        Ok(Self { path, file, direct: None, shape: Shape::UNKNOWN, zoned: None, lock: None })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The same past the page cache.
    pub(super) fn direct(&self) -> Option<&(File, Alignment)> {
        self.direct.as_ref()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file for a transfer between `offset` and these buffers: past the page cache if the host can.
    pub(super) fn file_for(&self, offset: u64, buffers: &[libc::iovec]) -> &File {
        match &self.direct {
            Some((direct, alignment)) if alignment.suits(offset, buffers) => direct,
            _ => &self.file,
        }
    }

    /// The end of the file or device, in bytes: at least one block of `block` bytes.
    pub(crate) fn size(&self, block: u32) -> Result<u64, DeviceError> {
        let size = self.end()?;
        if size < u64::from(block) {
            return Err(DeviceError::Invalid(format!(
                "{} has {size} bytes: a disk has at least one block of {block}",
                self.path.display(),
            )));
        }
        Ok(size)
    }

    fn end(&self) -> Result<u64, DeviceError> {
        (&self.file).seek(SeekFrom::End(0)).map_err(|error| self.failed("cannot find the size of", error))
    }

    /// Path and descriptor, if it is a file and no device.
    pub(crate) fn image(&self) -> Option<(&Path, BorrowedFd<'_>)> {
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        is_file.then(|| (self.path.as_path(), self.file.as_fd()))
    }

    /// Only a regular file's end can be set.
    pub(super) fn resizable(&self) -> Result<(), DeviceError> {
        let kind = self.file.metadata().map_err(|error| self.failed("cannot look at", error))?.file_type();
        if !kind.is_file() {
            let what = "a block device: resize it there; resize without a size looks at it again";
            return Err(DeviceError::Invalid(format!("{} is {what}", self.path.display())));
        }
        Ok(())
    }

    /// Sets the end of a file. What is new reads as zeroes.
    pub(crate) fn set_size(&self, bytes: u64) -> Result<(), DeviceError> {
        self.file.set_len(bytes).map_err(|error| self.failed(&format!("cannot set to {bytes} bytes"), error))
    }

    /// What secure erases come in, in bytes, if the device can.
    pub(super) fn erase(&self) -> Option<u32> {
        let granularity = self.shape.discard.unwrap_or(self.shape.logical_block);
        ioctl::can_secure_discard(self.file.as_fd()).then_some(granularity)
    }

    /// Where the first aligned block of a device or partition is, in bytes.
    pub(super) fn aligned_from(&self) -> u32 {
        let Ok(metadata) = self.file.metadata() else { return 0 };
        let number = metadata.rdev();
        let path = format!(
            "/sys/dev/block/{}:{}/alignment_offset",
            rustix::fs::major(number),
            rustix::fs::minor(number)
        );
        let is_device = metadata.file_type().is_block_device();
        let told = is_device.then(|| std::fs::read_to_string(path).ok()).flatten();
        told.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Where the device says how worn it is.
    pub(super) fn wear(&self, sysfs: &Path) -> Option<Wear> {
        let metadata = self.file.metadata().ok()?;
        let number = metadata.rdev();
        let is_device = metadata.file_type().is_block_device();
        is_device.then(|| Wear::find(sysfs, rustix::fs::major(number), rustix::fs::minor(number)))?
    }

    /// Somebody to make the calls that block.
    pub(super) fn errands(
        &self,
        wear: Option<Wear>,
        zones: Option<Arc<Zones>>,
    ) -> Result<DiskErrands, DeviceError> {
        let device = self.file.try_clone().map_err(|error| self.failed("cannot share", error))?;
        super::errands::start(device.into(), wear, zones)
    }

    /// The limits of a host-managed zoned device.
    pub(super) fn zoned(&self) -> Option<ZoneLimits> {
        self.zoned
    }

    fn look_at_zones(&self) -> Result<Option<ZoneLimits>, DeviceError> {
        let metadata = self.file.metadata().map_err(|error| self.failed("cannot look at", error))?;
        let number = metadata.rdev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        if queue_text(major, minor, "zoned").is_none_or(|model| model.trim() != "host-managed") {
            return Ok(None);
        }
        let limit = |name: &str| queue_limit(major, minor, name).unwrap_or(0);
        Ok(Some(ZoneLimits {
            max_open: limit("max_open_zones"),
            max_active: limit("max_active_zones"),
            granularity: limit("zone_write_granularity").max(self.shape.logical_block),
        }))
    }

    pub(crate) fn sync(&self) -> Result<(), DeviceError> {
        self.file.sync_data().map_err(|error| self.failed("cannot sync", error))
    }

    pub(crate) fn medium(&self) -> Result<Medium, DeviceError> {
        let share = |file: &File| -> Result<OwnedFd, DeviceError> {
            file.as_fd().try_clone_to_owned().map_err(|error| self.failed("cannot share", error))
        };
        let direct = match &self.direct {
            Some((file, alignment)) => Some((share(file)?, *alignment)),
            None => None,
        };
        Ok(Medium::File(Mirrored::new(Handles { file: share(&self.file)?, direct })))
    }

    fn look(&self, block_device: bool, read_only: bool) -> Result<Shape, DeviceError> {
        let mut shape = if block_device { self.look_at_device()? } else { self.look_at_file()? };
        shape.bytes = self.end()?;
        if read_only {
            shape.discard = None;
        }
        Ok(shape)
    }

    fn look_at_file(&self) -> Result<Shape, DeviceError> {
        let metadata = self.file.metadata().map_err(|error| self.failed("cannot look at", error))?;
        let block = u32::try_from(metadata.blksize()).unwrap_or(0).max(512).next_power_of_two();
        let physical_block = block.min(MAX_PHYSICAL_BLOCK);
        Ok(Shape {
            bytes: 0,
            logical_block: 512,
            physical_block,
            optimal_io: if block > physical_block { block } else { 0 },
            discard: can_punch(&self.file, metadata.len()).then_some(block),
        })
    }

    fn look_at_device(&self) -> Result<Shape, DeviceError> {
        let failed = |errno: Errno| self.failed("cannot look at", errno.into());
        let logical_block = rustix::fs::ioctl_blksszget(&self.file).map_err(failed)?;
        let physical_block = rustix::fs::ioctl_blkpbszget(&self.file).map_err(failed)?;
        if !logical_block.is_power_of_two() || logical_block < 512 || !physical_block.is_power_of_two() {
            return Err(DeviceError::Invalid(format!(
                "{} has blocks of {logical_block} bytes",
                self.path.display()
            )));
        }
        let number = rustix::fs::fstat(&self.file).map_err(failed)?.st_rdev;
        let queue = |name: &str| queue_limit(rustix::fs::major(number), rustix::fs::minor(number), name);
        // To deallocate, the kernel wants a device that zeroes by command (`blkdev_fallocate`).
        let discard = (queue("write_zeroes_max_bytes").unwrap_or(0) > 0)
            .then(|| queue("discard_granularity").unwrap_or(0).max(logical_block));
        Ok(Shape {
            bytes: 0,
            logical_block,
            physical_block,
            optimal_io: queue("optimal_io_size").unwrap_or(0),
            discard,
        })
    }

    /// The path may lead elsewhere by now: what is open must be what is locked.
    fn confirm(&self, file: &File) -> Result<(), DeviceError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        if lock.is_of(file).map_err(|error| self.failed("cannot look at", error))? {
            return Ok(());
        }
        Err(DeviceError::Invalid(format!("{} was replaced while it was being opened", self.path.display())))
    }

    fn failed(&self, what: &str, error: io::Error) -> DeviceError {
        DeviceError::host(format!("{what} {}", self.path.display()), error)
    }
}

impl Shape {
    /// Of a file that was not looked at yet.
    const UNKNOWN: Self =
        Self { bytes: 0, logical_block: 512, physical_block: 512, optimal_io: 0, discard: None };
}

/// Makes a file under a name that nobody has, and takes that away.
fn renounced(directory: &Path) -> io::Result<File> {
    for n in 0..1000 {
        let path = directory.join(format!("outboard-blk-{}-{n}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let file = made?;
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is full of them"))
}

fn open(path: &Path, read_only: bool, flags: OFlags) -> io::Result<File> {
    OpenOptions::new().read(true).write(!read_only).custom_flags(flags.bits().cast_signed()).open(path)
}

fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{ExecutableFileBusy, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | ExecutableFileBusy)
}

fn alignment(direct: &File, logical_block: Option<u32>) -> Alignment {
    let cautious = logical_block.unwrap_or(CAUTIOUS_ALIGNMENT);
    let told = rustix::fs::statx(direct, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let told = told.filter(|statx| statx.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    let (memory, offset) =
        told.map_or((cautious, cautious), |statx| (statx.stx_dio_mem_align, statx.stx_dio_offset_align));
    // 0 stands for "no direct I/O"; open has succeeded, so something will work.
    let usable = |value: u32| if value.is_power_of_two() { value } else { cautious } as usize;
    Alignment { memory: usable(memory), offset: usable(offset).max(512), whole: PAGE }
}

/// Whether holes can be made. Tried behind the end, where it changes nothing.
fn can_punch(file: &File, size: u64) -> bool {
    let behind = size.next_multiple_of(1 << 20);
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, mode, behind, 1 << 20).is_ok()
}

/// A limit of a block device's queue; a partition has that of its disk.
fn queue_limit(major: u32, minor: u32, name: &str) -> Option<u32> {
    let value: u64 = queue_text(major, minor, name)?.trim().parse().ok()?;
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

fn queue_text(major: u32, minor: u32, name: &str) -> Option<String> {
    let device = format!("/sys/dev/block/{major}:{minor}");
    std::fs::read_to_string(format!("{device}/queue/{name}"))
        .or_else(|_| std::fs::read_to_string(format!("{device}/../queue/{name}")))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(address: usize, len: usize) -> libc::iovec {
        libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: len }
    }

    #[test]
    fn alignment_suits_only_what_is_aligned_throughout() {
        let alignment = Alignment { memory: 4, offset: 512, whole: PAGE };
        assert!(alignment.suits(4096, &[buffer(0x1004, 512), buffer(0x2000, 3584), buffer(0x4000, 4096)]));
        assert!(alignment.suits(0, &[]));
        assert!(!alignment.suits(1, &[buffer(0x1000, 4096)]));
        assert!(!alignment.suits(4096, &[buffer(0x1002, 4096)]));
        assert!(!alignment.suits(4096, &[buffer(0x1000, 3840), buffer(0x2000, 256)]));
    }

    #[test]
    fn alignment_suits_no_part_of_a_page() {
        let alignment = Alignment { memory: 4, offset: 512, whole: PAGE };
        assert!(!alignment.suits(512, &[buffer(0x1000, 4096)]));
        assert!(!alignment.suits(4096, &[buffer(0x1000, 512)]));
        let large = Alignment { memory: 4, offset: 16384, whole: PAGE };
        assert!(!large.suits(4096, &[buffer(0x1000, 16384)]));
        assert!(large.suits(32768, &[buffer(0x1000, 16384)]));
    }

    #[test]
    fn open_of_what_is_no_disk_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        File::create(&empty).unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        let missing = directory.path().join("missing");
        let cases = [
            (missing.as_path(), "missing: No such file"),
            (directory.path(), "is a directory"),
            (&fifo, "neither a file nor a block device"),
            (&empty, "has 0 bytes"),
            (Path::new("/dev/null"), "neither a file nor a block device"),
        ];
        for (path, reason) in cases {
            for access in [Access::Write, Access::Read] {
                let opened = DiskFile::open(path, access, false, Locking::On);
                let error = opened.and_then(|disk| disk.size(512)).unwrap_err().to_string();
                assert!(error.contains(reason), "{error}");
            }
        }
    }

    #[test]
    fn file_without_a_name_is_its_makers_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(format!("outboard-blk-{}-0", std::process::id())), "").unwrap();
        let unnamed = DiskFile::unnamed(directory.path()).unwrap().file;
        for file in [unnamed, renounced(directory.path()).unwrap()] {
            let metadata = file.metadata().unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.nlink(), metadata.len()), (0o600, 0, 0));
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn size_of_a_file_follows_the_file() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        let disk = DiskFile::open(image.path(), Access::Write, false, Locking::On).unwrap();
        assert_eq!(disk.shape().bytes, 1 << 20);
        image.as_file().set_len(3 << 20).unwrap();
        assert_eq!(disk.size(512).unwrap(), 3 << 20);
        image.as_file().set_len(0).unwrap();
        assert!(disk.size(512).unwrap_err().to_string().contains("0 bytes"));
    }
}
