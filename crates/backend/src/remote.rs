//! How other threads have a device do something: they ask, its control thread answers when it gets to it.
//!
//! Both ends are trusted. What they say to each other may come from a client of the control socket.
//!
//! Theory of operation. A question goes through a channel of bounded length and a [`Notice`] that the control thread
//! sleeps on, with or without a front end. The answer goes back through a channel of its own, and a notice of the
//! asker's choice. Who asks may give up; a flag that both sides swap decides whether the question had been begun.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{self, Receiver, Sender, SyncSender, TryRecvError, TrySendError},
};

use outboard_device::{DeviceError, serde_json::Value};

use crate::Notice;

/// How many questions may wait for a control thread.
const WAITING: usize = 64;

/// The command that every device has: what it is doing.
pub const STATUS: &str = "status";
/// The command that every device has: look at the host side again ([`outboard_device::Device::refresh`]).
pub const REFRESH: &str = "refresh";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Too many questions wait for the control thread.
    #[error("the device is busy with other commands")]
    Busy,
    /// The device is not served any more.
    #[error("the device has ended")]
    Ended,
    /// The control thread went away while it was at it: it panicked.
    #[error("the device failed at it; the log says how")]
    Failed,
    /// The device said no.
    #[error("{0}")]
    Device(#[from] DeviceError),
    /// Who asked gave up before the control thread got to it, and it never will.
    #[error("the device does not answer; nothing was done")]
    NotBegun,
    /// Who asked gave up while the control thread was at it.
    #[error("the device does not answer; the command has begun and may still be carried out")]
    UnderWay,
}

/// The way to a device's control thread. Clones lead to the same.
#[derive(Clone, Debug)]
pub struct Remote {
    asks: SyncSender<Ask>,
    notice: Notice,
}

impl Remote {
    /// Asks for `command`: [`STATUS`], [`REFRESH`], or one of the device's own. Never blocks. `answered` is given when
    /// there is something to be had from the [`Pending`].
    ///
    /// # Errors
    /// [`AskError::Busy`] or [`AskError::Ended`].
    pub fn ask(&self, command: String, arguments: Value, answered: Notice) -> Result<Pending, AskError> {
        let (answer, pending) = mpsc::channel();
        let begun = Arc::new(AtomicBool::new(false));
        let ask = Ask { command, arguments, begun: Arc::clone(&begun), answer, _answered: Given(answered) };
        self.asks.try_send(ask).map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Ended,
        })?;
        self.notice.give();
        Ok(Pending { answer: pending, begun })
    }

    /// Both ends: this one, and what the control thread takes questions from.
    pub(crate) fn new() -> std::io::Result<(Self, Asks)> {
        let notice = Notice::new()?;
        let (asks, questions) = mpsc::sync_channel(WAITING);
        Ok((Self { asks, notice: notice.clone() }, Asks { questions, notice }))
    }
}

/// A question that was asked.
#[derive(Debug)]
pub struct Pending {
    answer: Receiver<Result<Value, DeviceError>>,
    begun: Arc<AtomicBool>,
}

impl Pending {
    /// The answer, if it is there. Does not block.
    pub fn poll(&self) -> Option<Result<Value, AskError>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer.map_err(AskError::Device)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) if self.begun.load(Ordering::SeqCst) => {
                Some(Err(AskError::Failed))
            }
            Err(TryRecvError::Disconnected) => Some(Err(AskError::Ended)),
        }
    }

    /// Waits no longer: [`AskError::NotBegun`] or [`AskError::UnderWay`].
    #[must_use]
    pub fn give_up(&self) -> AskError {
        if self.begun.swap(true, Ordering::SeqCst) { AskError::UnderWay } else { AskError::NotBegun }
    }
}

/// A question, as the control thread gets it. Dropped without an answer, it tells who asked.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) command: String,
    pub(crate) arguments: Value,
    begun: Arc<AtomicBool>,
    answer: Sender<Result<Value, DeviceError>>,
    // Behind the sender: who wakes up sees that it is gone.
    _answered: Given,
}

impl Ask {
    pub(crate) fn answer(self, answer: Result<Value, DeviceError>) {
        // Nobody waits for it any more: it was carried out all the same.
        let _ = self.answer.send(answer);
    }
}

/// Gives the notice when it is dropped.
#[derive(Debug)]
struct Given(Notice);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.give();
    }
}

/// What the control thread takes questions from.
#[derive(Debug)]
pub(crate) struct Asks {
    questions: Receiver<Ask>,
    pub(crate) notice: Notice,
}

impl Asks {
    /// The next question that somebody still waits for. From now on it counts as begun.
    pub(crate) fn next(&self) -> Option<Ask> {
        while let Ok(ask) = self.questions.try_recv() {
            if !ask.begun.swap(true, Ordering::SeqCst) {
                return Some(ask);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(remote: &Remote, command: &str) -> (Pending, Notice) {
        let answered = Notice::new().unwrap();
        (remote.ask(command.to_owned(), Value::Null, answered.clone()).unwrap(), answered)
    }

    #[test]
    fn ask_answered_is_told_to_who_asked() {
        let (remote, asks) = Remote::new().unwrap();
        let (pending, answered) = ask(&remote, "size");
        assert!(asks.notice.is_given() && pending.poll().is_none() && !answered.is_given());
        let question = asks.next().unwrap();
        assert_eq!(question.command, "size");
        question.answer(Ok(7.into()));
        assert!(answered.take());
        assert_eq!(pending.poll().unwrap().unwrap(), 7);
    }

    #[test]
    fn ask_given_up_before_its_turn_is_never_carried_out() {
        let (remote, asks) = Remote::new().unwrap();
        let (first, _) = ask(&remote, "first");
        let (_second, _) = ask(&remote, "second");
        assert!(matches!(first.give_up(), AskError::NotBegun));
        assert_eq!(asks.next().unwrap().command, "second");
        assert!(asks.next().is_none());
    }

    #[test]
    fn ask_given_up_in_its_turn_is_under_way() {
        let (remote, asks) = Remote::new().unwrap();
        let (pending, _) = ask(&remote, "resize");
        let question = asks.next().unwrap();
        assert!(matches!(pending.give_up(), AskError::UnderWay));
        question.answer(Ok(Value::Null));
    }

    #[test]
    fn ask_dropped_says_whether_it_had_begun() {
        let (remote, asks) = Remote::new().unwrap();
        let (begun, answered) = ask(&remote, "begun");
        drop(asks.next().unwrap());
        assert!(answered.is_given() && matches!(begun.poll(), Some(Err(AskError::Failed))));
        let (waiting, answered) = ask(&remote, "waiting");
        drop(asks);
        assert!(answered.is_given() && matches!(waiting.poll(), Some(Err(AskError::Ended))));
        let late = remote.ask(String::new(), Value::Null, answered);
        assert!(matches!(late, Err(AskError::Ended)));
    }

    #[test]
    fn asks_that_nobody_takes_are_bounded() {
        let (remote, asks) = Remote::new().unwrap();
        let pending: Vec<_> = (0..WAITING).map(|_| ask(&remote, "status")).collect();
        let more = remote.ask(String::new(), Value::Null, Notice::new().unwrap());
        assert!(matches!(more, Err(AskError::Busy)));
        assert_eq!(std::iter::from_fn(|| asks.next()).count(), pending.len());
    }
}
