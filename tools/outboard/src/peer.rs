//! Who is at the other end of a socket, as the kernel tells.
#![allow(unsafe_code)] // rustix reads the pid 0 of a process out of sight into a type that cannot hold it

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use outboard_frontend::dial;
use rustix::process::Pid;

/// How often to try while nobody takes the connection.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// Connects to `path`. A back end whose backlog is full is waited for, and no longer than `timeout`.
///
/// # Errors
/// Nobody listens; [`WouldBlock`](io::ErrorKind::WouldBlock): the backlog stayed full.
pub(crate) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + timeout;
    loop {
        match dial(path) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
                    && Instant::now() < deadline =>
            {
                sleep(LOOK);
            }
            done => return done,
        }
    }
}

/// The process that listened at, or connected, the other end of a UNIX socket (unix(7), SO_PEERCRED). `None` for one
/// that has no number in our PID namespace.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn pid(socket: impl AsFd) -> io::Result<Option<Pid>> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the structure, which is that long and may hold anything; both
    // live until the call returns, and so does the borrowed descriptor.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(Pid::from_raw(credentials.pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn connect_where_the_backlog_is_full_ends_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path, Duration::from_millis(1)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn pid_of_our_own_pair_is_ours() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(pid(&ours).unwrap(), Some(rustix::process::getpid()));
    }

    #[test]
    fn pid_of_what_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(pid(&file).is_err());
    }
}
