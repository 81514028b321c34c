//! What a handler may do while it is called. The engine and the ring format behind it stay hidden.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use outboard_virtqueue::{Chain, QueueId, Virtqueue};
use zerocopy::{Immutable, IntoBytes};

use crate::calm::Calm;
use crate::{FileId, HostOp, MOST_GLANCED, Parcel, Returned, SourceId, Ticket, Waker, WarnLimit};

/// Whether the framework should hand over the queue's next chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Yes.
    Next,
    /// Not before an [event](crate::Handler::event): the queue waits.
    Wait,
}

/// What there is of a queue to be served, for workers.
#[derive(Debug)]
pub enum Next {
    /// Nothing, for now.
    Nothing,
    /// A request that its handler was done with at a glance.
    Served,
    /// A request to be handed over.
    Chain(Chain),
}

/// How often a watched descriptor is reported while it is readable. For engines, not for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// Again and again.
    Always,
    /// Once, and once more each time that it is [asked for](Port::rearm).
    Once,
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
    /// Makes a parcel of all of `chains`, until it comes home.
    fn lend(&mut self, chains: &mut Vec<Chain>) -> Parcel;
    /// What wakes the worker.
    fn waker(&self) -> Waker;
    /// Takes a file and names it.
    ///
    /// # Errors
    /// Too many files, or the kernel refuses one.
    fn adopt(&mut self, file: OwnedFd) -> io::Result<FileId>;
    /// Reports readability of `fd` as `source`, until [`Port::unwatch`]. The descriptor is duplicated.
    ///
    /// # Errors
    /// The descriptor cannot be watched (a regular file).
    fn watch(&mut self, fd: BorrowedFd<'_>, source: SourceId, watching: Watching) -> io::Result<()>;
    /// Asks for the next report of what is watched once. Nothing happens if it was asked for already.
    fn rearm(&mut self, source: SourceId);
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
    /// The handler asked to wait: nothing is handed over before the next event.
    pub waiting: bool,
    /// The front end disabled the ring: nothing is popped.
    pub paused: bool,
    /// The handler pops, and nothing is handed over ([`Cx::keep`]).
    pub kept: bool,
    /// Of a kept queue: the handler's last pop found nothing, and it is to hear of the next chain.
    pub wanted: bool,
    /// Chains that the handler has popped, since somebody counted them last.
    pub popped: u32,
    /// Calls wait for each other ([`Cx::calm`]).
    calm: Option<Calm>,
}

impl Slot {
    /// A queue that starts.
    #[must_use]
    pub const fn new(queue: Virtqueue) -> Self {
        Self { queue, waiting: false, paused: false, kept: false, wanted: false, popped: 0, calm: None }
    }

