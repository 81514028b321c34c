//! What every back-end program shares: command line, socket, signals, logging, and the way it announces itself.
//!
//! A device's whole `main.rs` is
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     outboard_daemon::run::<outboard_rng::RngProgram>()
//! }
//! ```
//!
//! The order of a start: parse, log, adopt `--fd`, open the devices, catch signals, listen, accept. Whatever fails
//! does so before the first connection, with one line on standard error. A device has a thread that serves one
//! connection at a time; the next waits in the backlog. A process may have several devices, and then a control socket is
//! of use; one device or ten are the same code. `docs/programs.md` tells users the same from the outside.
//!
//! Trusted: the command line and whoever started the program. Not trusted: whoever connects, and what lies at
//! the socket's path. Rust's runtime has seen to two things before `main`: descriptors 0 to 2 are open (on
//! `/dev/null` if they were closed), so that no data file ever becomes "standard error"; and SIGPIPE is ignored.
//! Tests hold it to both.

mod accept;
mod affinity;
mod announce;
mod client;
mod control;
mod directory;
mod drive;
mod house;
mod household;
mod inherited;
mod lines;
mod listen;
mod lists;
mod logging;
mod options;
mod plan;
mod process;
mod program;
mod request;
mod signals;
mod station;

pub use announce::{DiscoveryError, SCHEMA_TYPES, capabilities_json, discovery_json};
pub use drive::{DriveArgs, Driven, Driver, Teller};
pub use listen::{ListenError, SocketFile};
pub use lists::{Ranges, Renamed};
pub use plan::{Given, Pairs};
pub use program::{Housed, Program, command, command_housed, run, run_housed, run_housed_with, run_with};
