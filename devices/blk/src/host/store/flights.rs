//! Transfers that go past their store, to the place in a file where it keeps the data, and when there must be none.
//!
//! Theory of operation. A transfer is counted before its place is looked up and until it has ended. Whoever gives up
//! places closes the way first, and waits until nobody is on it: either a transfer sees that it is closed and leaves it
//! to the store, or the other sees the transfer. All of it is sequentially consistent.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The transfers under way.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    count: AtomicUsize,
    closed: AtomicBool,
    last: Mutex<()>,
    landed: Condvar,
}

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct Flight(Arc<Flights>);

/// No transfer is under way, and none begins, until this is dropped.
pub(crate) struct Closed<'a>(&'a Flights);

impl Flights {
    /// A transfer begins; `None` if none may.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Flight> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let flight = Flight(Arc::clone(self));
        (!self.closed.load(Ordering::SeqCst)).then_some(flight)
    }

    /// Waits for the end of all transfers. One at a time may do so.
    pub(crate) fn close(&self) -> Closed<'_> {
        self.closed.store(true, Ordering::SeqCst);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        while self.count.load(Ordering::SeqCst) > 0 {
            last = self.landed.wait(last).unwrap_or_else(PoisonError::into_inner);
        }
        Closed(self)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Self(flights) = self;
        if flights.count.fetch_sub(1, Ordering::SeqCst) == 1 && flights.closed.load(Ordering::SeqCst) {
            // Whoever waits has seen the count under this lock, or waits already.
            let _last = flights.last.lock().unwrap_or_else(PoisonError::into_inner);
            flights.landed.notify_all();
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flights_closed_admit_none_and_wait_for_the_last() {
        let flights = Arc::new(Flights::default());
        let (first, second) = (flights.begin().unwrap(), flights.begin().unwrap());
        let landed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let closed = flights.close();
                assert!(landed.load(Ordering::SeqCst), "it waited");
                assert!(flights.begin().is_none());
                drop(closed);
            });
            drop(first);
            while !flights.closed.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            assert!(flights.begin().is_none());
            landed.store(true, Ordering::SeqCst);
            drop(second);
        });
        assert!(flights.begin().is_some());
    }
}
