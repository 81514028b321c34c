//! The worker: the only loop that serves rings. It trusts the control thread and nobody else.
//!
//! Theory of operation. A worker owns its handler, its queues and its engine; the control thread reaches it only
//! through [`Command`]s. One pass takes a batch of chains from each queue, collects what the host finished, lets the
//! handler work on what came from the host's side, and publishes each queue: a long batch in parts. When a pass finds
//! nothing the worker asks the handler what it waits for and spins for a while, then says that it sleeps, asks again, arms
//! the kicks, looks once more, and sleeps in the engine: whoever has something says so first and looks second.
//!
//! A queue that its handler keeps is the handler's to pop. It is of interest only after a pop has found nothing: then
//! its kicks are armed, and a chain that comes makes a pass.
//!
//! A stop is a request to run dry: nothing more is popped, and the base goes back to the control thread when the
//! last chain is completed and published. A faulty ring signals its error descriptor once and is then skipped; its
//! neighbours go on.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    time::Instant,
};

use outboard_device::{
    Chain, Cx, Flow, Handler, MOST_GLANCED, Next, QueueId, Queues, Slot, SourceId, WarnLimit,
};
use outboard_guest_memory::MemoryMap;
use outboard_virtqueue::{Base, RingError, Virtqueue};

use crate::{
    Notice,
    counters::Counters,
    crew::Step,
    engines::{Completion, Engine, Rim, Signal, Sleep, Spin},
};

/// Chains taken from one queue in one pass, so that a busy queue does not starve its neighbours and completions
/// go out while the driver still adds requests.
const BATCH: usize = 64;

/// Pieces of memory of one batch after which it is over: a chain may have 32768 of them, and takes as much longer.
const MOST_PIECES: usize = 4096;

/// Requests of one batch after which what is done of them is shown to the driver, which prepares its next ones
/// meanwhile. One that sleeps is called after the first so many, to wake up while the others are served, and else at
/// the end of the pass, unless the next pass goes on with more of its requests.
const SHOWN_AT_ONCE: usize = 16;

/// The same for what requests have done in other queues of the group: packets that come back. A driver that has few of
/// them under way waits for these.
const FILLED_AT_ONCE: usize = 8;

/// A ring handed to its worker.
pub(crate) struct Start {
    pub(crate) queue: Virtqueue,
    /// `None`: the driver does not kick, the ring is polled.
    pub(crate) kick: Option<OwnedFd>,
    pub(crate) call: Option<Signal>,
    pub(crate) error: Option<Signal>,
    pub(crate) counters: Arc<Counters>,
}

/// What the control thread asks of a worker. Each is answered when it is done.
pub(crate) enum Command {
    Start(Box<Start>, Sender<std::io::Result<()>>),
    Stop(QueueId, Sender<Base>),
    /// Takes nothing more from a ring, and is answered when the host is done with what was taken; or goes on.
    Pause(QueueId, bool, Sender<()>),
    Call(QueueId, Option<Signal>, Sender<()>),
    Error(QueueId, Option<Signal>, Sender<()>),
    Memory(MemoryMap, Sender<()>),
    Logging {
        queue: QueueId,
        data: bool,
        used: Option<u64>,
        done: Sender<()>,
    },
}

/// What the worker knows of a ring beside its queue.
struct Line {
    id: QueueId,
    call: Option<Signal>,
    error: Option<Signal>,
    polled: bool,
    fault_reported: bool,
    /// The last batch was as long as one may be.
    full: bool,
    stopping: Option<Sender<Base>>,
    pausing: Option<Sender<()>>,
    counters: Arc<Counters>,
}

/// One thread's worth of a device.
pub(crate) struct Worker<H: Handler, E> {
    handler: H,
    rim: Rim<E, H::Op>,
    queues: Queues,
    lines: Vec<Line>,
    commands: Receiver<Command>,
    wake: Notice,
    spin: Spin,
    warnings: WarnLimit,
    sleeps: u64,
    /// The control thread has hung up.
    ending: bool,
}

