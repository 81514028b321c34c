//! The channel on which the back end asks (vhost-user: Back-end communication).
//!
//! Same header, own codes. The back end holds the [`Requester`], the front end the [`Responder`].
//!
//! Deadlock: QEMU does not look at this channel while it waits for an answer on the main one. A back end must not
//! wait here for an answer while it owes one there.

use std::os::fd::OwnedFd;

use zerocopy::{Immutable, IntoBytes};

use crate::codec::{Fds, empty, exact, read_verdict, write_verdict};
use crate::features::ProtocolFeatures;
use crate::message::{BackendRequest, Frame, MessageId, flags, vring_fd};
use crate::payload::{Iotlb, ShmemMapping, VringArea, VringState};
use crate::refusal::Refusal;
use crate::session::Answer;

/// A message of the back end: payload parsed, descriptors owned.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are those of the payloads, described in `payload`")]
pub enum Message {
    /// Reports an IOTLB miss or a failed access.
    Iotlb(Iotlb),
    /// Says that the configuration space has changed.
    ConfigChange,
    /// Sets the doorbell page of a ring; without a descriptor, removes it.
    VringHostNotifier { index: u32, size: u64, offset: u64, fd: Option<OwnedFd> },
    /// Calls the driver in band.
    VringCall { index: u32 },
    /// Reports a ring's fault in band.
    VringErr { index: u32 },
    /// Announces a shared object.
    SharedObjectAdd([u8; 16]),
    /// Withdraws a shared object.
    SharedObjectRemove([u8; 16]),
    /// Asks for another device's shared object.
    SharedObjectLookup([u8; 16]),
    /// Maps a file into a shared memory region.
    ShmemMap(ShmemMapping, OwnedFd),
    /// Removes a mapping from a shared memory region.
    ShmemUnmap(ShmemMapping),
}

/// What the front end did.
#[derive(Debug)]
pub enum Outcome {
    /// Done, and there is nothing to tell.
    Done,
    /// The dma-buf that was looked up.
    SharedObject(OwnedFd),
}

impl Message {
    /// The code under which it travels.
    pub fn code(&self) -> BackendRequest {
        match self {
            Self::Iotlb(_) => BackendRequest::IOTLB_MSG,
            Self::ConfigChange => BackendRequest::CONFIG_CHANGE_MSG,
            Self::VringHostNotifier { .. } => BackendRequest::VRING_HOST_NOTIFIER_MSG,
            Self::VringCall { .. } => BackendRequest::VRING_CALL,
            Self::VringErr { .. } => BackendRequest::VRING_ERR,
            Self::SharedObjectAdd(_) => BackendRequest::SHARED_OBJECT_ADD,
            Self::SharedObjectRemove(_) => BackendRequest::SHARED_OBJECT_REMOVE,
            Self::SharedObjectLookup(_) => BackendRequest::SHARED_OBJECT_LOOKUP,
            Self::ShmemMap(..) => BackendRequest::SHMEM_MAP,
            Self::ShmemUnmap(_) => BackendRequest::SHMEM_UNMAP,
        }
    }
}

/// What has been agreed on the main channel, as far as this channel depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The protocol features in force.
    pub protocol: ProtocolFeatures,
    /// Is VIRTIO_F_ACCESS_PLATFORM agreed?
    pub access_platform: bool,
    /// How many rings there are; a front end that does not know says `u32::MAX`.
    pub queues: u32,
}

impl Terms {
    /// May `code` be sent?
    fn check(&self, code: BackendRequest) -> Result<(), Refusal> {
        use BackendRequest as Code;
        use ProtocolFeatures as P;
        let id = code.into();
        let (needed, needs) = match code {
            Code::IOTLB_MSG if !self.access_platform => {
                return Err(Refusal::NotNegotiated { id, needs: "VIRTIO_F_ACCESS_PLATFORM" });
            }
            Code::IOTLB_MSG => (P::EMPTY, ""),
            Code::CONFIG_CHANGE_MSG => (P::CONFIG, "CONFIG"),
            Code::VRING_HOST_NOTIFIER_MSG => (P::HOST_NOTIFIER, "HOST_NOTIFIER"),
            Code::VRING_CALL | Code::VRING_ERR => (P::INBAND_NOTIFICATIONS, "INBAND_NOTIFICATIONS"),
            Code::SHARED_OBJECT_ADD | Code::SHARED_OBJECT_REMOVE | Code::SHARED_OBJECT_LOOKUP => {
                (P::SHARED_OBJECT, "SHARED_OBJECT")
            }
            Code::SHMEM_MAP | Code::SHMEM_UNMAP => (P::SHMEM, "SHMEM"),
            _ => return Err(Refusal::UnknownRequest { id }),
        };
        if !self.protocol.contains(P::BACKEND_REQ) {
            return Err(Refusal::NotNegotiated { id, needs: "BACKEND_REQ" });
        }
        if !self.protocol.contains(needed) {
            return Err(Refusal::NotNegotiated { id, needs });
        }
        Ok(())
    }

