//! What a handler may do while it is called. The engine and the ring format behind it stay hidden.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use outboard_virtqueue::{Chain, QueueId, Virtqueue};

use crate::{FileId, HostOp, SourceId, Ticket, WarnLimit};

/// Whether the framework should hand over the queue's next chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Yes.
    Next,
    /// Not before an [event](crate::Handler::event): the queue waits.
    Wait,
}

/// The engine's side of the contract: what [`Cx`] forwards. Implemented by the engines, not by devices.
pub trait Port<Op> {
    /// Takes chain and operation until they come back with a result.
    fn submit(&mut self, host: HostOp, chain: Chain, op: Op);
    /// Executes an operation on the spot; `None`, and nothing has happened, if that could take long.
    fn at_once(&mut self, host: &HostOp, chain: &Chain) -> Option<io::Result<u32>> {
        let _ = (host, chain);
        None
    }
    /// Keeps the operation until the ticket comes back with chain and result.
    fn defer(&mut self, chain: Chain, op: Op) -> Ticket;
    /// Takes a file and names it.
    ///
    /// # Errors
    /// Too many files, or the kernel refuses one.
    fn adopt(&mut self, file: OwnedFd) -> io::Result<FileId>;
    /// Reports readability of `fd` as `source`, until [`Port::unwatch`]. The descriptor is duplicated.
    ///
    /// # Errors
    /// The descriptor cannot be watched (a regular file).
    fn watch(&mut self, fd: BorrowedFd<'_>, source: SourceId) -> io::Result<()>;
    /// Ends [`Port::watch`].
    fn unwatch(&mut self, source: SourceId);
    /// Reports `source` once, after `delay`. A second call for the same source replaces the first.
    fn after(&mut self, delay: Duration, source: SourceId);
    /// The driver is to be told that the configuration space changed.
    fn config_changed(&mut self);
    /// What time it is; the clock that [`Port::after`] goes by.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// One queue in the hands of its worker.
pub struct Slot {
    /// The running ring.
    pub queue: Virtqueue,
    /// The handler asked to wait: nothing is popped before the next event.
    pub waiting: bool,
    /// The front end disabled the ring: nothing is popped.
    pub paused: bool,
}

impl Slot {
    /// Whether chains may be popped.
    #[must_use]
    pub fn is_served(&self) -> bool {
        !self.paused && !self.waiting
    }
}

/// The running queues of a group, by index.
#[derive(Default)]
pub struct Queues(Vec<Option<Slot>>);

impl Queues {
    /// The slot of a running queue.
    pub fn slot(&mut self, id: QueueId) -> Option<&mut Slot> {
        self.0.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Puts a queue in its slot, and gives back what was there.
    pub fn insert(&mut self, slot: Slot) -> Option<Slot> {
        let at = usize::from(slot.queue.id().0);
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0.get_mut(at).and_then(|place| place.replace(slot))
    }

    /// Takes a queue out.
    pub fn remove(&mut self, id: QueueId) -> Option<Slot> {
        self.0.get_mut(usize::from(id.0))?.take()
    }

    /// Every running queue.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.0.iter_mut().flatten()
    }

    /// Every running queue.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter().flatten()
    }
}

/// What a handler may do while it is called.
pub struct Cx<'a, Op> {
    queues: &'a mut Queues,
    port: &'a mut dyn Port<Op>,
    warnings: &'a mut WarnLimit,
}

impl<'a, Op> Cx<'a, Op> {
    /// For the worker: a context over its parts.
    pub fn new(queues: &'a mut Queues, port: &'a mut dyn Port<Op>, warnings: &'a mut WarnLimit) -> Self {
        Self { queues, port, warnings }
    }

    /// Completes a chain: the driver gets it back with the length written so far, at the end of the batch.
    pub fn done(&mut self, chain: Chain) -> Flow {
        match self.queues.slot(chain.queue()) {
            Some(slot) => slot.queue.complete(chain),
            None => chain.abandon(),
        }
        Flow::Next
    }

    /// Puts a chain back, to be handed over again after the next event.
    pub fn wait(&mut self, chain: Chain) -> Flow {
        match self.queues.slot(chain.queue()) {
            Some(slot) => {
                slot.waiting = true;
                slot.queue.put_back(chain);
            }
            None => chain.abandon(),
        }
        Flow::Wait
    }

    /// Puts a chain back, to be handed over again after `delay`, or after an event before that. The event that
    /// follows has the id [`SourceId::delay`], and needs no attention.
    pub fn wait_for(&mut self, chain: Chain, delay: Duration) -> Flow {
        self.after(delay, SourceId::delay(chain.queue()));
        self.wait(chain)
    }

    /// The result of a host operation that the engine executes on the spot, as it would be given to
    /// [`crate::Handler::finished`]: reads and writes of files in memory. `None`, and nothing has happened, if it has
    /// to be [submitted](Self::submit).
    pub fn at_once(&mut self, chain: &Chain, host: &HostOp) -> Option<io::Result<u32>> {
        self.port.at_once(host, chain)
    }

    /// Hands chain and operation to the host; both come back in [`crate::Handler::finished`].
    pub fn submit(&mut self, chain: Chain, host: HostOp, op: Op) -> Flow {
        self.port.submit(host, chain, op);
        Flow::Next
    }

    /// Gives the chain to another thread and keeps the operation: both come back in [`crate::Handler::finished`] with
    /// the result that the ticket is finished with. The queue does not stop before: whoever takes the
    /// ticket has to finish in bounded time.
    pub fn defer(&mut self, chain: Chain, op: Op) -> Ticket {
        self.port.defer(chain, op)
    }

    /// Takes the next chain of another queue of the group, if it has one. A queue that waits may be popped so.
    pub fn pop(&mut self, queue: QueueId) -> Option<Chain> {
        let slot = self.queues.slot(queue)?;
        if slot.paused {
            return None;
        }
        slot.queue.pop().ok().flatten()
    }

    /// Gives a file to the engine, for host operations.
    ///
    /// # Errors
    /// Too many files, or the kernel refuses one.
    pub fn adopt(&mut self, file: OwnedFd) -> io::Result<FileId> {
        self.port.adopt(file)
    }

    /// Reports readability of `fd` as `source` from now on. The descriptor is duplicated.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, source: SourceId) -> io::Result<()> {
        self.port.watch(fd, source)
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, source: SourceId) {
        self.port.unwatch(source);
    }

    /// Reports `source` once, after `delay`.
    pub fn after(&mut self, delay: Duration, source: SourceId) {
        self.port.after(delay, source);
    }

    /// What time it is. Tests run on a clock of their own, so handlers ask here.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.port.now()
    }

    /// Tells the driver that the configuration space changed.
    pub fn config_changed(&mut self) {
        self.port.config_changed();
    }

    /// Logs a warning that a guest can cause, a few times a second at most.
    pub fn warn(&mut self, what: &str, error: impl std::fmt::Display) {
        if let Some(suppressed) = self.warnings.admit() {
            tracing::warn!(suppressed, "{what}: {error}");
        }
    }
}
