//! Ethernet frames and the offloads of a virtio network device (VIRTIO 1.3, 5.1.6): bytes in, values out, no I/O.
//!
//! [`check()`] judges the header that a packet begins with against the bytes behind it. What it makes is an [`Offload`],
//! the work that is left to do before the frame is one as it goes over a wire; [`Offload::header`] asks somebody else for
//! that work, and [`plain`] does it here. [`Layers`] finds the headers inside a frame, and [`hash`] spreads flows over
//! queues. [`pcap`] has the formats of capture files.
//!
//! Frames and headers come from guests and networks: nothing in them is believed. Every position is checked against the
//! bytes that are there, so that nothing here panics or touches what lies behind a frame; and an [`Offload`] comes from
//! [`check()`] only, so that what was not checked is never passed on.

mod check;
mod checksum;
mod layers;
mod offload;
pub mod pcap;
mod rarp;
mod segment;
pub mod testing;
#[cfg(test)]
mod tests;
mod toeplitz;
pub mod wire;

pub use check::{Limits, MAX_LEN, MAX_SEGMENTS, MIN_LEN, Refused, check};
pub use checksum::Sum;
pub use layers::{L3, L4, Layers, MAX_HEADERS};
pub use offload::{Checksum, Offload, Segments, Takes};
pub use rarp::rarp;
pub use segment::plain;
pub use toeplitz::{KEY_LEN, hash};
