//! Guests of one process that may talk to each other: those that have a group in common.
//!
//! Theory of operation. Between siblings a connection is a pair of sockets within the process: each guest has one as the
//! other end of a connection of its own, with the credit of its own. Who asks gives the other's worker the one socket in
//! an [`Ask`], and is told by a [`Visit::Answer`] whether that guest has accepted. An ask that comes to nothing, wherever it
//! gets lost, answers so when it is dropped.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_device::{DeviceError, Outlet};
use outboard_streams::Stream;

use crate::command::Errand;
use crate::packet::Key;

/// What comes to a guest's worker from other threads.
pub(crate) enum Visit {
    /// A sibling asks for a connection.
    Ask(Ask),
    /// What became of one's own.
    Answer { id: u64, accepted: bool },
    /// A sibling takes no more of what comes by a connection; of that, a socket tells only whoever writes to it.
    Deaf(Key),
    /// The control half wants something.
    Errand(Errand),
}

/// A sibling asks for a connection.
pub(crate) struct Ask {
    /// As the guest knows it that is asked.
    pub(crate) key: Key,
    pub(crate) stream: Stream,
    pub(crate) reply: Reply,
}

/// Tells a sibling what became of what it asked. Dropped, it says that nothing did.
pub(crate) struct Reply {
    outlet: Outlet<Visit>,
    id: u64,
    is_over: bool,
}

impl Reply {
    pub(crate) fn new(outlet: Outlet<Visit>, id: u64) -> Self {
        Self { outlet, id, is_over: false }
    }

    pub(crate) fn accept(mut self) {
        self.send(true);
    }

    fn send(&mut self, accepted: bool) {
        self.is_over = true;
        // Whoever is gone needs no answer, and one whose room is full hears of it by his timer.
        self.outlet.post(&mut vec![Visit::Answer { id: self.id, accepted }]);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_over {
            self.send(false);
        }
    }
}

/// A guest of this process.
#[derive(Default)]
struct Neighbour {
    outlet: Option<Outlet<Visit>>,
    groups: Vec<String>,
}

/// The guests of this process.
#[derive(Default)]
pub struct Registry(Mutex<BTreeMap<u32, Neighbour>>);

impl Registry {
    fn guests(&self) -> MutexGuard<'_, BTreeMap<u32, Neighbour>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest is there.
    ///
    /// # Errors
    /// Another one has its context id.
    pub(crate) fn join(&self, cid: u32, groups: &[String]) -> Result<(), DeviceError> {
        let mut guests = self.guests();
        if guests.contains_key(&cid) {
            return Err(DeviceError::Invalid(format!(
                "two devices of the process have the context id {cid}"
            )));
        }
        guests.insert(cid, Neighbour { outlet: None, groups: groups.to_vec() });
        Ok(())
    }

    /// It is not there any more.
    pub(crate) fn leave(&self, cid: u32) {
        self.guests().remove(&cid);
    }

    /// Its worker is there.
    pub(crate) fn sit(&self, cid: u32, outlet: Outlet<Visit>) {
        if let Some(guest) = self.guests().get_mut(&cid) {
            guest.outlet = Some(outlet);
        }
    }

    /// The way to a guest's worker, if it has one.
    pub(crate) fn outlet(&self, cid: u32) -> Option<Outlet<Visit>> {
        self.guests().get(&cid).and_then(|guest| guest.outlet.clone())
    }

    /// The way to the sibling `to` of the guest `from`, if they may talk.
    pub(crate) fn sibling(&self, from: u32, to: u32) -> Option<Outlet<Visit>> {
        let guests = self.guests();
        let (one, other) = (guests.get(&from)?, guests.get(&to)?);
        let together = one.groups.iter().any(|group| other.groups.contains(group));
        other.outlet.clone().filter(|outlet| together && from != to && !outlet.is_closed())
    }
}
