//! What the two have agreed on, as far as it can be heard.

use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;

use crate::features::ProtocolFeatures;
use crate::message::{FrontendRequest, MessageId};
use crate::reply::ReplyKind;
use crate::session::Agreement;

/// Offers and acknowledgements heard so far.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    agreement: Agreement,
    offered_features: Option<u64>,
    offered_protocol: Option<ProtocolFeatures>,
}

impl Agreed {
    /// What is wrong with sending this number now, if anything; what it changes is noted.
    pub(super) fn note_request(&mut self, code: FrontendRequest, number: u64) -> Option<String> {
        match code {
            FrontendRequest::SET_FEATURES => {
                self.agreement.features = Some(number);
                let extra = number & !self.offered_features.unwrap_or(u64::MAX);
                (extra != 0).then(|| format!("bits {extra:#x} were not offered"))
            }
            FrontendRequest::SET_PROTOCOL_FEATURES => {
                let offered = self.offered_protocol.unwrap_or(ProtocolFeatures(u64::MAX));
                self.agreement.set_protocol(number, offered).err().map(|refusal| refusal.to_string())
            }
            _ => None,
        }
    }

    /// What the back end said it offers.
    pub(super) fn note_reply(&mut self, code: FrontendRequest, number: u64) {
        match code {
            FrontendRequest::GET_FEATURES => {
                self.offered_features = Some(number);
                self.agreement.protocol_offered = number & VHOST_USER_F_PROTOCOL_FEATURES != 0;
            }
            FrontendRequest::GET_PROTOCOL_FEATURES => self.offered_protocol = Some(ProtocolFeatures(number)),
            _ => {}
        }
    }

    /// Why the front end may not send `code`, if so.
    pub(super) fn objection(&self, code: FrontendRequest) -> Option<String> {
        self.agreement.check(code).err().map(|refusal| refusal.to_string())
    }

    /// Which form the answer to a message takes, if one is due.
    pub(super) fn due(&self, id: MessageId, needs_reply: bool) -> Option<ReplyKind> {
        let asked = needs_reply && self.agreement.protocol.contains(ProtocolFeatures::REPLY_ACK);
        match id {
            MessageId::Frontend(code) => match self.agreement.reply_kind(code) {
                ReplyKind::Ack if !asked => None,
                kind => Some(kind),
            },
            MessageId::Backend(crate::BackendRequest::SHARED_OBJECT_LOOKUP) => Some(ReplyKind::Verdict),
            MessageId::Backend(_) => asked.then_some(ReplyKind::Verdict),
        }
    }
}
