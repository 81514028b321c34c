//! What the control half of a device tells its running handler.
//!
//! The handler opens its end when it starts; the next handler's end takes the place of the last one's. A command that nobody
//! can take comes back to who has it: the device then does what it can do without a handler.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Cx, Inbox, Outlet, inbox};

/// The control half's end.
pub struct Hotline<C> {
    room: usize,
    outlet: Mutex<Option<Outlet<C>>>,
}

impl<C: Send> Hotline<C> {
    /// For at most `room` commands at a time that the handler has not taken.
    #[must_use]
    pub const fn new(room: usize) -> Self {
        Self { room, outlet: Mutex::new(None) }
    }

    /// The handler's end: to be looked at in [`crate::Handler::work`], and told of in [`crate::Handler::is_ready`].
    pub fn open<Op>(&self, cx: &Cx<'_, Op>) -> Inbox<C> {
        let (inbox, outlet) = inbox(self.room, cx.waker());
        *self.outlet() = Some(outlet);
        inbox
    }

    /// Tells the handler that runs.
    ///
    /// # Errors
    /// None runs, or it has not taken those before: the command is given back.
    pub fn tell(&self, command: C) -> Result<(), C> {
        match &*self.outlet() {
            Some(outlet) => outlet.post_one(command),
            None => Err(command),
        }
    }

    fn outlet(&self) -> MutexGuard<'_, Option<Outlet<C>>> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> fmt::Debug for Hotline<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hotline").field("room", &self.room).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outboard_virtqueue::Chain;

    use super::*;
    use crate::testing::{Bench, Format};
    use crate::{Flow, Handler};

    struct Listener {
        line: Arc<Hotline<u32>>,
        inbox: Option<Inbox<u32>>,
        heard: Vec<u32>,
    }

    impl Listener {
        fn new(line: &Arc<Hotline<u32>>) -> Bench<Self> {
            let line = Arc::clone(line);
            Bench::new(Self { line, inbox: None, heard: Vec::new() }, Format::Split)
        }
    }

    impl Handler for Listener {
        type Op = ();

        fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), crate::DeviceError> {
            self.inbox = Some(self.line.open(cx));
            Ok(())
        }

        fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
            cx.done(chain)
        }

        fn work(&mut self, _: &mut Cx<'_, ()>) -> bool {
            let heard = self.heard.len();
            self.inbox.as_mut().unwrap().take(&mut self.heard);
            self.heard.len() > heard
        }

        fn is_ready(&self) -> bool {
            self.inbox.as_ref().unwrap().is_ready()
        }
    }

    #[test]
    fn command_reaches_the_handler_that_runs_or_comes_back() {
        let line = Arc::new(Hotline::new(2));
        assert_eq!(line.tell(1), Err(1));
        let mut first = Listener::new(&line);
        for command in 2..4 {
            line.tell(command).unwrap();
        }
        assert_eq!(line.tell(4), Err(4), "there is no room");
        first.run();
        assert_eq!(first.handler().heard, [2, 3]);
        let mut second = Listener::new(&line);
        line.tell(5).unwrap();
        drop(first);
        second.run();
        assert_eq!(second.handler().heard, [5]);
        drop(second);
        assert_eq!(line.tell(6), Err(6));
    }
}
