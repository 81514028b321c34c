//! The back end's half: decode a message, answer it.

use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;

use super::Agreement;
use crate::codec::{read_request, write_refusal, write_reply, write_verdict};
use crate::features::ProtocolFeatures;
use crate::message::{Frame, FrontendRequest, flags};
use crate::refusal::Refusal;
use crate::reply::{Reply, ReplyKind};
use crate::request::Request;

/// What a back end offers; constant for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Virtio features, with VHOST_USER_F_PROTOCOL_FEATURES (bit 30) and VHOST_F_LOG_ALL (bit 26) where they apply.
    pub features: u64,
    /// Features that may be acknowledged although they are not on offer; the session removes them.
    ///
    /// QEMU's vhost-user-scsi acknowledges VIRTIO_SCSI_F_CHANGE whatever it was offered.
    pub tolerated_features: u64,
    /// Protocol features. Those whose own needs are not on offer are not offered either.
    pub protocol: ProtocolFeatures,
    /// How many rings there are.
    pub queues: u32,
}

/// What follows from an answer.
#[derive(Debug)]
pub enum Answer {
    /// Send this.
    Send(Frame),
    /// Nothing is due.
    Nothing,
    /// The connection cannot go on.
    Close,
}

/// The message that waits for its answer.
#[derive(Debug)]
struct Pending {
    code: FrontendRequest,
    need_reply: bool,
    kind: ReplyKind,
    /// What had been agreed before, should the message be refused.
    before: Agreement,
    echo: Echo,
}

/// What the answer repeats of the question.
#[derive(Debug)]
enum Echo {
    Nothing,
    Config { offset: u32, size: u32, flags: u32 },
    Crypto(Vec<u8>),
}

/// The back end's half of a connection. Pure: frames in, requests out; replies in, frames out.
///
/// The caller alternates [`decode`](Self::decode) and [`answer`](Self::answer), also when decoding failed.
#[derive(Debug)]
pub struct BackendSession {
    offer: Offer,
    agreed: Agreement,
    pending: Option<Pending>,
}

impl BackendSession {
    /// A connection on which nothing has been said.
    pub fn new(offer: Offer) -> Self {
        let offer = Offer { protocol: offer.protocol.effective(), ..offer };
        let protocol_offered = offer.features & VHOST_USER_F_PROTOCOL_FEATURES != 0;
        Self { offer, agreed: Agreement { protocol_offered, ..Agreement::default() }, pending: None }
    }

    /// What is on offer: the answers to GET_FEATURES, GET_PROTOCOL_FEATURES and GET_QUEUE_NUM.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The virtio features acknowledged, bits 26 and 30 among them; 0 before SET_FEATURES.
    pub fn features(&self) -> u64 {
        self.agreed.features.unwrap_or(0)
    }

    /// The protocol features acknowledged and in force.
    pub fn protocol(&self) -> ProtocolFeatures {
        self.agreed.protocol
    }

    /// Takes a message in.
    ///
    /// What comes out is well-formed, negotiated, and names only rings that there are. A refusal goes to
    /// [`answer`](Self::answer) like any other result.
    pub fn decode(&mut self, frame: Frame) -> Result<Request, Refusal> {
        let code = FrontendRequest(frame.request);
        let id = code.into();
        if self.pending.is_some() {
            return Err(Refusal::OutOfTurn { id, reason: "the message before has no answer yet" });
        }
        self.pending = Some(Pending {
            code,
            need_reply: frame.needs_reply(),
            kind: self.agreed.reply_kind(code),
            before: self.agreed,
            echo: Echo::Nothing,
        });
        if frame.flags & flags::VERSION_MASK != flags::VERSION || frame.is_reply() {
            return Err(Refusal::BadFlags { id, flags: frame.flags });
        }
        self.agreed.check(code)?;
        let mut request = read_request(frame)?;
        self.check_ring(&request)?;
        self.agree(&mut request)?;
        if let Some(pending) = &mut self.pending {
            pending.echo = Echo::of(&request);
        }
        Ok(request)
    }

    /// Answers the message decoded last; exactly once for each.
    ///
    /// A refusal is sent where the message has an answer that can say no, or where the peer wants one; where it
    /// cannot be told, the connection ends unless the refusal is [harmless](Refusal::harmless).
    pub fn answer(&mut self, result: Result<Reply, Refusal>) -> Answer {
        let Some(pending) = self.pending.take() else { return Answer::Close };
        match result {
            Ok(reply) => self.done(&pending, reply),
            Err(refusal) => {
                self.agreed = pending.before;
                self.refused(pending, &refusal)
            }
        }
    }

    fn check_ring(&self, request: &Request) -> Result<(), Refusal> {
        match request.ring() {
            Some(index) if index >= self.offer.queues => {
                Err(Refusal::BadIndex { id: request.code().into(), index, queues: self.offer.queues })
            }
            _ => Ok(()),
        }
    }

