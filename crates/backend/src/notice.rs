//! A notice from one thread to another: a flag with a descriptor to sleep on. Trusted on both ends.
//!
//! Theory of operation: the flag is set before the eventfd is written, and the reader empties the eventfd before
//! it takes the flag. So a notice that is given while the reader looks is seen now or at the next look. A reader that
//! takes the flag without having slept may do so before the event is written: the event then wakes it once for
//! nothing, and who sleeps has to empty the descriptor whatever the flag says.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

/// A flag that wakes who waits for it. Clones are the same flag.
#[derive(Clone, Debug)]
pub struct Notice(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    given: AtomicBool,
    event: OwnedFd,
}

impl Notice {
    /// A notice that is not given.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { given: AtomicBool::new(false), event })))
    }

    /// Gives the notice. Safe to call in a signal handler.
    pub fn give(&self) {
        if !self.0.given.swap(true, Ordering::SeqCst) {
            // Fails only when the counter is full, so readable.
            let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
        }
    }

    /// Whether it is given, without taking it. No system call.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.0.given.load(Ordering::Acquire)
    }

    /// Takes the notice: true if it was given since the last time.
    pub fn take(&self) -> bool {
        if !self.is_given() {
            return false;
        }
        self.quiet();
        self.0.given.swap(false, Ordering::SeqCst)
    }

    /// Takes the notice: for who has slept on it and found the descriptor readable, which it is not any more then.
    pub fn take_rung(&self) -> bool {
        self.quiet();
        self.0.given.swap(false, Ordering::SeqCst)
    }

    /// Empties the descriptor and leaves the flag: for who has slept on it, and looks at the flag next.
    pub(crate) fn quiet(&self) {
        let _ = rustix::io::read(&self.0.event, &mut [0; 8]);
    }
}

impl AsFd for Notice {
    /// The descriptor to poll.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
