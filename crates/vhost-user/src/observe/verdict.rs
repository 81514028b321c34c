//! One message judged: decoded, matched, and held against the specification.

use std::collections::VecDeque;
use std::time::Duration;

use outboard_virtio_defs::DeviceId;
use zerocopy::FromBytes;

use super::agreed::Agreed;
use super::fields::Field;
use super::{Seen, payload};
use crate::message::{BackendRequest, FrontendRequest, Header, MAX_RING_SIZE, MessageId, flags};
use crate::payload::{ConfigHeader, VringState};
use crate::refusal::Refusal;
use crate::reply::ReplyKind;

/// What is to be said about a message.
#[derive(Debug)]
pub struct Observed {
    /// Its number within the connection, counted from 1.
    pub number: u64,
    /// What it is; `None` when its header is not complete.
    pub id: Option<MessageId>,
    /// Its payload; `None` when it could not be decoded.
    pub fields: Option<Vec<Field>>,
    /// The request that it answers.
    pub answers: Option<Answered>,
    /// Does it wait for an answer?
    pub awaits: bool,
    /// What breaks the specification, in words.
    pub warnings: Vec<String>,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The request's number.
    pub number: u64,
    /// How long it waited.
    pub latency: Duration,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// The request's number.
    pub number: u64,
    /// What it is.
    pub id: MessageId,
}

/// Whose turn it is on a channel.
#[derive(Debug, Default)]
pub(super) struct Turn(VecDeque<Pending>);

#[derive(Debug)]
struct Pending {
    request: Unanswered,
    kind: ReplyKind,
    since: Duration,
    /// What the answer has to repeat: a ring, or a number of configuration bytes.
    repeats: Option<u32>,
}

impl Turn {
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Unanswered> {
        self.0.iter().map(|pending| pending.request)
    }
}

/// A front end that asks this much without listening is followed no further: its answers are counted as matched late
/// or not at all, and memory stays bounded.
const MOST_PENDING: usize = 1024;

pub(super) fn judge(
    seen: &Seen,
    number: u64,
    device: Option<DeviceId>,
    agreed: &mut Agreed,
    turn: &mut Turn,
) -> Observed {
    let mut observed =
        Observed { number, id: None, fields: None, answers: None, awaits: false, warnings: Vec::new() };
    let Some(header) = seen.header() else {
        observed.warn(format!("cut off after {} bytes of its header", seen.len));
        return observed;
    };
    let id = if seen.channel.is_main() {
        MessageId::Frontend(FrontendRequest(header.request))
    } else {
        MessageId::Backend(BackendRequest(header.request))
    };
    observed.id = Some(id);
    let whole = u64::from(header.size) + Header::LEN as u64;
    if seen.len < whole {
        observed.warn(format!("cut off after {} of {whole} bytes", seen.len));
    }
    let mut judge = Judge { seen, header, id, device, agreed, turn, observed };
    if seen.is_request() {
        judge.request();
    } else {
        judge.reply();
    }
    judge.observed
}

impl Observed {
    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

struct Judge<'a> {
    seen: &'a Seen,
    header: Header,
    id: MessageId,
    device: Option<DeviceId>,
    agreed: &'a mut Agreed,
    turn: &'a mut Turn,
    observed: Observed,
}

