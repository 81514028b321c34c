//! Where a side finds its socket, and what the control half has to tell it.
//!
//! Theory of operation. A socket is used by one thread. While nobody serves its pair it lies here; the side takes it, and
//! leaves it here when it ends. The control half may put another one here at any time (the interface has come back), or an
//! errand: it says so first and rings second, and the side looks once a pass, and once more before it sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_device::Waker;

use super::socket::{Receiver, Sender};

/// A place for one socket.
#[derive(Debug, Default)]
pub(super) struct Berth {
    has_news: AtomicBool,
    kept: Mutex<Kept>,
}

/// What lies there.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) socket: Option<(Receiver, Sender)>,
    /// Who is to be announced.
    pub(super) announce: Option<[u8; 6]>,
    /// Wakes the side, if there is one.
    waker: Option<Waker>,
}

impl Berth {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is there, and has the side look at it. False if there is no side.
    pub(super) fn leave(&self, change: impl FnOnce(&mut Kept)) -> bool {
        let mut kept = self.lock();
        change(&mut kept);
        self.has_news.store(true, Ordering::Release);
        kept.waker.as_ref().map(Waker::ring).is_some()
    }

    /// A side has come, and is to be woken so.
    pub(super) fn sit(&self, waker: Waker) {
        self.lock().waker = Some(waker);
        self.has_news.store(true, Ordering::Release);
    }

    /// Whether there is something to [take](Self::take).
    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// What there is for the side.
    pub(super) fn take(&self) -> Kept {
        self.has_news.store(false, Ordering::Release);
        let mut kept = self.lock();
        Kept { socket: kept.socket.take(), announce: kept.announce.take(), waker: None }
    }

    /// The side goes, and leaves its socket, unless there is a newer one.
    pub(super) fn go(&self, socket: Option<(Receiver, Sender)>) {
        let mut kept = self.lock();
        kept.waker = None;
        kept.socket = kept.socket.take().or(socket);
    }
}
