//! The contract between a VirtIO device and the framework that serves it: all that a device author imports.
//!
//! A device comes in two halves. [`Device`] is the control half: it lives on the control thread, knows the
//! device's identity ([`Profile`]) and its configuration space, and makes handlers. [`Handler`] is the data half:
//! one per [`Group`] of queues, owned by the thread that serves them, with plain fields and no locks. A handler
//! is given one [`Chain`] at a time and acts through [`Cx`], which hides the engine (epoll or io_uring), the ring
//! format and the transport. Kick suppression, batching, publishing, in-flight records, dirty marking and calls
//! happen around it, once, for every device.
//!
//! The guest is hostile: whatever a chain holds is data to be checked, and a bad request is answered, never
//! unwrapped.

mod calm;
mod context;
mod contract;
mod counter;
mod deferred;
mod errands;
mod host;
pub mod host_io;
mod hotline;
mod inbox;
mod keep;
mod limits;
mod outbox;
mod parcel;
mod patience;
mod profile;
mod rate;
mod reach;
mod recall;
mod shared_bucket;
mod sync;
pub mod testing;
mod uniform;
mod waker;

pub use context::{Cx, Flow, Next, Port, Queues, Slot, Watching};
pub use contract::{Device, DeviceError, Handler, MOST_GLANCED, SourceId};
pub use counter::Counter;
pub use deferred::{Deferred, Ticket};
pub use errands::Errands;
pub use host::{Durability, FileId, HostOp};
pub use hotline::Hotline;
pub use inbox::{Inbox, Outlet, inbox};
pub use keep::{Keep, Taken};
pub use limits::{Limit, LimitSet};
pub use outboard_guest_memory::{Segment, SharedRegion};
pub use outboard_virtio_defs as defs;
pub use outboard_virtqueue::{Chain, QueueId, Short, Status, pieces};
pub use outbox::Outbox;
pub use parcel::{Lent, Parcel, Returned};
pub use patience::Patience;
pub use profile::{Features, Group, Profile, QueueSpec};
pub use rate::{TokenBucket, WarnLimit};
pub use reach::{Reach, Visit};
pub use recall::{Mark, Recall};
/// What commands of the control socket are written in.
pub use serde_json;
pub use shared_bucket::SharedBucket;
pub use uniform::Uniform;
pub use waker::Waker;
