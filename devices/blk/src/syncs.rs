//! Syncs of a disk that are under way at the same time, on any of its queues.
//!
//! Theory of operation. Linux tells of a write-back that failed once for each open file, and the queues of a disk share
//! theirs: of two syncs that overlap, one gets the error, and the other one success, although its data may be what is
//! lost. So a flush that went well waits for all syncs that were under way when it did, and looks then whether one of
//! them has failed. Each of them waits for those only that were there before it, so none waits for ever. They are
//! counted from before they are handed to the host until the handler has drawn its conclusions.
//!
//! A file of its own for each queue would not do: what is opened later does not know of an error that somebody else has
//! been told already.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_device::Ticket;

/// The syncs of a disk.
#[derive(Default)]
pub(crate) struct Syncs(Mutex<State>);

#[derive(Default)]
struct State {
    begun: u64,
    under_way: usize,
    waiting: Vec<Waiting>,
}

/// A flush that waits for the syncs that had begun by then.
struct Waiting {
    begun: u64,
    /// How many of them are still under way.
    left: usize,
    ticket: Ticket,
}

/// A sync under way, until it is dropped.
pub(crate) struct Syncing {
    syncs: Arc<Syncs>,
    number: u64,
}

/// There are syncs to wait for.
pub(crate) struct Wait<'a>(MutexGuard<'a, State>);

impl Syncs {
    /// A sync begins. Whoever finds that it failed says so before this is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Syncing {
        let mut state = self.state();
        state.begun += 1;
        state.under_way += 1;
        Syncing { syncs: Arc::clone(self), number: state.begun }
    }

    /// Whether a flush has to wait for others.
    pub(crate) fn wait(&self) -> Option<Wait<'_>> {
        let state = self.state();
        (state.under_way > 0).then_some(Wait(state))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait<'_> {
    /// Keeps a flush until all of them have ended.
    pub(crate) fn keep(mut self, ticket: Ticket) {
        let (begun, left) = (self.0.begun, self.0.under_way);
        self.0.waiting.push(Waiting { begun, left, ticket });
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        let mut state = self.syncs.state();
        state.under_way = state.under_way.saturating_sub(1);
        if state.waiting.is_empty() {
            return;
        }
        for waiting in state.waiting.iter_mut().filter(|waiting| self.number <= waiting.begun) {
            waiting.left = waiting.left.saturating_sub(1);
        }
        let over: Vec<Waiting> = state.waiting.extract_if(.., |waiting| waiting.left == 0).collect();
        drop(state);
        for Waiting { ticket, .. } in over {
            ticket.finish(Ok(0));
        }
    }
}
