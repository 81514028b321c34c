//! Commands that wait for the thread for slow things. They can be had back as long as it has not begun them: a queue that
//! stops waits for one command at most.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_device::Ticket;

/// What a command that comes back untouched is finished with; it is to be carried out some other time.
pub(crate) const UNTOUCHED: u32 = u32::MAX;

/// The commands, oldest first.
#[derive(Default)]
pub(crate) struct Backlog(Mutex<VecDeque<Ticket>>);

impl Backlog {
    /// Adds a command. Whoever does also asks the thread to take one.
    pub(crate) fn put(&self, ticket: Ticket) {
        self.waiting().push_back(ticket);
    }

    /// Takes the oldest, if it was not given back.
    pub(crate) fn take(&self) -> Option<Ticket> {
        self.waiting().pop_front()
    }

    /// Gives all back to the handler, untouched.
    pub(crate) fn give_back(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(|ticket| ticket.finish(Ok(UNTOUCHED)));
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