    /// Notes what the message itself negotiates, and removes what it carries without force.
    fn agree(&mut self, request: &mut Request) -> Result<(), Refusal> {
        let id = request.code().into();
        match request {
            Request::SetFeatures(bits) => {
                *bits &= self.offer.features | !self.offer.tolerated_features;
                let extra = *bits & !self.offer.features;
                if extra != 0 {
                    return Err(Refusal::NotOffered { id, bits: extra });
                }
                self.agreed.features = Some(*bits);
            }
            Request::SetProtocolFeatures(bits) => {
                self.agreed.set_protocol(*bits, self.offer.protocol)?;
                *bits = self.agreed.protocol.0;
            }
            // vhost-user: SET_LOG_BASE. Only LOG_SHMFD makes it carry a log.
            Request::SetLogBase { fd, .. } => {
                if !self.agreed.protocol.contains(ProtocolFeatures::LOG_SHMFD) {
                    *fd = None;
                } else if fd.is_none() {
                    return Err(Refusal::WrongFdCount { id, found: 0, wanted: 1 });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Does the peer want 0 or nonzero? REPLY_ACK counts as it is after the message.
    fn wants_verdict(&self, pending: &Pending) -> bool {
        pending.need_reply && self.agreed.protocol.contains(ProtocolFeatures::REPLY_ACK)
    }

    fn done(&self, pending: &Pending, reply: Reply) -> Answer {
        let Pending { code, kind, .. } = *pending;
        match (kind, reply) {
            (ReplyKind::Ack, Reply::Ack | Reply::LogBase { .. }) if self.wants_verdict(pending) => {
                Answer::Send(write_verdict(code.0, 0))
            }
            (ReplyKind::Ack, Reply::Ack | Reply::LogBase { .. }) => Answer::Nothing,
            (ReplyKind::Config, Reply::Config { data, .. }) => {
                Answer::Send(config(code, &pending.echo, data))
            }
            (kind, reply) if fits(kind, &reply) => Answer::Send(write_reply(code, reply)),
            // The device answers a question that was not asked. Silence would hang the front end.
            _ => Answer::Close,
        }
    }

    fn refused(&self, pending: Pending, refusal: &Refusal) -> Answer {
        let wanted = self.wants_verdict(&pending);
        let Pending { code, kind, echo, .. } = pending;
        if refusal.closes() {
            return Answer::Close;
        }
        match (kind, echo) {
            (ReplyKind::Ack | ReplyKind::LogBase, _) if wanted => Answer::Send(write_verdict(code.0, 1)),
            (ReplyKind::Ack, _) if refusal.harmless() => Answer::Nothing,
            (ReplyKind::CryptoSession, Echo::Crypto(session)) => {
                Answer::Send(write_reply(code, Reply::CryptoSession(without_session(session))))
            }
            (kind, _) => write_refusal(code, kind).map_or(Answer::Close, Answer::Send),
        }
    }
}

impl Echo {
    fn of(request: &Request) -> Self {
        match request {
            Request::GetConfig { offset, size, flags } => {
                Self::Config { offset: *offset, size: *size, flags: *flags }
            }
            Request::CreateCryptoSession(session) => Self::Crypto(session.clone()),
            _ => Self::Nothing,
        }
    }
}

/// Repeats the question's header, with as many bytes as it asked for.
fn config(code: FrontendRequest, echo: &Echo, mut data: Vec<u8>) -> Frame {
    match *echo {
        Echo::Config { offset, size, flags } if data.len() as u64 <= u64::from(size) => {
            data.resize(usize::try_from(size).unwrap_or(data.len()), 0);
            write_reply(code, Reply::Config { offset, flags, data })
        }
        _ => write_reply(code, Reply::ConfigRefused),
    }
}

/// vhost-user: CREATE_CRYPTO_SESSION. A negative id at the end of the payload is the refusal.
fn without_session(mut session: Vec<u8>) -> Vec<u8> {
    session.truncate(session.len().saturating_sub(size_of::<i64>()));
    session.extend_from_slice(&(-1i64).to_ne_bytes());
    session
}

fn fits(kind: ReplyKind, reply: &Reply) -> bool {
    matches!(
        (kind, reply),
        (ReplyKind::Verdict, Reply::Ack | Reply::U64(_))
            | (ReplyKind::U64, Reply::U64(_))
            | (ReplyKind::VringState, Reply::VringState { .. })
            | (ReplyKind::LogBase, Reply::LogBase { .. })
            | (ReplyKind::Config, Reply::ConfigRefused)
            | (ReplyKind::Inflight, Reply::Inflight(..))
            | (ReplyKind::DeviceState, Reply::DeviceState { .. })
            | (ReplyKind::SharedObject, Reply::SharedObject(_))
            | (ReplyKind::Shmem, Reply::Shmem(_))
            | (ReplyKind::Uffd, Reply::Uffd(_))
            | (ReplyKind::CryptoSession, Reply::CryptoSession(_))
    )
}
