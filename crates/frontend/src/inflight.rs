//! The record of requests in flight, which the front end keeps while back ends come and go, and takes along when it
//! migrates (vhost-user: Inflight I/O tracking). We never look into it. A back end made it and is not trusted with
//! its size.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

use outboard_guest_memory::memfd;
use outboard_vhost_user::payload::Inflight;
use outboard_vhost_user::{ProtocolFeatures, Reply, Request};

use crate::{Error, Frontend};

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

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

    /// What the record is like, as the back end told it.
    pub fn inflight_description(&self) -> Option<Inflight> {
        self.inflight.as_ref().map(|buffer| buffer.description)
    }

    /// Writes the record to `to`, for a front end elsewhere that goes on with the requests: once all rings are stopped,
    /// where GET_VRING_BASE_INFLIGHT is agreed on. Says how many bytes.
    ///
    /// # Errors
    /// There is no record; it is shorter than the back end said; `to` fails.
    pub fn save_inflight(&self, to: &mut impl Write) -> Result<u64, Error> {
        let record = self.inflight.as_ref().ok_or(Error::Invalid("requests in flight are not recorded"))?;
        let Inflight { mmap_offset, mmap_size, .. } = record.description;
        let mut buffer = vec![0; CHUNK];
        let mut saved = 0;
        while saved < mmap_size {
            let len = usize::try_from(mmap_size - saved).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..len).unwrap_or_default();
            let at = mmap_offset.checked_add(saved).ok_or(Error::Invalid("a record at this offset"))?;
            let read = rustix::io::pread(&record.fd, &mut *chunk, at)?;
            if read == 0 {
                return Err(Error::Invalid("the record is shorter than the back end said"));
            }
            to.write_all(chunk.get(..read).unwrap_or_default())?;
            saved += read as u64;
        }
        Ok(saved)
    }

    /// Makes a record out of one that was saved, and gives it to the back end, in place of what
    /// [`agree`](Self::agree) set up; before any queue is started. `description` tells what it is like.
    ///
    /// # Errors
    /// The back end records nothing; a queue runs; `from` ends early or fails; the back end refuses; the connection
    /// fails.
    pub fn load_inflight(&mut self, description: Inflight, from: &mut impl Read) -> Result<(), Error> {
        if !self.has(ProtocolFeatures::INFLIGHT_SHMFD) {
            return Err(Error::ProtocolMissing(ProtocolFeatures::INFLIGHT_SHMFD));
        }
        if let Some(&index) = self.rings.keys().next() {
            return Err(Error::QueueState { index, state: "runs: the record is in use" });
        }
        let description = Inflight { mmap_offset: 0, ..description };
        let size = description.mmap_size;
        let fd = memfd("outboard-inflight", size)?;
        let mut file = std::fs::File::from(fd.try_clone()?);
        let copied = std::io::copy(&mut from.take(size), &mut file)?;
        if copied < size {
            return Err(Error::Host(ErrorKind::UnexpectedEof.into()));
        }
        self.inflight = Some(InflightBuffer { description, fd });
        self.send_inflight()
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
