//! Commands that wait for the thread for slow things. They can be had back as long as it has not begun them: a queue that
//! stops waits for one command at most.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_device::{Chain, Ticket};

/// What a command that comes back untouched is finished with; it is to be carried out some other time.
pub(crate) const UNTOUCHED: u32 = u32::MAX;

/// The commands.
#[derive(Default)]
pub(crate) struct Backlog(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Oldest first.
    tickets: VecDeque<Ticket>,
    /// How often the thread will come for one: as often for those that were given back as for others.
    calls: usize,
}

impl Backlog {
    /// Adds a command. True if the thread has to be asked to come once more.
    pub(crate) fn put(&self, ticket: Ticket) -> bool {
        let mut waiting = self.waiting();
        waiting.tickets.push_back(ticket);
        let more = waiting.tickets.len() > waiting.calls;
        waiting.calls += usize::from(more);
        more
    }

    /// The thread has come: takes the oldest, if there is one.
    pub(crate) fn take(&self) -> Option<Ticket> {
        let mut waiting = self.waiting();
        waiting.calls = waiting.calls.saturating_sub(1);
        waiting.tickets.pop_front()
    }

    /// Gives all back to the handler, untouched, but for those that a program before this one had begun: they are known by the
    /// ring's records only, and cannot return to the ring. They are the oldest.
    pub(crate) fn give_back(&self) {
        let mut waiting = self.waiting();
        let is_recovered = |ticket: &&Ticket| ticket.request().is_some_and(Chain::is_recovered);
        let kept = waiting.tickets.iter().take_while(is_recovered).count();
        let tickets = waiting.tickets.split_off(kept);
        drop(waiting);
        tickets.into_iter().for_each(|ticket| ticket.finish(Ok(UNTOUCHED)));
    }

    /// How often the thread will come.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> usize {
        self.waiting().calls
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
