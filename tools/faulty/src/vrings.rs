//! What the messages about rings do (vhost-user: Front-end message types, Ring states).

use std::os::fd::OwnedFd;
use std::time::Instant;

use outboard_vhost_user::ProtocolFeatures as P;
use outboard_vhost_user::message::{MAX_RING_SIZE, vring_fd};
use outboard_vhost_user::payload::{VringAddr, VringState};
use outboard_virtio_defs::features as bits;
use rustix::fs::{FileType, fstat};
use zerocopy::IntoBytes;

use crate::connection::Connection;
use crate::dispatch::{Outcome, one, wrong};
use crate::faults::{Fault, die};
use crate::messages::{Answer, Kind, Refused};
use crate::ring::{Kick, Vring};

impl Connection<'_> {
    pub(crate) fn ring(&mut self, index: u32) -> Result<&mut Vring, Refused> {
        let index = if self.faults.has(Fault::RingIndexTruncated) { index & 0xff } else { index };
        let count = self.rings.len();
        let ring = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        ring.ok_or_else(|| match self.faults.has(Fault::BadRingCrashes) {
            true => die(),
            false => Refused::new(Kind::Ring, format!("ring {index} of {count}")),
        })
    }

    pub(crate) fn set_vring_num(&mut self, VringState { index, num }: VringState) -> Outcome {
        if (num == 0 || num > MAX_RING_SIZE) && !self.faults.has(Fault::RingSizeUnchecked) {
            return Err(wrong(format!("a ring of {num}")));
        }
        if !num.is_power_of_two() && self.faults.has(Fault::OddRingSizeRefused) {
            return Err(wrong(format!("a ring of {num}")));
        }
        if num > 256 && self.faults.has(Fault::RingSizeLimited) {
            return Err(wrong(format!("a ring of {num}")));
        }
        self.reconfigure(index, |ring| ring.size = num)
    }

    /// While the ring runs only its logging may change; anything else restarts it.
    pub(crate) fn set_vring_addr(&mut self, addr: VringAddr) -> Outcome {
        let place = |addr: VringAddr| (addr.descriptor, addr.available, addr.used);
        let restarts = self.faults.has(Fault::AddressResetsRing);
        let early =
            self.faults.has(Fault::AddressNeedsMemory) && self.mem.of_user(addr.descriptor, 16).is_none();
        let ring = self.ring(addr.index)?;
        if early {
            return Err(Refused::new(Kind::Ring, "the ring is not in memory"));
        }
        if ring.running.is_some() && ring.addr.map(place) == Some(place(addr)) && !restarts {
            ring.addr = Some(addr);
            return Ok(Answer::Ack);
        }
        self.reconfigure(addr.index, |ring| {
            ring.addr = Some(addr);
            ring.base = if restarts { None } else { ring.base };
        })
    }

    /// vhost-user: GET_VRING_BASE. Also of a ring that never ran.
    pub(crate) fn get_vring_base(&mut self, index: u32) -> Outcome {
        let packed = self.has(bits::VIRTIO_F_RING_PACKED);
        let faults = self.faults;
        let was_started = self.ring(index)?.kick.is_some();
        if !was_started && faults.has(Fault::StopNeedsStart) {
            return Err(Refused::new(Kind::Fatal, "the ring is not started"));
        }
        self.stop(index as usize);
        let ring = self.ring(index)?;
        if !faults.has(Fault::StopDoesNotStop) {
            ring.kick = None;
        }
        ring.latched &= faults.has(Fault::RingErrorForEver);
        ring.enabled &= !faults.has(Fault::StopDisables);
        if faults.has(Fault::StopStopsAll) {
            (0..self.rings.len()).for_each(|index| self.stop(index));
            self.rings.iter_mut().for_each(|ring| ring.kick = None);
        }
        let ring = self.ring(index)?;
        let base = ring.base.or(ring.left).unwrap_or_else(|| Vring::fresh_base(packed));
        if self.rings.iter().all(|ring| ring.kick.is_none()) && faults.has(Fault::StopDropsMemory) {
            self.mem.clear();
        }
        let base = if faults.has(Fault::StopBaseWrong) { base.wrapping_add(1) } else { base };
        let base = if faults.has(Fault::StopBaseZero) { 0 } else { base };
        let _ = self.try_start(index as usize);
        let index = if faults.has(Fault::StopIndexWrong) { index + 1 } else { index };
        Ok(Answer::Data(VringState { index, num: base }.as_bytes().to_vec(), Vec::new()))
    }

    pub(crate) fn set_vring_kick(&mut self, value: u64, fds: &mut Vec<OwnedFd>) -> Outcome {
        let (index, fd) = self.vring_fd(value, fds)?;
        let unready = self.ring(index)?.addr.is_none();
        if unready && self.faults.has(Fault::EarlyKickCrashes) {
            die();
        }
        if unready && self.faults.has(Fault::KickNeedsAddress) {
            return Err(Refused::new(Kind::Ring, "the ring has no addresses"));
        }
        if fd.is_none() && self.faults.has(Fault::PollingRefused) {
            return Err(Refused::new(Kind::Ring, "no descriptor"));
        }
        self.reconfigure(index, |ring| ring.kick = Some(fd.map_or(Kick::Polled, Kick::Event)))
    }

    pub(crate) fn set_vring_call(&mut self, value: u64, fds: &mut Vec<OwnedFd>) -> Outcome {
        let (index, fd) = self.vring_fd(value, fds)?;
        let faults = self.faults;
        let ring = self.ring(index)?;
        if ring.call.is_none() || !faults.has(Fault::FirstCallKept) {
            let old = std::mem::replace(&mut ring.call, fd);
            if faults.has(Fault::ReplacedFdsLeaked) {
                std::mem::forget(old);
            }
        }
        Ok(Answer::Ack)
    }

    /// Enabled is a state of its own, which comes before or after all others and outlives a stop.
    pub(crate) fn set_vring_enable(&mut self, VringState { index, num }: VringState) -> Outcome {
        if num > 1 && !self.faults.has(Fault::EnableUnchecked) {
            return Err(wrong(format!("enable {num}")));
        }
        let faults = self.faults;
        let ring = self.ring(index)?;
        if ring.addr.is_none() && faults.has(Fault::EarlyEnableLost) {
            return Ok(Answer::Ack);
        }
        if ring.addr.is_none() && faults.has(Fault::EarlyEnableRefused) {
            return Err(Refused::new(Kind::Ring, "the ring is not set up"));
        }
        let rested = !std::mem::replace(&mut ring.enabled, num != 0);
        let index = index as usize;
        if num == 0 {
            self.drain(index);
            return Ok(Answer::Ack);
        }
        if rested && faults.has(Fault::DisabledForgets) {
            let terms = self.terms(index);
            let running = self.rings.get_mut(index).and_then(|ring| ring.running.as_mut());
            if let Some(running) = running {
                let _ = running.take(&self.mem, Instant::now(), &terms);
                running.forget();
            }
        }
        self.try_start(index).map_err(|bad| Refused::new(Kind::Ring, bad))?;
        if !self.faults.has(Fault::NeedsKick) {
            self.process(index);
        }
        Ok(Answer::Ack)
    }

    /// Changes a ring between a stop and a start.
    pub(crate) fn reconfigure(&mut self, index: u32, change: impl FnOnce(&mut Vring)) -> Outcome {
        let for_ever = self.faults.has(Fault::RingErrorForEver);
        self.ring(index)?;
        self.stop(index as usize);
        let ring = self.ring(index)?;
        change(ring);
        ring.latched &= for_ever;
        self.try_start(index as usize).map_err(|bad| Refused::new(Kind::Ring, bad))?;
        Ok(Answer::Ack)
    }

    /// Ring and descriptor of SET_VRING_KICK, _CALL and _ERR.
    pub(crate) fn vring_fd(
        &mut self,
        value: u64,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(u32, Option<OwnedFd>), Refused> {
        if value & !(vring_fd::INDEX_MASK | vring_fd::NO_FD) != 0
            && !self.faults.has(Fault::RingIndexTruncated)
        {
            return Err(wrong(format!("ring {value:#x}")));
        }
        let index = (value & vring_fd::INDEX_MASK) as u32;
        self.ring(index)?;
        if value & vring_fd::NO_FD != 0 {
            return Ok((index, None));
        }
        let fd = one(fds)?;
        let kind = FileType::from_raw_mode(fstat(&fd).map_err(|error| wrong(error.to_string()))?.st_mode);
        // Files and directories are always "ready".
        match kind {
            FileType::RegularFile if self.faults.has(Fault::KickFileCrashes) => die(),
            FileType::RegularFile
            | FileType::Directory
            | FileType::BlockDevice
            | FileType::CharacterDevice => Err(wrong("a descriptor that cannot be waited for")),
            _ => Ok((index, Some(fd))),
        }
    }

    /// Deprecated. Old front ends stop the device with it and then go on with the connection.
    pub(crate) fn reset_owner(&mut self) -> Outcome {
        let disables = self.has(bits::VHOST_USER_F_PROTOCOL_FEATURES);
        for index in 0..self.rings.len() {
            self.stop(index);
        }
        for ring in &mut self.rings {
            ring.kick = None;
            ring.enabled &= !disables;
        }
        Ok(Answer::Ack)
    }

    /// VIRTIO 1.3, 2.4: rings stop and are disabled, the device forgets what the driver set. Memory, protocol features
    /// and notifiers stay.
    pub(crate) fn reset_device(&mut self) {
        if self.faults.has(Fault::ResetIgnored) {
            return;
        }
        (0..self.rings.len()).for_each(|index| self.stop(index));
        for ring in &mut self.rings {
            ring.kick = None;
            ring.left = ring.base.take().or(ring.left);
            ring.left = ring.left.filter(|_| !self.faults.has(Fault::ResetForgetsPlace));
            ring.latched = false;
            ring.enabled &= self.faults.has(Fault::ResetKeepsEnabled);
        }
        self.status = 0;
        self.device.reset();
        if self.faults.has(Fault::ResetDropsMemory) {
            self.mem.clear();
        }
        if self.faults.has(Fault::ResetDropsProtocol) {
            self.protocol = P::EMPTY;
        }
    }
}
