//! A back end in this process, with a device that does what the test says, and a front end over a socket pair.
#![allow(dead_code, reason = "each test uses its share")]

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use outboard_backend::{Backend, EngineChoice, Options, Polling, ServeError, Served, Stop};
use outboard_device::{
    Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Patience, Profile, QueueId, SourceId,
    defs::DeviceId,
};
use outboard_frontend::{Frontend, Options as FrontendOptions};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How long anything may take.
pub(crate) const LONG: Duration = Duration::from_secs(10);

type Request = Box<dyn FnMut(Chain, &mut Cx<'_, ()>) -> Flow + Send>;
type Finished = Box<dyn FnMut(Chain, io::Result<u32>, &mut Cx<'_, ()>) -> Flow + Send>;
type Event = Box<dyn FnMut(SourceId, &mut Cx<'_, ()>) + Send>;
type Rest = Box<dyn FnMut(&mut Cx<'_, ()>) -> bool + Send>;
type Start = Box<dyn FnMut(&mut Cx<'_, ()>) + Send>;

/// A handler in closures.
pub(crate) struct Script {
    pub(crate) start: Start,
    pub(crate) request: Request,
    pub(crate) finished: Finished,
    pub(crate) event: Event,
    pub(crate) rest: Rest,
}

impl Script {
    pub(crate) fn new(request: impl FnMut(Chain, &mut Cx<'_, ()>) -> Flow + Send + 'static) -> Self {
        Self {
            start: Box::new(|_| {}),
            request: Box::new(request),
            finished: Box::new(|chain, _, cx| cx.done(chain)),
            event: Box::new(|_, _| {}),
            rest: Box::new(|_| true),
        }
    }
}

impl Handler for Script {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        (self.start)(cx);
        Ok(())
    }

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        (self.request)(chain, cx)
    }

    fn finished(&mut self, chain: Chain, (): (), result: io::Result<u32>, cx: &mut Cx<'_, ()>) -> Flow {
        (self.finished)(chain, result, cx)
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        (self.event)(source, cx);
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        (self.rest)(cx)
    }

    fn stop(&mut self, _: QueueId, _: &mut Cx<'_, ()>) {}
}

type Make = Box<dyn FnMut(Group, Features) -> Script + Send>;

/// A device that makes such handlers.
pub(crate) struct Scripted {
    profile: Profile,
    make: Make,
}

impl Scripted {
    /// `queues` queues in one group.
    pub(crate) fn new(queues: u16, make: impl FnMut(Group, Features) -> Script + Send + 'static) -> Self {
        let mut profile = Profile::new(DeviceId(42), "scripted");
        for _ in 0..queues {
            profile = profile.queue("queue", 256);
        }
        Self { profile, make: Box::new(make) }
    }
}

impl Device for Scripted {
    type Handler = Script;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Waits for what never comes.
    fn write_config(&mut self, _: u32, _: &[u8], patience: &Patience<'_>) -> Result<(), DeviceError> {
        let (_sender, answer) = mpsc::channel::<()>();
        patience.wait(&answer).map_err(|error| DeviceError::host("waiting", error))
    }

    fn handler(&mut self, group: Group, agreed: Features) -> Result<Script, DeviceError> {
        Ok((self.make)(group, agreed))
    }
}

/// Both engines, asleep whenever they can be.
pub(crate) fn engines() -> [Options; 2] {
    [EngineChoice::Epoll, EngineChoice::IoUring].map(|engine| Options {
        engine,
        polling: Polling::Off,
        ..Options::default()
    })
}

/// A back end that serves one connection in a thread.
pub(crate) struct Server<D> {
    pub(crate) stop: Stop,
    thread: JoinHandle<(Backend<D>, Result<Served, ServeError>)>,
}

impl<D: Device + 'static> Server<D> {
    /// Serves, and gives the front end's end of the connection.
    pub(crate) fn start(mut backend: Backend<D>) -> (Self, UnixStream) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let stop = Stop::new().unwrap();
        let stop_seen = stop.clone();
        let thread = thread::spawn(move || {
            let served = backend.serve(theirs, &stop_seen);
            (backend, served)
        });
        (Self { stop, thread }, ours)
    }

    /// Serves a front end that has said hello.
    pub(crate) fn with_frontend(backend: Backend<D>) -> (Self, Frontend) {
        let (server, stream) = Self::start(backend);
        (server, Frontend::from_stream(stream, FrontendOptions::default()).unwrap())
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// The back end, when it is done with the connection.
    pub(crate) fn end(self) -> (Backend<D>, Result<Served, ServeError>) {
        eventually("the connection is over", || self.is_over());
        self.thread.join().unwrap()
    }
}

/// Makes a descriptor one that a write waits for.
pub(crate) fn stuff(fd: impl AsFd) {
    let flags = fcntl_getfl(&fd).unwrap();
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).unwrap();
    // An eventfd that has counted already takes less than all at once.
    for bit in (0..64).rev() {
        while rustix::io::write(&fd, &(1_u64 << bit).to_ne_bytes()).is_ok() {}
    }
    fcntl_setfl(&fd, flags - OFlags::NONBLOCK).unwrap();
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
