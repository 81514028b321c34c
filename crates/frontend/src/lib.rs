//! The front end's half of vhost-user, complete, in user space: what a VMM and a guest's driver do together.
//!
//! It makes guest memory, connects to a back end (anybody's), negotiates, sets up rings of either format, and drives
//! the device; it keeps what it takes to go on with a new process when the back end dies. For tools, for tests of
//! back ends, and for programs that want their disk from one.
//!
//! Read downhill: [`Frontend`] over the private `connect`, `channel` (messages, each wait with an end) and `start`
//! (rings); [`Memory`] to allocate from; [`Queue`] to drive a ring; [`drivers`] that speak a device's own language.
//!
//! The back end is not trusted: whatever it answers, or writes into a ring, is a value or an [`Error`], and it
//! cannot keep us waiting for longer than [`Options::timeout`].
//!
//! ```no_run
//! use outboard_frontend::{Error, Frontend, Options, Wishes, drivers::Rng};
//!
//! fn main() -> Result<(), Error> {
//!     let frontend = Frontend::connect("/tmp/rng.sock", Options::default())?;
//!     let mut rng = Rng::open(frontend, &Wishes::default())?;
//!     let mut key = [0; 32];
//!     rng.fill(&mut key)
//! }
//! ```

mod backing;
mod channel;
mod connect;
pub mod drivers;
mod error;
mod frontend;
mod inflight;
mod log;
mod memory;
mod options;
mod queue;
mod ring;
mod shared_memory;
mod sharing;
mod start;
mod state;

pub use backing::Backing;
pub use channel::Heard;
pub use connect::Offer;
pub use error::Error;
pub use frontend::{Frontend, status};
pub use memory::{Layout, Memory, RegionSpec};
pub use options::{Options, PROTOCOL_FEATURES, Sharing, Wishes};
pub use queue::{Notifications, Queue, RingAddresses, Waiting};
pub use shared_memory::SharedMapping;

pub use outboard_guest_memory::HugePage;
pub use outboard_virtqueue::Format;
