//! Work that was handed to another thread, and is not wanted any more unless it has begun: its queue is to stop or to rest,
//! and a front end waits for that, for no longer than for what is under way.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Of whoever hands out work, and may want it back.
#[derive(Debug, Default)]
pub struct Recall(Arc<AtomicUsize>);

impl Recall {
    /// For work that is handed out now, to go with it.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { recalls: Arc::clone(&self.0), before: self.0.load(Ordering::Relaxed) }
    }

    /// Wants all work back that was handed out before. What is handed out from now on is wanted.
    pub fn recall(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Of work that was handed out: whether to begin it.
#[derive(Debug)]
pub struct Mark {
    recalls: Arc<AtomicUsize>,
    /// How many there were when it was handed out.
    before: usize,
}

impl Mark {
    /// Whether the work is wanted back. Once true, it stays so.
    #[must_use]
    pub fn is_recalled(&self) -> bool {
        self.recalls.load(Ordering::Relaxed) != self.before
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn recall_is_of_what_was_handed_out_before() {
        let recall = Recall::default();
        let (first, second) = (recall.mark(), recall.mark());
        assert!(!first.is_recalled() && !second.is_recalled());
        recall.recall();
        let third = recall.mark();
        assert!(first.is_recalled() && second.is_recalled() && !third.is_recalled());
        recall.recall();
        assert!(first.is_recalled() && third.is_recalled());
    }
}
