//! The rings of a connection: from configuration to a worker and back (docs/decisions/003).
//!
//! Every setter of [`crate::dispatch`] ends here: it changes a [`Vring`] and lets the ring run if it can.

use std::{io, os::fd::OwnedFd, sync::Arc};

use outboard_device::{Device, Features, Group as GroupId, QueueId};
use outboard_guest_memory::MemoryMap;
use outboard_vhost_user::{payload::VringAddr, transport::Transport};
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::{Base, Format, QueueConfig, RingError};

use crate::{
    connection::{Connection, Failure},
    engines::Signal,
    group::Group,
    vring::{Kick, Vring},
    worker::{Command, Start},
};

impl<D: Device, T: Transport> Connection<'_, D, T> {
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
        let recovering = queue.recovering();
        if recovering > 0 {
            tracing::info!(queue = index, requests = recovering, "resuming requests in flight");
        }
        let Some(vring) = self.vrings.get(index) else { return Ok(()) };
        let kick = match &vring.kick {
            Some(Kick::Event(fd)) => Some(fd.try_clone()?),
            Some(Kick::Polled) | None => None,
        };
        let Some(counters) = self.backend.counters.get(index).map(Arc::clone) else { return Ok(()) };
        let start = Start {
            queue,
            kick,
            call: self.signal(vring.call.as_ref())?,
            error: self.signal(vring.error.as_ref())?,
            counters,
        };
        if !self.groups.contains_key(&group) && recovering == 0 && self.is_beginning(group, index) {
            self.backend.device.forget(group);
        }
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
    fn base(&self, index: usize) -> Base {
        self.base_or_fresh(self.vrings.get(index).and_then(|vring| vring.base))
    }

    /// Where a ring that does not run stands, or stood before a reset.
    pub(crate) fn stood(&self, index: usize) -> Base {
        self.base_or_fresh(self.vrings.get(index).and_then(Vring::stood))
    }

    fn base_or_fresh(&self, base: Option<u32>) -> Base {
        match (base, self.format()) {
            (Some(base), _) => Base(base),
            (None, Format::Split) => Base::split(0),
            (None, Format::Packed) => Base::FRESH_PACKED,
        }
    }

    /// Whether a driver starts a group, with the ring `first`, from its beginning (docs/decisions/008): that ring is at its
    /// beginning, and so are all others of which the front end has said where they go on.
    fn is_beginning(&self, group: GroupId, first: usize) -> bool {
        let specs = &self.backend.profile().queues;
        let rings = self.vrings.iter().zip(specs).enumerate();
        let mut known =
            rings.filter(|(at, (vring, spec))| spec.group == group && (vring.told || *at == first));
        known.all(|(at, _)| self.base(at).is_beginning(self.format()))
    }

    fn log_used(&self, addr: VringAddr) -> Option<u64> {
        (addr.flags & VringAddr::LOG != 0).then_some(addr.log)
    }

    /// The group's worker, started if need be.
    fn enter_group(&mut self, group: GroupId) -> Result<&Group, Failure> {
        if !self.groups.contains_key(&group) {
            let agreed = Features(self.session.features());
            let handler = self.backend.device.handler(group, agreed)?;
            let options = &self.backend.options;
            let name =
                thread_name(options.name.as_deref().unwrap_or(self.backend.profile().name), group.0.into());
            let nth = usize::from(group.0);
            let (changed, died) = (self.config_changed.clone(), self.died.clone());
            let worker = Group::spawn(name, nth, handler, options, changed, died, self.stop.clone())?;
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
            vring.told = false;
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
        // They hold until others come.
        self.backend.device.agreed(Features(self.session.features()));
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

    pub(crate) fn set_call(&mut self, index: usize, fd: Option<OwnedFd>) -> Result<(), Failure> {
        let signal = self.signal(fd.as_ref())?;
        if let Some(worker) = self.worker(index) {
            worker.ask(|done| Command::Call(Self::queue_id(index), signal, done))?;
        }
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.call = fd;
        }
        Ok(())
    }

    pub(crate) fn set_error(&mut self, index: usize, fd: Option<OwnedFd>) -> Result<(), Failure> {
        let signal = self.signal(fd.as_ref())?;
        if let Some(worker) = self.worker(index) {
            worker.ask(|done| Command::Error(Self::queue_id(index), signal, done))?;
        }
        if let Some(vring) = self.vrings.get_mut(index) {
            vring.error = fd;
        }
        Ok(())
    }

    fn signal_error(&self, index: usize) {
        let error = self.vrings.get(index).and_then(|vring| vring.error.as_ref());
        if let Ok(Some(signal)) = self.signal(error) {
            signal.send();
        }
    }

    /// A descriptor of the front end as a worker uses it. The original stays: the ring may start again.
    fn signal(&self, fd: Option<&OwnedFd>) -> io::Result<Option<Signal>> {
        fd.map(|fd| Ok(Signal::new(fd.try_clone()?, &self.held_up))).transpose()
    }
}

/// What the `nth` thread of a device, or of a crew, is called. The kernel keeps 15 bytes of it: the number is among them.
pub(crate) fn thread_name(whose: &str, nth: usize) -> String {
    let number = format!("-{nth}");
    let kept = whose.char_indices().take_while(|(at, c)| at + c.len_utf8() + number.len() <= 15).count();
    whose.chars().take(kept).chain(number.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_name_keeps_the_number_however_long_the_device_is_called() {
        assert_eq!(thread_name("blk", 0), "blk-0");
        assert_eq!(thread_name("a-very-long-name", 63), "a-very-long--63");
        assert_eq!(thread_name("ééééééééé", 1).len(), 14);
    }
}
