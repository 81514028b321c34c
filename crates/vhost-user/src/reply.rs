//! What a back end can answer, as values.

use std::os::fd::OwnedFd;

use crate::message::FrontendRequest;
use crate::payload::{Inflight, ShmemConfig};

/// What was done. How it travels, and whether at all, the session decides.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are those of the payloads, described in `payload`")]
pub enum Reply {
    /// Done, and there is nothing to tell.
    Ack,
    /// A number: features, a count, a status.
    U64(u64),
    /// A ring and the index at which it continues.
    VringState { index: u32, num: u32 },
    /// Configuration bytes from `offset` on. Fewer than were asked for are filled up with zeroes.
    Config { offset: u32, flags: u32, data: Vec<u8> },
    /// There is no configuration to be read there.
    ConfigRefused,
    /// The dirty log now in force.
    LogBase { size: u64, offset: u64 },
    /// The buffer that records requests in flight; a size of zero and no descriptor if there is none.
    Inflight(Inflight, Option<OwnedFd>),
    /// The verdict on a device-state transfer (see [`crate::payload::device_state`]), and the back end's own
    /// descriptor if it wants that one used.
    DeviceState { value: u64, fd: Option<OwnedFd> },
    /// The dma-buf, if known.
    SharedObject(Option<OwnedFd>),
    /// The device's shared memory regions.
    Shmem(Box<ShmemConfig>),
    /// The userfaultfd, if postcopy is possible.
    Uffd(Option<OwnedFd>),
    /// The crypto session as asked for, with its id at the end.
    CryptoSession(Vec<u8>),
}

/// Which form the answer to a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// None of its own: 0 or nonzero if the peer wants one and REPLY_ACK is negotiated.
    Ack,
    /// Always a `u64` that says 0 or nonzero.
    Verdict,
    /// A `u64` that is a value: no refusal can be told.
    U64,
    /// Ring and index.
    VringState,
    /// The log description, if LOG_SHMFD is negotiated; else as `Ack`.
    LogBase,
    /// Configuration bytes, or an empty payload.
    Config,
    /// The in-flight description.
    Inflight,
    /// Verdict on a device-state transfer.
    DeviceState,
    /// An empty payload, with or without dma-buf.
    SharedObject,
    /// The shared memory configuration.
    Shmem,
    /// An empty payload, with or without userfaultfd.
    Uffd,
    /// The crypto session.
    CryptoSession,
}

impl ReplyKind {
    /// Which form the answer to `code` takes (vhost-user: Front-end message types, "Equivalent reply").
    pub fn of(code: FrontendRequest) -> Self {
        use FrontendRequest as Code;
        match code {
            Code::GET_FEATURES
            | Code::GET_PROTOCOL_FEATURES
            | Code::GET_QUEUE_NUM
            | Code::GET_MAX_MEM_SLOTS
            | Code::GET_STATUS => Self::U64,
            Code::GET_VRING_BASE | Code::GET_VRING_BASE_SKIP_DRAIN => Self::VringState,
            Code::SET_LOG_BASE => Self::LogBase,
            Code::GET_CONFIG => Self::Config,
            Code::IOTLB_MSG | Code::POSTCOPY_LISTEN | Code::POSTCOPY_END | Code::CHECK_DEVICE_STATE => {
                Self::Verdict
            }
            Code::CREATE_CRYPTO_SESSION => Self::CryptoSession,
            Code::POSTCOPY_ADVISE => Self::Uffd,
            Code::GET_INFLIGHT_FD => Self::Inflight,
            Code::GET_SHARED_OBJECT => Self::SharedObject,
            Code::SET_DEVICE_STATE_FD => Self::DeviceState,
            Code::GET_SHMEM_CONFIG => Self::Shmem,
            _ => Self::Ack,
        }
    }
}
