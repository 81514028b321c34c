//! What wakes a worker from another thread.
//!
//! Theory of operation. Who has something for the worker puts it where the worker will find it first, and looks whether
//! the worker sleeps second; the worker says that it sleeps first, and looks for the last time second. Between first and
//! second there is a full fence on both sides, so one of the two sees the other. A worker that is awake costs its
//! wakers no system call, and no write to memory that it looks at.

use std::fmt;

use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// Wakes one worker, if it sleeps: [`crate::Handler::work`] is called. Clones wake the same.
#[derive(Clone)]
pub struct Waker(Arc<Bed>);

struct Bed {
    asleep: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Waker {
    /// For engines: of a worker that `wake` wakes, on any thread.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Bed { asleep: AtomicBool::new(false), wake: Box::new(wake) }))
    }

    /// To be called after something was put where [`crate::Handler::rest`] looks.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) {
            (self.0.wake)();
        }
    }

    /// For engines: the worker means to sleep, and looks for the last time after this.
    pub fn sleep(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// For engines: the worker is awake, and looks for itself.
    pub fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("asleep", &self.0.asleep).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;

    /// One thread puts something there and rings, the other one lies down and looks: one of them sees the other.
    #[test]
    fn worker_that_lies_down_while_somebody_rings_sees_it_or_is_woken() {
        const ROUNDS: u32 = 20_000;
        let woken = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&woken);
        let waker = Waker::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let (turn, there) = (AtomicU32::new(0), AtomicBool::new(false));
        let pass = |number: u32| {
            turn.fetch_add(1, Ordering::SeqCst);
            while turn.load(Ordering::SeqCst) < number {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    pass(4 * round + 2);
                    there.store(true, Ordering::Relaxed);
                    waker.ring();
                    pass(4 * round + 4);
                }
            });
            let mut lost = 0;
            for round in 0..ROUNDS {
                there.store(false, Ordering::Relaxed);
                woken.store(0, Ordering::Relaxed);
                pass(4 * round + 2);
                waker.sleep();
                let found = there.load(Ordering::Relaxed);
                pass(4 * round + 4);
                lost += u32::from(!found && woken.load(Ordering::Relaxed) == 0);
                waker.awake();
            }
            assert_eq!(lost, 0, "wake-ups lost");
        });
    }

    #[test]
    fn worker_that_is_awake_is_left_alone() {
        let woken = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&woken);
        let waker = Waker::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        waker.ring();
        waker.sleep();
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        waker.clone().ring();
        waker.awake();
        waker.ring();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
    }
}
