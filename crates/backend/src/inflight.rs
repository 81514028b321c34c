//! The buffer with the records of requests in flight, between the messages and the rings. It is the front end's.
//!
//! Front ends ask for it before they have set features, so its ring format is settled when a ring starts. And QEMU 10
//! asks for as many records as its property `queue-size` says, 128, while firmware and guest then set up rings of 256
//! and 1024. So a new buffer has room for the largest ring that the device serves, in either format. QEMU gives it back
//! with the numbers that it asked for, but with our size, by which we know our own.

use std::os::fd::OwnedFd;

use outboard_device::QueueId;
use outboard_vhost_user::payload::Inflight;
use outboard_virtqueue::{Format, InflightQueue, InflightRegion};

use crate::connection::Failure;

/// A buffer that the front end got or gave.
pub(crate) struct InflightBuffer {
    description: Inflight,
    /// Records per ring.
    records: u16,
    /// Made by us, or by a process before us: each ring has as much room as a packed one needs, so that drivers of
    /// different formats can follow each other.
    is_ours: bool,
    fd: OwnedFd,
}

impl InflightBuffer {
    /// Makes a buffer (vhost-user: GET_INFLIGHT_FD) for rings of up to `largest` descriptors, and the front end's
    /// descriptor of it.
    pub(crate) fn create(wanted: Inflight, largest: u16) -> Result<(Self, OwnedFd), Failure> {
        let records = wanted.queue_size.max(largest);
        let (_, fd) = InflightRegion::create(Format::Packed, wanted.num_queues, records)?;
        let mmap_size = InflightRegion::size(Format::Packed, wanted.num_queues, records);
        let description = Inflight { mmap_size, mmap_offset: 0, ..wanted };
        let theirs = fd.try_clone()?;
        Ok((Self { description, records, is_ours: true, fd }, theirs))
    }

    /// Takes a buffer from the front end (vhost-user: SET_INFLIGHT_FD). What is wrong with it is said at once, as
    /// far as the ring format is known.
    pub(crate) fn take(
        description: Inflight,
        fd: OwnedFd,
        format: Format,
        largest: u16,
    ) -> Result<Self, Failure> {
        let records = description.queue_size.max(largest);
        let is_ours =
            description.mmap_size == InflightRegion::size(Format::Packed, description.num_queues, records);
        let records = if is_ours { records } else { description.queue_size };
        let buffer = Self { description, records, is_ours, fd };
        buffer.records_of(0, format)?;
        Ok(buffer)
    }

    pub(crate) fn description(&self) -> Inflight {
        self.description
    }

    /// The records of one ring; `None` if the buffer, which somebody else made, has none for it or too few.
    pub(crate) fn queue(
        &self,
        format: Format,
        queue: QueueId,
        size: u32,
    ) -> Result<Option<InflightQueue>, Failure> {
        let records = self.records;
        if size > u32::from(records) {
            tracing::warn!(
                queue = queue.0,
                size,
                records,
                "a ring without in-flight records: a crash may lose requests"
            );
            return Ok(None);
        }
        self.records_of(queue.0, format)
    }

    fn records_of(&self, queue: u16, format: Format) -> Result<Option<InflightQueue>, Failure> {
        let Inflight { mmap_size, mmap_offset, num_queues, .. } = self.description;
        let fd = self.fd.try_clone()?;
        if !self.is_ours {
            let region = InflightRegion::open(fd, mmap_size, mmap_offset, num_queues, self.records, format)?;
            return Ok(region.queue(queue)?);
        }
        if queue >= num_queues {
            return Ok(None);
        }
        let size = InflightRegion::size(Format::Packed, 1, self.records);
        let offset = mmap_offset.checked_add(size * u64::from(queue)).ok_or(Failure::Invalid("an offset"))?;
        Ok(InflightRegion::open(fd, size, offset, 1, self.records, format)?.queue(0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(1);

    fn wanted() -> Inflight {
        Inflight { num_queues: 2, queue_size: 128, ..Inflight::default() }
    }

    #[test]
    fn buffer_of_ours_has_records_for_larger_rings_also_when_it_comes_back() {
        let (buffer, fd) = InflightBuffer::create(wanted(), 1024).unwrap();
        let description = buffer.description();
        assert_eq!(
            (description.num_queues, description.queue_size),
            (2, 128),
            "the answer repeats the question"
        );
        let back = InflightBuffer::take(description, fd, Format::Split, 1024).unwrap();
        for buffer in [buffer, back] {
            for format in [Format::Split, Format::Packed] {
                assert!(buffer.queue(format, QUEUE, 1024).unwrap().is_some());
                assert!(buffer.queue(format, QUEUE, 2048).unwrap().is_none());
            }
        }
    }

    #[test]
    fn buffer_of_somebody_else_has_as_many_records_as_it_says() {
        let (_, fd) = InflightRegion::create(Format::Split, 2, 128).unwrap();
        let mmap_size = InflightRegion::size(Format::Split, 2, 128);
        let given = Inflight { mmap_size, ..wanted() };
        let buffer = InflightBuffer::take(given, fd, Format::Split, 1024).unwrap();
        assert!(buffer.queue(Format::Split, QUEUE, 128).unwrap().is_some());
        assert!(buffer.queue(Format::Split, QUEUE, 256).unwrap().is_none());
    }

    #[test]
    fn buffer_shorter_than_its_rings_is_refused() {
        let (_, fd) = InflightRegion::create(Format::Split, 1, 64).unwrap();
        let given = Inflight { mmap_size: InflightRegion::size(Format::Split, 1, 64), ..wanted() };
        assert!(InflightBuffer::take(given, fd, Format::Split, 1024).is_err());
    }
}
