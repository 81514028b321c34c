//! The request to stop: one descriptor that a signal handler may raise and every waiting thread sees.
//!
//! Trusts nobody and is told nothing by a peer: only the program itself holds a [`Stop`].
//!
//! Theory of operation: an eventfd is written once and never read, so it stays readable for every thread that
//! polls it, however late. The flag beside it is for places that look between two requests and must not make
//! a system call for it. The flag is set before the descriptor becomes readable: who wakes up sees it set.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A request to stop that, once made, stays made. Clones are the same request.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raised: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    /// A request that has not been made yet.
    ///
    /// # Errors
    /// When the process may not open one more descriptor.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { raised: AtomicBool::new(false), event })))
    }

    /// Makes the request. Async-signal-safe: an atomic store and one `write`, no lock and no allocation.
    pub fn trigger(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        // Fails only when the counter is full, that is when the descriptor is readable already.
        let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
    }

    /// Whether the request was made.
    pub fn is_set(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }
}

impl AsFd for Stop {
    /// The descriptor to poll: readable from the moment of the request on. It must not be read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(stop: &Stop) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn stop_untriggered_is_neither_set_nor_readable() {
        let stop = Stop::new().unwrap();
        assert!(!stop.is_set() && !readable(&stop));
    }

    #[test]
    fn stop_triggered_twice_stays_set_and_readable_for_every_clone() {
        let stop = Stop::new().unwrap();
        let other = stop.clone();
        stop.trigger();
        stop.trigger();
        assert!(stop.is_set() && other.is_set());
        assert!(readable(&stop) && readable(&other) && readable(&other));
    }
}
