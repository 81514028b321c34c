//! One connection: what the front end negotiated, its memory and its rings. All of it ends with the connection.
//!
//! The control thread runs here. The front end is hostile: a message is refused by the session, or fails in
//! [`crate::dispatch`] and is answered with a NACK; only a broken stream, or a refusal that nothing could report,
//! ends the connection. Nothing here waits for the front end inside one of its requests.

use std::collections::BTreeMap;

use outboard_device::{Device, Features, Group as GroupId, QueueId};
use outboard_guest_memory::MemoryMap;
use outboard_vhost_user::{
    Answer, BackendSession, Frame, Offer, ProtocolFeatures, Refusal,
    back_channel::{Message, Requester, Terms},
    payload::VringAddr,
    transport::{Transport, UnixTransport},
};
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::{Base, Format, InflightError, QueueConfig, RingError};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    Backend, Notice, ServeError, Served, Stop,
    backend::PROTOCOL_FEATURES,
    engines::Signal,
    group::{Group, WorkerError},
    inflight::InflightBuffer,
    vring::{Kick, Vring},
    worker::{Command, Start},
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
    groups: BTreeMap<GroupId, Group>,
    pub(crate) inflight: Option<InflightBuffer>,
    pub(crate) back_channel: Option<UnixTransport>,
    pub(crate) status: u64,
    config_changed: Notice,
    /// A worker has panicked.
    died: Notice,
    /// The features that handlers are made with.
    pub(crate) features: u64,
    /// A change that the driver has not been told yet.
    untold_change: bool,
    stop: Stop,
}

