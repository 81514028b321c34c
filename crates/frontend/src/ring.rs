//! A ring as the messages configured it, kept to be told again after a reconnect.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use outboard_vhost_user::payload::VringAddr;
use rustix::event::{EventfdFlags, eventfd};

use crate::Error;

/// The three notifiers of a ring, shared by whoever tells of them and whoever uses them.
#[derive(Clone, Debug)]
pub(crate) struct Notifiers {
    pub(crate) kick: Arc<OwnedFd>,
    pub(crate) call: Arc<OwnedFd>,
    pub(crate) err: Arc<OwnedFd>,
}

impl Notifiers {
    pub(crate) fn new() -> Result<Self, Error> {
        let make = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        Ok(Self { kick: make()?, call: make()?, err: make()? })
    }
}

/// Counts an event. A full counter is as good as one event more.
pub(crate) fn signal(fd: impl AsFd) -> Result<(), Error> {
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes the events counted so far; 0 when there was none.
pub(crate) fn take(fd: impl AsFd) -> Result<u64, Error> {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// A started ring.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pub(crate) addr: VringAddr,
    pub(crate) notifiers: Notifiers,
}
