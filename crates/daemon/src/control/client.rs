//! One client of the control socket: its lines, and the answers to them.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use outboard_backend::Notice;
use outboard_device::serde_json::json;
use rustix::event::PollFd;

use super::PATIENCE;
use super::commands::{Devices, Work, begin};
use crate::lines::Lines;

pub(super) struct Client {
    lines: Lines,
    work: Option<(Work, Instant)>,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { lines: Lines::new(stream)?, work: None })
    }

    pub(super) fn is_over(&self) -> bool {
        self.lines.is_over()
    }

    pub(super) fn heard(&self) -> Instant {
        self.lines.heard()
    }

    /// When its request has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.work.as_ref().map(|(_, deadline)| *deadline)
    }

    /// What it is polled for.
    pub(super) fn interest(&self) -> PollFd<'_> {
        self.lines.interest(self.work.is_none())
    }

    /// Does what can be done without waiting. `ready`: the socket is.
    pub(super) fn serve(&mut self, ready: bool, devices: &impl Devices, answered: &Notice) {
        if ready {
            self.lines.take_turn(self.work.is_none());
        }
        loop {
            if self.is_over() {
                return;
            }
            self.go_on(devices, answered);
            self.lines.flush(self.work.is_some());
            // It may have read the last answer only now.
            if self.work.is_some() || !self.lines.is_behind() {
                return;
            }
        }
    }

    /// Answers what is under way if it has ended, and begins with the lines that are there, one after the other.
    fn go_on(&mut self, devices: &impl Devices, answered: &Notice) {
        loop {
            if let Some((mut work, deadline)) = self.work.take() {
                match work.poll(Instant::now() >= deadline) {
                    Some(answer) => self.lines.say(&answer),
                    None => {
                        self.work = Some((work, deadline));
                        return;
                    }
                }
            }
            if self.lines.unread() > 0 {
                self.lines.flush(true);
            }
            if self.lines.is_over() || self.lines.unread() > 0 {
                return;
            }
            let Some(line) = self.lines.next_line() else { return };
            match begin(&line, devices, answered) {
                Ok(work) => self.work = Some((work, Instant::now() + PATIENCE)),
                Err(reason) => self.lines.say(&json!({ "error": reason })),
            }
        }
    }
}
