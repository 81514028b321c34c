use std::{
    os::fd::AsFd,
    sync::mpsc,
    time::{Duration, Instant},
};

use outboard_device::DeviceError;
use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::{
    Polling,
    engines::{EpollEngine, UringEngine, UringOptions},
};

const SOURCE: SourceId = SourceId(1);
const TIMER: SourceId = SourceId(2);

/// Hears of a descriptor, once and whenever there is nothing else to do.
struct Listener {
    event: Arc<OwnedFd>,
    heard: u32,
    /// Timers that ran out.
    rung: u32,
    /// The timer is set anew, without delay, each time.
    restless: bool,
}

impl Handler for Listener {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        cx.watch_once(self.event.as_fd(), SOURCE).map_err(|error| DeviceError::host("watch", error))
    }

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        cx.done(chain)
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        if source == TIMER {
            self.rung += 1;
            if self.restless {
                cx.after(Duration::ZERO, TIMER);
            }
            return;
        }
        assert_eq!(source, SOURCE);
        rustix::io::read(&*self.event, &mut [0; 8]).unwrap();
        self.heard += 1;
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        cx.rearm(SOURCE);
        true
    }
}

/// A worker with a queue that never has anything.
fn worker<E: Engine<()>>(event: &Arc<OwnedFd>, wake: Notice, engine: E) -> Worker<Listener, E> {
    let rim = Rim::new(engine, wake.clone(), Notice::new().unwrap());
    let polling = Polling::Adaptive { longest: Duration::from_secs(1), budget: 100 };
    let handler = Listener { event: Arc::clone(event), heard: 0, rung: 0, restless: false };
    let (_, commands) = mpsc::channel();
    let mut worker = Worker::new(handler, rim, commands, wake, Spin::new(polling, Instant::now()));
    worker.prepare().unwrap();
    worker.lines.push(Line {
        id: QueueId(0),
        call: None,
        error: None,
        polled: false,
        fault_reported: false,
        full: false,
        stopping: None,
        pausing: None,
        counters: Arc::default(),
    });
    worker
}

fn spins_for_what_is_watched<E: Engine<()>>(make: impl FnOnce(&Notice) -> E) {
    let wake = Notice::new().unwrap();
    let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    let engine = make(&wake);
    let mut worker = worker(&event, wake, engine);
    for count in 1..=3 {
        rustix::io::write(&*event, &1_u64.to_ne_bytes()).unwrap();
        assert!(worker.spin_for_work(), "{count}");
        worker.pass();
        assert_eq!(worker.handler.heard, count);
    }
}

#[test]
fn spin_finds_what_the_handler_asks_for_when_there_is_nothing_else() {
    spins_for_what_is_watched(|wake| EpollEngine::new(wake.clone()).unwrap());
    spins_for_what_is_watched(|wake| UringEngine::new(wake, UringOptions::default()).unwrap());
}

#[test]
fn spin_finds_a_timer_that_runs_out_meanwhile() {
    let wake = Notice::new().unwrap();
    let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    let engine = EpollEngine::new(wake.clone()).unwrap();
    let mut worker = worker(&event, wake, engine);
    worker.rim.timers.set(Duration::from_micros(100), TIMER);
    assert!(worker.spin_for_work(), "it spins for a second");
    worker.pass();
    assert_eq!(worker.handler.rung, 1);
    assert!(!worker.rim.timers.is_due());
}

#[test]
fn handler_whose_timer_never_rests_does_not_hold_its_worker() {
    let wake = Notice::new().unwrap();
    let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
    let engine = EpollEngine::new(wake.clone()).unwrap();
    let mut worker = worker(&event, wake, engine);
    worker.handler.restless = true;
    worker.rim.timers.set(Duration::ZERO, TIMER);
    for pass in 1..=100 {
        worker.pass();
        assert!(worker.handler.rung <= pass, "at most once a pass");
    }
    assert!(worker.rim.timers.next().is_some());
}
