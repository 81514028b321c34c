//! Rings: started, stopped, told again to a new back end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use outboard_vhost_user::payload::VringAddr;
use outboard_vhost_user::{ProtocolFeatures, Reply, Request};
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::Base;

use crate::queue::{Features, Queue};
use crate::ring::{Ring, signal};
use crate::{Error, Frontend, connect};

impl Frontend {
    /// Makes a ring of `size` entries for queue `index` and starts it.
    ///
    /// # Errors
    /// There is no such queue, or it runs already; the size does not suit the format; memory is used up; the back
    /// end refuses; the connection fails.
    pub fn start(&mut self, index: u16, size: u16) -> Result<Queue, Error> {
        self.check_index(index)?;
        let features = Features { format: self.wishes.format, bits: self.features };
        let queue = Queue::new(index, size, features, &mut self.memory, self.channel.link())?;
        match self.run(&queue, queue.fresh_base()) {
            Ok(()) => Ok(queue),
            Err(error) => {
                queue.free_memory(&mut self.memory);
                Err(error)
            }
        }
    }

    /// Stops a ring: disabled first, then drained by GET_VRING_BASE. Requests that are done by then can still be
    /// polled from the queue. Returns where the ring goes on.
    ///
    /// # Errors
    /// The ring does not run; the connection fails.
    pub fn stop(&mut self, queue: &mut Queue) -> Result<Base, Error> {
        self.stop_by(queue.index(), Request::GetVringBase { index: queue.index().into() })
    }

    /// Stops a ring at once: requests in flight are not waited for, and are never completed by this back end, but
    /// stay in the record of requests in flight, for the back end that goes on with it (vhost-user:
    /// GET_VRING_BASE_SKIP_DRAIN).
    ///
    /// # Errors
    /// The back end does not do that ([`Error::ProtocolMissing`]), or makes no such record; as [`stop`](Self::stop).
    pub fn stop_undrained(&mut self, queue: &mut Queue) -> Result<Base, Error> {
        const NEEDED: ProtocolFeatures = ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN;
        if !self.has(NEEDED) {
            return Err(Error::ProtocolMissing(NEEDED));
        }
        if !self.has_inflight() {
            return Err(Error::Invalid("requests in flight are not recorded"));
        }
        self.stop_by(queue.index(), Request::GetVringBaseSkipDrain { index: queue.index().into() })
    }

    fn stop_by(&mut self, index: u16, request: Request) -> Result<Base, Error> {
        if !self.rings.contains_key(&index) {
            return Err(Error::QueueState { index, state: "does not run" });
        }
        self.enable(index, false)?;
        let base = match self.ask(request)? {
            Reply::VringState { num, .. } => Base(num),
            _ => return Err(Error::WrongReply("GET_VRING_BASE")),
        };
        self.rings.remove(&index);
        Ok(base)
    }

