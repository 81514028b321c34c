//! Engines: what a worker sleeps in, and what executes its host operations.
//!
//! An engine belongs to one worker thread. It trusts the worker; what arrives on descriptors of the front end is
//! only ever counted as an event.

mod epoll;
mod fds;
mod spin;
mod timers;
mod uring;

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use outboard_device::{
    Chain, Deferred, Lent, Parcel, Port, QueueId, Returned, SourceId, Ticket, Waker, Watching,
};
use outboard_guest_memory::MemoryMap;

use crate::{Notice, counters::Counters, watchdog};
pub(crate) use epoll::EpollEngine;
pub(crate) use fds::{Signal, Wire};
pub(crate) use spin::Spin;
use timers::Timers;
pub(crate) use uring::{UringEngine, UringOptions, probe as probe_uring};

/// A chain that comes back from the host.
pub(crate) struct Completion<Op> {
    pub(crate) chain: Chain,
    pub(crate) op: Op,
    pub(crate) result: io::Result<u32>,
}

/// How long [`Engine::turn`] may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Not at all.
    No,
    /// Until something happens.
    Forever,
    /// Until something happens, or so long.
    For(Duration),
}

impl Sleep {
    /// What ends first.
    pub(crate) fn shorter(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Forever, other) => other,
            (Self::For(this), Self::For(other)) => Self::For(this.min(other)),
            (Self::For(this), Self::Forever) => Self::For(this),
        }
    }

    /// The longest that it takes; `None`: any time.
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Self::No => Some(Duration::ZERO),
            Self::Forever => None,
            Self::For(longest) => Some(longest),
        }
    }
}

/// What a worker needs of an engine beyond what devices use ([`Port`], of which [`Host`] is the engine's share).
pub(crate) trait Engine<Op>: Host<Op> {
    /// Wakes [`Engine::turn`] when a ring is kicked, and counts it.
    fn watch_kick(&mut self, queue: QueueId, fd: OwnedFd, counters: Arc<Counters>) -> io::Result<()>;
    /// Stops watching a ring's kick; nothing reads the descriptor once this returns.
    fn unwatch_kick(&mut self, queue: QueueId);
    /// Ends what the handler watches: nothing is reported as readable any more.
    fn unwatch_all(&mut self);
    /// The handler has handed over its files.
    fn prepared(&mut self);
    /// Guest memory changed.
    fn memory(&mut self, memory: &MemoryMap);
    /// Hands submitted operations to the kernel, collects what ended, and sleeps as told if nothing did.
    fn turn(&mut self, sleep: Sleep) -> io::Result<()>;
    /// The next ended operation.
    fn completion(&mut self) -> Option<Completion<Op>>;
    /// The next watched descriptor that was found readable.
    fn readable(&mut self) -> Option<SourceId>;
    /// Whether operations are under way that end only while turns look for them: a turn does not sleep then.
    fn must_look(&self) -> bool;
    /// Whether there is something to take, or a turn would collect something, as far as that can be seen without a system
    /// call.
    fn ready(&mut self) -> bool;
    /// As [`Engine::ready`], with the system call that may be needed to see a watched descriptor.
    fn look(&mut self) -> bool;
    /// What to sleep on elsewhere, after a turn that did not sleep has found nothing: readable once there is something,
    /// provided that the engine was made for that.
    fn bell(&self) -> BorrowedFd<'_>;
    /// Collects what the bell rang for.
    fn hear(&mut self) -> io::Result<()>;
    /// Operations that the kernel still works on, or that wait to be collected.
    fn pending(&self) -> usize;
}

/// The engine's share of [`Port`].
pub(crate) trait Host<Op> {
    fn submit(&mut self, host: outboard_device::HostOp, chain: Chain, op: Op);
    fn at_once(&self, host: &outboard_device::HostOp, chain: &Chain) -> Option<io::Result<u32>>;
    fn adopt(&mut self, file: OwnedFd) -> io::Result<outboard_device::FileId>;
    fn watch(&mut self, fd: OwnedFd, source: SourceId, watching: Watching) -> io::Result<()>;
    fn rearm(&mut self, source: SourceId);
    fn unwatch(&mut self, source: SourceId);
}