impl Judge<'_> {
    fn request(&mut self) {
        let Header { flags, .. } = self.header;
        if flags & !flags::NEED_REPLY != flags::VERSION {
            self.observed.warn(format!("header flags {flags:#x}"));
        }
        if let Some(pending) = self.turn.0.front() {
            let Unanswered { number, id } = pending.request;
            self.observed.warn(format!("out of turn: #{number} {id} has no answer yet"));
        }
        if let MessageId::Frontend(code) = self.id
            && let Some(objection) = self.agreed.objection(code)
        {
            self.observed.warn(objection);
        }
        self.decode(match self.id {
            MessageId::Frontend(code) => payload::of_request(code, self.seen.body(), self.device),
            MessageId::Backend(code) => payload::of_back_request(code, self.seen.body()),
        });
        let (least, most) = payload::descriptors(self.id, self.seen.body());
        self.count_descriptors(least, most);
        self.check_values();
        self.expect_answer();
    }

    /// Values that no layout rules out.
    fn check_values(&mut self) {
        let MessageId::Frontend(code) = self.id else { return };
        let body = self.seen.body();
        if let Ok(bits) = u64::read_from_bytes(body)
            && let Some(objection) = self.agreed.note_request(code, bits)
        {
            self.observed.warn(objection);
        }
        let Ok(VringState { num, .. }) = VringState::read_from_bytes(body) else { return };
        match code {
            FrontendRequest::SET_VRING_NUM if num == 0 || num > MAX_RING_SIZE => {
                self.observed.warn(format!("ring size {num} is out of range"));
            }
            FrontendRequest::SET_VRING_ENABLE | FrontendRequest::SET_VRING_ENDIAN if num > 1 => {
                self.observed.warn(format!("{num} is neither 0 nor 1"));
            }
            _ => {}
        }
    }

    /// REPLY_ACK counts as it is after the message: SET_PROTOCOL_FEATURES may ask for an answer that it allows.
    fn expect_answer(&mut self) {
        let needs_reply = self.header.flags & flags::NEED_REPLY != 0;
        let Some(kind) = self.agreed.due(self.id, needs_reply) else { return };
        if self.turn.0.len() >= MOST_PENDING {
            return;
        }
        let request = Unanswered { number: self.observed.number, id: self.id };
        let repeats = self.repeats(kind);
        self.turn.0.push_back(Pending { request, kind, since: self.seen.time, repeats });
        self.observed.awaits = true;
    }

    /// Of a request: what its answer has to repeat. Of an answer: what it repeats.
    fn repeats(&self, kind: ReplyKind) -> Option<u32> {
        let body = self.seen.body();
        match kind {
            ReplyKind::VringState => VringState::read_from_bytes(body).ok().map(|state| state.index),
            ReplyKind::Config => ConfigHeader::read_from_prefix(body).ok().map(|(config, _)| config.size),
            _ => None,
        }
    }

    fn reply(&mut self) {
        let Header { flags, .. } = self.header;
        if flags != flags::OF_REPLY {
            self.observed.warn(format!("header flags {flags:#x} where {:#x} belongs", flags::OF_REPLY));
        }
        let kind = match self.turn.0.pop_front() {
            Some(pending) if pending.request.id == self.id => {
                let latency = self.seen.time.saturating_sub(pending.since);
                self.observed.answers = Some(Answered { number: pending.request.number, latency });
                let repeated = self.repeats(pending.kind);
                if let (Some(asked), Some(found)) = (pending.repeats, repeated)
                    && asked != found
                {
                    self.observed.warn(format!("says {found} where the request said {asked}"));
                }
                pending.kind
            }
            Some(pending) => {
                let Unanswered { number, id } = pending.request;
                self.observed.warn(format!("out of turn: the answer to #{number} {id} is due"));
                self.kind_alone()
            }
            None => {
                self.observed.warn("out of turn: no answer is due");
                self.kind_alone()
            }
        };
        self.decode(match self.id {
            MessageId::Frontend(code) => payload::of_reply(code, kind, self.seen.body(), self.device),
            MessageId::Backend(code) => payload::of_back_reply(code, self.seen.body()),
        });
        self.count_descriptors(0, payload::descriptors_of_reply(self.id, kind));
        if let (MessageId::Frontend(code), Ok(bits)) = (self.id, u64::read_from_bytes(self.seen.body())) {
            self.agreed.note_reply(code, bits);
        }
    }

    /// The form of an answer that nobody asked for.
    fn kind_alone(&self) -> ReplyKind {
        match self.id {
            MessageId::Frontend(code) => ReplyKind::of(code),
            MessageId::Backend(_) => ReplyKind::Verdict,
        }
    }

    fn decode(&mut self, fields: Result<Vec<Field>, Refusal>) {
        match fields {
            Ok(fields) => self.observed.fields = Some(fields),
            Err(refusal) if self.seen.is_whole() => self.observed.warn(refusal.to_string()),
            Err(_) if self.seen.len > self.seen.bytes.len() as u64 => {
                self.observed.warn("longer than any message can be");
            }
            // Cut off, as was said already.
            Err(_) => {}
        }
    }

    fn count_descriptors(&mut self, least: usize, most: usize) {
        let found = self.seen.fds.len();
        if found < least || found > most {
            let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
            self.observed.warn(format!("{found} descriptors came where {wanted} belong"));
        }
    }
}
