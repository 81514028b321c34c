//! Requests that wait for another thread: what a handler cannot do itself, and the engine cannot do for it.
//!
//! Theory of operation. The worker keeps chain and operation in a slot and gives a [`Ticket`] away. Whoever holds it
//! posts a result to the worker's mailbox, once: finishing uses the ticket up, and dropping it posts an error. A slot
//! is free again only when its ticket has come back, so a number never means two requests. The mailbox wakes its
//! worker only if that sleeps: the worker says so first and looks into the mailbox second, who posts does it the
//! other way round, all of it sequentially consistent, so one of the two sees the other.
//!
//! The holder of a ticket is trusted to come back some day: until then, the queue cannot stop.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_virtqueue::Chain;

/// The right, and the duty, to finish a request from any thread: see [`crate::Cx::defer`].
///
/// Dropped, it finishes the request with an I/O error.
#[must_use = "the request waits for it"]
pub struct Ticket(Option<(usize, Arc<Mailbox>)>);

impl Ticket {
    /// Gives the request back to its handler: [`crate::Handler::finished`] is called with `result`.
    pub fn finish(mut self, result: io::Result<u32>) {
        self.post(result);
    }

    fn post(&mut self, result: io::Result<u32>) {
        if let Some((slot, mailbox)) = self.0.take() {
            mailbox.post(slot, result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.post(Err(io::Error::from_raw_os_error(libc::EIO)));
    }
}

/// What other threads post to, and what wakes the worker.
struct Mailbox {
    posts: Mutex<Vec<(usize, io::Result<u32>)>>,
    posted: AtomicBool,
    asleep: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Mailbox {
    fn post(&self, slot: usize, result: io::Result<u32>) {
        self.posts().push((slot, result));
        self.posted.store(true, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            (self.wake)();
        }
    }

    fn posts(&self) -> MutexGuard<'_, Vec<(usize, io::Result<u32>)>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The deferred requests of one worker. For engines, not for devices.
pub struct Deferred<Op> {
    slots: Vec<Option<(Chain, Op)>>,
    free: Vec<usize>,
    /// Taken from the mailbox and not handed out yet.
    posts: Vec<(usize, io::Result<u32>)>,
    mailbox: Arc<Mailbox>,
}

impl<Op> Deferred<Op> {
    /// None yet. `wake` is called on any thread, when something is posted to a worker that [sleeps](Self::sleep).
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        let mailbox = Mailbox {
            posts: Mutex::default(),
            posted: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            wake: Box::new(wake),
        };
        Self { slots: Vec::new(), free: Vec::new(), posts: Vec::new(), mailbox: Arc::new(mailbox) }
    }

    /// Keeps a request until its ticket comes back.
    pub fn defer(&mut self, chain: Chain, op: Op) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some((chain, op));
        }
        Ticket(Some((slot, Arc::clone(&self.mailbox))))
    }

    /// The next request whose ticket came back.
    pub fn finished(&mut self) -> Option<(Chain, Op, io::Result<u32>)> {
        if self.posts.is_empty() && self.has_posts() {
            self.mailbox.posted.store(false, Ordering::SeqCst);
            std::mem::swap(&mut self.posts, &mut *self.mailbox.posts());
            // They are handed out from the end: in the order in which they came.
            self.posts.reverse();
        }
        let (slot, result) = self.posts.pop()?;
        let (chain, op) = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some((chain, op, result))
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

    /// The worker means to sleep: from now on a post wakes it. False: there is one already, and it must not.
    pub fn sleep(&self) -> bool {
        self.mailbox.asleep.store(true, Ordering::SeqCst);
        let quiet = !self.is_ready();
        if !quiet {
            self.awake();
        }
        quiet
    }

    /// The worker is awake, and looks for itself.
    pub fn awake(&self) {
        self.mailbox.asleep.store(false, Ordering::SeqCst);
    }

    fn has_posts(&self) -> bool {
        self.mailbox.posted.load(Ordering::SeqCst)
    }
}

impl<Op> Drop for Deferred<Op> {
    /// Tickets that are still out find nobody.
    fn drop(&mut self) {
        for (chain, _) in self.slots.drain(..).flatten() {
            chain.abandon();
        }
    }
}
