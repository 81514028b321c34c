//! An Ethernet switch with VLANs (IEEE 802.1Q, 8), without I/O: the front of a frame in, where it goes out.
//!
//! [`Front`] is what a switch looks at, [`Ports`] who is there, [`Fdb`] who was seen where. [`decide()`] says what becomes
//! of a frame, and a [`Retag`] how its tag changes on the way. Time is passed in, in seconds.
//!
//! Frames come from guests and networks: nothing in them is believed. Whoever sends may call himself what he likes, as
//! on any switch; what he gains by it is bounded ([`Fdb::learn`]), and never reaches beyond his VLANs.

mod decide;
mod fdb;
mod front;
#[cfg(test)]
mod tests;
mod vlan;

pub use decide::{Decision, Egress, PortSettings, Ports, Why, decide};
pub use fdb::{Entry, Fdb, Learned, Limits};
pub use front::{Front, Mac, Retag, UNTAGGED};
pub use vlan::{InvalidVlans, Membership, Vlan, VlanSet};

/// The place of a port in its switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(pub u16);
