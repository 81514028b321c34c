//! Serves a [`Device`](outboard_device::Device) over vhost-user: protocol dispatch, rings, workers, engines.
//!
//! The path of a message runs downhill through `connection` (receive, decode, answer), `dispatch` (one arm per
//! request), `rings` and `vring` (what the front end configured) and `group` (the way to a worker thread). The path of
//! a request runs through `worker` (the loop) and `engines` (what it sleeps in and what executes its host operations).
//! Many workers may share the threads of a `crew`.
//!
//! The front end and the guest are hostile. Their faults are values: a message is answered with a NACK, a ring stops
//! alone, a request completes with an error of its device.

mod attend;
mod backend;

mod connection;
mod counters;
mod crew;
mod dispatch;
mod engines;
mod group;
mod inflight;
mod notice;
mod options;
mod placement;
mod remote;
mod rings;
mod stop;
mod vring;
mod watchdog;
mod worker;

pub use backend::{Backend, BackendError, PROTOCOL_FEATURES, ServeError, Served};
pub use crew::Crew;
pub use notice::Notice;
pub use options::{EngineChoice, Options, Polling};
pub use placement::{Cpus, Placement};
pub use remote::{AskError, Pending, REFRESH, Remote, STATUS};
pub use stop::Stop;