impl<H: Handler, E: Engine<H::Op>> Worker<H, E> {
    pub(crate) fn new(
        handler: H,
        rim: Rim<E, H::Op>,
        commands: Receiver<Command>,
        wake: Notice,
        spin: Spin,
    ) -> Self {
        Self {
            handler,
            rim,
            queues: Queues::default(),
            lines: Vec::new(),
            commands,
            wake,
            spin,
            warnings: WarnLimit::new(5),
            sleeps: 0,
            ending: false,
        }
    }

    /// Lets the handler prepare.
    pub(crate) fn prepare(&mut self) -> Result<(), outboard_device::DeviceError> {
        let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
        self.handler.start(&mut cx)?;
        self.rim.engine.prepared();
        Ok(())
    }

    /// One look at everything.
    fn step(&mut self) -> Step {
        if self.ending {
            return self.wind_up();
        }
        if self.wake.take() && !self.obey() {
            self.end();
            return Step::Busy;
        }
        let busy = self.pass();
        self.answer_stops();
        if busy { Step::Busy } else { Step::Idle }
    }

    /// Carries out commands. False when the control thread has hung up.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.carry_out(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    // An answer that nobody waits for any more is dropped: the control thread is on its way out.
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Start(start, done) => {
                let _ = done.send(self.start(*start));
            }
            Command::Stop(queue, done) => self.stop(queue, done),
            Command::Pause(queue, paused, done) => {
                let slot = self.queues.slot(queue).filter(|slot| slot.paused != paused);
                if let Some(slot) = slot {
                    slot.paused = paused;
                    self.turn(queue, !paused);
                }
                match self.line(queue) {
                    Some(line) if paused => line.pausing = Some(done),
                    _ => drop(done.send(())),
                }
            }
            Command::Call(queue, call, done) => {
                if let Some(line) = self.line(queue) {
                    // What was signalled on the old descriptor may not have been seen: say it again on the new one.
                    if let Some(call) = &call {
                        call.send();
                    }
                    line.call = call;
                }
                let _ = done.send(());
            }
            Command::Error(queue, error, done) => {
                if let Some(line) = self.line(queue) {
                    line.error = error;
                }
                let _ = done.send(());
            }
            Command::Memory(memory, done) => {
                self.rim.engine.memory(&memory);
                for slot in self.queues.iter_mut() {
                    if let Err(error) = slot.queue.update(memory.clone()) {
                        tracing::debug!(queue = slot.queue.id().0, "the ring left guest memory: {error}");
                    }
                }
                let _ = done.send(());
            }
            Command::Logging { queue, data, used, done } => {
                if let Some(slot) = self.queues.slot(queue) {
                    slot.queue.set_logging(data, used);
                }
                let _ = done.send(());
            }
        }
    }

    fn line(&mut self, queue: QueueId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.id == queue)
    }

    fn start(&mut self, start: Start) -> std::io::Result<()> {
        let Start { mut queue, kick, call, error, counters } = start;
        let id = queue.id();
        let polled = kick.is_none();
        if let Some(kick) = kick {
            self.rim.engine.watch_kick(id, kick, Arc::clone(&counters))?;
        }
        queue.suppress_kicks();
        self.queues.insert(Slot::new(queue));
        self.lines.push(Line {
            id,
            call,
            error,
            polled,
            fault_reported: false,
            full: false,
            stopping: None,
            pausing: None,
            counters,
        });
        self.turn(id, true);
        Ok(())
    }

    /// Lets the handler know that a queue starts, goes on, or rests.
    fn turn(&mut self, queue: QueueId, on: bool) {
        let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
        self.handler.turned(queue, on, &mut cx);
    }

    fn stop(&mut self, queue: QueueId, done: Sender<Base>) {
        self.rim.engine.unwatch_kick(queue);
        if let Some(slot) = self.queues.slot(queue) {
            slot.paused = true;
        }
        let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
        self.handler.stop(queue, &mut cx);
        if let Some(line) = self.line(queue) {
            line.stopping = Some(done);
        }
    }

    /// Gives back the rings that have run dry. Those that pause are quiet when the host is done with them: a front
    /// end may save guest memory next.
    fn answer_stops(&mut self) {
        for line in &mut self.lines {
            if self.rim.under_way.of(line.id) == 0
                && let Some(done) = line.pausing.take()
            {
                let _ = done.send(());
            }
        }
        if self.lines.iter().all(|line| line.stopping.is_none()) {
            return;
        }
        let queues = &mut self.queues;
        self.lines.retain_mut(|line| {
            let dry = queues.slot(line.id).is_none_or(|slot| slot.queue.in_flight() == 0);
            if !dry || line.stopping.is_none() {
                return true;
            }
            if let (Some(slot), Some(done)) = (queues.remove(line.id), line.stopping.take()) {
                tracing::debug!(queue = line.id.0, counters = ?line.counters, "stopped");
                let _ = done.send(slot.queue.stop());
            }
            false
        });
    }

    /// One look at everything. True if there was something to do.
    fn pass(&mut self) -> bool {
        let mut busy = false;
        for at in 0..self.lines.len() {
            let Some(id) = self.lines.get(at).map(|line| line.id) else { break };
            busy |= self.take_batch(at, id);
        }
        busy |= self.collect();
        busy |= self.events();
        busy |= self.work();
        self.publish();
        busy
    }

    /// Lets the handler give what came from the host's side. True if there was something, or more room for it.
    fn work(&mut self) -> bool {
        let mut busy = false;
        for slot in self.queues.iter_mut() {
            busy |= slot.take_refill();
        }
        let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
        busy | self.handler.work(&mut cx)
    }

    /// Hands a queue's requests to the handler. True if there were any.
    fn take_batch(&mut self, at: usize, id: QueueId) -> bool {
        let taken = if self.handler.glanced_at() > 0 {
            self.take_at_a_glance(at, id)
        } else {
            self.take_chains(at, id)
        };
        if let Some(line) = self.lines.get_mut(at) {
            line.counters.requests.add(taken as u64);
            line.full = taken == BATCH;
        }
        taken > 0
    }

    /// To a handler that need not have most of them as chains. How many there were.
    fn take_at_a_glance(&mut self, at: usize, id: QueueId) -> usize {
        let mut front = [0; MOST_GLANCED];
        let (mut taken, mut pieces) = (0, 0);
        while taken < BATCH && pieces < MOST_PIECES {
            let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
            match cx.next(&mut self.handler, id, &mut front) {
                Next::Nothing => break,
                Next::Served => taken += 1,
                Next::Chain(chain) => {
                    taken += 1;
                    pieces += pieces_of(&chain);
                    if self.handler.request(chain, &mut cx) == Flow::Wait {
                        break;
                    }
                }
            }
            self.show_part(at, id, taken);
        }
        taken
    }

    /// Each while the next one is being fetched. How many there were.
    fn take_chains(&mut self, at: usize, id: QueueId) -> usize {
        let (mut taken, mut pieces) = (0, 0);
        let mut next = self.take(id);
        while let Some(chain) = next.take() {
            taken += 1;
            pieces += pieces_of(&chain);
            if taken < BATCH && pieces < MOST_PIECES {
                next = self.take(id);
            }
            if let Some(next) = &next {
                self.handler.foresee(next);
            }
            let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
            let waits = self.handler.request(chain, &mut cx) == Flow::Wait;
            let Some(slot) = self.queues.slot(id) else { continue };
            if waits || !slot.is_served() {
                next.into_iter().for_each(|chain| slot.queue.put_back(chain));
                break;
            }
            self.show_part(at, id, taken);
        }
        taken
    }

    /// Shows to the driver what is done by now, if it is time to, of a batch of which so many were taken.
    #[inline]
    fn show_part(&mut self, at: usize, id: QueueId, taken: usize) {
        if !taken.is_multiple_of(FILLED_AT_ONCE) {
            return;
        }
        self.queues.iter_mut().for_each(|slot| {
            if slot.queue.id() != id || taken.is_multiple_of(SHOWN_AT_ONCE) {
                slot.queue.publish();
            }
        });
        if taken == SHOWN_AT_ONCE
            && let Some(slot) = self.queues.slot(id)
            && let Some(line) = self.lines.get(at)
        {
            line.call_if_needed(slot);
        }
    }

    /// The next chain of a queue. A fault is reported when the pass is over: the handler may have met it, too.
    fn take(&mut self, id: QueueId) -> Option<Chain> {
        self.queues.slot(id).filter(|slot| slot.is_served())?.queue.take()
    }

    /// Submits what was queued and hands finished operations to the handler.
    fn collect(&mut self) -> bool {
        self.turn_engine(Sleep::No);
        let mut busy = false;
        while let Some(Completion { chain, op, result }) = self.rim.completion() {
            busy = true;
            let (queue, warned) = (chain.queue(), self.warnings.total());
            let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
            let _ = self.handler.finished(chain, op, result, &mut cx);
            let warned = self.warnings.total() - warned;
            if warned > 0
                && let Some(line) = self.line(queue)
            {
                line.counters.errors.add(warned);
            }
        }
        while let Some(returned) = self.rim.returned() {
            busy = true;
            let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
            let chains = cx.welcome(&mut self.handler, returned);
            self.rim.lent.reuse(chains);
        }
        busy
    }

    fn publish(&mut self) {
        for line in &mut self.lines {
            let Some(slot) = self.queues.slot(line.id) else { continue };
            line.report(slot.queue.fault());
            if slot.popped > 0 {
                line.counters.requests.add(std::mem::take(&mut slot.popped).into());
            }
            slot.queue.publish();
            if !(line.full && slot.has_work()) {
                line.call_if_needed(slot);
            }
        }
    }

    fn turn_engine(&mut self, sleep: Sleep) {
        if let Err(error) = self.rim.engine.turn(sleep) {
            tracing::error!("the engine failed: {error}");
            // Do not turn a broken engine into a busy loop.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Hands events to the handler, and lets waiting queues go on. True if there were any. Timers that are set meanwhile have
    /// to wait for the next pass: a handler cannot hold its worker here.
    fn events(&mut self) -> bool {
        let mut any = false;
        while let Some(source) = self.rim.engine.readable() {
            any = true;
            self.raise(source);
        }
        if !self.rim.timers.is_empty() {
            let now = Instant::now();
            while let Some(source) = self.rim.timers.expired(now) {
                any = true;
                self.raise(source);
            }
        }
        if any {
            for slot in self.queues.iter_mut() {
                slot.waiting = false;
            }
        }
        any
    }

    fn raise(&mut self, source: SourceId) {
        let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
        self.handler.event(source, &mut cx);
    }

    /// The connection is over: takes nothing more.
    fn end(&mut self) {
        self.ending = true;
        let ids: Vec<_> = self.lines.iter().map(|line| line.id).collect();
        for id in ids {
            self.rim.engine.unwatch_kick(id);
            if let Some(slot) = self.queues.slot(id) {
                slot.paused = true;
            }
            let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
            self.handler.stop(id, &mut cx);
        }
        // Nobody serves what would be reported, and a descriptor that stays readable would not let the worker sleep.
        self.rim.engine.unwatch_all();
    }

    /// Lets the host finish, so that nothing is lost.
    fn wind_up(&mut self) -> Step {
        self.wake.take();
        let turned = self.rim.engine.turn(Sleep::No);
        let busy = self.collect();
        self.publish();
        if let Err(error) = &turned {
            tracing::error!("the engine failed: {error}");
        }
        if turned.is_err() || self.rim.pending() == 0 {
            tracing::debug!(sleeps = self.sleeps, "worker ends");
            return Step::Over;
        }
        if busy { Step::Busy } else { Step::Idle }
    }
}

impl Line {
    /// Calls the driver for what was published, if it wants that, and wants it now.
    fn call_if_needed(&self, slot: &mut Slot) {
        if slot.is_call_due(Instant::now) && slot.queue.call_needed() {
            self.counters.calls.add(1);
            if let Some(call) = &self.call {
                call.send();
            }
        }
    }

    /// Signals a fault that is new. One that is about memory may pass, and be followed by another.
    fn report(&mut self, fault: Option<&RingError>) {
        let reported = std::mem::replace(&mut self.fault_reported, fault.is_some());
        let Some(fault) = fault.filter(|_| !reported) else { return };
        self.counters.errors.add(1);
        tracing::warn!(queue = self.id.0, "the ring is faulty and stops: {fault}");
        if let Some(signal) = &self.error {
            signal.send();
        }
    }
}

/// Of how many pieces of memory a chain is.
fn pieces_of(chain: &Chain) -> usize {
    chain.readable().len() + chain.writable().len()
}

mod waiting;

#[cfg(test)]
mod tests;
