//! Chains in the hands of another thread, and their way home.
//!
//! Theory of operation: a parcel owns its chains and knows the inbox that they go back to, by the batch: the worker that
//! lent them completes them, since a ring belongs to one thread, or puts them back if they were given back as not begun. A
//! parcel that is dropped goes home, so none can be forgotten; one whose worker is gone abandons its chains. The holder is
//! trusted to let go in bounded time: until then the queue cannot stop.

use outboard_virtqueue::Chain;

use crate::{Inbox, Outlet, Waker, inbox};

/// Chains of one queue, lent to another thread ([`crate::Cx::lend`]). Dropped, it goes home as it is, and
/// [`crate::Handler::returned`] is called.
#[must_use = "dropped at once, it was lent for nothing"]
#[derive(Debug)]
pub struct Parcel {
    chains: Vec<Chain>,
    is_begun: bool,
    home: Outlet<Returned>,
}

impl Parcel {
    /// The chains, to move data to and from.
    pub fn chains(&mut self) -> &mut [Chain] {
        &mut self.chains
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Sends it home as not begun: its chains are put back, to be handed over again, whole, and
    /// [`crate::Handler::returned`] does not hear of them. For work that was [recalled](crate::Recall).
    pub fn give_back(mut self) {
        self.is_begun = false;
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let returned = Returned { chains: std::mem::take(&mut self.chains), is_begun: self.is_begun };
        if let Err(returned) = self.home.post_one(returned) {
            returned.chains.into_iter().for_each(Chain::abandon);
        }
    }
}

/// The chains of a parcel that has come home. For engines, not for devices.
#[derive(Debug)]
pub struct Returned {
    pub(crate) chains: Vec<Chain>,
    /// They were worked on, and are not put back.
    pub(crate) is_begun: bool,
}

impl Returned {
    /// The chains.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }
}

/// The parcels of one worker. For engines, not for devices.
#[derive(Debug)]
pub struct Lent {
    inbox: Inbox<Returned>,
    home: Outlet<Returned>,
    /// Taken from the inbox and not handed out yet: the oldest last.
    back: Vec<Returned>,
    /// Empty vectors with room.
    spare: Vec<Vec<Chain>>,
    out: usize,
}

impl Lent {
    /// None yet. `waker` wakes the worker when one comes home.
    #[must_use]
    pub fn new(waker: Waker) -> Self {
        let (inbox, home) = inbox(usize::MAX, waker);
        Self { inbox, home, back: Vec::new(), spare: Vec::new(), out: 0 }
    }

    /// Makes a parcel of all of `chains`, and leaves an empty vector.
    pub fn lend(&mut self, chains: &mut Vec<Chain>) -> Parcel {
        self.out += 1;
        let chains = std::mem::replace(chains, self.spare.pop().unwrap_or_default());
        Parcel { chains, is_begun: true, home: self.home.clone() }
    }

    /// The next parcel that came home.
    pub fn returned(&mut self) -> Option<Returned> {
        if self.back.is_empty() {
            self.inbox.take(&mut self.back);
            self.back.reverse();
        }
        let returned = self.back.pop()?;
        self.out -= 1;
        Some(returned)
    }

    /// Keeps the room of a vector that has come home, for the next parcel.
    pub fn reuse(&mut self, mut chains: Vec<Chain>) {
        chains.drain(..).for_each(Chain::abandon);
        self.spare.push(chains);
    }

    /// Whether [`Self::returned`] has something to hand out. No system call.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.back.is_empty() || self.inbox.is_ready()
    }

    /// Parcels that are out, or have come home and were not handed out yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.out
    }
}

impl Drop for Lent {
    /// Parcels that are still out find nobody.
    fn drop(&mut self) {
        let home = self.inbox.close();
        self.back.drain(..).chain(home).flat_map(|returned| returned.chains).for_each(Chain::abandon);
    }
}
