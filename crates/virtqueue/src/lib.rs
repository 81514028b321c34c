//! Split and packed virtqueues: the device's half, which back ends run, and the driver's half ([`driver`]), which
//! front ends and tests run. No I/O beyond `readv` and `writev` of a request's buffers, no threads, no clocks.
//!
//! # Who is trusted
//! Nobody. Ring memory and buffers belong to the guest, ring addresses and the in-flight buffer to the front end;
//! all of it may change at any moment. Each value is read once, checked, and then used from our own copy. What is
//! wrong becomes a [`RingError`], which latches: that queue pops no more, and everything else goes on.
//!
//! # Path of a request
//! [`QueueConfig::activate`] resolves the rings once and takes over the requests that a previous process left in
//! flight. [`Virtqueue::pop`] reads one chain through those pointers, checks it as a whole, records it in flight,
//! and gives it out as a [`Chain`], a value that must come back: [`Virtqueue::complete`], [`Virtqueue::put_back`],
//! or, when its queue is gone, [`Chain::abandon`]. A request of one buffer that is dealt with at once needs none: it is
//! written by [`Virtqueue::put`], or read by [`Virtqueue::glance`]. [`Virtqueue::publish`] shows a batch of completions to the
//! driver at once, and [`Virtqueue::call_needed`] says whether the driver wants to hear of it.
//!
//! # Ordering
//! The driver writes a request, then makes it available; we load the latter with acquire. We write the buffers and
//! the used element, then store the used index (split) or the descriptor's flags (packed) with release. Between a
//! store that asks for notifications and the load that looks for work, and between publishing and looking whether
//! a call is wanted, stands a full fence. The in-flight buffer is read only after our death, by our successor: its
//! stores need the order of the program, no more.

mod area;
mod base;
mod buffers;
mod chain;
#[cfg(test)]
mod crash;
pub mod driver;
mod error;
mod indirect;
mod inflight;
mod notify;
mod packed;
mod places;
mod queue;
mod reach;
mod ring;
mod single;
mod split;
#[cfg(test)]
mod tests;

pub use base::Base;
pub use chain::{Chain, Short, Status, abandoned_chains, lost_chains};
pub use error::{InflightError, RingError};
pub use inflight::{InflightQueue, InflightRegion};
pub use places::pieces;
pub use queue::{QueueConfig, Virtqueue};
pub use ring::{Descriptor, Format, QueueId};
pub use single::Glanced;

/// The largest ring (VIRTIO 1.3, 2.7 and 2.8): 32768 entries.
pub const MAX_SIZE: u32 = 32768;
