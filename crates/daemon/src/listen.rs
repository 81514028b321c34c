//! The socket of `--socket-path`: taking the path, and giving it back.
//!
//! What lies at the path is not trusted. Only a socket on which nobody listens any more is replaced; a file, a
//! directory or a symbolic link never is, wherever it points.
//!
//! Theory of operation. A program that was killed leaves its socket behind, and `bind` then fails. Connecting tells
//! whether somebody still listens. Between that answer, the removal and the new `bind`, a second program that
//! starts at the same time could do the same and remove a socket that is in use by then. So all of it happens
//! under a lock (`flock`) on the directory that holds the socket: nothing is left behind by it, and no file has to
//! be named. The lock is advisory and others may hold it for their own reasons, so it is waited for only for a
//! moment: a start must not hang on it. A socket under a temporary name that is renamed over the path would do
//! without the lock only where the path is free, and would show that name in `ss` and `/proc/net/unix` for ever.
//!
//! At the end, the path is removed only if it still leads to the socket that was made here. The kernel keeps the
//! inode as long as the socket is open, so its number cannot have been given to another file.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The longest path that fits a socket address with its NUL (`sun_path`), in bytes.
const PATH_MAX: usize = 107;
/// How often the path is tried when programs that know nothing of the lock come between.
const ATTEMPTS: usize = 4;
/// How many may wait for [`SocketFile::listen_private`]; [`UnixListener`] takes as many.
const BACKLOG: i32 = 128;
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_PATIENCE_AT_END: Duration = Duration::from_millis(100);

/// Why the program cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The path does not fit a socket address.
    #[error("socket path is {0} bytes long, {PATH_MAX} are possible: {1}")]
    TooLong(usize, String),
    /// The path has no last part.
    #[error("socket path names no file: {0}")]
    NoName(String),
    /// Somebody listens there.
    #[error("cannot listen on {0}: already in use")]
    InUse(String),
    /// Something that is not a socket lies there.
    #[error("cannot listen on {0}: {1} is in the way")]
    Occupied(String, &'static str),
    /// The host refuses.
    #[error("cannot listen on {0}")]
    Io(String, #[source] io::Error),
}

/// A listening socket at its path. Dropping it removes the path, if it is still this socket's, and then closes.
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    identity: Identity,
}

/// A file's device and inode number.
type Identity = (u64, u64);

impl SocketFile {
    /// Makes the socket at `path` and listens on it. Its mode follows the umask.
    ///
    /// # Errors
    /// The path is no socket's, or is in use, or the host refuses.
    pub fn listen(path: &Path) -> Result<Self, ListenError> {
        Self::listen_with(path, |path| UnixListener::bind(path))
    }

    /// Makes a socket that only the program's own user can connect to, of mode 0600 or less.
    ///
    /// # Errors
    /// As [`SocketFile::listen`].
    pub fn listen_private(path: &Path) -> Result<Self, ListenError> {
        Self::listen_with(path, |path| bind(path, SocketType::STREAM, true))
    }

    /// Makes a socket whose connections keep the borders of messages (SOCK_SEQPACKET). Its mode follows the umask.
    ///
    /// # Errors
    /// As [`SocketFile::listen`].
    pub fn listen_messages(path: &Path) -> Result<Self, ListenError> {
        Self::listen_with(path, |path| bind(path, SocketType::SEQPACKET, false))
    }

    fn listen_with(
        path: &Path,
        bind: impl Fn(&Path) -> io::Result<UnixListener>,
    ) -> Result<Self, ListenError> {
        let claim = Claim::new(path)?;
        let lock = Lock::take(&claim.directory, LOCK_PATIENCE);
        let mut attempts = 0..ATTEMPTS;
        let listener = loop {
            match bind(path) {
                Ok(listener) => break listener,
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(claim.failed(error)),
                Err(_) if attempts.next().is_none() => return Err(ListenError::InUse(claim.shown())),
                Err(_) => claim.remove_stale()?,
            }
        };
        let (_, identity) = look(&claim.directory, &claim.name).map_err(|error| claim.failed(error))?;
        drop(lock);
        let Claim { directory, name, .. } = claim;
        Ok(Self { listener, path: path.to_owned(), directory, name, identity })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to accept from.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = Lock::take(&self.directory, LOCK_PATIENCE_AT_END);
        match look(&self.directory, &self.name) {
            Ok((_, identity)) if identity == self.identity => {
                if let Err(error) = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()) {
                    tracing::warn!("the socket {:?} stays behind: {error}", self.name);
                }
            }
            _ => tracing::info!("the socket path {:?} leads elsewhere by now and stays", self.name),
        }
    }
}

/// The mode of the socket's own inode, less the umask, is what Linux gives the file (`unix_bind`): so one that is private
/// is so at every moment.
fn bind(path: &Path, kind: SocketType, private: bool) -> io::Result<UnixListener> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    if private {
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A path that is to become a socket.
struct Claim<'a> {
    path: &'a Path,
    directory: OwnedFd,
    name: OsString,
}

impl<'a> Claim<'a> {
    fn new(path: &'a Path) -> Result<Self, ListenError> {
        let length = path.as_os_str().len();
        if length > PATH_MAX {
            return Err(ListenError::TooLong(length, path.display().to_string()));
        }
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err(ListenError::NoName(path.display().to_string()));
        };
        if !path.as_os_str().as_bytes().ends_with(name.as_bytes()) {
            return Err(ListenError::NoName(path.display().to_string()));
        }
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let directory = open_directory(parent)
            .map_err(|error| ListenError::Io(path.display().to_string(), error.into()))?;
        Ok(Self { path, directory, name: name.into() })
    }

    /// Removes what lies at the path if it is a socket that nobody listens on.
    fn remove_stale(&self) -> Result<(), ListenError> {
        match look(&self.directory, &self.name) {
            Ok((FileType::Socket, _)) => {}
            Ok((kind, _)) => return Err(ListenError::Occupied(self.shown(), kind_name(kind))),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.failed(error)),
        }
        match connect(self.path) {
            Err(Errno::CONNREFUSED) => {}
            Err(Errno::NOENT) => return Ok(()),
            // A full backlog, or a socket of another type: somebody is there.
            Ok(_) | Err(Errno::AGAIN | Errno::PROTOTYPE) => return Err(ListenError::InUse(self.shown())),
            Err(error) => return Err(self.failed(error)),
        }
        match rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn failed(&self, error: impl Into<io::Error>) -> ListenError {
        ListenError::Io(self.shown(), error.into())
    }
}

/// The lock on a directory, held until dropped.
struct Lock<'a>(&'a OwnedFd);

impl<'a> Lock<'a> {
    /// Waits for the lock for at most `patience`. `None`: go on without.
    fn take(directory: &'a OwnedFd, patience: Duration) -> Option<Self> {
        let deadline = Instant::now() + patience;
        loop {
            match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(Self(directory)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // Held by others, opened with O_PATH only, or a file system without locks.
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()) {
        // A directory may be writable without being readable.
        Err(Errno::ACCESS) => rustix::fs::open(path, flags | OFlags::PATH, Mode::empty()),
        result => result,
    }
}

fn look(directory: &OwnedFd, name: &OsString) -> Result<(FileType, Identity), Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((FileType::from_raw_mode(stat.st_mode), (stat.st_dev, stat.st_ino)))
}

/// Makes a connection, of a socket that does not block. Never blocks.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a named pipe",
        FileType::CharacterDevice | FileType::BlockDevice => "a device node",
        _ => "something that is not a socket",
    }
}

#[cfg(test)]
mod tests;
