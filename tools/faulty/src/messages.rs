//! Answers: who is owed one, and of which form (vhost-user: Communication, REPLY_ACK). What each message does is in
//! [`crate::dispatch`].

use std::io;
use std::os::fd::OwnedFd;

use outboard_vhost_user::ProtocolFeatures as P;
use outboard_vhost_user::message::{Frame, FrontendRequest as Code, flags};
use outboard_vhost_user::payload::{Inflight, device_state};
use outboard_virtio_defs::features as bits;
use zerocopy::IntoBytes;

use crate::connection::Connection;
use crate::faults::{Fault, die};

/// What comes of a message that was done.
pub(crate) enum Answer {
    /// Nothing of its own: an acknowledgement, if one is wanted.
    Ack,
    Data(Vec<u8>, Vec<OwnedFd>),
}

impl Answer {
    pub(crate) fn number(value: u64) -> Self {
        Self::Data(value.as_bytes().to_vec(), Vec::new())
    }
}

/// Why a message was not done.
pub(crate) struct Refused {
    pub(crate) why: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No such message.
    Unknown,
    /// It is not as it has to be, or cannot be done.
    Wrong,
    /// A ring that there is not, or that is faulty. The others do not suffer.
    Ring,
    /// The specification wants the connection closed.
    Fatal,
}

impl Refused {
    pub(crate) fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self { why: why.into(), kind }
    }
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::new(Kind::Wrong, why)
    }
}

impl Connection<'_> {
    /// Does what a message asks for, and answers it. The inner error is why the connection is to end.
    pub(crate) fn handle(&mut self, frame: Frame) -> io::Result<Result<(), String>> {
        self.messages += 1;
        let code = Code(frame.request);
        let asked = frame.needs_reply();
        let version = frame.flags & flags::VERSION_MASK == flags::VERSION;
        if (!version && !self.faults.has(Fault::VersionUnchecked))
            || (frame.is_reply() && !self.faults.has(Fault::StrayReplyAccepted))
        {
            return Ok(Err(format!("{code}: header flags {:#x}", frame.flags)));
        }
        let before = self.protocol;
        let outcome = match self.gate(code) {
            Ok(()) => self.dispatch(code, frame),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = &outcome {
            crate::say(&format!("{code}: {}", refused.why));
        }
        let protocol = if self.faults.has(Fault::AckFromNextMessage) { before } else { self.protocol };
        self.answer(code, asked && protocol.contains(P::REPLY_ACK), asked, outcome)
    }

    fn answer(
        &mut self,
        code: Code,
        wanted: bool,
        asked: bool,
        outcome: Result<Answer, Refused>,
    ) -> io::Result<Result<(), String>> {
        let faults = self.faults;
        let wanted = match wanted {
            true => !faults.has(Fault::AckNever),
            false if asked => faults.has(Fault::AckWithoutAgreement),
            false => faults.has(Fault::AckUnasked),
        };
        match outcome {
            Ok(Answer::Data(body, fds)) => {
                let greeting = matches!(code, Code::GET_FEATURES | Code::GET_PROTOCOL_FEATURES);
                if greeting || !faults.has(Fault::AnswerMissing) {
                    self.wire.answer(code.0, body, fds)?;
                }
                if asked && faults.has(Fault::AckBesidesAnswer) {
                    self.verdict(code, 0)?;
                }
            }
            Ok(Answer::Ack) if wanted => self.verdict(code, 0)?,
            Ok(Answer::Ack) => {}
            Err(Refused { kind: Kind::Fatal, why }) => return Ok(Err(why)),
            Err(Refused { kind: Kind::Unknown, .. }) if faults.has(Fault::UnknownCrashes) => die(),
            Err(Refused { kind: Kind::Unknown, .. }) if faults.has(Fault::UnknownIgnored) => {}
            Err(Refused { kind: Kind::Unknown, why }) if faults.has(Fault::UnknownCloses) => {
                return Ok(Err(why));
            }
            Err(Refused { kind: Kind::Unknown, .. }) if wanted && faults.has(Fault::UnknownAcked) => {
                self.verdict(code, 0)?;
            }
            Err(Refused { kind: Kind::Ring, .. }) if wanted && faults.has(Fault::BadRingAcked) => {
                self.verdict(code, 0)?;
            }
            Err(refused) => {
                if faults.has(Fault::RefusalCloses) {
                    return Ok(Err(refused.why));
                }
                match refusal(code) {
                    Some(body) => self.wire.answer(code.0, body, Vec::new())?,
                    None if wanted && has_no_answer(code) => self.verdict(code, 1)?,
                    None if has_no_answer(code) && is_harmless(code, refused.kind) => {}
                    None => return Ok(Err(refused.why)),
                }
            }
        }
        Ok(Ok(()))
    }

    /// 0 for done, anything else for refused.
    fn verdict(&mut self, code: Code, value: u64) -> io::Result<()> {
        let value = match (self.faults.has(Fault::AckAlwaysZero), self.faults.has(Fault::AckAlwaysNonzero)) {
            (true, _) => 0,
            (_, true) => 1,
            _ => value,
        };
        let copies = if self.faults.has(Fault::AckTwice) { 2 } else { 1 };
        (0..copies).try_for_each(|_| self.wire.answer(code.0, value.as_bytes().to_vec(), Vec::new()))
    }

    /// Whether the message may come now: what it belongs to is agreed on.
    fn gate(&self, code: Code) -> Result<(), Refused> {
        let needed = match code {
            Code::SET_BACKEND_REQ_FD => P::BACKEND_REQ,
            Code::GET_CONFIG | Code::SET_CONFIG => P::CONFIG,
            Code::GET_INFLIGHT_FD | Code::SET_INFLIGHT_FD => P::INFLIGHT_SHMFD,
            Code::RESET_DEVICE => P::RESET_DEVICE,
            Code::GET_MAX_MEM_SLOTS | Code::ADD_MEM_REG | Code::REM_MEM_REG => P::CONFIGURE_MEM_SLOTS,
            Code::SET_STATUS | Code::GET_STATUS => P::STATUS,
            Code::SET_DEVICE_STATE_FD | Code::CHECK_DEVICE_STATE => P::DEVICE_STATE,
            Code::GET_QUEUE_NUM if self.faults.has(Fault::QueueCountNeedsMq) => P::MQ,
            // Without bit 30 there is no such message (vhost-user: Ring states).
            Code::SET_VRING_ENABLE
                if self.features.is_some() && !self.has(bits::VHOST_USER_F_PROTOCOL_FEATURES) =>
            {
                return Err(Refused::new(Kind::Wrong, "VHOST_USER_F_PROTOCOL_FEATURES is not agreed on"));
            }
            _ => return Ok(()),
        };
        match self.protocol.contains(needed) || self.faults.has(Fault::GatesOpen) {
            true => Ok(()),
            false => Err(Refused::new(Kind::Wrong, "the feature that it belongs to is not agreed on")),
        }
    }
}

