//! A queue group's worker thread, as the control thread sees it.

use std::{
    cell::RefCell,
    io,
    sync::{
        Weak,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use outboard_device::Handler;

use crate::{
    EngineChoice, Notice, Options, Stop,
    crew::Hand,
    engines::{Engine, EpollEngine, Rim, Signal, Spin, UringEngine, UringOptions, Wire},
    worker::{Command, Worker},
};

/// How often a wait for a worker looks whether the program is to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long a program that is to stop waits for a worker's host operations.
const GRACE: Duration = Duration::from_millis(200);

/// Why a worker cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    #[error("the program is stopping")]
    Stopping,
    #[error("the worker thread has ended")]
    Gone,
    #[error("the worker thread cannot start: {0}")]
    Spawn(io::Error),
    #[error("{0}")]
    Handler(#[from] outboard_device::DeviceError),
}

/// A running worker. Dropping it lets the worker finish its host operations and waits for it.
pub(crate) struct Group {
    commands: Option<Sender<Command>>,
    wake: Notice,
    ended: Receiver<()>,
    stop: Stop,
    /// What the worker notifies the front end by.
    signals: RefCell<Vec<Weak<Wire>>>,
    /// When it was told to end.
    told: Option<Instant>,
}

/// What a worker leaves behind: `died` is given if it panicked.
pub(crate) struct Farewell {
    pub(crate) died: Notice,
    _end: Sender<()>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if thread::panicking() {
            self.died.give();
        }
    }
}

impl Group {
    /// Starts a thread named `name`, the `nth` of its device, for `handler`, or has it served by the crew. `died` is given
    /// if it panics.
    pub(crate) fn spawn<H: Handler>(
        name: String,
        nth: usize,
        handler: H,
        options: &Options,
        config_changed: Notice,
        died: Notice,
        stop: Stop,
    ) -> Result<Self, WorkerError> {
        let wake = Notice::new().map_err(WorkerError::Spawn)?;
        let (commands, inbox) = mpsc::channel();
        let (report, started) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let device = tracing::Span::current();
        let seed = Seed {
            nth,
            handler,
            inbox,
            wake: wake.clone(),
            options: Options { crew: None, ..options.clone() },
            crewed: options.crew.is_some(),
            config_changed,
            report,
        };
        let farewell = Farewell { died, _end: end };
        match &options.crew {
            Some(crew) => crew.take_on(Box::new(move || seed.grow()), farewell, device)?,
            None => {
                let run = move || {
                    let _farewell = farewell;
                    let _device = device.enter();
                    seed.options.placement.settle(nth);
                    if let Some(hand) = seed.grow() {
                        hand.run();
                    }
                };
                thread::Builder::new().name(name).spawn(run).map_err(WorkerError::Spawn)?;
            }
        }
        let group =
            Self { commands: Some(commands), wake, ended, stop, signals: RefCell::default(), told: None };
        group.wait_for(&started)??;
        Ok(group)
    }

    /// Sends a command and waits until it is carried out.
    pub(crate) fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Result<T, WorkerError> {
        let (done, answer) = mpsc::channel();
        let commands = self.commands.as_ref().ok_or(WorkerError::Gone)?;
        let command = command(done);
        self.note_signals(&command);
        commands.send(command).map_err(|_| WorkerError::Gone)?;
        self.wake.give();
        self.wait_for(&answer)
    }

    /// Tells the worker to end, without waiting for it: for many at once, before each is dropped.
    pub(crate) fn hang_up(&mut self) {
        self.commands = None;
        self.wake.give();
        self.told.get_or_insert_with(Instant::now);
    }

    fn note_signals(&self, command: &Command) {
        let given = match command {
            Command::Start(start, _) => [start.call.as_ref(), start.error.as_ref()],
            Command::Call(_, signal, _) | Command::Error(_, signal, _) => [signal.as_ref(), None],
            _ => return,
        };
        let mut signals = self.signals.borrow_mut();
        signals.retain(|signal| signal.strong_count() > 0);
        signals.extend(given.into_iter().flatten().map(Signal::wire));
    }

    /// The worker keeps us waiting: it may be in a write to a descriptor that its front end has filled.
    fn relieve(&self) {
        for wire in self.signals.borrow().iter().filter_map(Weak::upgrade) {
            wire.relieve();
        }
    }

    fn wait_for<T>(&self, answer: &Receiver<T>) -> Result<T, WorkerError> {
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(WorkerError::Gone),
                Err(RecvTimeoutError::Timeout) if self.stop.is_set() => return Err(WorkerError::Stopping),
                Err(RecvTimeoutError::Timeout) => self.relieve(),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.hang_up();
        while self.ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if self.stop.is_set() && self.told.is_some_and(|told| told.elapsed() >= GRACE) {
                tracing::warn!("host operations are still under way; not waiting for them");
                return;
            }
            self.relieve();
        }
    }
}

/// What a worker grows from, on the thread that is to serve it.
struct Seed<H> {
    nth: usize,
    handler: H,
    inbox: Receiver<Command>,
    wake: Notice,
    options: Options,
    /// Others are served by the same thread.
    crewed: bool,
    config_changed: Notice,
    report: Sender<Result<(), WorkerError>>,
}

impl<H: Handler> Seed<H> {
    /// The worker, unless it cannot start, which was reported.
    fn grow(self) -> Option<Box<dyn Hand>> {
        if self.options.engine != EngineChoice::Epoll {
            let options = UringOptions {
                sqpoll: self.options.sqpoll,
                register_memory: self.options.register_memory,
                iopoll: self.options.iopoll,
                crewed: self.crewed,
                quiet: self.nth > 0,
            };
            match UringEngine::new(&self.wake, options) {
                Ok(engine) => return self.hand(engine),
                Err(error) => tracing::warn!("io_uring cannot be used here, epoll serves instead: {error}"),
            }
        }
        match EpollEngine::new(self.wake.clone()) {
            Ok(engine) => self.hand(engine),
            Err(error) => {
                let _ = self.report.send(Err(WorkerError::Spawn(error)));
                None
            }
        }
    }

    fn hand<E: Engine<H::Op> + 'static>(self, engine: E) -> Option<Box<dyn Hand>> {
        let rim = Rim::new(engine, self.wake.clone(), self.config_changed);
        let spin = Spin::new(self.options.polling, Instant::now());
        let mut worker = Worker::new(self.handler, rim, self.inbox, self.wake, spin);
        let prepared = worker.prepare().map_err(WorkerError::Handler);
        let usable = prepared.is_ok();
        let _ = self.report.send(prepared);
        usable.then(|| Box::new(worker) as Box<dyn Hand>)
    }
}
