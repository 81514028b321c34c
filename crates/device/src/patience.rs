//! How a device waits for another thread while a front end waits for it.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often a wait looks whether the program is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// What the front end's wait does not outlast: the program.
///
/// Storage that is out of reach may keep a front end waiting for as long as the user allows, but not the end of the
/// program.
pub struct Patience<'a>(&'a dyn Fn() -> bool);

impl<'a> Patience<'a> {
    /// Until `over` says so. It is asked many times a second.
    pub const fn until(over: &'a dyn Fn() -> bool) -> Self {
        Self(over)
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`]: the program is to stop, and the answer may still come.
    /// [`io::ErrorKind::NotConnected`]: it never will.
    pub fn wait<T>(&self, answer: &Receiver<T>) -> io::Result<T> {
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::NotConnected.into()),
                Err(RecvTimeoutError::Timeout) if (self.0)() => return Err(io::ErrorKind::Interrupted.into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::mpsc::channel;

    #[test]
    fn wait_ends_with_the_answer_or_the_program() {
        let (sender, answer) = channel();
        let asked = Cell::new(0);
        let over = || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => sender.send(7).map(|()| false).unwrap(),
                count => count == 4,
            }
        };
        let patience = Patience::until(&over);
        assert_eq!(patience.wait(&answer).unwrap(), 7);
        assert_eq!(patience.wait(&answer).unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(asked.get(), 4);
    }

    #[test]
    fn wait_for_an_answer_that_never_comes_is_over_at_once() {
        let (sender, answer) = channel::<()>();
        drop(sender);
        let error = Patience::until(&|| panic!("it is not asked")).wait(&answer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }
}
