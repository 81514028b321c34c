//! Ends of byte and message streams on the host, for devices whose guests talk to programs there: sockets of several
//! families behind one [`Address`], and many of them watched behind one descriptor.
//!
//! Nothing here blocks. Trusted: the command line, which names the addresses. Not trusted: whoever connects, or is
//! connected to; what comes from them is the caller's to judge.

mod address;
mod backlog;
mod door;
mod listener;
mod poller;
mod stream;
mod vm_address;

pub use address::{Address, AddressError};
pub use backlog::Backlog;
pub use door::{Door, Token, Verdict};
pub use listener::{Access, Listener};
pub use poller::{Poller, Readiness};
pub use stream::{Dial, Direction, Form, Stream, pair};
