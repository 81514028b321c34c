//! What attributes are asked while a command is carried out.
//!
//! Theory of operation. An attribute may take its time, and nobody is to wait for the agent meanwhile. So a command that needs
//! an answer which is not there is given up, the attribute is asked without any lock, and the command is carried out anew,
//! with the answers so far. As it goes the same way each time, nothing is asked twice; what it changes of the agent, it changes
//! when it has all answers.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outboard_scmi_protocols::{FORCED, Platform, Point, Status};

use super::{Host, Known};

/// Something of the host's. It may take its time.
pub(crate) trait Real: Send + Sync {
    /// What it is now.
    fn read(&self) -> io::Result<i64>;
    /// Makes it so.
    fn write(&self, value: i64) -> io::Result<()>;
}

/// Something of the host's, and what it said last.
pub(crate) struct Distant {
    real: Box<dyn Real>,
    last: Mutex<Option<i64>>,
}

impl Distant {
    pub(crate) fn new(real: impl Real + 'static) -> Arc<Self> {
        Arc::new(Self { real: Box::new(real), last: Mutex::default() })
    }

    /// Asks it, for as long as it takes.
    pub(crate) fn read(&self) -> Result<i64, Status> {
        let value = self.real.read();
        *self.place() = value.as_ref().ok().copied();
        value.map_err(|_| Status::HardwareError)
    }

    fn write(&self, value: i64) -> Result<i64, Status> {
        self.real.write(value).map(|()| value).map_err(|_| Status::HardwareError)
    }

    /// What it said last, if that was not an error.
    pub(super) fn last(&self) -> Option<i64> {
        *self.place()
    }

    fn place(&self) -> MutexGuard<'_, Option<i64>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Read(Point),
    Write(Point, i64),
}

/// What was asked for one command, or for one look at the sensors.
#[derive(Default)]
pub(crate) struct Asked {
    answers: Vec<(Question, Result<i64, Status>)>,
    /// How many of them the command has heard this time.
    heard: usize,
    /// What it has to know before it goes on.
    open: Option<(Question, Arc<Distant>)>,
}

impl Asked {
    /// Asks what is open, for as long as it takes. False if nothing is: the command was carried out.
    pub(crate) fn ask(&mut self) -> bool {
        let Some((question, distant)) = self.open.take() else { return false };
        let answer = match question {
            Question::Read(_) => distant.read(),
            Question::Write(_, value) => distant.write(value),
        };
        self.answers.push((question, answer));
        true
    }

    /// Asks what `point` is, which somebody will want to know.
    pub(crate) fn read(&mut self, point: Point, distant: &Distant) {
        self.answers.push((Question::Read(point), distant.read()));
    }

    /// Whether the command was given up.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn answer(&mut self, question: Question, distant: &Arc<Distant>) -> Result<i64, Status> {
        let mut rest = self.answers.iter().enumerate().skip(self.heard);
        if let Some((at, &(_, answer))) = rest.find(|(_, (asked, _))| *asked == question) {
            self.heard = at + 1;
            return answer;
        }
        self.open = Some((question, Arc::clone(distant)));
        Err(Status::Busy)
    }
}

/// The host as far as it can be seen without waiting, and by what was asked.
pub(crate) struct Seen<'a> {
    host: &'a mut Host,
    asked: &'a mut Asked,
    now: Duration,
    /// What was set.
    pub(crate) set: Vec<(Point, i64)>,
}

impl<'a> Seen<'a> {
    /// For a command that begins, or begins anew, at the host's time `now`.
    pub(crate) fn new(host: &'a mut Host, asked: &'a mut Asked, now: Duration) -> Self {
        asked.heard = 0;
        Self { host, asked, now, set: Vec::new() }
    }

    /// After the command was given up, nothing is done any more.
    fn go_on(&self) -> Result<(), Status> {
        if self.asked.is_open() { Err(Status::Busy) } else { Ok(()) }
    }
}

impl Platform for Seen<'_> {
    fn read(&mut self, point: Point) -> Result<i64, Status> {
        self.go_on()?;
        match self.host.look(point)? {
            Known::Value(value) => Ok(value),
            Known::Distant(distant) => self.asked.answer(Question::Read(point), distant),
        }
    }

    fn write(&mut self, point: Point, value: i64) -> Result<(), Status> {
        self.go_on()?;
        match self.host.look(point)? {
            Known::Value(_) => {
                self.host.simulate(point, value & !FORCED);
            }
            Known::Distant(distant) => {
                self.asked.answer(Question::Write(point, value), distant)?;
            }
        }
        self.set.push((point, value));
        Ok(())
    }

    fn now(&self) -> Duration {
        self.now
    }
}
