//! The dirty log: which pages of guest memory the back end has written (vhost-user: Migration).

use std::os::fd::OwnedFd;

use outboard_guest_memory::{DirtyLog, LOG_PAGE_SIZE};
use outboard_vhost_user::payload::VringAddr;
use outboard_vhost_user::{ProtocolFeatures, Request};
use outboard_virtio_defs::features::VHOST_F_LOG_ALL;

use crate::{Error, Frontend};

/// The log in force.
#[derive(Debug)]
pub(crate) struct Log {
    log: DirtyLog,
    fd: OwnedFd,
    on: bool,
}

impl Log {
    /// Makes a log for all memory below `end`.
    fn new(end: u64) -> Result<Self, Error> {
        // A bit for each page; the size is a multiple of 8 bytes (vhost-user: Log description).
        let size = end.div_ceil(LOG_PAGE_SIZE).div_ceil(64).max(1) * 8;
        let (log, fd) = DirtyLog::create(size)?;
        Ok(Self { log, fd, on: true })
    }

    /// The feature bit that goes with it.
    pub(crate) fn features(&self) -> u64 {
        if self.on { VHOST_F_LOG_ALL } else { 0 }
    }

    fn request(&self) -> Result<Request, Error> {
        let size = self.log.len() as u64;
        Ok(Request::SetLogBase { size, offset: 0, fd: Some(self.fd.try_clone()?) })
    }
}

impl Frontend {
    /// Has the back end log what it writes from now on: to buffers, and to the rings that run. In the order of
    /// QEMU: the log, the feature, the rings.
    ///
    /// # Errors
    /// Logging is not on offer; the back end refuses; the connection fails.
    pub fn start_logging(&mut self) -> Result<(), Error> {
        if !self.has(ProtocolFeatures::LOG_SHMFD) {
            return Err(Error::ProtocolMissing(ProtocolFeatures::LOG_SHMFD));
        }
        if self.offer.features & VHOST_F_LOG_ALL == 0 {
            return Err(Error::FeaturesMissing(VHOST_F_LOG_ALL));
        }
        let log = Log::new(self.memory.end())?;
        self.ask(log.request()?)?;
        self.log = Some(log);
        self.send_features()?;
        self.log_rings(true)
    }

    /// Gives the back end a new log, while it logs, and returns the old one: all marks made before this are in it,
    /// and none comes after.
    ///
    /// # Errors
    /// It does not log; the back end refuses; the connection fails.
    pub fn replace_log(&mut self) -> Result<DirtyLog, Error> {
        let new = Log::new(self.memory.end())?;
        if !self.log.as_ref().is_some_and(|log| log.on) {
            return Err(Error::Invalid("the log is not on"));
        }
        self.ask(new.request()?)?;
        let old = self.log.replace(new);
        old.map(|log| log.log).ok_or(Error::Invalid("the log is not on"))
    }

    /// Has the back end log no more. The log keeps its marks.
    ///
    /// # Errors
    /// The back end refuses; the connection fails.
    pub fn stop_logging(&mut self) -> Result<(), Error> {
        if let Some(log) = &mut self.log {
            log.on = false;
        }
        self.log_rings(false)?;
        self.send_features()
    }

    /// Takes the marks off the log, and calls `each` with the guest address of every page that had one, ascending.
    pub fn take_dirty(&self, each: impl FnMut(u64)) {
        if let Some(log) = &self.log {
            log.log.take(each);
        }
    }

    /// Tells a new back end the log, if one is on.
    pub(crate) fn send_log(&mut self) -> Result<(), Error> {
        match self.log.as_ref().filter(|log| log.on) {
            Some(log) => {
                let request = log.request()?;
                self.ask(request).map(drop)
            }
            None => Ok(()),
        }
    }

    /// The flags of SET_VRING_ADDR now.
    pub(crate) fn addr_flags(&self) -> u32 {
        if self.log.as_ref().is_some_and(|log| log.on) { VringAddr::LOG } else { 0 }
    }

    fn log_rings(&mut self, on: bool) -> Result<(), Error> {
        let flags = if on { VringAddr::LOG } else { 0 };
        let mut addresses = Vec::new();
        for ring in self.rings.values_mut() {
            ring.addr.flags = flags;
            addresses.push(ring.addr);
        }
        addresses.into_iter().try_for_each(|addr| self.ask(Request::SetVringAddr(addr)).map(drop))
    }
}
