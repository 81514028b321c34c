//! Image locks, as QEMU takes them: whoever writes an image keeps everybody else out of it, readers share it.
//!
//! Theory of operation (QEMU's `block/file-posix.c`). A program says what it does with an image, and what it does not
//! let others do, by locks that all can share, each on a byte of its own: 100 + n for "I do n", 200 + n for "nobody else
//! does n". Having locked, it looks whether others have locked the opposite bytes. Two that come at the same moment
//! may both give way: they try again, for a while.
//!
//! The locks belong to an open file description (`F_OFD_SETLK`) of their own, which no engine ever sees: a killed
//! program's io_uring may keep files open for a moment after it is gone, and its successor is to have the lock at once.
//! The bytes are those of the lock, not of the data: nothing is read or written there.
//!
//! Other programs are trusted to lock too; those that do not are not kept out.
#![allow(unsafe_code)] // fcntl(2) with F_OFD_* has no safe interface.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use outboard_device::DeviceError;

use super::holder;

/// Where the bytes for "I do n" begin (`RAW_LOCK_PERM_BASE`).
const DOES: u8 = 100;
/// Where the bytes for "nobody else does n" begin (`RAW_LOCK_SHARED_BASE`).
const DENIES: u8 = 200;

// The n: QEMU's BLK_PERM_* as bit numbers.
const CONSISTENT_READ: u8 = 0;
const WRITE: u8 = 1;
const RESIZE: u8 = 3;

/// How long a lock that somebody else has is tried for: a program that is being killed may take a moment to be gone.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether images are locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Locking {
    /// Yes; where the file system has no such locks, go on with a warning
    #[default]
    Auto,
    /// Yes; an error where the file system has no such locks
    On,
    /// No
    Off,
}

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading: nobody may write it meanwhile. Also for the backing files of an image.
    Read,
    /// Reading and writing: nobody else may use it meanwhile.
    Write,
}

/// A lock on an image, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// Why there is no lock.
#[derive(Debug)]
enum Refusal {
    /// Somebody else has locked this byte.
    Held(u8),
    /// The system has no such lock, or failed.
    Failed(io::Error),
}

impl Locking {
    /// Locks the image at `path`, a regular file or a block device; `None` if it is not to be locked, or cannot be and
    /// need not. Each call is an owner of its own: it conflicts with the others of this process, too.
    ///
    /// # Errors
    /// Somebody else uses the image, or it cannot be locked.
    pub(crate) fn lock(self, path: &Path, access: Access) -> Result<Option<Lock>, DeviceError> {
        if self == Self::Off {
            return Ok(None);
        }
        let failed = |error| DeviceError::host(format!("cannot lock {}", path.display()), error);
        // What it is may have changed since it was looked at: opening a FIFO would wait.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
        match acquire(&file, access) {
            Ok(()) => Ok(Some(Lock { file })),
            Err(Refusal::Failed(error)) if self == Self::Auto && is_missing(&error) => {
                tracing::warn!("{} is not locked, its file system has no locks: {error}", path.display());
                Ok(None)
            }
            Err(Refusal::Failed(error)) => Err(failed(error)),
            Err(Refusal::Held(byte)) => Err(DeviceError::Invalid(format!(
                "cannot lock {}: {} (--locking off does without the lock, which may destroy the image)",
                path.display(),
                holder::told(&file, byte, byte < DENIES)
            ))),
        }
    }
}

impl Lock {
    /// Whether this is the image that `file` is: a path may lead elsewhere a moment later.
    pub(crate) fn is_of(&self, file: &File) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, file.metadata()?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }
}

impl Access {
    /// What is done, as bit numbers.
    const fn does(self) -> &'static [u8] {
        match self {
            Self::Read => &[CONSISTENT_READ],
            Self::Write => &[CONSISTENT_READ, WRITE, RESIZE],
        }
    }

    /// What others may not do. They may read under a writer only if they say that they do not mind (QEMU's `-U`), and
    /// are then not seen here.
    const fn denies(self) -> &'static [u8] {
        &[WRITE, RESIZE]
    }
}