impl<'a, D: Device, T: Transport> Connection<'a, D, T> {
    pub(crate) fn new(backend: &'a mut Backend<D>, transport: T, stop: &Stop) -> Result<Self, ServeError> {
        let queues = backend.profile().queues.len();
        let session = BackendSession::new(Offer {
            features: backend.features(),
            // Kicks that carry data are kicks: what they carry is not looked at (VIRTIO 1.3, 4.1.5.2).
            tolerated_features: bits::VIRTIO_F_NOTIFICATION_DATA,
            protocol: PROTOCOL_FEATURES,
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
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.transport.as_fd(), PollFlags::IN),
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.config_changed, PollFlags::IN),
            PollFd::new(&self.backend.refresh, PollFlags::IN),
            PollFd::new(&self.died, PollFlags::IN),
        ];
        polled.extend(back_channel.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        let ready: Vec<bool> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
        let is_ready = |at: usize| ready.get(at).copied().unwrap_or(false);
        if is_ready(3) && self.backend.refresh.take() {
            match self.backend.device.refresh() {
                Ok(changed) => self.untold_change |= changed,
                Err(error) => tracing::warn!("refresh: {error}"),
            }
        }
        if is_ready(2) && self.config_changed.take() {
            self.untold_change = true;
        }
        if is_ready(4) {
            // The driver's requests went with it. Only a front end that notices can have them served again.
            return Err(ServeError::Worker);
        }
        if is_ready(5) {
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

    fn group_of(&self, index: usize) -> Option<GroupId> {
        self.backend.profile().queues.get(index).map(|spec| spec.group)
    }

    fn queue_id(index: usize) -> QueueId {
        QueueId(u16::try_from(index).unwrap_or(u16::MAX))
    }

    pub(crate) fn has_feature(&self, mask: u64) -> bool {
        Features(self.session.features()).has(mask)
    }

    pub(crate) fn format(&self) -> Format {
        if self.has_feature(bits::VIRTIO_F_RING_PACKED) { Format::Packed } else { Format::Split }
    }

    /// Starts a ring if it is started, enabled and configured, and its addresses lie in guest memory.
    pub(crate) fn try_start(&mut self, index: usize) -> Result<(), Failure> {
        let Some((size, addr)) = self.vrings.get(index).and_then(Vring::runnable) else { return Ok(()) };
        let Some(group) = self.group_of(index) else { return Ok(()) };
        let config = self.queue_config(index, size, addr)?;
        let queue = match config.activate() {
            Ok(queue) => queue,
            // Addresses may come before the memory that they lie in.
            Err(error @ RingError::RingUnmapped { .. }) => {
                tracing::debug!(queue = index, "cannot start yet: {error}");
                return Ok(());
            }
            Err(error) => {
                self.signal_error(index);
                return Err(error.into());
            }
        };
        let Some(vring) = self.vrings.get(index) else { return Ok(()) };
        let kick = match &vring.kick {
            Some(Kick::Event(fd)) => Some(fd.try_clone()?),
            Some(Kick::Polled) | None => None,
        };
        let start = Start {
            queue,
            kick,
            call: vring.call.as_ref().map(|fd| fd.try_clone().map(Signal::new)).transpose()?,
            error: vring.error.as_ref().map(|fd| fd.try_clone().map(Signal::new)).transpose()?,
        };
        if let Err(failure) = self.hand_over(group, start) {
            self.leave_group(index);
            return Err(failure);
        }
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.running = true;
        }
        tracing::debug!(queue = index, size, "started");
        Ok(())
    }

    fn hand_over(&mut self, group: GroupId, start: Start) -> Result<(), Failure> {
        Ok(self.enter_group(group)?.ask(|done| Command::Start(Box::new(start), done))??)
    }

    /// What a ring runs with.
    fn queue_config(&self, index: usize, size: u32, addr: VringAddr) -> Result<QueueConfig, Failure> {
        Ok(QueueConfig {
            id: Self::queue_id(index),
            format: self.format(),
            size,
            mem: self.memory.clone(),
            desc: addr.descriptor,
            avail: addr.available,
            used: addr.used,
            log_used: self.log_used(addr),
            log_data: self.has_feature(bits::VHOST_F_LOG_ALL),
            event_idx: self.has_feature(bits::VIRTIO_F_EVENT_IDX),
            indirect: self.has_feature(bits::VIRTIO_F_INDIRECT_DESC),
            in_order: self.has_feature(bits::VIRTIO_F_IN_ORDER),
            base: self.base(index),
            inflight: match &self.inflight {
                Some(inflight) => inflight.queue(self.format(), Self::queue_id(index), size)?,
                None => None,
            },
        })
    }

    /// Where a ring that does not run goes on.
    pub(crate) fn base(&self, index: usize) -> Base {
        match (self.vrings.get(index).and_then(|vring| vring.base), self.format()) {
            (Some(base), _) => Base(base),
            (None, Format::Split) => Base::split(0),
            (None, Format::Packed) => Base::FRESH_PACKED,
        }
    }

    fn log_used(&self, addr: VringAddr) -> Option<u64> {
        (addr.flags & VringAddr::LOG != 0).then_some(addr.log)
    }

    /// The group's worker, started if need be.
    fn enter_group(&mut self, group: GroupId) -> Result<&Group, Failure> {
        if !self.groups.contains_key(&group) {
            let agreed = Features(self.session.features());
            let handler = self.backend.device.handler(group, agreed)?;
            let name = format!("{}-{}", self.backend.profile().name, group.0);
            let options = &self.backend.options;
            let (changed, died) = (self.config_changed.clone(), self.died.clone());
            let worker = Group::spawn(name, handler, options, changed, died, self.stop.clone())?;
            worker.ask(|done| Command::Memory(self.memory.clone(), done))?;
            self.groups.insert(group, worker);
        }
        self.groups.get(&group).ok_or(Failure::Invalid("no such queue group"))
    }

    /// The worker that serves a ring, if the ring runs.
    fn worker(&self, index: usize) -> Option<&Group> {
        self.vrings.get(index).filter(|vring| vring.running)?;
        self.groups.get(&self.group_of(index)?)
    }

    /// Stops a ring, if it runs, when its requests are completed; its base is kept.
    pub(crate) fn stop_ring(&mut self, index: usize) -> Result<(), Failure> {
        let Some(worker) = self.worker(index) else { return Ok(()) };
        let base = worker.ask(|done| Command::Stop(Self::queue_id(index), done));
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.running = false;
            if let Ok(base) = &base {
                vring.base = Some(base.0);
            }
        }
        self.leave_group(index);
        tracing::debug!(queue = index, "stopped");
        base.map(|_| ()).map_err(Failure::from)
    }