/// Engine, timers, other threads and the way to the control thread: what handlers reach through
/// [`outboard_device::Cx`].
pub(crate) struct Rim<E, Op> {
    pub(crate) engine: E,
    pub(crate) deferred: Deferred<Op>,
    pub(crate) lent: Lent,
    pub(crate) waker: Waker,
    pub(crate) timers: Timers,
    pub(crate) config_changed: Notice,
    pub(crate) under_way: UnderWay,
}

/// How many operations of each queue the host has not finished.
#[derive(Default)]
pub(crate) struct UnderWay(Vec<u32>);

impl UnderWay {
    pub(crate) fn of(&self, queue: QueueId) -> u32 {
        self.0.get(usize::from(queue.0)).copied().unwrap_or(0)
    }

    fn begin(&mut self, queue: QueueId) {
        let at = usize::from(queue.0);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        if let Some(count) = self.0.get_mut(at) {
            *count += 1;
        }
    }

    fn end(&mut self, queue: QueueId) {
        if let Some(count) = self.0.get_mut(usize::from(queue.0)) {
            *count = count.saturating_sub(1);
        }
    }
}

impl<Op, E: Engine<Op>> Rim<E, Op> {
    /// For a worker that `wake` wakes.
    pub(crate) fn new(engine: E, wake: Notice, config_changed: Notice) -> Self {
        let waker = Waker::new(move || wake.give());
        Self {
            engine,
            deferred: Deferred::new(waker.clone()),
            lent: Lent::new(waker.clone()),
            waker,
            timers: Timers::default(),
            config_changed,
            under_way: UnderWay::default(),
        }
    }

    /// The next operation that the host, or another thread, has finished.
    pub(crate) fn completion(&mut self) -> Option<Completion<Op>> {
        let deferred = |(chain, op, result)| Completion { chain, op, result };
        let completion = self.engine.completion().or_else(|| self.deferred.finished().map(deferred))?;
        self.under_way.end(completion.chain.queue());
        Some(completion)
    }

    /// Whether something has finished, without a system call where possible.
    pub(crate) fn ready(&mut self) -> bool {
        self.engine.ready() || self.deferred.is_ready() || self.lent.is_ready()
    }

    /// The next parcel that has come home.
    pub(crate) fn returned(&mut self) -> Option<Returned> {
        let returned = self.lent.returned()?;
        for chain in returned.chains() {
            self.under_way.end(chain.queue());
        }
        Some(returned)
    }

    /// The worker means to sleep: from now on, other threads wake it. False: one of them has been here already, and it
    /// must not.
    pub(crate) fn sleep(&self) -> bool {
        self.waker.sleep();
        let quiet = !self.deferred.is_ready() && !self.lent.is_ready();
        if !quiet {
            self.waker.awake();
        }
        quiet
    }

    /// Operations that have not come back yet.
    pub(crate) fn pending(&self) -> usize {
        self.engine.pending() + self.deferred.pending() + self.lent.pending()
    }
}

impl<Op, E: Engine<Op>> Port<Op> for Rim<E, Op> {
    fn submit(&mut self, host: outboard_device::HostOp, chain: Chain, op: Op) {
        self.under_way.begin(chain.queue());
        self.engine.submit(host, chain, op);
    }

    fn at_once(&mut self, host: &outboard_device::HostOp, chain: &Chain) -> Option<io::Result<u32>> {
        self.engine.at_once(host, chain)
    }

    fn defer(&mut self, chain: Chain, op: Op) -> Ticket {
        self.under_way.begin(chain.queue());
        self.deferred.defer(chain, op)
    }

