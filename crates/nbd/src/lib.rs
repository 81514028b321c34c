//! The client's half of the NBD protocol (network block device, `doc/proto.md` of the reference implementation):
//! bytes in, values out, no I/O. What sends, receives, encrypts and waits is somebody else.
//!
//! [`Uri`] says where an export is. [`Handshake`] haggles with the server (fixed newstyle) until there is an
//! [`Export`]. Then [`Request`] is what is sent, [`Reply`] what comes back, simple or structured, and a [`Gap`] list says
//! which bytes of a read are still to come.
//!
//! The server is not believed: each number is checked, each list is bounded, and what it may not say is an [`Error`] that
//! ends the connection.

mod handshake;
mod transmission;
mod uri;
mod wire;

pub use handshake::{Export, Handshake, Step, Terms};
pub use transmission::{Command, FLAG_FUA, FLAG_NO_HOLE, Gap, Gaps, REQUEST_BYTES, Reply, Request};
pub use uri::{Place, Uri, UriError};

/// Why a connection cannot go on: what the server said, or should not have said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server breaks the protocol.
    #[error("the server breaks the NBD protocol: {0}")]
    Protocol(&'static str),
    /// The server is sound, but cannot or will not do what is needed.
    #[error("{0}")]
    Refused(String),
}