    fn check_ring(&self, id: MessageId, index: u32) -> Result<u32, Refusal> {
        if index < self.queues {
            Ok(index)
        } else {
            Err(Refusal::BadIndex { id, index, queues: self.queues })
        }
    }
}

/// The back end's end: encodes messages, takes answers. Pure.
#[derive(Debug)]
pub struct Requester {
    terms: Terms,
    pending: Option<BackendRequest>,
}

impl Requester {
    /// An end on which nothing has been said.
    pub fn new(terms: Terms) -> Self {
        Self { terms, pending: None }
    }

    /// Builds the message. `need_reply` asks for an answer and has no effect without REPLY_ACK; SHARED_OBJECT_LOOKUP
    /// is always answered.
    ///
    /// Refused: what is not negotiated, and anything while an answer is due.
    pub fn encode(&mut self, message: Message, need_reply: bool) -> Result<Frame, Refusal> {
        let code = message.code();
        let id = MessageId::from(code);
        if self.pending.is_some() {
            return Err(Refusal::OutOfTurn { id, reason: "the answer to the message before is due" });
        }
        self.terms.check(code)?;
        let frame =
            write_message(message, need_reply && self.terms.protocol.contains(ProtocolFeatures::REPLY_ACK))?;
        if !frame.fds.is_empty() && !self.terms.protocol.contains(ProtocolFeatures::BACKEND_SEND_FD) {
            return Err(Refusal::NotNegotiated { id, needs: "BACKEND_SEND_FD" });
        }
        if frame.needs_reply() || code == BackendRequest::SHARED_OBJECT_LOOKUP {
            self.pending = Some(code);
        }
        Ok(frame)
    }

    /// Is an answer due?
    pub fn expects_reply(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes the answer in. Any refusal but [`Refusal::Nack`] means that the channel has lost step: close it.
    pub fn reply(&mut self, frame: Frame) -> Result<Outcome, Refusal> {
        let Some(code) = self.pending.take() else {
            let id = BackendRequest(frame.request).into();
            return Err(Refusal::OutOfTurn { id, reason: "no answer is due" });
        };
        let id = MessageId::from(code);
        let value = read_verdict(id, code.0, &frame)?;
        if value != 0 {
            return Err(Refusal::Nack { id, value });
        }
        match code {
            BackendRequest::SHARED_OBJECT_LOOKUP => {
                Fds::new(id, frame.fds).required().map(Outcome::SharedObject)
            }
            _ => Ok(Outcome::Done),
        }
    }
}

/// The front end's end: decodes messages, answers them. Pure.
#[derive(Debug)]
pub struct Responder {
    terms: Terms,
    pending: Option<(BackendRequest, bool)>,
}

impl Responder {
    /// An end on which nothing has been said.
    pub fn new(terms: Terms) -> Self {
        Self { terms, pending: None }
    }

    /// Takes a message in. A refusal goes to [`answer`](Self::answer) like any other result.
    pub fn decode(&mut self, frame: Frame) -> Result<Message, Refusal> {
        let code = BackendRequest(frame.request);
        let id = MessageId::from(code);
        if self.pending.is_some() {
            return Err(Refusal::OutOfTurn { id, reason: "the message before has no answer yet" });
        }
        self.pending = Some((code, frame.needs_reply()));
        if frame.flags & flags::VERSION_MASK != flags::VERSION || frame.is_reply() {
            return Err(Refusal::BadFlags { id, flags: frame.flags });
        }
        self.terms.check(code)?;
        let message = read_message(frame)?;
        match message {
            Message::VringHostNotifier { index, .. }
            | Message::VringCall { index }
            | Message::VringErr { index } => self.terms.check_ring(id, index).map(|_| message),
            _ => Ok(message),
        }
    }

