//! One connection: what the front end said on it, and the loop that serves it. One thread does everything, a request
//! of the guest right when it is kicked for.
//!
//! The front end is not trusted. What it negotiated ends with the connection; the device does not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outboard_guest_memory::{DirtyLog, sigbus};
use outboard_vhost_user::message::{Frame, flags};
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{BackendRequest, ProtocolFeatures};
use outboard_virtio_defs::features as bits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::inflight::Buffer;
use crate::memory::Guest;
use crate::ring::{Kick, Running, Terms, Vring, call_through};
use crate::signals::Signals;
use crate::state::Transfer;
use crate::waiting::Source;
use crate::wire::Wire;

/// How a connection ended.
pub(crate) enum End {
    /// The front end closed it.
    Closed,
    /// It broke the protocol, or the socket broke.
    Broken(String),
    /// The program is to end.
    Stopped,
}

/// VIRTIO 1.3, 2.1.
const DRIVER_OK: u64 = 4;
/// How long a fault keeps a connection that is closed for writing.
const HALF_CLOSED: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// How many connections there were, for faults that tell them apart.
static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
/// What was agreed on last, for a fault that does not forget.
pub(crate) static LAST_PROTOCOL: AtomicU64 = AtomicU64::new(0);

/// How long the front end may take to read a message on the back channel.
const BACK_CHANNEL_PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct Connection<'a> {
    pub(crate) device: &'a mut dyn Device,
    pub(crate) faults: Faults,
    pub(crate) wire: Wire,
    /// Agreed on; `None` before SET_FEATURES.
    pub(crate) features: Option<u64>,
    pub(crate) protocol: ProtocolFeatures,
    /// How many connections there were before.
    pub(crate) nth: u32,
    pub(crate) mem: Guest,
    pub(crate) log: Option<DirtyLog>,
    pub(crate) inflight: Option<Buffer>,
    pub(crate) rings: Vec<Vring>,
    pub(crate) back: Option<UnixTransport>,
    pub(crate) status: u64,
    /// SET_OWNER came.
    pub(crate) owned: bool,
    pub(crate) transfer: Option<Transfer>,
    /// The configuration changed, and the driver does not know yet.
    pub(crate) untold: bool,
    /// Where the next front end comes, for a fault that lets it disturb this one.
    pub(crate) rival: Option<OwnedFd>,
    /// How long a request takes.
    delay: Duration,
    /// Messages so far; for faults that come late.
    pub(crate) messages: u32,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(device: &'a mut dyn Device, socket: OwnedFd, delay: Duration, faults: Faults) -> Self {
        device.reset();
        let rings = (0..device.queues()).map(|_| Vring::default()).collect();
        Self {
            device,
            faults,
            wire: Wire::new(socket, faults),
            features: None,
            protocol: match faults.has(Fault::ProtocolOutlivesConnection) {
                true => ProtocolFeatures(LAST_PROTOCOL.load(Ordering::Relaxed)),
                false => ProtocolFeatures::EMPTY,
            },
            nth: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            mem: Guest::new(faults),
            log: None,
            inflight: None,
            rings,
            back: None,
            status: 0,
            owned: false,
            transfer: None,
            untold: false,
            rival: None,
            delay,
            messages: 0,
        }
    }

    /// Serves until the connection is over. Requests that were taken are completed.
    pub(crate) fn run(mut self, signals: &Signals) -> End {
        let end = match self.serve(signals) {
            Ok(end) => end,
            Err(error) => {
                let cut =
                    error.kind() == io::ErrorKind::UnexpectedEof && self.faults.has(Fault::CutMessageCrashes);
                let unheard = error.kind() == io::ErrorKind::BrokenPipe;
                if cut || (unheard && self.faults.has(Fault::UnheardAnswerCrashes)) {
                    die();
                }
                End::Broken(error.to_string())
            }
        };
        let runs = self.rings.iter().any(|ring| ring.running.is_some());
        if (runs && self.faults.has(Fault::DisconnectCrashes))
            || (self.messages == 0 && self.faults.has(Fault::QuietConnectionCrashes))
        {
            die();
        }
        if !self.faults.has(Fault::DisconnectDropsRequests) {
            (0..self.rings.len()).for_each(|index| self.drain(index));
        }
        if self.faults.has(Fault::MappingsLeaked) {
            self.mem.leak();
        }
        end
    }

    fn serve(&mut self, signals: &Signals) -> io::Result<End> {
        loop {
            let ready = self.wait(signals)?;
            for source in ready {
                match source {
                    Source::Stop => return Ok(End::Stopped),
                    Source::Rival => return Ok(End::Closed),
                    Source::Refresh => {
                        signals.take_refresh();
                        self.untold |= self.device.refresh();
                    }
                    Source::Back => self.hear(),
                    Source::Transfer => {
                        if let Some(transfer) = &mut self.transfer {
                            transfer.step(self.device);
                        }
                    }
                    Source::Kick(index) => self.kicked(index),
                    Source::Main => match self.wire.receive()? {
                        None => {
                            if self.faults.has(Fault::HalfCloseIgnored) {
                                // Until the other half is closed too.
                                let mut polled =
                                    [PollFd::from_borrowed_fd(self.wire.as_fd(), PollFlags::empty())];
                                let _ = poll(&mut polled, Some(&HALF_CLOSED));
                            }
                            return Ok(End::Closed);
                        }
                        Some(frame) => {
                            if let Err(reason) = self.handle(frame)? {
                                return Ok(End::Broken(reason));
                            }
                        }
                    },
                }
            }
            if self.device.pushes() {
                self.fill();
            }
            let now = Instant::now();
            for index in 0..self.rings.len() {
                let ring = self.rings.get(index);
                if ring.is_some_and(|ring| matches!(ring.kick, Some(Kick::Polled))) {
                    if !self.faults.has(Fault::PollingIgnored) {
                        self.process(index);
                    }
                } else if ring.and_then(|ring| ring.running.as_ref()?.due()).is_some_and(|due| due <= now) {
                    self.complete(index, now);
                }
            }
            if self.faults.has(Fault::TruncationCrashes) && sigbus::survived() > 0 {
                die();
            }
            self.tell_change();
        }
    }

    pub(crate) fn has(&self, feature: u64) -> bool {
        self.features.is_some_and(|features| features & feature != 0)
    }

    pub(crate) fn terms(&self, index: usize) -> Terms {
        let addr = self.rings.get(index).and_then(|ring| ring.addr);
        let logged = addr.filter(|addr| addr.flags & outboard_vhost_user::payload::VringAddr::LOG != 0);
        let log_used = logged.map(|addr| addr.log).filter(|_| !self.faults.has(Fault::LogUsedMissing));
        Terms {
            faults: self.faults,
            packed: self.has(bits::VIRTIO_F_RING_PACKED),
            event_idx: self.has(bits::VIRTIO_F_EVENT_IDX),
            indirect: self.has(bits::VIRTIO_F_INDIRECT_DESC),
            log: self.log.clone(),
            log_data: self.has(bits::VHOST_F_LOG_ALL) || self.faults.has(Fault::LogAlways),
            log_used,
        }
    }

    /// Lets a ring run that can, and looks at it.
    pub(crate) fn try_start(&mut self, index: usize) -> Result<(), String> {
        let terms = self.terms(index);
        let Some(ring) = self.rings.get_mut(index) else { return Ok(()) };
        if ring.running.is_some() || !ring.is_ready(self.faults) {
            return Ok(());
        }
        let fills = self.device.fills(index as u16);
        match Running::start(ring, index as u16, &self.mem, self.inflight.as_ref(), &terms, fills) {
            Ok(mut running) => {
                if let (Some(running), true) = (&mut running, self.faults.has(Fault::EarlyRequestsSkipped)) {
                    let _ = running.take(&self.mem, Instant::now(), &terms);
                    running.forget();
                }
                if running.is_none() && self.faults.has(Fault::RingOutsideCrashes) {
                    die();
                }
                ring.running = running;
            }
            Err(_) if self.faults.has(Fault::BadStartCrashes) => die(),
            Err(bad) => {
                ring.latch(self.faults);
                return Err(bad);
            }
        }
        if !self.faults.has(Fault::NeedsKick) {
            self.process(index);
        } else if let Some(running) = self.rings.get_mut(index).and_then(|ring| ring.running.as_mut()) {
            running.arm(&terms);
        }
        Ok(())
    }

    /// Takes and does everything that a ring has.
    pub(crate) fn process(&mut self, index: usize) {
        loop {
            let terms = self.terms(index);
            let delay = if self.faults.has(Fault::StopDoesNotDrain) {
                Duration::from_millis(200)
            } else {
                self.delay
            };
            let first = self.rings.iter().position(|ring| ring.running.is_some());
            if first != Some(index) && self.faults.has(Fault::BlkOneQueue) {
                return;
            }
            let waits = self.protocol.contains(ProtocolFeatures::STATUS) && self.status & DRIVER_OK == 0;
            let Some(ring) = self.rings.get_mut(index) else { return };
            if !ring.is_ready(self.faults) || (waits && self.faults.has(Fault::NeedsDriverOk)) {
                return;
            }
            let Some(running) = &mut ring.running else { return };
            let now = Instant::now();
            let taken = running.take(&self.mem, now + delay, &terms);
            let one_only = self.faults.has(Fault::OneRequestPerKick);
            if !running.fills() {
                self.complete(index, now);
            }
            if let Err(bad) = taken {
                self.ring_failed(index, &bad);
                return;
            }
            let Some(running) = self.rings.get_mut(index).and_then(|ring| ring.running.as_mut()) else {
                return;
            };
            if running.arm(&terms) || one_only {
                return;
            }
        }
    }

    /// Does what is due on a ring.
    fn complete(&mut self, index: usize, now: Instant) {
        let terms = self.terms(index);
        let Some(ring) = self.rings.get_mut(index) else { return };
        let Some(running) = &mut ring.running else { return };
        let device = &mut *self.device;
        let wanted = running.complete(now, &terms, |chain| device.serve(index as u16, chain));
        let wanted = wanted && !device.holds_calls(index as u16);
        if wanted && ring.call.is_none() && self.faults.has(Fault::CallNeeded) {
            ring.latch(self.faults);
        }
        if let Some(call) = ring.call.as_ref().filter(|_| wanted) {
            call_through(call, self.faults);
        }
        self.fill();
    }

    /// Gives the driver what the device has for it, on the queues that are for that.
    fn fill(&mut self) {
        for index in 0..self.rings.len() {
            if !self.device.fills(index as u16) {
                continue;
            }
            let terms = self.terms(index);
            let Some(ring) = self.rings.get_mut(index) else { return };
            let ready = ring.is_ready(self.faults);
            let Some(running) = ring.running.as_mut().filter(|_| ready) else {
                while self.device.fill(index as u16, &mut []).is_some() {}
                continue;
            };
            // The kick for what is there may still be on its way. A fault that asks for none sees nothing without one.
            if !self.faults.has(Fault::KicksSuppressed) {
                let _ = running.take(&self.mem, Instant::now(), &terms);
            }
            let device = &mut *self.device;
            while let Some(wanted) = running.fill(&terms, |waiting| device.fill(index as u16, waiting)) {
                if let Some(call) = ring.call.as_ref().filter(|_| wanted) {
                    call_through(call, self.faults);
                }
            }
        }
    }

    /// Completes what was taken.
    pub(crate) fn drain(&mut self, index: usize) {
        while let Some(due) = self.rings.get(index).and_then(|ring| ring.running.as_ref()?.due()) {
            self.complete(index, due);
        }
    }

    /// A malformed ring stands still, alone; what was taken before is completed.
    fn ring_failed(&mut self, index: usize, bad: &str) {
        crate::say(&format!("ring {index}: {bad}"));
        self.drain(index);
        if self.faults.has(Fault::RingErrorStopsAll) {
            self.rings.iter_mut().for_each(|ring| ring.latched = true);
        }
        if self.faults.has(Fault::RingErrorCrashes) {
            die();
        }
        if let Some(ring) = self.rings.get_mut(index) {
            ring.latch(self.faults);
        }
    }

    /// Stops a ring; its base is kept.
    pub(crate) fn stop(&mut self, index: usize) {
        if !self.faults.has(Fault::StopDoesNotDrain) {
            self.drain(index);
        }
        let Some(ring) = self.rings.get_mut(index) else { return };
        if let Some(mut running) = ring.running.take() {
            ring.base = Some(running.base());
        }
    }

    /// Memory or features changed: rings look their memory up again; those that lost it rest until it is back.
    pub(crate) fn remap(&mut self) {
        for index in 0..self.rings.len() {
            let terms = self.terms(index);
            let Some(ring) = self.rings.get_mut(index) else { return };
            if let Some(mut running) = ring.running.take() {
                let there =
                    self.faults.has(Fault::RingsKeepOldMemory) || running.remap(ring, &self.mem, &terms);
                ring.running = Some(running);
                if !there {
                    self.stop(index);
                    if let Some(ring) = self.rings.get_mut(index) {
                        ring.latched |= self.faults.has(Fault::RemovalStopsRings);
                    }
                }
            }
            if let Err(bad) = self.try_start(index) {
                crate::say(&format!("ring {index}: {bad}"));
            }
        }
    }

    /// CONFIG_CHANGE_MSG, if there is a change, a way to tell it, and a driver to hear it.
    fn tell_change(&mut self) {
        let needed = ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::CONFIG;
        let runs = self.rings.iter().any(|ring| ring.running.is_some());
        let allowed = self.protocol.contains(needed) && runs || self.faults.has(Fault::ChangeToldAtOnce);
        if !self.untold || !allowed || self.faults.has(Fault::ChangeUntold) {
            return;
        }
        let Some(back) = &mut self.back else { return };
        self.untold = false;
        let request = BackendRequest::CONFIG_CHANGE_MSG.0;
        let sent = back.send(Frame { request, flags: flags::VERSION, body: Vec::new(), fds: Vec::new() });
        if sent.is_err() {
            self.back = None;
        }
    }

    /// Nothing that is asked on the back channel has an answer: what comes is dropped.
    fn hear(&mut self) {
        if !matches!(self.back.as_mut().map(UnixTransport::receive), Some(Ok(Some(_)))) {
            self.back = None;
        }
    }

    pub(crate) fn set_back_channel(&mut self, fd: OwnedFd) {
        let patience = Some(BACK_CHANNEL_PATIENCE);
        let options =
            UnixOptions { frame_timeout: patience, idle_timeout: patience, ..UnixOptions::default() };
        self.back = Some(UnixTransport::with_options(fd, options));
    }
}
