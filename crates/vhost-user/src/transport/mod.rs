//! How frames travel.
//!
//! [`Transport`] is the seam: a UNIX socket in production, a pair in memory for tests, and decorators around any of
//! them that watch ([`Trace`]) or spoil ([`Fault`]) what goes by.

mod fault;
mod pair;
mod trace;
mod unix;

pub use fault::{Action, Fault};
pub use pair::{PairTransport, pair};
pub use trace::{Direction, Trace};
pub use unix::{TransportError, UnixOptions, UnixTransport};

use std::io;
use std::os::fd::BorrowedFd;

use crate::message::Frame;

/// Carries frames between two peers, whole and in order.
///
/// After an error other than [`io::ErrorKind::TimedOut`] at a frame's border the stream has lost step, and every
/// later call fails too.
pub trait Transport: Send {
    /// Waits for the next frame; `None` when the peer has closed between two frames.
    fn receive(&mut self) -> io::Result<Option<Frame>>;

    /// Sends a frame; its descriptors are closed here once they are on their way.
    fn send(&mut self, frame: Frame) -> io::Result<()>;

    /// Sends a frame in pieces of at most `piece` bytes, where the transport knows pieces at all.
    fn send_split(&mut self, frame: Frame, piece: usize) -> io::Result<()> {
        let _ = piece;
        self.send(frame)
    }

    /// Readable when [`receive`](Self::receive) has something to do: a frame, a part of one, or the end.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        (**self).receive()
    }

    fn send(&mut self, frame: Frame) -> io::Result<()> {
        (**self).send(frame)
    }

    fn send_split(&mut self, frame: Frame, piece: usize) -> io::Result<()> {
        (**self).send_split(frame, piece)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}
