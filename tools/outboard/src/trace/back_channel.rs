//! A back channel that is led past us: the front end's socket on one side, a pair of our own on the other.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

/// The two sockets between which a back channel's messages are passed on.
#[derive(Debug)]
pub(super) struct BackChannel {
    /// What the front end sent for the back end.
    pub(super) to_front_end: OwnedFd,
    /// Our end of the pair whose other end the back end gets.
    pub(super) to_back_end: OwnedFd,
}

/// Is it something that a pair of ours can stand in for?
pub(super) fn is_stream(fd: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
}

/// A pair whose first end stays here, and whose second goes to the back end instead of `socket`.
pub(super) fn stand_in(socket: BorrowedFd<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Whether it blocks belongs to the socket, not to the descriptor: the back end would have got that, too.
    if fcntl_getfl(socket)?.contains(OFlags::NONBLOCK) {
        fcntl_setfl(&theirs, fcntl_getfl(&theirs)? | OFlags::NONBLOCK)?;
    }
    Ok((ours, theirs))
}
