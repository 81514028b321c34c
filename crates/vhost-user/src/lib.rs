//! The vhost-user protocol, without I/O, and beside it the transports that carry it.
//!
//! Read downhill:
//!
//! * [`message`] — the numbers: request codes, header, flags, limits;
//! * [`payload`] — the fixed layouts that follow a header;
//! * [`features`] — the protocol feature bits and what each needs;
//! * [`Request`] and [`Reply`] — the vocabulary as values: descriptors owned, payloads parsed;
//! * [`codec`] — frame to value and back, syntax only;
//! * [`session`] — what is legal now and who owes an answer: [`BackendSession`] and [`FrontendSession`];
//! * [`back_channel`] — the same for the socket on which the back end asks;
//! * [`observe`] and [`recording`] — what somebody in the middle sees, and keeps;
//! * [`transport`] — how frames travel: UNIX socket, in-memory pair, and decorators around any of them.
//!
//! Everything up to `transport` is pure: bytes and descriptors in, values out; no system call except the closing
//! of a descriptor that is dropped. Nobody here trusts the peer: its faults come back as a [`Refusal`].

pub mod back_channel;
pub mod codec;
pub mod features;
pub mod message;
pub mod observe;
pub mod payload;
pub mod recording;
mod refusal;
mod reply;
mod request;
pub mod session;
pub mod transport;

pub use features::ProtocolFeatures;
pub use message::{BackendRequest, Frame, FrontendRequest, Header, MessageId};
pub use refusal::Refusal;
pub use reply::{Reply, ReplyKind};
pub use request::Request;
pub use session::{Answer, BackendSession, FrontendSession, Offer};
