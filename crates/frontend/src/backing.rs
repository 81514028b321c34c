//! What a region of guest memory is made of: a descriptor that both sides can map. The file system is trusted no
//! further than to say when it is full: space is reserved first, for a mapping cannot say so later.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use outboard_guest_memory::{HugePage, memfd, memfd_huge};
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::shm;

use crate::Error;

/// `f_type` of hugetlbfs; the low 32 bits count on every architecture.
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;

/// What a region of guest memory is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// A memory file without a name (memfd_create).
    #[default]
    Memfd,
    /// A memory file without a name, on huge pages: so many must be free (`vm.nr_hugepages`, or
    /// `/sys/kernel/mm/hugepages`). They are taken at once; where the size is not whole pages, one more.
    Huge(HugePage),
    /// A file: made if there is none, lengthened if it is too short, neither shortened nor removed. Memory starts with
    /// what is in it. In a hugetlbfs it is on that one's huge pages. A character device (DAX) is taken as it is.
    File(PathBuf),
    /// A POSIX shared memory object: a file in `/dev/shm`, and treated like one. A name without `/`.
    Shm(String),
}

impl Backing {
    /// Opens, or makes, `size` bytes of it.
    pub(crate) fn open(&self, size: u64) -> Result<OwnedFd, Error> {
        match self {
            Self::Memfd => Ok(memfd("outboard-memory", size)?),
            Self::Huge(page) => huge(*page, size),
            Self::File(path) => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
                let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
                fd.and_then(|fd| reserve(&fd, size).map(|()| fd)).map_err(failure(path))
            }
            Self::Shm(name) => {
                let flags = shm::OFlags::RDWR | shm::OFlags::CREATE;
                let fd = shm::open(name.as_str(), flags, Mode::RUSR | Mode::WUSR);
                let path = Path::new("/dev/shm").join(name);
                fd.and_then(|fd| reserve(&fd, size).map(|()| fd)).map_err(failure(&path))
            }
        }
    }
}

fn failure(path: &Path) -> impl FnOnce(Errno) -> Error {
    let path = path.to_path_buf();
    move |errno| Error::MemoryFile { path, source: errno.into() }
}

fn huge(page: HugePage, size: u64) -> Result<OwnedFd, Error> {
    let page_size: u64 = match page {
        HugePage::MiB2 => 2 << 20,
        HugePage::GiB1 => 1 << 30,
    };
    let count = size.div_ceil(page_size);
    let none = |source| Error::HugePages { count, page_size, source };
    let size = count.checked_mul(page_size).ok_or(Error::Invalid("a region of this size"))?;
    let fd = memfd_huge("outboard-memory", size, page).map_err(none)?;
    // A mapping would succeed without pages, and its first access would not.
    reserve(&fd, size).map_err(|errno| none(errno.into()))?;
    Ok(fd)
}

