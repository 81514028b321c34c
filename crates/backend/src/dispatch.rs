//! What each request does: one arm per message (vhost-user: Front-end message types).

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use outboard_device::{Device, Features, Patience};
use outboard_guest_memory::{DirtyLog, MAX_SLOTS, MemoryMap, Region};
use outboard_vhost_user::{
    Reply, Request,
    payload::{Inflight, MemRegion},
    transport::{Transport, UnixOptions, UnixTransport},
};
use outboard_virtio_defs::features as bits;
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat};

use crate::{
    connection::{Connection, Failure},
    inflight::InflightBuffer,
    vring::Kick,
};

/// The largest window of configuration space, in bytes (VIRTIO 1.3, 4.1: no device comes near).
const CONFIG_WINDOW: u32 = 4096;

/// How long a message on the back channel may take to arrive whole: the main channel waits meanwhile.
const BACK_CHANNEL_PATIENCE: Duration = Duration::from_millis(100);

impl<D: Device, T: Transport> Connection<'_, D, T> {
    /// Carries out a request that the session let through.
    pub(crate) fn dispatch(&mut self, request: Request) -> Result<Reply, Failure> {
        match request {
            Request::GetFeatures => Ok(Reply::U64(self.backend.features())),
            Request::SetFeatures(_) => self.set_features(),
            Request::SetOwner | Request::SetLogFd(_) => Ok(Reply::Ack),
            Request::ResetOwner => self.reset_owner(),
            Request::GetProtocolFeatures => Ok(Reply::U64(self.backend.protocol_features().0)),
            Request::SetProtocolFeatures(_) => Ok(Reply::Ack),
            Request::GetQueueNum => Ok(Reply::U64(self.vrings.len() as u64)),

            Request::SetMemTable(regions) => {
                let regions = regions.into_iter().map(|(region, fd)| (to_region(region), fd)).collect();
                let memory = MemoryMap::from_table(regions)?;
                self.replace_memory(&memory)
            }
            Request::AddMemReg(region, fd) => {
                let memory = self.memory.with_region(to_region(region), fd)?;
                self.replace_memory(&memory)
            }
            Request::RemMemReg(region) => {
                let memory = self.memory.without_region(&to_region(region))?;
                self.replace_memory(&memory)
            }
            Request::GetMaxMemSlots => Ok(Reply::U64(MAX_SLOTS as u64)),
            Request::SetLogBase { size, offset, fd } => {
                if let Some(fd) = fd {
                    let log = DirtyLog::map(fd, size, offset)?;
                    self.remap(self.memory.with_log(Some(log)))?;
                }
                Ok(Reply::LogBase { size, offset })
            }

            // Of any size that there is: no message tells a front end which the device is made for.
            Request::SetVringNum { index, num } => {
                self.reconfigure(index as usize, |vring| vring.size = num)?;
                Ok(Reply::Ack)
            }
            Request::SetVringAddr(addr) => self.set_vring_addr(addr),
            Request::SetVringBase { index, num } => {
                self.reconfigure(index as usize, |vring| (vring.base, vring.told) = (Some(num), true))?;
                Ok(Reply::Ack)
            }
            Request::GetVringBase { index } => self.get_vring_base(index),
            Request::SetVringKick { index, fd } => {
                let kick = match fd {
                    Some(fd) => Kick::Event(notifier(fd)?),
                    None => Kick::Polled,
                };
                self.reconfigure(index as usize, |vring| vring.kick = Some(kick))?;
                Ok(Reply::Ack)
            }
            Request::SetVringCall { index, fd } => {
                self.set_call(index as usize, fd.map(notifier).transpose()?)?;
                Ok(Reply::Ack)
            }
            Request::SetVringErr { index, fd } => {
                self.set_error(index as usize, fd.map(notifier).transpose()?)?;
                Ok(Reply::Ack)
            }
            Request::SetVringEnable { index, enable } => {
                self.set_enabled(index as usize, enable)?;
                Ok(Reply::Ack)
            }

            Request::GetInflightFd(wanted) => self.get_inflight(wanted),
            Request::SetInflightFd(given, fd) => {
                self.inflight = Some(InflightBuffer::take(given, fd, self.format(), self.largest_ring())?);
                Ok(Reply::Ack)
            }

            Request::GetConfig { offset, size, flags } => Ok(self.get_config(offset, size, flags)),
            Request::SetConfig { offset, data, .. } => {
                let stop = &self.stop;
                let over = || stop.is_set();
                self.backend.device.write_config(offset, &data, &Patience::until(&over))?;
                Ok(Reply::Ack)
            }
            Request::SetBackendReqFd(fd) => {
                // It is read when it is readable. If a duplicate of it is read elsewhere, there may be nothing.
                let patience = Some(BACK_CHANNEL_PATIENCE);
                let options =
                    UnixOptions { frame_timeout: patience, idle_timeout: patience, ..UnixOptions::default() };
                self.back_channel = Some(UnixTransport::with_options(fd, options));
                Ok(Reply::Ack)
            }

            Request::NetSetMtu(mtu) => {
                let (done, changed) = self.backend.watching_config(|device| device.set_mtu(mtu));
                self.untold_change |= changed;
                done.map(|()| Reply::Ack).map_err(Failure::from)
            }
            Request::SendRarp(mac) => {
                self.backend.device.announce(mac)?;
                Ok(Reply::Ack)
            }

            Request::ResetDevice => {
                self.status = 0;
                self.reset_device()?;
                Ok(Reply::Ack)
            }
            Request::SetStatus(status) => {
                self.status = status;
                if status == 0 {
                    self.reset_device()?;
                }
                Ok(Reply::Ack)
            }
            Request::GetStatus => Ok(Reply::U64(self.status)),

            // Behind features that are not offered; the session lets none of them through, but for GPU_SET_SOCKET,
            // which has no feature and belongs to one device type.
            Request::IotlbMsg(_)
            | Request::SetVringEndian { .. }
            | Request::CreateCryptoSession(_)
            | Request::CloseCryptoSession(_)
            | Request::PostcopyAdvise
            | Request::PostcopyListen
            | Request::PostcopyEnd
            | Request::GpuSetSocket(_)
            | Request::VringKick { .. }
            | Request::GetSharedObject(_)
            | Request::SetDeviceStateFd { .. }
            | Request::CheckDeviceState
            | Request::GetShmemConfig
            | Request::GetVringBaseSkipDrain { .. } => Err(Failure::Invalid("this device does not serve it")),
        }
    }

    /// Without VHOST_USER_F_PROTOCOL_FEATURES all rings are enabled at once; with it, nothing changes for them. May
    /// come again at run time, to switch logging. Anything else changes only between drivers, which some front ends
    /// do not mark by stopping the rings: they stop now, and go on with handlers made for the new features.
    fn set_features(&mut self) -> Result<Reply, Failure> {
        let features = self.session.features();
        let changed =
            (std::mem::replace(&mut self.features, features) ^ features) & !bits::VHOST_F_LOG_ALL != 0;
        if changed {
            self.stop_all()?;
            self.backend.device.agreed(Features(features));
        }
        let enables = !self.has_feature(bits::VHOST_USER_F_PROTOCOL_FEATURES);
        for index in 0..self.vrings.len() {
            // A ring that cannot run stands still alone.
            let outcome = self.update_logging(index).and_then(|()| match (enables, changed) {
                (true, _) => self.set_enabled(index, true),
                (false, true) => self.try_start(index),
                (false, false) => Ok(()),
            });
            if let Err(failure) = outcome {
                tracing::warn!(queue = index, "cannot run: {failure}");
            }
        }
        Ok(Reply::Ack)
    }

    /// Deprecated. Old front ends stop the device with it and then go on with the connection.
    fn reset_owner(&mut self) -> Result<Reply, Failure> {
        self.stop_all()?;
        let disables = self.has_feature(bits::VHOST_USER_F_PROTOCOL_FEATURES);
        for vring in &mut self.vrings {
            vring.kick = None;
            vring.enabled &= !disables;
        }
        Ok(Reply::Ack)
    }

    fn replace_memory(&mut self, memory: &MemoryMap) -> Result<Reply, Failure> {
        self.remap(memory.with_log(self.memory.log().cloned()))?;
        Ok(Reply::Ack)
    }

    /// On a running ring only the logging may change; anything else restarts it.
    fn set_vring_addr(&mut self, addr: outboard_vhost_user::payload::VringAddr) -> Result<Reply, Failure> {
        let index = addr.index as usize;
        let Some(vring) = self.vrings.get_mut(index) else { return Ok(Reply::Ack) };
        let place =
            |addr: outboard_vhost_user::payload::VringAddr| (addr.descriptor, addr.available, addr.used);
        if vring.running && vring.addr.map(place) == Some(place(addr)) {
            vring.addr = Some(addr);
            self.update_logging(index)?;
        } else {
            self.reconfigure(index, |vring| vring.addr = Some(addr))?;
        }
        Ok(Reply::Ack)
    }

    /// vhost-user: GET_VRING_BASE. Also for a ring that never ran.
    fn get_vring_base(&mut self, index: u32) -> Result<Reply, Failure> {
        self.stop_ring(index as usize)?;
        if let Some(vring) = self.vrings.get_mut(index as usize) {
            vring.kick = None;
        }
        Ok(Reply::VringState { index, num: self.stood(index as usize).0 })
    }

    fn get_inflight(&mut self, wanted: Inflight) -> Result<Reply, Failure> {
        if usize::from(wanted.num_queues) > self.vrings.len() {
            return Err(Failure::Invalid("in-flight records for more rings than the device has"));
        }
        let (buffer, fd) = InflightBuffer::create(wanted, self.largest_ring())?;
        let description = buffer.description();
        self.inflight = Some(buffer);
        Ok(Reply::Inflight(description, Some(fd)))
    }

    fn largest_ring(&self) -> u16 {
        self.backend.profile().queues.iter().map(|spec| spec.max_size).max().unwrap_or(0)
    }

    /// Beyond the device's configuration space there are zeroes: front ends ask for more than there is.
    fn get_config(&mut self, offset: u32, size: u32, flags: u32) -> Reply {
        let Some(end) = offset.checked_add(size).filter(|end| *end <= CONFIG_WINDOW) else {
            return Reply::ConfigRefused;
        };
        self.backend.device.settle();
        let config = self.backend.device.config();
        let data = (offset..end).map(|at| config.get(at as usize).copied().unwrap_or(0)).collect();
        Reply::Config { offset, flags, data }
    }
}

fn to_region(region: MemRegion) -> Region {
    Region {
        gpa: region.guest_addr,
        size: region.size,
        user_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
    }
}

/// Takes a descriptor for notifications. Files and devices are always "ready" and would keep a worker awake.
fn notifier(fd: OwnedFd) -> Result<OwnedFd, Failure> {
    match FileType::from_raw_mode(fstat(&fd).map_err(std::io::Error::from)?.st_mode) {
        FileType::RegularFile | FileType::Directory | FileType::BlockDevice | FileType::CharacterDevice => {
            Err(Failure::Invalid("a notification descriptor must be an eventfd, a pipe or a socket"))
        }
        FileType::Fifo => Ok(opened_anew(&fd).unwrap_or(fd)),
        _ => Ok(fd),
    }
}

/// A pipe so that nobody waits in it: how it was handed over, the front end can have it wait at any time.
fn opened_anew(pipe: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let way = fcntl_getfl(pipe)? & OFlags::ACCMODE;
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    rustix::fs::open(path, way | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}
