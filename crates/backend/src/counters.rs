//! What a queue has done so far, readable while it runs.
//!
//! Theory of operation: only the worker that serves the queue writes, so an addition is a load and a store, neither of
//! them locked; whoever reads may see one counter a moment before another. They count for as long as the device is
//! there, whatever front ends come and go.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one queue. On cache lines of their own: workers do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Requests taken from the ring.
    pub(crate) requests: Counter,
    /// Kicks that arrived.
    pub(crate) kicks: Counter,
    /// Calls that were sent.
    pub(crate) calls: Counter,
    /// Requests that the handler warned about, and faults of the ring.
    pub(crate) errors: Counter,
}

/// A number that one thread writes and any thread reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// To be called by the one thread that writes.
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
