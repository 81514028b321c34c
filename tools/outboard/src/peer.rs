//! Who is at the other end of a socket, as the kernel tells.
#![allow(unsafe_code)] // rustix reads the pid 0 of a process out of sight into a type that cannot hold it

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::Pid;

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
    use std::os::unix::net::UnixStream;

    use super::*;

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
