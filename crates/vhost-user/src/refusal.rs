//! Why a message was not done.

use crate::message::{FrontendRequest, MessageId};

/// Why a message was not done. The peer's faults, and the device's own refusals, as values.
///
/// What follows from one depends on whether the peer listens: [`BackendSession::answer`] sends a nonzero answer
/// where one is due; where none can be given, [`closes`](Self::closes) and [`harmless`](Self::harmless) decide.
///
/// [`BackendSession::answer`]: crate::BackendSession::answer
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The payload is too short, too long, or contradicts itself.
    #[error("{id}: malformed: {reason}")]
    Malformed {
        /// The message.
        id: MessageId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A descriptor is missing, or their number does not fit the payload.
    #[error("{id}: {found} descriptors came where {wanted} belong")]
    WrongFdCount {
        /// The message.
        id: MessageId,
        /// How many came.
        found: usize,
        /// How many belong there.
        wanted: usize,
    },
    /// A ring cannot run as it is. It stands still alone, and its error descriptor was signalled.
    #[error("{id}: the ring is faulty: {reason}")]
    FaultyRing {
        /// The message.
        id: MessageId,
        /// What is wrong with the ring.
        reason: String,
    },
    /// The message belongs to a feature that both sides have not agreed on.
    #[error("{id}: needs {needs}, which is not negotiated")]
    NotNegotiated {
        /// The message.
        id: MessageId,
        /// The feature's name.
        needs: &'static str,
    },
    /// The specification knows no such message.
    #[error("{id}: no such message")]
    UnknownRequest {
        /// The message.
        id: MessageId,
    },
    /// The device has no such ring.
    #[error("{id}: ring {index}, the device has {queues}")]
    BadIndex {
        /// The message.
        id: MessageId,
        /// The ring it names.
        index: u32,
        /// How many there are.
        queues: u32,
    },
    /// A value is outside its range.
    #[error("{id}: {what} {value:#x} is out of range")]
    BadValue {
        /// The message.
        id: MessageId,
        /// Which value.
        what: &'static str,
        /// The value.
        value: u64,
    },
    /// Feature bits were set that had not been offered.
    #[error("{id}: bits {bits:#x} were not offered")]
    NotOffered {
        /// The message.
        id: MessageId,
        /// Those bits.
        bits: u64,
    },
    /// More than one message may carry.
    #[error("{id}: {size} where {max} is the limit")]
    Oversized {
        /// The message.
        id: MessageId,
        /// How much came.
        size: u64,
        /// How much may come.
        max: u64,
    },
    /// A feature was set without one that it needs, where the specification demands to close the connection.
    #[error("{id}: {feature} without {missing}")]
    DependencyMissing {
        /// The message.
        id: MessageId,
        /// The feature set.
        feature: &'static str,
        /// What it lacks.
        missing: &'static str,
    },
    /// The header's flags make no sense here.
    #[error("{id}: header flags {flags:#x}")]
    BadFlags {
        /// The message.
        id: MessageId,
        /// The flags.
        flags: u32,
    },
    /// A message or an answer came where none may: the channel has lost step.
    #[error("{id}: out of turn: {reason}")]
    OutOfTurn {
        /// The message.
        id: MessageId,
        /// What was due instead.
        reason: &'static str,
    },
    /// The peer answered that it did not do it.
    #[error("{id}: refused by the peer ({value:#x})")]
    Nack {
        /// The message.
        id: MessageId,
        /// The value it answered.
        value: u64,
    },
    /// Syntax and negotiation are fine, but it cannot be done: a mapping failed, a device said no.
    #[error("{id}: {reason}")]
    Failed {
        /// The message.
        id: MessageId,
        /// Why.
        reason: String,
    },
}

impl Refusal {
    /// The message cannot be done, for a reason that lies behind the protocol.
    #[allow(clippy::needless_pass_by_value, reason = "callers hand over an error they have no more use for")]
    pub fn failed(id: impl Into<MessageId>, reason: impl ToString) -> Self {
        Self::Failed { id: id.into(), reason: reason.to_string() }
    }

    /// The message.
    pub fn id(&self) -> MessageId {
        match self {
            Self::Malformed { id, .. }
            | Self::WrongFdCount { id, .. }
            | Self::NotNegotiated { id, .. }
            | Self::UnknownRequest { id }
            | Self::BadIndex { id, .. }
            | Self::BadValue { id, .. }
            | Self::NotOffered { id, .. }
            | Self::Oversized { id, .. }
            | Self::DependencyMissing { id, .. }
            | Self::BadFlags { id, .. }
            | Self::OutOfTurn { id, .. }
            | Self::Nack { id, .. }
            | Self::FaultyRing { id, .. }
            | Self::Failed { id, .. } => *id,
        }
    }

    /// Must the connection end, even if a refusal could be answered?
    ///
    /// So it is when the channel has lost step, and where the specification says so.
    pub fn closes(&self) -> bool {
        matches!(self, Self::BadFlags { .. } | Self::OutOfTurn { .. } | Self::DependencyMissing { .. })
    }

    /// May the connection live on although the peer cannot be told?
    ///
    /// Yes, if what it asked for concerns a ring that is not there (the other rings do not suffer, and front ends
    /// configured with too many queues do send this) or that is faulty (it stops alone), or if the message is advice whose loss corrupts nothing.
    pub fn harmless(&self) -> bool {
        if self.closes() {
            return false;
        }
        match (self, self.id()) {
            (Self::UnknownRequest { .. }, _) => false,
            (Self::BadIndex { .. } | Self::FaultyRing { .. }, _) | (_, MessageId::Backend(_)) => true,
            (_, MessageId::Frontend(code)) => matches!(
                code,
                FrontendRequest::SET_OWNER
                    | FrontendRequest::SET_LOG_FD
                    | FrontendRequest::SET_VRING_ERR
                    | FrontendRequest::SET_VRING_ENABLE
                    | FrontendRequest::SEND_RARP
                    | FrontendRequest::SET_BACKEND_REQ_FD
                    | FrontendRequest::SET_CONFIG
                    | FrontendRequest::CLOSE_CRYPTO_SESSION
                    | FrontendRequest::GPU_SET_SOCKET
                    | FrontendRequest::REM_MEM_REG
            ),
        }
    }
}
