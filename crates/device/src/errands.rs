//! A thread for calls that block, for as long as they please, so that no queue stands still: it makes one after the other,
//! in the order in which they were asked for. A job that holds a [`Ticket`](crate::Ticket) says how it ended by that.

use std::sync::mpsc::{Sender, channel};
use std::{fmt, thread};

use crate::DeviceError;

/// Where jobs are handed in. The thread ends when all of these are gone, and the jobs before that are done.
pub struct Errands<J>(Sender<J>);

impl<J: Send + 'static> Errands<J> {
    /// Starts a thread called `name`, which does each job by `run`.
    ///
    /// # Errors
    /// The process may have no more threads.
    pub fn start(name: &str, mut run: impl FnMut(J) + Send + 'static) -> Result<Self, DeviceError> {
        let (sender, jobs) = channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || jobs.into_iter().for_each(&mut run))
            .map_err(|error| DeviceError::host(format!("cannot start the thread {name}"), error))?;
        Ok(Self(sender))
    }

    /// Has a job done. A thread that has panicked drops it, and a ticket with it, which is an I/O error.
    pub fn run(&self, job: J) {
        let _ = self.0.send(job);
    }
}

impl<J> Clone for Errands<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<J> fmt::Debug for Errands<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errands").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_done_in_their_order_and_the_last_one_before_the_end() {
        let (done, results) = channel();
        let errands = Errands::start("errands", move |job: u32| done.send(job).unwrap()).unwrap();
        for job in 0..100 {
            errands.clone().run(job);
        }
        drop(errands);
        assert_eq!(results.iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn job_for_a_thread_that_panicked_is_dropped() {
        let errands = Errands::start("errands", |wrong: Option<Sender<()>>| {
            assert!(wrong.is_some(), "as a call with a fault");
        })
        .unwrap();
        errands.run(None);
        let (job, dropped) = channel();
        errands.run(Some(job));
        assert!(dropped.recv().is_err());
    }
}
