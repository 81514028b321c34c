//! Requests that wait for another thread: what a handler cannot do itself, and the engine cannot do for it.
//!
//! Theory of operation. The worker keeps the operation in a slot and gives the chain away in a [`Ticket`]. Whoever
//! holds it moves data, and posts chain and result to the worker's mailbox, once: finishing uses the ticket up, and
//! dropping it posts an error. A slot is free again only when its ticket has come back, so a number never means two
//! requests.
//!
//! The holder of a ticket is trusted to come back some day: until then, the queue cannot stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_virtqueue::Chain;

use crate::Waker;

/// A request in the hands of another thread, and the duty to finish it: see [`crate::Cx::defer`].
///
/// Dropped, it finishes the request with an I/O error.
#[must_use = "the request waits for it"]
pub struct Ticket {
    chain: Option<Chain>,
    slot: usize,
    mailbox: Arc<Mailbox>,
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
        if let Some(chain) = self.chain.take() {
            self.mailbox.post(Post { slot: self.slot, chain, result });
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

/// What other threads post to, and what wakes the worker.
struct Mailbox {
    /// `None`: the worker is gone.
    posts: Mutex<Option<Vec<Post>>>,
    posted: AtomicBool,
    waker: Waker,
}

impl Mailbox {
    fn post(&self, post: Post) {
        match &mut *self.posts() {
            Some(posts) => posts.push(post),
            None => return post.chain.abandon(),
        }
        self.posted.store(true, Ordering::SeqCst);
        self.waker.ring();
    }

    fn posts(&self) -> MutexGuard<'_, Option<Vec<Post>>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The deferred requests of one worker. For engines, not for devices.
pub struct Deferred<Op> {
    slots: Vec<Option<Op>>,
    free: Vec<usize>,
    /// Taken from the mailbox and not handed out yet.
    posts: Vec<Post>,
    mailbox: Arc<Mailbox>,
}

impl<Op> Deferred<Op> {
    /// None yet. `waker` wakes the worker when something is posted.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        let mailbox = Mailbox { posts: Mutex::new(Some(Vec::new())), posted: AtomicBool::new(false), waker };
        Self { slots: Vec::new(), free: Vec::new(), posts: Vec::new(), mailbox: Arc::new(mailbox) }
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
        Ticket { chain: Some(chain), slot, mailbox: Arc::clone(&self.mailbox) }
    }

    /// The next request that came back.
    pub fn finished(&mut self) -> Option<(Chain, Op, io::Result<u32>)> {
        if self.posts.is_empty() && self.has_posts() {
            self.mailbox.posted.store(false, Ordering::SeqCst);
            if let Some(posts) = &mut *self.mailbox.posts() {
                std::mem::swap(&mut self.posts, posts);
            }
            // They are handed out from the end: in the order in which they came.
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
        !self.posts.is_empty() || self.has_posts()
    }

    /// Requests whose ticket is out, or has come back and was not handed out yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn has_posts(&self) -> bool {
        self.mailbox.posted.load(Ordering::SeqCst)
    }
}

impl<Op> Drop for Deferred<Op> {
    /// Tickets that are still out find nobody.
    fn drop(&mut self) {
        let posts = self.mailbox.posts().take();
        for Post { chain, .. } in posts.into_iter().flatten().chain(self.posts.drain(..)) {
            chain.abandon();
        }
    }
}
