//! How a worker waits when a pass has found nothing: on a thread of its own, or as one of a crew.

use std::{os::fd::BorrowedFd, time::Instant};

use outboard_device::{Cx, Handler, Slot};

use super::Worker;
use crate::{
    crew::{Hand, Step},
    engines::{Engine, Sleep},
};

/// Looks for work between two looks at the clock.
const LOOKS: usize = 8;

impl<H: Handler, E: Engine<H::Op>> Worker<H, E> {
    /// Serves on a thread of its own until the control thread hangs up.
    fn serve(mut self) {
        loop {
            match self.step() {
                Step::Busy => continue,
                Step::Idle => {}
                Step::Over => return,
            }
            if self.spin_for_work() {
                continue;
            }
            if self.lie_down() {
                self.sleep();
            }
            self.get_up();
        }
    }

    /// Waits for work without sleeping. True if there is some, or if it is not known.
    pub(super) fn spin_for_work(&mut self) -> bool {
        if self.insists(self.spin.is_endless()) {
            // What it finds, the next pass finds.
            let _ = self.rest();
            // Not spun where to look takes a system call.
            let _ = self.rim.engine.must_look() || self.spies();
            return true;
        }
        if self.lines.is_empty() || self.ending {
            return false;
        }
        let start = Instant::now();
        let allowance = self.spin.allowance(start);
        if allowance.is_zero() {
            return false;
        }
        if !self.expect() {
            return true;
        }
        loop {
            let found = self.looks();
            let now = Instant::now();
            if found || now.duration_since(start) >= allowance {
                self.spin.spun(start, now, found);
                return found;
            }
        }
    }

    /// Whether it may not sleep, if those that poll do so for ever (`endless`) or for a while.
    fn insists(&self, endless: bool) -> bool {
        let runs = || self.queues.iter().any(|slot| !slot.paused && !slot.waiting);
        let is_polled = || self.lines.iter().any(|line| line.polled && line.stopping.is_none());
        self.rim.engine.must_look() || ((endless || is_polled()) && runs())
    }

    /// Has what is waited for watched, so that it is seen while the worker spins. False if there is something already.
    fn expect(&mut self) -> bool {
        let rests = self.rest();
        self.turn_engine(Sleep::No);
        rests
    }

    /// Lets the handler ask for what it waits for. False if there is something already.
    fn rest(&mut self) -> bool {
        if self.ending {
            return true;
        }
        let mut cx = Cx::new(&mut self.queues, &mut self.rim, &mut self.warnings);
        let rests = self.handler.rest(&mut cx);
        // It may have looked for chains, or even have returned some.
        self.publish();
        rests
    }

    /// Looks a few times for work. True if there is some.
    fn spies(&mut self) -> bool {
        for _ in 0..LOOKS {
            if self.rim.ready() || self.handler.is_ready() || self.queues.iter().any(Slot::has_work) {
                return true;
            }
            std::hint::spin_loop();
        }
        self.next_call().is_some_and(|at| at <= Instant::now())
    }

    /// One look at all that may bring work. True if there is some.
    fn looks(&mut self) -> bool {
        self.spies() || self.rim.engine.look() || self.rim.timers.is_due()
    }

    /// Asks to be woken by whoever can. True if nobody has anything, so that the worker may sleep.
    fn lie_down(&mut self) -> bool {
        if !self.rim.sleep() {
            return false;
        }
        let mut idle = self.rest();
        for slot in self.queues.iter_mut().filter(|slot| slot.is_awaited()) {
            idle &= slot.arm_kicks();
        }
        idle && !self.wake.is_given()
    }

    /// How long it may sleep.
    fn longest(&self) -> Sleep {
        let next = if self.ending { None } else { self.rim.timers.next() };
        let call = self.next_call().map(|at| at.saturating_duration_since(Instant::now()));
        next.into_iter().chain(call).min().map_or(Sleep::Forever, Sleep::For)
    }

    /// When the first of the calls is due that are held back.
    fn next_call(&self) -> Option<Instant> {
        self.queues.iter().filter_map(Slot::call_held_until).min()
    }

    fn sleep(&mut self) {
        self.sleeps += 1;
        self.spin.sleeps(Instant::now());
        self.turn_engine(self.longest());
        self.spin.woken(Instant::now());
    }

    fn get_up(&mut self) {
        self.rim.waker.awake();
        for slot in self.queues.iter_mut().filter(|slot| slot.is_awaited()) {
            slot.queue.suppress_kicks();
        }
    }
}

impl<H: Handler, E: Engine<H::Op>> Hand for Worker<H, E> {
    fn run(self: Box<Self>) {
        self.serve();
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.rim.engine.bell()
    }

    fn step(&mut self) -> Step {
        self.step()
    }

    fn must_look(&mut self, endless: bool) -> bool {
        let must = self.insists(endless);
        if must {
            // What it finds, the next step finds.
            let _ = self.rest();
        }
        must
    }

    fn expect(&mut self) -> bool {
        self.expect()
    }

    fn look(&mut self) -> bool {
        self.looks()
    }

    fn lie_down(&mut self) -> Option<Sleep> {
        if !self.lie_down() {
            return None;
        }
        // What it waits for is with the kernel before the thread sleeps somewhere else. A kick that came meanwhile may
        // have been taken by that: what it is about is in the ring.
        self.turn_engine(Sleep::No);
        let found = self.rim.ready() || self.queues.iter().any(Slot::has_work);
        (!found).then(|| self.longest())
    }

    fn get_up(&mut self) {
        self.get_up();
    }

    fn hear(&mut self) {
        if let Err(error) = self.rim.engine.hear() {
            tracing::error!("the engine failed: {error}");
        }
    }
}