    fn lend(&mut self, chains: &mut Vec<Chain>) -> Parcel {
        // Whoever borrows may be held up by a front end of its own.
        watchdog::start();
        for chain in &*chains {
            self.under_way.begin(chain.queue());
        }
        self.lent.lend(chains)
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn adopt(&mut self, file: OwnedFd) -> io::Result<outboard_device::FileId> {
        self.engine.adopt(file)
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, source: SourceId, watching: Watching) -> io::Result<()> {
        self.engine.watch(fd.try_clone_to_owned()?, source, watching)
    }

    fn rearm(&mut self, source: SourceId) {
        self.engine.rearm(source);
    }

    fn unwatch(&mut self, source: SourceId) {
        self.engine.unwatch(source);
    }

    fn after(&mut self, delay: Duration, source: SourceId) {
        self.timers.set(delay, source);
    }

    fn config_changed(&mut self) {
        self.config_changed.give();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    const NAP: Duration = Duration::from_millis(20);
    const SOURCE: SourceId = SourceId(5);

    fn each_engine(test: impl Fn(&mut dyn Engine<()>)) {
        let wake = Notice::new().unwrap();
        test(&mut EpollEngine::new(wake.clone()).unwrap());
        test(&mut UringEngine::new(&wake, UringOptions::default()).unwrap());
    }

    /// What is reported within a moment.
    fn reports(engine: &mut dyn Engine<()>) -> usize {
        for _ in 0..3 {
            engine.turn(Sleep::For(NAP)).unwrap();
        }
        std::iter::from_fn(|| engine.readable()).filter(|source| *source == SOURCE).count()
    }

    fn event(count: u32) -> OwnedFd {
        eventfd(count, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn source_watched_once_is_reported_once_each_time_it_is_asked_for() {
        each_engine(|engine| {
            engine.watch(event(1), SOURCE, Watching::Once).unwrap();
            assert_eq!(reports(engine), 1);
            assert_eq!(reports(engine), 0);
            for _ in 0..3 {
                engine.rearm(SOURCE);
                assert_eq!(reports(engine), 1);
                assert_eq!(reports(engine), 0);
            }
            engine.unwatch(SOURCE);
            engine.rearm(SOURCE);
            assert_eq!(reports(engine), 0);
        });
    }

    #[test]
    fn source_that_becomes_readable_is_seen_without_a_turn() {
        each_engine(|engine| {
            let event = event(0);
            engine.watch(event.try_clone().unwrap(), SOURCE, Watching::Once).unwrap();
            engine.turn(Sleep::No).unwrap();
            assert!(!engine.look());
            rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
            assert!(engine.look());
            assert_eq!(reports(engine), 1);
        });
    }

    #[test]
    fn source_asked_for_twice_is_reported_when_it_is_readable_and_once() {
        each_engine(|engine| {
            let quiet = event(0);
            engine.watch(quiet.try_clone().unwrap(), SOURCE, Watching::Once).unwrap();
            engine.rearm(SOURCE);
            assert_eq!(reports(engine), 0);
            engine.rearm(SOURCE);
            rustix::io::write(&quiet, &1_u64.to_ne_bytes()).unwrap();
            assert_eq!(reports(engine), 1);
            assert_eq!(reports(engine), 0);
        });
    }

    #[test]
    fn source_no_longer_watched_does_not_keep_the_engine_awake() {
        each_engine(|engine| {
            engine.watch(event(1), SOURCE, Watching::Always).unwrap();
            engine.watch(event(1), SourceId(6), Watching::Once).unwrap();
            engine.turn(Sleep::Forever).unwrap();
            engine.unwatch_all();
            let start = std::time::Instant::now();
            engine.turn(Sleep::For(NAP)).unwrap();
            assert!(start.elapsed() >= NAP);
            assert_eq!(engine.readable(), None);
        });
    }

    #[test]
    fn source_watched_always_is_reported_again_without_being_asked_for() {
        each_engine(|engine| {
            engine.watch(event(1), SOURCE, Watching::Always).unwrap();
            for _ in 0..3 {
                engine.turn(Sleep::Forever).unwrap();
                assert_eq!(engine.readable(), Some(SOURCE));
            }
        });
    }
}
