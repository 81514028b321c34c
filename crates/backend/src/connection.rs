//! One connection: what the front end negotiated, its memory and its rings. All of it ends with the connection.
//!
//! The control thread runs here. The front end is hostile: a message is refused by the session, or fails in
//! [`crate::dispatch`] and is answered with a NACK; only a broken stream, or a refusal that nothing could report,
//! ends the connection. Nothing here waits for the front end inside one of its requests.

use std::collections::BTreeMap;

use outboard_device::{Device, Group as GroupId};
use outboard_guest_memory::MemoryMap;
use outboard_vhost_user::{
    Answer, BackendSession, Frame, Offer, ProtocolFeatures, Refusal,
    back_channel::{Message, Requester, Terms},
    transport::{Transport, UnixTransport},
};
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::{InflightError, RingError};
use rustix::event::{PollFd, PollFlags};

use crate::{
    Backend, Notice, ServeError, Served, Stop,
    attend::{self, Connected},
    group::{Group, WorkerError},
    inflight::InflightBuffer,
    vring::Vring,
};

/// Why something that the front end asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("{0}")]
    Memory(#[from] outboard_guest_memory::MemoryError),
    #[error("{0}")]
    Inflight(#[from] InflightError),
    #[error("{0}")]
    Device(#[from] outboard_device::DeviceError),
    #[error("{0}")]
    Worker(#[from] WorkerError),
    #[error("{0}")]
    Host(#[from] std::io::Error),
    #[error("{0}")]
    Invalid(&'static str),
}

pub(crate) struct Connection<'a, D: Device, T> {
    pub(crate) backend: &'a mut Backend<D>,
    transport: T,
    pub(crate) session: BackendSession,
    pub(crate) memory: MemoryMap,
    pub(crate) vrings: Vec<Vring>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) inflight: Option<InflightBuffer>,
    pub(crate) back_channel: Option<UnixTransport>,
    pub(crate) status: u64,
    pub(crate) config_changed: Notice,
    /// A worker has panicked.
    pub(crate) died: Notice,
    /// The front end holds up a thread that has to do with others.
    pub(crate) held_up: Notice,
    /// The features that handlers are made with.
    pub(crate) features: u64,
    /// A change that the driver has not been told yet.
    pub(crate) untold_change: bool,
    pub(crate) stop: Stop,
}

impl<'a, D: Device, T: Transport> Connection<'a, D, T> {
    pub(crate) fn new(backend: &'a mut Backend<D>, transport: T, stop: &Stop) -> Result<Self, ServeError> {
        let queues = backend.profile().queues.len();
        let session = BackendSession::new(Offer {
            features: backend.features(),
            // Kicks that carry data are kicks: what they carry is not looked at (VIRTIO 1.3, 4.1.5.2).
            tolerated_features: bits::VIRTIO_F_NOTIFICATION_DATA,
            protocol: backend.protocol_features(),
            queues: u32::try_from(queues).unwrap_or(u32::MAX),
        });
        backend.device.reset();
        Ok(Self {
            backend,
            transport,
            session,
            memory: MemoryMap::empty(),
            vrings: (0..queues).map(|_| Vring::default()).collect(),
            groups: BTreeMap::new(),
            inflight: None,
            back_channel: None,
            status: 0,
            config_changed: Notice::new()?,
            died: Notice::new()?,
            held_up: Notice::new()?,
            features: 0,
            untold_change: false,
            stop: stop.clone(),
        })
    }

    /// Serves messages until the connection is over.
    pub(crate) fn run(mut self) -> Result<Served, ServeError> {
        let served = self.serve();
        // All of them, before one is waited for.
        self.groups.values_mut().for_each(Group::hang_up);
        self.groups.clear();
        self.backend.device.disconnected();
        served
    }

    fn serve(&mut self) -> Result<Served, ServeError> {
        loop {
            if !self.wait()? {
                continue;
            }
            if self.stop.is_set() {
                return Ok(Served::Stopped);
            }
            let Some(frame) = self.transport.receive()? else { return Ok(Served::Closed) };
            self.handle(frame)?;
        }
    }

    /// Sleeps until the front end or somebody else wants something. True if the front end or `stop` does.
    fn wait(&mut self) -> Result<bool, ServeError> {
        let back_channel = self.back_channel.as_ref().map(UnixTransport::as_fd);
        let [refresh, asked] = self.backend.bells();
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.transport.as_fd(), PollFlags::IN),
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.config_changed, PollFlags::IN),
            PollFd::new(&self.died, PollFlags::IN),
            PollFd::new(&self.held_up, PollFlags::IN),
            PollFd::from_borrowed_fd(refresh, PollFlags::IN),
            PollFd::from_borrowed_fd(asked, PollFlags::IN),
        ];
        polled.extend(back_channel.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        attend::sleep(&mut polled, self.backend.next_look())?;
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        let rung = attend::rung(&polled, 5);
        let is_ready = |at: usize| ready.get(at).copied().unwrap_or(false);
        if is_ready(3) {
            // The driver's requests went with it. Only a front end that notices can have them served again.
            return Err(ServeError::Worker);
        }
        if is_ready(4) {
            return Err(ServeError::HeldUp);
        }
        if is_ready(2) && self.config_changed.take() {
            self.untold_change = true;
        }
        let connected = Connected {
            features: self.features,
            running: self.vrings.iter().map(|vring| vring.running).collect(),
        };
        self.untold_change |= self.backend.attend(rung, Some(&connected));
        if is_ready(7) {
            self.hear_back_channel();
        }
        self.tell_change();
        Ok(is_ready(0) || is_ready(1))
    }

    fn handle(&mut self, frame: Frame) -> Result<(), ServeError> {
        let id = frame.request;
        let outcome = match self.session.decode(frame) {
            Ok(request) => {
                tracing::trace!(?request, "message");
                let code = request.code();
                self.dispatch(request).map_err(|failure| match failure {
                    Failure::Ring(fault) => {
                        Refusal::FaultyRing { id: code.into(), reason: fault.to_string() }
                    }
                    other => Refusal::failed(code, other),
                })
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &outcome {
            tracing::warn!("refused: {refusal}");
        }
        let reason = outcome.as_ref().err().map(ToString::to_string);
        match self.session.answer(outcome) {
            Answer::Send(frame) => self.transport.send(frame)?,
            Answer::Nothing => {}
            Answer::Close => {
                return Err(ServeError::Protocol(reason.unwrap_or_else(|| format!("message {id}"))));
            }
        }
        self.tell_change();
        Ok(())
    }

    /// Sends CONFIG_CHANGE_MSG if there is a change, a way, and a running ring (vhost-user: Suspended device state).
    fn tell_change(&mut self) {
        let negotiated = ProtocolFeatures::CONFIG | ProtocolFeatures::BACKEND_REQ;
        if !self.untold_change
            || !self.session.protocol().contains(negotiated)
            || !self.vrings.iter().any(|vring| vring.running)
        {
            return;
        }
        let Some(channel) = &mut self.back_channel else { return };
        let terms = Terms {
            protocol: self.session.protocol(),
            access_platform: false,
            queues: u32::try_from(self.vrings.len()).unwrap_or(u32::MAX),
        };
        // No NEED_REPLY: a front end that is waiting for us does not read this channel.
        let sent = Requester::new(terms)
            .encode(Message::ConfigChange, false)
            .map_err(|refusal| refusal.to_string())
            .and_then(|frame| channel.send(frame).map_err(|error| error.to_string()));
        self.untold_change = false;
        if let Err(error) = sent {
            tracing::warn!("the back channel is lost: {error}");
            self.back_channel = None;
        }
    }

    /// Nothing is asked on the back channel that has an answer: what comes is read and dropped.
    fn hear_back_channel(&mut self) {
        let Some(channel) = &mut self.back_channel else { return };
        match channel.receive() {
            Ok(Some(_)) => {}
            Ok(None) => self.back_channel = None,
            Err(error) => {
                tracing::warn!("the back channel is lost: {error}");
                self.back_channel = None;
            }
        }
    }
}
