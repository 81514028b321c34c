//! The front end's half of vhost-user, complete, in user space: what a VMM and a guest's driver do together.
//!
//! It makes guest memory, connects to a back end (anybody's), negotiates, sets up rings of either format, and drives
//! the device; it keeps what it takes to go on with a new process when the back end dies. For tools, for tests of
//! back ends, and for programs that want their disk from one: `examples/disk.rs` is such a program.
//!
//! What there is, in the order in which one needs it:
//!
//! * [`Options`] say how to connect, what of the protocol to agree on, and what guest memory is made of ([`Layout`],
//!   [`Backing`]: memory files, huge pages, files, shared memory objects);
//! * [`Frontend`] is the connection: [`connect`](Frontend::connect), [`agree`](Frontend::agree),
//!   [`start`](Frontend::start) and [`stop`](Frontend::stop) of rings, [`reconnect`](Frontend::reconnect) with
//!   recovery of what was in flight; regions added and removed
//!   ([`add_region`](Frontend::add_region)), the dirty log ([`start_logging`](Frontend::start_logging)), the device's
//!   state ([`save_state`](Frontend::save_state)) and the record of requests in flight
//!   ([`save_inflight`](Frontend::save_inflight)) for migration, what comes on the back channel
//!   ([`heard`](Frontend::heard), [`shared_mappings`](Frontend::shared_mappings));
//! * [`Memory`] is guest memory, to allocate from: what lies in it travels without a copy;
//! * [`Queue`] is a started ring, which may live in a thread of its own;
//! * [`drivers`] speak a device's own language over it: [`Blk`](drivers::Blk), [`Fs`](drivers::Fs),
//!   [`Net`](drivers::Net), [`Rng`](drivers::Rng), [`Scmi`](drivers::Scmi).
//!
//! The back end is not trusted: whatever it answers, or writes into a ring, is a value or an [`Error`], and it
//! cannot keep us waiting for longer than [`Options::timeout`] for any one thing. It may be old: without protocol
//! features, or any of them, as much works as then can.
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
pub use connect::{Offer, dial};
pub use error::Error;
pub use frontend::{Frontend, status};
pub use memory::{Layout, Memory, RegionSpec};
pub use options::{Options, PROTOCOL_FEATURES, Sharing, Wishes};
pub use queue::{Notifications, Queue, RingAddresses, Waiting};
pub use shared_memory::SharedMapping;

pub use outboard_guest_memory::HugePage;
pub use outboard_virtqueue::Format;