/// The form in which a message says no that has an answer of its own; `None` where there is no such form.
fn refusal(code: Code) -> Option<Vec<u8>> {
    match code {
        Code::GET_CONFIG => Some(Vec::new()),
        Code::GET_INFLIGHT_FD => Some(Inflight::default().as_bytes().to_vec()),
        Code::SET_DEVICE_STATE_FD => Some(device_state::REFUSED.as_bytes().to_vec()),
        Code::CHECK_DEVICE_STATE => Some(1_u64.as_bytes().to_vec()),
        _ => None,
    }
}

/// Messages that are answered with a verdict, if at all. SET_LOG_BASE says yes in its own way, and no in this.
fn has_no_answer(code: Code) -> bool {
    !matches!(
        code,
        Code::GET_FEATURES
            | Code::GET_PROTOCOL_FEATURES
            | Code::GET_QUEUE_NUM
            | Code::GET_VRING_BASE
            | Code::GET_MAX_MEM_SLOTS
            | Code::GET_STATUS
    )
}

/// What may be passed over where it cannot be told.
fn is_harmless(code: Code, kind: Kind) -> bool {
    match kind {
        Kind::Ring => true,
        Kind::Unknown | Kind::Fatal => false,
        Kind::Wrong => matches!(
            code,
            Code::SET_OWNER
                | Code::SET_LOG_FD
                | Code::SET_VRING_ERR
                | Code::SET_VRING_ENABLE
                | Code::SET_BACKEND_REQ_FD
                | Code::SET_CONFIG
                | Code::REM_MEM_REG
        ),
    }
}
