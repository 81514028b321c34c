//! How much of something waits for somebody, counted where it enters and where it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much waits. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backlog(Arc<AtomicUsize>);

impl Backlog {
    pub(crate) fn waiting(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Places for so many more.
    pub(crate) fn enter(&self, count: usize) -> Place {
        self.0.fetch_add(count, Ordering::Relaxed);
        Place(self.clone(), count)
    }

    /// Whether nobody else counts here: nothing waits, and nobody is about to enter.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Backlog, usize);

impl Drop for Place {
    fn drop(&mut self) {
        let Self(Backlog(waiting), count) = self;
        waiting.fetch_sub(*count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlog_is_what_has_a_place() {
        let backlog = Backlog::default();
        let places = [backlog.enter(3), backlog.enter(1)];
        assert_eq!(backlog.waiting(), 4);
        assert!(!backlog.is_alone());
        drop(places);
        assert_eq!(backlog.waiting(), 0);
        assert!(backlog.is_alone());
    }
}