    /// Ends a group's worker when none of its rings runs.
    fn leave_group(&mut self, index: usize) {
        let Some(group) = self.group_of(index) else { return };
        let specs = &self.backend.profile().queues;
        let in_use = self.vrings.iter().zip(specs).any(|(vring, spec)| vring.running && spec.group == group);
        if !in_use {
            self.groups.remove(&group);
        }
    }

    pub(crate) fn stop_all(&mut self) -> Result<(), Failure> {
        (0..self.vrings.len()).map(|index| self.stop_ring(index)).fold(Ok(()), Result::and)
    }

    /// VIRTIO 1.3, 2.4: every ring stops and is disabled, the device forgets what the driver set. Memory, protocol
    /// features and notification descriptors stay.
    pub(crate) fn reset_device(&mut self) -> Result<(), Failure> {
        let stopped = self.stop_all();
        self.vrings.iter_mut().for_each(Vring::reset);
        self.backend.device.reset();
        stopped
    }

    /// Changes a ring's configuration; if it runs, between a stop and a start.
    pub(crate) fn reconfigure(
        &mut self,
        index: usize,
        change: impl FnOnce(&mut Vring),
    ) -> Result<(), Failure> {
        self.stop_ring(index)?;
        if let Some(vring) = self.vrings.get_mut(index) {
            change(vring);
        }
        self.try_start(index)
    }

    /// Lets a running ring rest, or go on.
    pub(crate) fn set_enabled(&mut self, index: usize, enabled: bool) -> Result<(), Failure> {
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.enabled = enabled;
        }
        if let Some(worker) = self.worker(index) {
            worker.ask(|done| Command::Pause(Self::queue_id(index), !enabled, done))?;
        }
        self.try_start(index)
    }

    /// New memory or a new log, at once in force for every ring; rings that waited for it start.
    pub(crate) fn remap(&mut self, memory: MemoryMap) -> Result<(), Failure> {
        self.memory = memory;
        for worker in self.groups.values() {
            worker.ask(|done| Command::Memory(self.memory.clone(), done))?;
        }
        for index in 0..self.vrings.len() {
            if let Err(failure) = self.try_start(index) {
                tracing::warn!(queue = index, "cannot start: {failure}");
            }
        }
        Ok(())
    }

    /// Tells a running ring what to log.
    pub(crate) fn update_logging(&mut self, index: usize) -> Result<(), Failure> {
        let (Some(worker), Some(addr)) = (self.worker(index), self.vrings.get(index).and_then(|v| v.addr))
        else {
            return Ok(());
        };
        let data = self.has_feature(bits::VHOST_F_LOG_ALL);
        let used = self.log_used(addr);
        worker.ask(|done| Command::Logging { queue: Self::queue_id(index), data, used, done })?;
        Ok(())
    }

    pub(crate) fn set_call(&mut self, index: usize, fd: Option<std::os::fd::OwnedFd>) -> Result<(), Failure> {
        let signal = fd.as_ref().map(|fd| fd.try_clone().map(Signal::new)).transpose()?;
        if let Some(worker) = self.worker(index) {
            worker.ask(|done| Command::Call(Self::queue_id(index), signal, done))?;
        }
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.call = fd;
        }
        Ok(())
    }

    pub(crate) fn set_error(
        &mut self,
        index: usize,
        fd: Option<std::os::fd::OwnedFd>,
    ) -> Result<(), Failure> {
        let signal = fd.as_ref().map(|fd| fd.try_clone().map(Signal::new)).transpose()?;
        if let Some(worker) = self.worker(index) {
            worker.ask(|done| Command::Error(Self::queue_id(index), signal, done))?;
        }
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.error = fd;
        }
        Ok(())
    }

    fn signal_error(&self, index: usize) {
        let fd = self.vrings.get(index).and_then(|vring| vring.error.as_ref());
        if let Some(Ok(fd)) = fd.map(std::os::fd::OwnedFd::try_clone) {
            Signal::new(fd).send();
        }
    }
}
