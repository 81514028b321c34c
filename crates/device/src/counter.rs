//! A number that one thread counts up and others look at.
//!
//! Theory of operation: with one writer, an addition is a load and a store, neither of them locked. Whoever reads several
//! of them may see one a moment before another.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread writes and any thread reads. It wraps around.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`. To be called by the one thread that writes: what two add at the same time may be lost.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
