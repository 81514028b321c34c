//! A kept thing that the control half can have something done to, wherever the thing is: in its drawer between two handlers,
//! or with the handler that runs.

use std::fmt;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crate::{Cx, DeviceError, Hotline, Inbox, Keep, Taken};

/// How long a handler may take to do what is asked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be done to the thing.
pub type Visit<T> = Box<dyn FnOnce(&mut T) + Send>;

/// A [`Keep`] with a [`Hotline`] to whoever has taken what is kept.
pub struct Reach<T> {
    keep: Keep<T>,
    line: Hotline<Visit<T>>,
}

impl<T: Send> Reach<T> {
    /// Makes the thing; at most `room` visits wait for a handler.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn new(
        room: usize,
        make: impl Fn() -> Result<T, DeviceError> + Send + Sync + 'static,
    ) -> Result<Self, DeviceError> {
        Ok(Self { keep: Keep::new(make)?, line: Hotline::new(room) })
    }

    /// Takes it, for a handler: as [`Keep::take`].
    ///
    /// # Errors
    /// Likewise.
    pub fn take(&self) -> Result<Taken<T>, DeviceError> {
        self.keep.take()
    }

    /// The handler's end, for [`crate::Handler::start`]: it does to the thing what comes in there.
    pub fn open<Op>(&self, cx: &Cx<'_, Op>) -> Inbox<Visit<T>> {
        self.line.open(cx)
    }

    /// Looks at it between two handlers: as [`Keep::with`].
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.keep.with(look)
    }

    /// Has something done to it: now, or soon by the handler, in the order in which it was sent.
    ///
    /// # Errors
    /// The handler has not done what was sent before.
    pub fn send(&self, visit: impl FnOnce(&mut T) + Send + 'static) -> Result<(), DeviceError> {
        let mut visit: Option<Visit<T>> = Some(Box::new(visit));
        // A handler may end between the first look and the call.
        for _ in 0..2 {
            self.keep.with(|thing| visit.take().map(|visit| visit(thing)));
            match visit.take().map(|visit| self.line.tell(visit)) {
                None | Some(Ok(())) => return Ok(()),
                Some(Err(back)) => visit = Some(back),
            }
        }
        Err(silent())
    }

    /// Has something done to it, and waits for what comes of it.
    ///
    /// # Errors
    /// As [`Self::send`]; the handler does not come to it.
    pub fn ask<R: Send + 'static>(
        &self,
        visit: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, DeviceError> {
        let (answer, answers) = sync_channel(1);
        self.send(move |thing| {
            // Whoever asked may have lost patience.
            let _ = answer.send(visit(thing));
        })?;
        answers.recv_timeout(PATIENCE).map_err(|_| silent())
    }
}

fn silent() -> DeviceError {
    DeviceError::Invalid("the queues do not answer".to_owned())
}

impl<T> fmt::Debug for Reach<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use outboard_virtqueue::Chain;

    use super::*;
    use crate::testing::{Bench, Format};
    use crate::{Flow, Handler};

    struct Adder {
        reach: Arc<Reach<u32>>,
        sum: Taken<u32>,
        inbox: Option<Inbox<Visit<u32>>>,
    }

    impl Handler for Adder {
        type Op = ();

        fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
            self.inbox = Some(self.reach.open(cx));
            Ok(())
        }

        fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
            cx.done(chain)
        }

        fn work(&mut self, _: &mut Cx<'_, ()>) -> bool {
            let mut visits = Vec::new();
            self.inbox.as_mut().unwrap().take(&mut visits);
            let busy = !visits.is_empty();
            visits.into_iter().for_each(|visit| visit(&mut self.sum));
            busy
        }

        fn is_ready(&self) -> bool {
            self.inbox.as_ref().unwrap().is_ready()
        }
    }

    #[test]
    fn thing_is_reached_in_its_drawer_and_with_its_handler() {
        let reach = Arc::new(Reach::new(2, || Ok(0)).unwrap());
        assert_eq!(reach.ask(|sum| std::mem::replace(sum, 5)).unwrap(), 0);
        let adder = Adder { reach: Arc::clone(&reach), sum: reach.take().unwrap(), inbox: None };
        let mut bench = Bench::new(adder, Format::Split);
        assert_eq!(reach.with(|sum| *sum), None);
        reach.send(|sum| *sum += 1).unwrap();
        let asker = thread::spawn({
            let reach = Arc::clone(&reach);
            move || reach.ask(|sum| *sum)
        });
        while !asker.is_finished() {
            bench.run();
        }
        assert_eq!(asker.join().unwrap().unwrap(), 6);
        for _ in 0..2 {
            reach.send(|sum| *sum += 1).unwrap();
        }
        assert!(reach.send(|_| ()).is_err(), "there is no room");
        bench.run();
        drop(bench);
        assert_eq!(reach.ask(|sum| *sum).unwrap(), 8);
    }
}