    /// Answers the message decoded last; exactly once for each.
    pub fn answer(&mut self, result: Result<Outcome, Refusal>) -> Answer {
        let Some((code, need_reply)) = self.pending.take() else { return Answer::Close };
        let lookup = code == BackendRequest::SHARED_OBJECT_LOOKUP;
        let wanted = lookup || need_reply && self.terms.protocol.contains(ProtocolFeatures::REPLY_ACK);
        match result {
            Err(refusal) if refusal.closes() => Answer::Close,
            Err(_) if wanted => Answer::Send(write_verdict(code.0, 1)),
            Err(refusal) if refusal.harmless() => Answer::Nothing,
            Err(_) => Answer::Close,
            Ok(Outcome::SharedObject(fd)) if lookup => {
                Answer::Send(Frame { fds: vec![fd], ..write_verdict(code.0, 0) })
            }
            Ok(Outcome::Done) if wanted && !lookup => Answer::Send(write_verdict(code.0, 0)),
            Ok(Outcome::Done) if !lookup => Answer::Nothing,
            // The device answers a question that was not asked. Silence would hang the back end.
            Ok(_) => Answer::Close,
        }
    }
}

/// Parses a message of the back end; syntax only.
pub fn read_message(frame: Frame) -> Result<Message, Refusal> {
    use BackendRequest as Code;
    let code = Code(frame.request);
    let id = MessageId::from(code);
    let body = frame.body.as_slice();
    let fds = Fds::new(id, frame.fds);
    let index = || exact::<VringState>(id, body).map(|state| state.index);
    Ok(match code {
        Code::IOTLB_MSG => Message::Iotlb(exact(id, body)?),
        Code::CONFIG_CHANGE_MSG => {
            empty(id, body)?;
            Message::ConfigChange
        }
        Code::VRING_HOST_NOTIFIER_MSG => host_notifier(id, exact(id, body)?, fds)?,
        Code::VRING_CALL => Message::VringCall { index: index()? },
        Code::VRING_ERR => Message::VringErr { index: index()? },
        Code::SHARED_OBJECT_ADD => Message::SharedObjectAdd(exact(id, body)?),
        Code::SHARED_OBJECT_REMOVE => Message::SharedObjectRemove(exact(id, body)?),
        Code::SHARED_OBJECT_LOOKUP => Message::SharedObjectLookup(exact(id, body)?),
        Code::SHMEM_MAP => Message::ShmemMap(exact(id, body)?, fds.only()?),
        Code::SHMEM_UNMAP => Message::ShmemUnmap(exact(id, body)?),
        _ => return Err(Refusal::UnknownRequest { id }),
    })
}

fn host_notifier(id: MessageId, area: VringArea, fds: Fds) -> Result<Message, Refusal> {
    let VringArea { index, size, offset } = area;
    let fd = if index & vring_fd::NO_FD != 0 { None } else { Some(fds.only()?) };
    let index = u32::try_from(index & !vring_fd::NO_FD)
        .ok()
        .filter(|index| *index <= vring_fd::MAX_INDEX)
        .ok_or(Refusal::BadValue { id, what: "ring", value: index })?;
    Ok(Message::VringHostNotifier { index, size, offset, fd })
}

/// Builds the message, with NEED_REPLY or without. Refused is only a ring that the format cannot name.
pub fn write_message(message: Message, need_reply: bool) -> Result<Frame, Refusal> {
    let code = message.code();
    let (body, fds) = match message {
        Message::Iotlb(iotlb) => (bytes(&iotlb), Vec::new()),
        Message::ConfigChange => (Vec::new(), Vec::new()),
        Message::VringHostNotifier { index, size, offset, fd } => {
            if index > vring_fd::MAX_INDEX {
                return Err(Refusal::BadIndex { id: code.into(), index, queues: vring_fd::MAX_INDEX + 1 });
            }
            let no_fd = if fd.is_none() { vring_fd::NO_FD } else { 0 };
            let area = VringArea { index: u64::from(index) | no_fd, size, offset };
            (bytes(&area), fd.into_iter().collect())
        }
        Message::VringCall { index } | Message::VringErr { index } => {
            (bytes(&VringState { index, num: 0 }), Vec::new())
        }
        Message::SharedObjectAdd(uuid)
        | Message::SharedObjectRemove(uuid)
        | Message::SharedObjectLookup(uuid) => (uuid.to_vec(), Vec::new()),
        Message::ShmemMap(mapping, fd) => (bytes(&mapping), vec![fd]),
        Message::ShmemUnmap(mapping) => (bytes(&mapping), Vec::new()),
    };
    let need_reply = if need_reply { flags::NEED_REPLY } else { 0 };
    Ok(Frame { request: code.0, flags: flags::VERSION | need_reply, body, fds })
}

fn bytes<T: IntoBytes + Immutable>(value: &T) -> Vec<u8> {
    value.as_bytes().to_vec()
}
