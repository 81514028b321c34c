//! What comes from whoever started the program: the socket of `--fd`, and the limit on open descriptors.
//!
//! The number is trusted to be meant for this program, not to be right: each property that the program relies on
//! is asked of the kernel.
#![allow(unsafe_code)] // A descriptor number becomes an owned descriptor: nothing safe can do that.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};

/// The socket of `--fd`.
#[derive(Debug)]
pub(crate) enum Inherited {
    /// Connected to a front end.
    Connected(UnixStream),
    /// Listening: front ends come one after the other, as with `--socket-path`.
    Listening(UnixListener),
}

/// Why the descriptor of `--fd` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InheritError {
    #[error("--fd {0}: no such descriptor is open")]
    Closed(RawFd),
    #[error("--fd {0}: not a socket")]
    NotASocket(RawFd),
    #[error("--fd {0}: not a UNIX stream socket")]
    WrongKind(RawFd),
    #[error("--fd {0}: the socket is neither connected nor listening")]
    Unconnected(RawFd),
    #[error("--fd {0}: {1}")]
    Other(RawFd, io::Error),
}

/// Takes over descriptor `number`, which must be greater than 2. To be called once, and before the program opens
/// descriptors of its own: a number that was not inherited must not name one of those.
///
/// The socket may be blocking or not, and may hold messages already. It is closed on `exec` from now on.
pub(crate) fn adopt(number: RawFd) -> Result<Inherited, InheritError> {
    let socket = own(number)?;
    let other = |error: Errno| InheritError::Other(number, error.into());
    let kind = sockopt::socket_type(&socket).map_err(|error| match error {
        Errno::NOTSOCK => InheritError::NotASocket(number),
        error => other(error),
    })?;
    let domain = sockopt::socket_domain(&socket).map_err(other)?;
    if domain != AddressFamily::UNIX || kind != SocketType::STREAM {
        return Err(InheritError::WrongKind(number));
    }
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).map_err(other)?;
    if sockopt::socket_acceptconn(&socket).map_err(other)? {
        return Ok(Inherited::Listening(socket.into()));
    }
    match rustix::net::getpeername(&socket) {
        Ok(_) => Ok(Inherited::Connected(socket.into())),
        Err(Errno::NOTCONN) => Err(InheritError::Unconnected(number)),
        Err(error) => Err(other(error)),
    }
}

fn own(number: RawFd) -> Result<OwnedFd, InheritError> {
    // SAFETY: F_GETFD only looks a number up; any number is allowed.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(InheritError::Closed(number));
    }
    // SAFETY: the descriptor is open (just asked). Nothing else in the process owns it: `adopt` is called once,
    // before the program opens anything, and standard input, output and error are excluded.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Raises the limit on open descriptors as far as it goes: a table of 509 memory regions brings 509 of them, and
/// every queue three more. Failure leaves the limit as it was.
pub(crate) fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
            tracing::debug!("the limit on open descriptors stays {:?}: {error}", limit.current);
        }
    }
}