fn acquire(file: &File, access: Access) -> Result<(), Refusal> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let refusal = match attempt(file, access) {
            Err(Refusal::Held(byte)) if start.elapsed() < PATIENCE => Refusal::Held(byte),
            result => return result,
        };
        // Somebody who tries at the same moment is to see it free.
        release(file).map_err(Refusal::Failed)?;
        tracing::debug!("waiting for the lock: {refusal:?}");
        // Two that collided should not go on in step.
        std::thread::sleep(pause + Duration::from_micros(u64::from(std::process::id() % 1024)));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn attempt(file: &File, access: Access) -> Result<(), Refusal> {
    let ours = access.does().iter().map(|n| DOES + n).chain(access.denies().iter().map(|n| DENIES + n));
    for byte in ours {
        share(file, byte)?;
    }
    let opposite = access.does().iter().map(|n| DENIES + n).chain(access.denies().iter().map(|n| DOES + n));
    for byte in opposite {
        if is_held(file, byte).map_err(Refusal::Failed)? {
            return Err(Refusal::Held(byte));
        }
    }
    Ok(())
}

/// Takes a lock on a byte that others may have, too.
fn share(file: &File, byte: u8) -> Result<(), Refusal> {
    fcntl(file, libc::F_OFD_SETLK, &mut request(libc::F_RDLCK, byte.into(), 1)).map_err(|error| {
        match error.raw_os_error() {
            // Somebody locks it for himself alone, who is not QEMU.
            Some(libc::EAGAIN | libc::EACCES) => Refusal::Held(byte),
            _ => Refusal::Failed(error),
        }
    })
}

/// Whether somebody else has a lock on a byte.
fn is_held(file: &File, byte: u8) -> io::Result<bool> {
    let mut lock = request(libc::F_WRLCK, byte.into(), 1);
    fcntl(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

fn release(file: &File) -> io::Result<()> {
    fcntl(file, libc::F_OFD_SETLK, &mut request(libc::F_UNLCK, DOES.into(), 200))
}

fn request(kind: libc::c_int, start: i64, len: i64) -> libc::flock {
    libc::flock {
        // The constants are 0, 1 and 2.
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn fcntl(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the commands used here read and write one `flock`, which is alive.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether there are no such locks, on this file system or at all.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::ENOTTY)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::NamedTempFile;

    fn lock(image: &NamedTempFile, access: Access) -> Result<Option<Lock>, String> {
        Locking::On.lock(image.path(), access).map_err(|error| error.to_string())
    }

    #[test]
    fn lock_of_a_writer_keeps_everybody_out_until_it_is_dropped() {
        let image = NamedTempFile::new().unwrap();
        let writer = lock(&image, Access::Write).unwrap();
        for access in [Access::Read, Access::Write] {
            let error = lock(&image, access).unwrap_err();
            assert!(error.contains(&image.path().display().to_string()), "{error}");
            assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
            assert!(error.contains("--locking off"), "{error}");
        }
        drop(writer);
        assert!(lock(&image, Access::Write).unwrap().is_some());
    }

    #[test]
    fn lock_of_a_reader_is_shared_with_readers_only() {
        let image = NamedTempFile::new().unwrap();
        let readers = [lock(&image, Access::Read).unwrap(), lock(&image, Access::Read).unwrap()];
        assert!(readers.iter().all(Option::is_some));
        assert!(lock(&image, Access::Write).unwrap_err().contains("lets nobody else write"));
        drop(readers);
        assert!(lock(&image, Access::Write).unwrap().is_some());
    }

    #[test]
    fn lock_off_is_none_and_sees_none() {
        let image = NamedTempFile::new().unwrap();
        let _writer = lock(&image, Access::Write).unwrap();
        assert!(Locking::Off.lock(image.path(), Access::Write).unwrap().is_none());
    }

    #[test]
    fn lock_freed_while_another_waits_is_taken() {
        let image = NamedTempFile::new().unwrap();
        let writer = lock(&image, Access::Write).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&image, Access::Write));
            drop(writer);
            assert!(second.join().unwrap().unwrap().is_some());
        });
    }

    #[test]
    fn lock_taken_by_many_at_once_goes_to_one() {
        let image = NamedTempFile::new().unwrap();
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| lock(&image, Access::Write))).collect();
            let all: Vec<_> = all.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert!(all.iter().filter(|lock| lock.is_ok()).count() <= 1);
        });
        assert!(lock(&image, Access::Write).is_ok(), "none is left behind");
    }

    #[test]
    fn lock_tells_its_image_from_another() {
        let (image, other) = (NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap());
        let lock = lock(&image, Access::Read).unwrap().unwrap();
        assert!(lock.is_of(image.as_file()).unwrap());
        assert!(!lock.is_of(other.as_file()).unwrap());
    }

    #[test]
    fn lock_of_what_is_not_there_says_so() {
        let error = Locking::Auto.lock(Path::new("/nonexistent"), Access::Read).unwrap_err().to_string();
        assert!(error.contains("cannot lock /nonexistent: No such file"), "{error}");
    }
}