    /// Starts a stopped ring again, where it left off: `base` is what [`stop`](Self::stop) returned.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn resume(&mut self, queue: &mut Queue, base: Base) -> Result<(), Error> {
        self.check_index(queue.index())?;
        self.run(queue, base)
    }

    /// Enables or disables a ring that stays started (vhost-user: Ring states). A disabled ring keeps its requests.
    ///
    /// # Errors
    /// The back end refuses; the connection fails.
    pub fn enable(&mut self, index: u16, enable: bool) -> Result<(), Error> {
        // Without this feature rings are always enabled, and there is no such message.
        if self.features & bits::VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        self.ask(Request::SetVringEnable { index: index.into(), enable }).map(drop)
    }

    /// Takes a stopped queue's memory back.
    pub fn release(&mut self, queue: Queue) {
        if !self.rings.contains_key(&queue.index()) {
            queue.free_memory(&mut self.memory);
        }
    }

    /// After the back end is gone: connects to the next one at the same path, and tells it everything that the old
    /// one knew. `queues` are those that run, all of them. Requests in flight stay queued: if the record of requests
    /// in flight is agreed on, the new back end serves those that the old one had not completed, once.
    ///
    /// # Errors
    /// There is no path; nobody listens in time; the new back end does not offer what was agreed on with the old;
    /// a running queue is missing from `queues`. It can be tried again.
    pub fn reconnect<'q>(&mut self, queues: impl IntoIterator<Item = &'q mut Queue>) -> Result<(), Error> {
        let path = self.path.clone().ok_or(Error::NoPath)?;
        self.reconnect_to(&path, queues)
    }

    /// As [`reconnect`](Self::reconnect), to a back end at another path.
    ///
    /// # Errors
    /// As [`reconnect`](Self::reconnect).
    pub fn reconnect_to<'q>(
        &mut self,
        path: &Path,
        queues: impl IntoIterator<Item = &'q mut Queue>,
    ) -> Result<(), Error> {
        let mut queues: Vec<&mut Queue> = queues.into_iter().collect();
        let has = |index: u16| queues.iter().any(|queue| queue.index() == index);
        if let Some(&index) = self.rings.keys().find(|index| !has(**index)) {
            return Err(Error::QueueState { index, state: "runs, but is not given" });
        }
        let stream = connect::connect(path, self.options.connect_timeout)?;
        let mut channel = connect::channel(stream, &self.options)?;
        channel.heard = self.channel.heard;
        let offer = connect::negotiate(&mut channel, &self.options)?;
        let log = self.log.as_ref().map_or(0, crate::log::Log::features);
        let lost = (self.features | log) & !offer.features;
        if lost != 0 {
            return Err(Error::FeaturesMissing(lost));
        }
        let lost = self.protocol() - channel.session.protocol();
        if !lost.is_empty() {
            return Err(Error::ProtocolMissing(lost));
        }
        (self.path, self.offer, self.channel) = (Some(path.to_path_buf()), offer, channel);
        self.shared = false;
        self.tell_all(&mut queues)
    }

    /// Tells a new back end what was agreed on, and starts its rings.
    fn tell_all(&mut self, queues: &mut [&mut Queue]) -> Result<(), Error> {
        if self.features == 0 {
            return Ok(());
        }
        let status = self.status;
        let told = self.tell_device(queues).and_then(|()| self.set_status(status));
        // If it failed it can be tried again, to the same end.
        self.status = status;
        told
    }

    fn tell_device(&mut self, queues: &mut [&mut Queue]) -> Result<(), Error> {
        self.set_features()?;
        self.send_inflight()?;
        self.share()?;
        self.send_log()?;
        for queue in queues.iter_mut() {
            let base = queue.restart(self.channel.link());
            self.rings.remove(&queue.index());
            self.run(queue, base)?;
        }
        Ok(())
    }

    fn check_index(&self, index: u16) -> Result<(), Error> {
        if self.rings.contains_key(&index) {
            return Err(Error::QueueState { index, state: "runs already" });
        }
        let rings = |queues: u64| queues.saturating_mul(self.rings_counted_as_one.into());
        match self.offer.queues.map(rings) {
            Some(queues) if u64::from(index) >= queues => {
                Err(Error::NoSuchQueue { index, queues: u16::try_from(queues).unwrap_or(u16::MAX) })
            }
            _ => Ok(()),
        }
    }

    /// Tells the back end a ring, in the order that every back end accepts, and kicks it.
    fn run(&mut self, queue: &Queue, base: Base) -> Result<(), Error> {
        let index = u32::from(queue.index());
        let notifiers = queue.notifiers().clone();
        let addresses = queue.addresses();
        let addr = VringAddr {
            index,
            flags: self.addr_flags(),
            descriptor: self.memory.user_addr(addresses.descriptors)?,
            available: self.memory.user_addr(addresses.driver)?,
            used: self.memory.user_addr(addresses.device)?,
            log: addresses.device,
        };
        let fd = |fd: &Arc<OwnedFd>| fd.try_clone().map(Some);
        self.ask(Request::SetVringErr { index, fd: fd(&notifiers.err)? })?;
        self.ask(Request::SetVringNum { index, num: queue.size().into() })?;
        self.ask(Request::SetVringBase { index, num: base.0 })?;
        self.ask(Request::SetVringAddr(addr))?;
        self.ask(Request::SetVringCall { index, fd: fd(&notifiers.call)? })?;
        self.ask(Request::SetVringKick { index, fd: fd(&notifiers.kick)? })?;
        self.enable(queue.index(), true)?;
        self.rings.insert(queue.index(), Ring { addr, notifiers: notifiers.clone() });
        signal(&*notifiers.kick)
    }
}
