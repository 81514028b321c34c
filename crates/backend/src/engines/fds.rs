#![allow(unsafe_code)] // preadv2 and pwritev2 with RWF_NOWAIT are in no safe wrapper
//! Descriptors of the front end: kicks are emptied and calls are written without ever blocking on them.
//!
//! Nothing is assumed of them. They may be blocking or not, eventfds or pipes, shared among rings, full, or closed
//! on the other side; the front end may change their flags and read them itself at any time.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, OFlags},
};

use crate::{Notice, watchdog};

/// Empties a kick descriptor: takes the eventfd's count, or up to eight bytes of anything else. False if nothing more
/// will come: it is at its end, or cannot be read.
pub(super) fn drain(fd: BorrowedFd<'_>) -> bool {
    let mut count = [0_u8; 8];
    let vec = libc::iovec { iov_base: count.as_mut_ptr().cast(), iov_len: count.len() };
    // SAFETY: `vec` describes `count`, which lives here and is written by nobody else.
    let n = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const vec, 1, -1, libc::RWF_NOWAIT) };
    let read = usize::try_from(n).map_err(|_| io::Error::last_os_error());
    let read = match read {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            if !is_ready(fd, PollFlags::IN) {
                return true;
            }
            rustix::io::read(fd, &mut count).map_err(io::Error::from)
        }
        read => read,
    };
    match read {
        Ok(n) => n > 0,
        // Emptied by somebody else.
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// A descriptor to notify the front end by: a call or an error.
///
/// Pipes and sockets are written to without waiting. An eventfd offers no such thing beyond its own flags, which the
/// front end can change at any time: who waits for the thread that writes has to [relieve](Wire::relieve) it.
pub(crate) struct Signal {
    wire: Arc<Wire>,
    blocking: bool,
    stream: bool,
}

/// The descriptor of a signal, as those see it who free its writers.
pub(crate) struct Wire {
    fd: OwnedFd,
    /// Odd while somebody is in a write that may wait.
    writes: AtomicU32,
    /// Whoever reads it has made a writer wait: it is written to no more.
    cut: AtomicBool,
}

/// How often a descriptor is emptied that others fill again, until whoever waits in a write to it is through.
const TRIES: u32 = 1000;

impl Signal {
    /// `held_up` is given if a writer had to be freed.
    pub(crate) fn new(fd: OwnedFd, held_up: &Notice) -> Self {
        let blocking = !rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let stream = kind.is_ok_and(|kind| matches!(kind, FileType::Fifo | FileType::Socket));
        let wire = Arc::new(Wire { fd, writes: AtomicU32::new(0), cut: AtomicBool::new(false) });
        watchdog::watch(&wire, held_up.clone());
        Self { wire, blocking, stream }
    }

    /// Adds 1. A full counter and a closed peer are as good as notified.
    pub(crate) fn send(&self) {
        let Wire { fd, writes, cut } = &*self.wire;
        if self.stream && write_at_once(fd.as_fd()) {
            return;
        }
        if !cut.load(Ordering::Relaxed) && (!self.blocking || is_ready(fd.as_fd(), PollFlags::OUT)) {
            writes.fetch_add(1, Ordering::Relaxed);
            let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
            writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The descriptor, for as long as the signal is in use.
    pub(crate) fn wire(&self) -> Weak<Wire> {
        Arc::downgrade(&self.wire)
    }
}

impl Wire {
    /// Empties a full eventfd, so that nobody waits in a write to it. What waits will fill it with news again.
    pub(crate) fn relieve(&self) {
        if self.is_full() {
            drain(self.fd.as_fd());
        }
    }

    fn is_full(&self) -> bool {
        !is_ready(self.fd.as_fd(), PollFlags::OUT)
    }

    /// Which write somebody is in, if in any.
    fn write_under_way(&self) -> Option<u32> {
        Some(self.writes.load(Ordering::Relaxed)).filter(|writes| !writes.is_multiple_of(2))
    }

    /// Whether somebody waits in a write to it: a thread that is only not let run is in one, too, but not in a full one.
    pub(crate) fn holds_up(&self) -> bool {
        let write = self.write_under_way();
        write.is_some() && self.is_full() && self.write_under_way() == write
    }

    /// Whoever waits is freed, and nobody is to wait for it again.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        let write = self.write_under_way();
        for _ in 0..TRIES {
            self.relieve();
            if write.is_none() || self.write_under_way() != write {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Writes as far as there is room. False if the kernel cannot do that here.
fn write_at_once(fd: BorrowedFd<'_>) -> bool {
    let mut one = 1_u64.to_ne_bytes();
    let vec = libc::iovec { iov_base: one.as_mut_ptr().cast(), iov_len: one.len() };
    // SAFETY: `vec` describes `one`, which lives here; the kernel only reads it.
    let n = unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const vec, 1, -1, libc::RWF_NOWAIT) };
    n >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EOPNOTSUPP)
}

fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::from_borrowed_fd(fd, events)];
    poll(&mut polled, Some(&now)).is_ok_and(|n| n == 1)
        && polled.iter().all(|p| p.revents().intersects(events))
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn drain_of_an_empty_blocking_eventfd_returns() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        assert!(drain(fd.as_fd()));
    }

    #[test]
    fn drain_takes_the_whole_count() {
        let fd = eventfd(7, EventfdFlags::CLOEXEC).unwrap();
        assert!(drain(fd.as_fd()));
        assert!(!is_ready(fd.as_fd(), PollFlags::IN));
    }

    #[test]
    fn signal_to_a_full_blocking_eventfd_returns() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        Signal::new(fd, &Notice::new().unwrap()).send();
    }

    #[test]
    fn signal_to_a_closed_pipe_returns() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        drop(reader);
        Signal::new(writer, &Notice::new().unwrap()).send();
    }
}
