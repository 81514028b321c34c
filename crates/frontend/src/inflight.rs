//! The record of requests in flight, which the front end keeps while back ends come and go (vhost-user: Inflight I/O
//! tracking). We never look into it.

use std::os::fd::OwnedFd;

use outboard_vhost_user::payload::Inflight;
use outboard_vhost_user::{ProtocolFeatures, Reply, Request};

use crate::{Error, Frontend};

/// A buffer that a back end made.
#[derive(Debug)]
pub(crate) struct InflightBuffer {
    description: Inflight,
    fd: OwnedFd,
}

impl Frontend {
    /// Whether the back end records requests in flight, so that they survive its death.
    pub fn has_inflight(&self) -> bool {
        self.inflight.is_some()
    }

    /// The record's descriptor, for a look from outside.
    pub fn inflight_fd(&self) -> Option<&OwnedFd> {
        self.inflight.as_ref().map(|buffer| &buffer.fd)
    }

    /// Has the back end make a record, and gives it back to it. Nothing happens where that is not agreed, or where
    /// the back end has no record.
    pub(crate) fn make_inflight(&mut self, num_queues: u16, queue_size: u16) -> Result<(), Error> {
        if !self.has(ProtocolFeatures::INFLIGHT_SHMFD) {
            return Ok(());
        }
        let wanted = Inflight { num_queues, queue_size, ..Inflight::default() };
        self.inflight = match self.ask(Request::GetInflightFd(wanted))? {
            Reply::Inflight(description, Some(fd)) if description.mmap_size != 0 => {
                Some(InflightBuffer { description, fd })
            }
            Reply::Inflight(..) => None,
            _ => return Err(Error::WrongReply("GET_INFLIGHT_FD")),
        };
        self.send_inflight()
    }

    /// Gives the back end the record, if there is one.
    pub(crate) fn send_inflight(&mut self) -> Result<(), Error> {
        let Some(InflightBuffer { description, fd }) = &self.inflight else { return Ok(()) };
        let request = Request::SetInflightFd(*description, fd.try_clone()?);
        self.ask(request).map(drop)
    }
}
