//! What the control thread does beside serving the front end, and without one: it answers other threads, looks at the
//! host when it is told to or when it is time, and tells what it is doing.
//!
//! It trusts who asks. A device that panics at a question takes the connection along, if there is one.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use outboard_device::{
    Device,
    serde_json::{Value, json},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    Backend, Stop,
    remote::{Ask, REFRESH, STATUS},
};

/// How many questions are answered before the front end gets its turn.
const AT_ONCE: usize = 16;

/// The front end that is connected, for those who ask.
pub(crate) struct Connected {
    /// The VirtIO features that it agreed to.
    pub(crate) features: u64,
    /// For each queue, whether it runs.
    pub(crate) running: Vec<bool>,
}

impl<D: Device> Backend<D> {
    /// Sleeps until `fd` is readable, `stop` is triggered or `limit` is over, while there is no connection, and does
    /// what others ask for meanwhile. Returns early now and then. True if `fd` is ready.
    ///
    /// # Errors
    /// The kernel does not let the thread sleep.
    pub fn wait(
        &mut self,
        fd: Option<BorrowedFd<'_>>,
        stop: &Stop,
        limit: Option<Duration>,
    ) -> io::Result<bool> {
        let [refresh, asked] = self.bells();
        let mut polled = vec![
            PollFd::new(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(refresh, PollFlags::IN),
            PollFd::from_borrowed_fd(asked, PollFlags::IN),
        ];
        polled.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let longest = [limit, self.next_look()].into_iter().flatten().min();
        sleep(&mut polled, longest)?;
        let rung = rung(&polled, 1);
        let ready = polled.get(3).is_some_and(|polled| !polled.revents().is_empty());
        if !stop.is_set() {
            self.attend(rung, None);
        }
        Ok(ready)
    }

    /// What else is to be polled while there is nothing to do.
    pub(crate) fn bells(&self) -> [BorrowedFd<'_>; 2] {
        [self.refresh.as_fd(), self.asks.notice.as_fd()]
    }

    /// How long until the device is to look at the host.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let every = self.device.look_every()?;
        Some((self.looked + every).saturating_duration_since(Instant::now()))
    }

    /// Does what is due, and what the bells that rang ask for. True if the configuration space changed.
    pub(crate) fn attend(&mut self, [refresh, asked]: [bool; 2], connected: Option<&Connected>) -> bool {
        let mut changed = false;
        if refresh && self.refresh.take_rung() {
            match self.device.refresh() {
                Ok(different) => changed |= different,
                Err(error) => tracing::warn!("refresh: {error}"),
            }
        }
        if self.next_look().is_some_and(|left| left.is_zero()) {
            self.looked = Instant::now();
            changed |= self.device.look();
        }
        if asked && self.asks.notice.take_rung() {
            let mut left = AT_ONCE;
            while left > 0
                && let Some(ask) = self.asks.next()
            {
                changed |= self.answer(ask, connected);
                left -= 1;
            }
            if left == 0 {
                self.asks.notice.give();
            }
        }
        changed
    }

    /// Has the device do something. True, beside what came of it, if the configuration space is another afterwards.
    pub(crate) fn watching_config<T>(&mut self, act: impl FnOnce(&mut D) -> T) -> (T, bool) {
        self.device.settle();
        let before = self.device.config().to_vec();
        let outcome = act(&mut self.device);
        (outcome, before != self.device.config())
    }

    fn answer(&mut self, ask: Ask, connected: Option<&Connected>) -> bool {
        let (answer, changed) = match ask.command.as_str() {
            STATUS => (Ok(self.status(connected)), false),
            REFRESH => match self.device.refresh() {
                Ok(changed) => (Ok(json!({ "changed": changed })), changed),
                Err(error) => (Err(error), false),
            },
            command => {
                let arguments = &ask.arguments;
                self.watching_config(|device| device.control(command, arguments))
            }
        };
        ask.answer(answer);
        changed
    }

    fn status(&self, connected: Option<&Connected>) -> Value {
        let running = |at| connected.is_some_and(|now| now.running.get(at) == Some(&true));
        let queues = self.profile().queues.iter().zip(&self.counters).enumerate();
        let queues: Vec<Value> = queues
            .filter(|(at, (_, counters))| running(*at) || counters.requests.value() > 0)
            .map(|(at, (spec, counters))| {
                json!({
                    "queue": at,
                    "name": spec.name,
                    "running": running(at),
                    "requests": counters.requests.value(),
                    "kicks": counters.kicks.value(),
                    "calls": counters.calls.value(),
                    "errors": counters.errors.value(),
                })
            })
            .collect();
        json!({
            "connected": connected.is_some(),
            "features": connected.map(|connected| format!("{:#x}", connected.features)),
            "queues": queues,
            "device": self.device.status(),
        })
    }
}

/// Which of the bells rang, that are polled from `at` on.
pub(crate) fn rung(polled: &[PollFd<'_>], at: usize) -> [bool; 2] {
    [at, at + 1].map(|at| polled.get(at).is_some_and(|polled| !polled.revents().is_empty()))
}

/// Sleeps until one of `polled` is ready, or for at most `longest`.
pub(crate) fn sleep(polled: &mut [PollFd<'_>], longest: Option<Duration>) -> io::Result<()> {
    // Milliseconds, rounded up: who is woken a moment early would look, find nothing due, and sleep again.
    let longest = longest.map(|longest| longest.saturating_add(Duration::from_micros(999)));
    let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
    match poll(polled, longest.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
