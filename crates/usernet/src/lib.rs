//! A network for one guest, in which the host's own sockets stand for the rest of the world: user-mode networking, which
//! takes no privileges.
//!
//! [`UserNet`] is a router, a DHCP server and the far end of every connection, as a state machine: frames go in
//! ([`UserNet::take`]) and out ([`UserNet::give`]), and what it wants of the host it asks of [`Sockets`]. It does no I/O
//! and knows no time but what it is told.
//!
//! **The guest is hostile.** Every frame is checked before anything follows from it: who it says that it is from, every
//! length, every checksum that is not left to others. What the guest may make the host use is limited ([`Limits`]), and
//! where it may go is decided in `reach`.
//!
//! A frame's way: `network` looks at Ethernet and IP (`parse`); `arp`, `dhcp`, `icmp` and `neighbours` answer for the
//! network itself; everything else is a flow in the `table`: `tcp` (over `stack`, which is smoltcp) or `datagrams`. What
//! goes to the guest is made in `emit`.

mod arp;
mod datagrams;
mod dhcp;
mod emit;
mod icmp;
mod neighbours;
mod network;
mod parse;
mod reach;
mod reassembly;
mod settings;
mod sockets;
mod stack;
mod table;
mod tcp;
#[cfg(test)]
mod tests;

pub use network::{Counters, UserNet};
pub use settings::{Forward, Invalid, Limits, MTUS, Net4, Net6, Protocol, Settings};
pub use sockets::{Ending, Readiness, SocketId, Sockets};
