//! The front end's half: encode a message, take its answer.

use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;

use super::Agreement;
use crate::codec::{read_reply, write_request};
use crate::features::ProtocolFeatures;
use crate::message::{Frame, FrontendRequest};
use crate::refusal::Refusal;
use crate::reply::{Reply, ReplyKind};
use crate::request::Request;

/// The answer that is due.
#[derive(Debug)]
struct Pending {
    code: FrontendRequest,
    kind: ReplyKind,
    /// What had been agreed before, should the message be refused.
    before: Agreement,
    /// What the answer has to repeat: a ring, or a number of configuration bytes.
    repeats: Option<u32>,
}

/// The front end's half of a connection. Pure: requests in, frames out; frames in, replies out.
///
/// It sends only what has been negotiated. For messages that no well-behaved front end sends, see
/// [`crate::codec::write_request`].
#[derive(Debug)]
pub struct FrontendSession {
    offered_features: Option<u64>,
    offered_protocol: Option<ProtocolFeatures>,
    agreed: Agreement,
    asks_for_acks: bool,
    pending: Option<Pending>,
}

impl Default for FrontendSession {
    fn default() -> Self {
        Self::new()
    }
}

impl FrontendSession {
    /// A connection on which nothing has been said. Asks for acknowledgements as soon as REPLY_ACK is agreed.
    pub fn new() -> Self {
        Self {
            offered_features: None,
            offered_protocol: None,
            agreed: Agreement::default(),
            asks_for_acks: true,
            pending: None,
        }
    }

    /// Shall NEED_REPLY be set on messages without an answer of their own? Some front ends never do.
    pub fn ask_for_acks(&mut self, ask: bool) {
        self.asks_for_acks = ask;
    }

    /// The virtio features that the back end offers; `None` before it has answered GET_FEATURES.
    pub fn offered_features(&self) -> Option<u64> {
        self.offered_features
    }

    /// The protocol features that the back end offers; `None` before it has answered GET_PROTOCOL_FEATURES.
    pub fn offered_protocol(&self) -> Option<ProtocolFeatures> {
        self.offered_protocol
    }

    /// The virtio features set; 0 before SET_FEATURES.
    pub fn features(&self) -> u64 {
        self.agreed.features.unwrap_or(0)
    }

    /// The protocol features set and in force.
    pub fn protocol(&self) -> ProtocolFeatures {
        self.agreed.protocol
    }

    /// Is an answer due?
    pub fn expects_reply(&self) -> bool {
        self.pending.is_some()
    }

    /// Builds the message that carries `request`.
    ///
    /// Refused: what is not negotiated, what was not offered, what the format cannot hold, and anything while an
    /// answer is due.
    pub fn encode(&mut self, request: Request) -> Result<Frame, Refusal> {
        let code = request.code();
        let id = code.into();
        if self.pending.is_some() {
            return Err(Refusal::OutOfTurn { id, reason: "the answer to the message before is due" });
        }
        self.agreed.check(code)?;
        let before = self.agreed;
        let kind = self.agreed.reply_kind(code);
        let ack = self.asks_for_acks && self.agreed.protocol.contains(ProtocolFeatures::REPLY_ACK);
        let need_reply = kind == ReplyKind::Ack && ack;
        let repeats = repeats(&request);
        let after = self.after(&request)?;
        let frame = write_request(request, need_reply)?;
        self.agreed = after;
        if need_reply || kind != ReplyKind::Ack {
            self.pending = Some(Pending { code, kind, before, repeats });
        }
        Ok(frame)
    }

    /// Takes the answer in. Any refusal but [`Refusal::Nack`] means that the channel has lost step: close it.
    pub fn reply(&mut self, frame: Frame) -> Result<Reply, Refusal> {
        let Some(Pending { code, kind, before, repeats }) = self.pending.take() else {
            let id = FrontendRequest(frame.request).into();
            return Err(Refusal::OutOfTurn { id, reason: "no answer is due" });
        };
        let id = code.into();
        let reply = read_reply(code, kind, frame).inspect_err(|refusal| {
            if matches!(refusal, Refusal::Nack { .. }) {
                self.agreed = before;
            }
        })?;
        match (&reply, repeats) {
            (Reply::VringState { index, .. }, Some(asked)) if *index != asked => {
                Err(Refusal::OutOfTurn { id, reason: "the answer is about another ring" })
            }
            (Reply::Config { data, .. }, Some(asked)) if data.len() as u64 != u64::from(asked) => {
                Err(Refusal::Malformed { id, reason: "another amount of configuration than asked for" })
            }
            _ => {
                self.note_offer(code, &reply);
                Ok(reply)
            }
        }
    }

    /// What will have been agreed once `request` is done.
    fn after(&self, request: &Request) -> Result<Agreement, Refusal> {
        let mut agreed = self.agreed;
        match *request {
            Request::SetFeatures(bits) => {
                let extra = bits & !self.offered_features.unwrap_or(u64::MAX);
                if extra != 0 {
                    return Err(Refusal::NotOffered { id: request.code().into(), bits: extra });
                }
                agreed.features = Some(bits);
            }
            Request::SetProtocolFeatures(bits) => {
                agreed.set_protocol(bits, self.offered_protocol.unwrap_or(ProtocolFeatures(u64::MAX)))?;
            }
            _ => {}
        }
        Ok(agreed)
    }

    fn note_offer(&mut self, code: FrontendRequest, reply: &Reply) {
        match (code, reply) {
            (FrontendRequest::GET_FEATURES, Reply::U64(bits)) => {
                self.offered_features = Some(*bits);
                self.agreed.protocol_offered = bits & VHOST_USER_F_PROTOCOL_FEATURES != 0;
            }
            (FrontendRequest::GET_PROTOCOL_FEATURES, Reply::U64(bits)) => {
                self.offered_protocol = Some(ProtocolFeatures(*bits));
            }
            _ => {}
        }
    }
}

fn repeats(request: &Request) -> Option<u32> {
    match request {
        Request::GetVringBase { index } | Request::GetVringBaseSkipDrain { index } => Some(*index),
        Request::GetConfig { size, .. } => Some(*size),
        _ => None,
    }
}