/// Makes the file as long, and has its file system set the space aside. What is no regular file is as it is.
fn reserve(fd: &OwnedFd, size: u64) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let size = size.checked_next_multiple_of(unit(fd)?).ok_or(Errno::FBIG)?;
    match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size) {
        // A file system without reservation: the length must do.
        Err(Errno::OPNOTSUPP) if stat.st_size.cast_unsigned() < size => rustix::fs::ftruncate(fd, size),
        Err(Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// What the sizes of files are multiples of: the huge page in a hugetlbfs, whose block size it is.
fn unit(fd: &OwnedFd) -> Result<u64, Errno> {
    let fs = rustix::fs::fstatfs(fd)?;
    let huge = if fs.f_type as u32 == HUGETLBFS_MAGIC { u64::try_from(fs.f_bsize).ok() } else { None };
    Ok(huge.filter(|unit| unit.is_power_of_two()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Memory, RegionSpec};

    const SIZE: u64 = 1 << 20;

    fn memory(backing: Backing) -> Result<Memory, Error> {
        let spec = RegionSpec { backing, ..RegionSpec::new(0x1000, SIZE) };
        Memory::new(&Layout { regions: vec![spec] })
    }

    /// Whoever maps the descriptor sees the same bytes.
    fn is_shared(memory: &mut Memory) {
        let segment = memory.allocate(8, 8).unwrap();
        segment.write_from(0, b"the same").unwrap();
        let (region, fd) = memory.table().unwrap().pop().unwrap();
        let mut seen = [0; 8];
        let at = region.mmap_offset + segment.gpa() - region.guest_addr;
        rustix::io::pread(&fd, &mut seen, at).unwrap();
        assert_eq!(&seen, b"the same");
    }

    #[test]
    fn file_is_made_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        is_shared(&mut memory(Backing::File(path.clone())).unwrap());
        assert!(std::fs::read(&path).unwrap().starts_with(b"the same"));
        assert_eq!(path.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn file_that_exists_keeps_what_is_in_it_and_its_length() {
        let dir = tempfile::tempdir().unwrap();
        for len in [10, 3 * SIZE] {
            let path = dir.path().join(len.to_string());
            std::fs::write(&path, b"what was").unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
            let mut memory = memory(Backing::File(path.clone())).unwrap();
            let mut seen = [0; 8];
            memory.allocate(8, 8).unwrap().read_into(0, &mut seen).unwrap();
            assert_eq!(&seen, b"what was");
            assert_eq!(path.metadata().unwrap().len(), len.max(SIZE));
        }
    }

    #[test]
    fn file_that_cannot_be_is_an_error_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = memory(Backing::File(dir.path().into())).unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        let spec = RegionSpec {
            backing: Backing::File(dir.path().join("huge")),
            ..RegionSpec::new(0, i64::MAX as u64 - 8191)
        };
        let error = Memory::new(&Layout { regions: vec![spec] }).unwrap_err();
        assert!(matches!(error, Error::MemoryFile { .. }), "{error}");
    }

    #[test]
    fn shared_memory_object_is_made_and_stays() {
        let name = format!("outboard-test-{}", std::process::id());
        is_shared(&mut memory(Backing::Shm(name.clone())).unwrap());
        let mut again = memory(Backing::Shm(name.clone())).unwrap();
        shm::unlink(name.as_str()).unwrap();
        let mut seen = [0; 8];
        again.allocate(8, 8).unwrap().read_into(0, &mut seen).unwrap();
        assert_eq!(&seen, b"the same");
        assert!(matches!(memory(Backing::Shm("a/b".to_owned())), Err(Error::MemoryFile { .. })));
    }

    #[test]
    fn huge_pages_are_taken_or_missed_at_once() {
        match memory(Backing::Huge(HugePage::MiB2)) {
            Ok(mut memory) => is_shared(&mut memory),
            Err(error) => assert!(error.to_string().contains("1 huge pages of 2 MiB"), "{error}"),
        }
        // More than any machine has.
        for page in [HugePage::MiB2, HugePage::GiB1] {
            let spec = RegionSpec { backing: Backing::Huge(page), ..RegionSpec::new(0, 1 << 50) };
            let error = Memory::new(&Layout { regions: vec![spec] }).unwrap_err();
            assert!(matches!(error, Error::HugePages { .. }), "{error}");
        }
    }

    #[test]
    fn regions_of_all_kinds_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let regions = vec![
            RegionSpec::new(0x1000, 0x1000),
            RegionSpec { backing: Backing::File(path.clone()), ..RegionSpec::new(0x10_0000, 0x1000) },
            // A second region of the same file.
            RegionSpec { backing: Backing::File(path), offset: 0x1000, ..RegionSpec::new(0x20_0000, 0x1000) },
        ];
        let mut memory = Memory::new(&Layout { regions }).unwrap();
        let gpas: Vec<u64> = (0..3).map(|_| memory.allocate(0x1000, 1).unwrap().gpa()).collect();
        assert_eq!(gpas, [0x1000, 0x10_0000, 0x20_0000]);
    }
}
