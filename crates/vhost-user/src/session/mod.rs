//! What is legal now, and who owes an answer.
//!
//! The channel is strictly half-duplex and has no sequence numbers: one answer too many or too few, and it never
//! finds its step again. So a session counts: a back end decodes one message, then gives exactly one answer; a
//! front end encodes one message, then takes the answer if one is due.
//!
//! Neither session has rings, memory or a device: they know negotiation, and what follows from it alone.

mod backend;
mod frontend;

pub use backend::{Answer, BackendSession, Offer};
pub use frontend::FrontendSession;

use outboard_virtio_defs::features;

use crate::features::ProtocolFeatures;
use crate::message::FrontendRequest;
use crate::refusal::Refusal;
use crate::reply::ReplyKind;

/// What both sides have to agree on before a message may be sent.
enum Gate {
    /// Nothing.
    Open,
    /// VHOST_USER_F_PROTOCOL_FEATURES on offer. Acknowledged it need not be yet.
    ProtocolOffered,
    /// The same, unless features have been set without it.
    RingEnable,
    /// A protocol feature.
    Protocol(ProtocolFeatures, &'static str),
    /// VIRTIO_F_ACCESS_PLATFORM.
    AccessPlatform,
}

impl Gate {
    /// The gate before `code` (vhost-user: Front-end message types).
    fn before(code: FrontendRequest) -> Self {
        use FrontendRequest as Code;
        use ProtocolFeatures as P;
        match code {
            Code::GET_PROTOCOL_FEATURES | Code::SET_PROTOCOL_FEATURES => Self::ProtocolOffered,
            Code::SET_VRING_ENABLE => Self::RingEnable,
            Code::SEND_RARP => Self::Protocol(P::RARP, "RARP"),
            Code::NET_SET_MTU => Self::Protocol(P::MTU, "MTU"),
            Code::SET_BACKEND_REQ_FD => Self::Protocol(P::BACKEND_REQ, "BACKEND_REQ"),
            Code::IOTLB_MSG => Self::AccessPlatform,
            Code::SET_VRING_ENDIAN => Self::Protocol(P::CROSS_ENDIAN, "CROSS_ENDIAN"),
            Code::GET_CONFIG | Code::SET_CONFIG => Self::Protocol(P::CONFIG, "CONFIG"),
            Code::CREATE_CRYPTO_SESSION | Code::CLOSE_CRYPTO_SESSION => {
                Self::Protocol(P::CRYPTO_SESSION, "CRYPTO_SESSION")
            }
            Code::POSTCOPY_ADVISE | Code::POSTCOPY_LISTEN | Code::POSTCOPY_END => {
                Self::Protocol(P::PAGEFAULT, "PAGEFAULT")
            }
            Code::GET_INFLIGHT_FD | Code::SET_INFLIGHT_FD => {
                Self::Protocol(P::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")
            }
            Code::RESET_DEVICE => Self::Protocol(P::RESET_DEVICE, "RESET_DEVICE"),
            Code::VRING_KICK => Self::Protocol(P::INBAND_NOTIFICATIONS, "INBAND_NOTIFICATIONS"),
            Code::GET_MAX_MEM_SLOTS | Code::ADD_MEM_REG | Code::REM_MEM_REG => {
                Self::Protocol(P::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")
            }
            Code::SET_STATUS | Code::GET_STATUS => Self::Protocol(P::STATUS, "STATUS"),
            Code::GET_SHARED_OBJECT => Self::Protocol(P::SHARED_OBJECT, "SHARED_OBJECT"),
            Code::SET_DEVICE_STATE_FD | Code::CHECK_DEVICE_STATE => {
                Self::Protocol(P::DEVICE_STATE, "DEVICE_STATE")
            }
            Code::GET_SHMEM_CONFIG => Self::Protocol(P::SHMEM, "SHMEM"),
            Code::GET_VRING_BASE_SKIP_DRAIN => {
                Self::Protocol(P::GET_VRING_BASE_SKIP_DRAIN, "GET_VRING_BASE_SKIP_DRAIN")
            }
            // GET_QUEUE_NUM needs MQ, but SPDK asks without; the answer is known anyway.
            _ => Self::Open,
        }
    }
}

/// What has been agreed so far. Each half of the protocol keeps its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agreement {
    /// VHOST_USER_F_PROTOCOL_FEATURES is on offer.
    pub(crate) protocol_offered: bool,
    /// The virtio features acknowledged; `None` before SET_FEATURES.
    pub(crate) features: Option<u64>,
    /// The protocol features acknowledged and in force.
    pub(crate) protocol: ProtocolFeatures,
}

impl Agreement {
    fn has(&self, feature: u64) -> bool {
        self.features.is_some_and(|features| features & feature != 0)
    }

    /// May `code` be sent now?
    pub(crate) fn check(&self, code: FrontendRequest) -> Result<(), Refusal> {
        let (open, needs) = match Gate::before(code) {
            Gate::Open => return Ok(()),
            Gate::ProtocolOffered => (self.protocol_offered, "VHOST_USER_F_PROTOCOL_FEATURES"),
            Gate::RingEnable => (
                self.protocol_offered
                    && (self.features.is_none() || self.has(features::VHOST_USER_F_PROTOCOL_FEATURES)),
                "VHOST_USER_F_PROTOCOL_FEATURES",
            ),
            Gate::Protocol(feature, name) => (self.protocol.contains(feature), name),
            Gate::AccessPlatform => {
                (self.has(features::VIRTIO_F_ACCESS_PLATFORM), "VIRTIO_F_ACCESS_PLATFORM")
            }
        };
        if open { Ok(()) } else { Err(Refusal::NotNegotiated { id: code.into(), needs }) }
    }

    /// Which form the answer to `code` takes now.
    pub(crate) fn reply_kind(&self, code: FrontendRequest) -> ReplyKind {
        match ReplyKind::of(code) {
            ReplyKind::LogBase if !self.protocol.contains(ProtocolFeatures::LOG_SHMFD) => ReplyKind::Ack,
            kind => kind,
        }
    }

    /// Sets the protocol features; those whose needs are missing stay without force.
    ///
    /// INBAND_NOTIFICATIONS without its needs ends the connection (vhost-user: In-band notifications).
    pub(crate) fn set_protocol(&mut self, bits: u64, offered: ProtocolFeatures) -> Result<(), Refusal> {
        let id = FrontendRequest::SET_PROTOCOL_FEATURES.into();
        let wanted = ProtocolFeatures(bits);
        let extra = wanted - offered;
        if !extra.is_empty() {
            return Err(Refusal::NotOffered { id, bits: extra.0 });
        }
        let needs = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK;
        if wanted.contains(ProtocolFeatures::INBAND_NOTIFICATIONS) && !wanted.contains(needs) {
            return Err(Refusal::DependencyMissing {
                id,
                feature: "INBAND_NOTIFICATIONS",
                missing: "BACKEND_REQ and REPLY_ACK",
            });
        }
        self.protocol = wanted.effective();
        Ok(())
    }
}
