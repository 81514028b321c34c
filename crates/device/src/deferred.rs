//! Requests that wait for another thread: what a handler cannot do itself, and the engine cannot do for it.
//!
//! Theory of operation. The worker keeps the operation in a slot and gives the chain away in a [`Ticket`]. Whoever
//! holds it moves data, and posts chain and result to the worker's inbox, once: finishing uses the ticket up, and
//! dropping it posts an error. A slot is free again only when its ticket has come back, so a number never means two
//! requests.
//!
//! The holder of a ticket is trusted to come back some day: until then, the queue cannot stop.

use std::io;

use outboard_virtqueue::Chain;

use crate::{Inbox, Outlet, Waker, inbox};

/// A request in the hands of another thread, and the duty to finish it: see [`crate::Cx::defer`].
///
/// Dropped, it finishes the request with an I/O error.
#[must_use = "the request waits for it"]
pub struct Ticket {
    chain: Option<Chain>,
    slot: usize,
    home: Outlet<Post>,
}

impl Ticket {
    /// The request, to move data to and from. `None` never, while the ticket exists.
    pub fn chain(&mut self) -> Option<&mut Chain> {
        self.chain.as_mut()
    }

    /// The request, to look at.
    #[must_use]
    pub const fn request(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// Gives the request back to its handler: [`crate::Handler::finished`] is called with `result`.
    pub fn finish(mut self, result: io::Result<u32>) {
        self.post(result);
    }

    fn post(&mut self, result: io::Result<u32>) {
        if let Some(chain) = self.chain.take()
            && let Err(Post { chain, .. }) = self.home.post_one(Post { slot: self.slot, chain, result })
        {
            chain.abandon();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.post(Err(io::Error::from_raw_os_error(libc::EIO)));
    }
}

/// A request on its way back.
struct Post {
    slot: usize,
    chain: Chain,
    result: io::Result<u32>,
}

/// The deferred requests of one worker. For engines, not for devices.
pub struct Deferred<Op> {
    slots: Vec<Option<Op>>,
    free: Vec<usize>,
    inbox: Inbox<Post>,
    home: Outlet<Post>,
    /// Taken from the inbox and not handed out yet: the oldest last.
    posts: Vec<Post>,
}

impl<Op> Deferred<Op> {
    /// None yet. `waker` wakes the worker when something is posted.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        let (inbox, home) = inbox(usize::MAX, waker);
        Self { slots: Vec::new(), free: Vec::new(), inbox, home, posts: Vec::new() }
    }

    /// Keeps the operation until the chain comes back.
    pub fn defer(&mut self, chain: Chain, op: Op) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(op);
        }
        Ticket { chain: Some(chain), slot, home: self.home.clone() }
    }

    /// The next request that came back.
    pub fn finished(&mut self) -> Option<(Chain, Op, io::Result<u32>)> {
        if self.posts.is_empty() {
            self.inbox.take(&mut self.posts);
            self.posts.reverse();
        }
        let Post { slot, chain, result } = self.posts.pop()?;
        self.free.push(slot);
        match self.slots.get_mut(slot).and_then(Option::take) {
            Some(op) => Some((chain, op, result)),
            None => {
                chain.abandon();
                None
            }
        }
    }

    /// Whether [`Self::finished`] has something to hand out. No system call.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.posts.is_empty() || self.inbox.is_ready()
    }

    /// Requests whose ticket is out, or has come back and was not handed out yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl<Op> Drop for Deferred<Op> {
    /// Tickets that are still out find nobody.
    fn drop(&mut self) {
        let home = self.inbox.close();
        self.posts.drain(..).chain(home).for_each(|Post { chain, .. }| chain.abandon());
    }
}
