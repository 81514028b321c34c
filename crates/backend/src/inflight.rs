//! The buffer with the records of requests in flight, between the messages and the rings. It is the front end's.
//!
//! Front ends ask for it before they have set features, so its ring format is settled when a ring starts: a new
//! buffer is large enough for either.

use std::os::fd::OwnedFd;

use outboard_device::QueueId;
use outboard_vhost_user::payload::Inflight;
use outboard_virtqueue::{Format, InflightError, InflightQueue, InflightRegion};

use crate::connection::Failure;

/// A buffer that the front end got or gave.
pub(crate) struct InflightBuffer {
    description: Inflight,
    fd: OwnedFd,
}

impl InflightBuffer {
    /// Makes a buffer (vhost-user: GET_INFLIGHT_FD), and the front end's descriptor of it.
    pub(crate) fn create(wanted: Inflight) -> Result<(Self, OwnedFd), Failure> {
        let (_, fd) = InflightRegion::create(Format::Packed, wanted.num_queues, wanted.queue_size)?;
        let mmap_size = InflightRegion::size(Format::Packed, wanted.num_queues, wanted.queue_size);
        let description = Inflight { mmap_size, mmap_offset: 0, ..wanted };
        let theirs = fd.try_clone()?;
        Ok((Self { description, fd }, theirs))
    }

    /// Takes a buffer from the front end (vhost-user: SET_INFLIGHT_FD). What is wrong with it is said at once, as
    /// far as the ring format is known.
    pub(crate) fn take(description: Inflight, fd: OwnedFd, format: Format) -> Result<Self, Failure> {
        let buffer = Self { description, fd };
        buffer.map(format)?;
        Ok(buffer)
    }

    pub(crate) fn description(&self) -> Inflight {
        self.description
    }

    /// The records of one ring; `None` if the buffer has none for it, or too few: QEMU asks for as many as its
    /// property `queue-size` says, and firmware may then set up a larger ring.
    pub(crate) fn queue(
        &self,
        format: Format,
        queue: QueueId,
        size: u32,
    ) -> Result<Option<InflightQueue>, Failure> {
        let records = self.description.queue_size;
        if size > u32::from(records) {
            tracing::warn!(
                queue = queue.0,
                size,
                records,
                "a ring without in-flight records: a crash may lose requests"
            );
            return Ok(None);
        }
        Ok(self.map(format)?.queue(queue.0)?)
    }

    fn map(&self, format: Format) -> Result<InflightRegion, Failure> {
        let Inflight { mmap_size, mmap_offset, num_queues, queue_size, .. } = self.description;
        let fd = self.fd.try_clone()?;
        let region: Result<_, InflightError> =
            InflightRegion::open(fd, mmap_size, mmap_offset, num_queues, queue_size, format);
        Ok(region?)
    }
}