    /// Whether chains are handed over.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        !self.paused && !self.waiting && !self.kept
    }

    /// Whether the next chain of the driver is of interest.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        self.is_served() || (self.wanted && self.kept && !self.paused)
    }

    /// Whether there is what is of interest. Chains of a kept queue that were put back are known to its handler.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.is_awaited() && if self.kept { self.queue.has_more() } else { self.queue.has_available() }
    }

    /// Asks for a kick and looks once more: true if there is nothing of interest.
    pub fn arm_kicks(&mut self) -> bool {
        if self.kept { self.queue.arm_kicks_for_more() } else { self.queue.arm_kicks() }
    }

    /// Whether the driver is to be called for what was published, if it wants that. A queue that is to stop, or rests,
    /// holds nothing back.
    #[inline]
    pub fn is_call_due(&mut self, now: impl FnOnce() -> Instant) -> bool {
        match &mut self.calm {
            None => true,
            Some(calm) if self.paused => calm.end(self.queue.completed()),
            Some(calm) => calm.is_due(self.queue.completed(), now),
        }
    }

    /// Until when a call is held back, if one is.
    #[must_use]
    pub fn call_held_until(&self) -> Option<Instant> {
        self.calm.as_ref()?.until()
    }

    fn calm(&mut self, packets: u32, delay: Duration) {
        // A driver that waits for more than half of its ring could as well wait for ever.
        let packets = packets.min(u32::from(self.queue.size()) / 2);
        let mut calm = Calm::new(packets, delay, self.queue.completed());
        if let (Some(new), Some(old)) = (&mut calm, &self.calm) {
            new.continues(old);
        }
        self.calm = calm;
    }

    /// Whether a kept queue has what its handler was waiting for. It is asked for once.
    pub fn take_refill(&mut self) -> bool {
        let refilled = self.wanted && self.has_work();
        self.wanted &= !refilled;
        refilled
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

    /// Completes chains of one queue that the driver must see all at once, in the order in which they were popped
    /// (VIRTIO 1.3, 5.1.6.4.2: merged buffers).
    pub fn done_together(&mut self, chains: impl IntoIterator<Item = Chain>) {
        let mut chains = chains.into_iter();
        let Some(first) = chains.next() else { return };
        match (self.queues.slot(first.queue()), chains.next()) {
            // As nearly always.
            (Some(slot), None) => slot.queue.complete(first),
            (Some(slot), Some(second)) => {
                slot.queue.complete_together([first, second].into_iter().chain(chains));
            }
            (None, second) => [first].into_iter().chain(second).chain(chains).for_each(Chain::abandon),
        }
    }

    /// Completes all of `chains`, which keeps its room.
    pub fn done_all(&mut self, chains: &mut Vec<Chain>) {
        for chain in chains.drain(..) {
            let _ = self.done(chain);
        }
    }

    /// Puts a chain back, to be popped, or handed over, again, before those behind it. Unlike [`Self::wait`], this does
    /// not make its queue wait: it suits queues that are [kept](Self::keep).
    pub fn put_back(&mut self, chain: Chain) {
        match self.queues.slot(chain.queue()) {
            Some(slot) => {
                slot.popped = slot.popped.saturating_sub(1);
                slot.queue.put_back(chain);
            }
            None => chain.abandon(),
        }
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

    /// Takes all of `chains`, which are of one queue, along to another thread, and leaves an empty vector: they come back
    /// in [`crate::Handler::returned`] when the parcel is dropped. The queue does not stop before: whoever takes the
    /// parcel has to drop it in bounded time, or [give it back](Parcel::give_back) if the work is [recalled](crate::Recall).
    pub fn lend(&mut self, chains: &mut Vec<Chain>) -> Parcel {
        self.port.lend(chains)
    }

    /// For workers: hands chains that are home again to their handler and completes those that it leaves, or puts them
    /// back if they were not begun. Gives back their vector.
    pub fn welcome<H: crate::Handler<Op = Op>>(&mut self, handler: &mut H, returned: Returned) -> Vec<Chain> {
        let Returned { mut chains, is_begun } = returned;
        if is_begun {
            handler.returned(&mut chains, self);
            self.done_all(&mut chains);
        } else {
            chains.drain(..).for_each(|chain| self.put_back(chain));
        }
        chains
    }

    /// What wakes this worker from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.port.waker()
    }

    /// For workers: takes the next request of a queue, if any is to be served, and lets its handler have a
    /// [glance](crate::Handler::glance) at it, as far as that wants one, and in `front`, which is of no use afterwards.
    #[inline]
    pub fn next<H: crate::Handler<Op = Op>>(
        &mut self,
        handler: &mut H,
        queue: QueueId,
        front: &mut [u8; MOST_GLANCED],
    ) -> Next {
        let wanted = handler.glanced_at();
        let Some(slot) = self.queues.slot(queue).filter(|slot| slot.is_served()) else {
            return Next::Nothing;
        };
        let front = front.get_mut(..wanted).unwrap_or_default();
        let glanced = if front.is_empty() { None } else { slot.queue.glance(front) };
        let Some(glanced) = glanced else { return slot.queue.take().map_or(Next::Nothing, Next::Chain) };
        let len = glanced.len();
        let front = front.get(..len).unwrap_or(front);
        let served = handler.glance(queue, front, len, self);
        match self.queues.slot(queue) {
            Some(slot) if served => slot.queue.dismiss(glanced),
            Some(slot) => return slot.queue.open(glanced).map_or(Next::Served, Next::Chain),
            None => glanced.abandon(),
        }
        Next::Served
    }

    /// From now on, until it stops, no chain of `queue` is handed over: the handler [pops](Self::pop) them when it has
    /// something for them. Meant for [`crate::Handler::turned`].
    pub fn keep(&mut self, queue: QueueId) {
        if let Some(slot) = self.queues.slot(queue) {
            slot.kept = true;
        }
    }

    /// Takes the next chain of a queue of the group, if it has one. A queue that waits may be popped so.
    ///
    /// A [kept](Self::keep) queue that has none is one that the handler waits for, until a pop finds something: when the
    /// driver adds to it, [`crate::Handler::work`] is called. As long as a handler pops only what it needs, the driver
    /// need not kick.
    pub fn pop(&mut self, queue: QueueId) -> Option<Chain> {
        let slot = self.queues.slot(queue)?;
        let chain = if slot.paused { None } else { slot.queue.take() };
        slot.wanted = chain.is_none();
        slot.popped += u32::from(chain.is_some());
        chain
    }

    /// Fills the next chain of a queue of the group with a value and `data`, and completes it, if it is a single buffer that
    /// holds both: as [`Self::pop`], [`Chain::write_obj_with`] and [`Self::done`] would, for less. False, and nothing
    /// has happened, if it is not, or if there is none.
    #[inline]
    pub fn put<T: IntoBytes + Immutable + Copy>(&mut self, queue: QueueId, value: &T, data: &[u8]) -> bool {
        let Some(slot) = self.queues.slot(queue).filter(|slot| !slot.paused) else { return false };
        let put = slot.queue.put(value, data);
        slot.wanted &= !put;
        slot.popped += u32::from(put);
        put
    }

    /// Whether the chains of `queue` that are in somebody's hands take up the whole ring: the driver can add none before
    /// some are completed. Who then needs one more waits in vain.
    pub fn is_exhausted(&mut self, queue: QueueId) -> bool {
        self.queues.slot(queue).is_some_and(|slot| slot.queue.is_exhausted())
    }

    /// How many entries of its ring may still be taken by chains that stay in somebody's hands for longer, if those are to
    /// leave the driver a quarter of them; the ones that they take now are left out. 0 if it does not run.
    pub fn lendable(&mut self, queue: QueueId) -> u32 {
        self.queues
            .slot(queue)
            .map_or(0, |Slot { queue, .. }| (u32::from(queue.size()) * 3 / 4).saturating_sub(queue.held()))
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
        self.port.watch(fd, source, Watching::Always)
    }

    /// Reports readability of `fd` as `source` once, and again after each [`Self::rearm`]: for a descriptor that may
    /// stay readable, until there is somewhere to put what it has. It is duplicated.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn watch_once(&mut self, fd: BorrowedFd<'_>, source: SourceId) -> io::Result<()> {
        self.port.watch(fd, source, Watching::Once)
    }

    /// Has readability of `source` reported once more, also if it is readable already. Nothing happens if the last
    /// report is still to come.
    pub fn rearm(&mut self, source: SourceId) {
        self.port.rearm(source);
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, source: SourceId) {
        self.port.unwatch(source);
    }

    /// Reports `source` once, after `delay`.
    pub fn after(&mut self, delay: Duration, source: SourceId) {
        self.port.after(delay, source);
    }

    /// Has calls of `queue` wait for each other, until it stops: the driver is called when so many chains are completed, or
    /// `delay` after the first of them, whichever comes first, and only then if it wants to be. No packets or no delay: it
    /// is called at once, as it is of queues at first. More often than that is possible (VIRTIO 1.3, 5.1.6.5.9).
    pub fn calm(&mut self, queue: QueueId, packets: u32, delay: Duration) {
        if let Some(slot) = self.queues.slot(queue) {
            slot.calm(packets, delay);
        }
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
