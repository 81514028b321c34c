//! A request queue of a block device (VIRTIO 1.3, 5.2.6). The device is not trusted: its status byte is read back
//! from memory that said "nothing yet" before.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::blk::{
    ID_BYTES, RANGE_UNMAP, RangeSegment, RequestHeader, S_IOERR, S_OK, S_UNSUPP, S_ZONE_ACTIVE_RESOURCE,
    S_ZONE_INVALID_CMD, S_ZONE_OPEN_RESOURCE, S_ZONE_UNALIGNED_WP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT,
    T_WRITE_ZEROES, T_ZONE_APPEND,
};
use outboard_virtqueue::driver::Buffer;
use zerocopy::IntoBytes;

use super::slots::Slots;
use crate::{Error, Frontend, Notifications, Queue, Waiting};

/// Each request has so many bytes for what is not data: a cache line.
const SLOT: usize = 64;
/// Within: the header.
const HEADER: usize = size_of::<RequestHeader>();
/// Within: the range of a discard or write-zeroes.
const RANGE: usize = size_of::<RangeSegment>();
/// Within: the status.
const STATUS: usize = SLOT - 1;
/// No status that a device gives.
const PENDING: u8 = 0xff;

/// Why the device did not do a request (VIRTIO 1.3, 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The medium, the range, or the form of the request.
    #[error("I/O error")]
    Io,
    /// The device does not serve such requests.
    #[error("not supported")]
    Unsupported,
    /// The zone is not of a kind or in a state that allows the request, or the range leaves it.
    #[error("the zone does not allow that")]
    ZoneInvalid,
    /// The write does not begin at the zone's write pointer, or is not in whole units.
    #[error("not at the zone's write pointer")]
    ZoneUnaligned,
    /// More zones would be open than can be.
    #[error("too many open zones")]
    ZoneOpenResource,
    /// More zones would be active than can be.
    #[error("too many active zones")]
    ZoneActiveResource,
    /// A status that does not exist, or none at all.
    #[error("status {0:#x}")]
    Unknown(u8),
}

/// A request that the device returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// What the caller named it.
    pub token: u64,
    /// How many bytes the device says it wrote, the status included.
    pub len: u32,
    /// How it went.
    pub result: Result<(), Failure>,
}

/// A request queue. Requests are staged one by one and shown to the device by [`publish`](Self::publish).
#[derive(Debug)]
pub struct BlkQueue {
    queue: Queue,
    /// The notes are the callers' tokens.
    slots: Slots<u64, SLOT>,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

impl BlkQueue {
    /// A driver over a started queue.
    ///
    /// # Errors
    /// Memory is used up.
    pub(crate) fn new(frontend: &mut Frontend, queue: Queue) -> Result<Self, Error> {
        let slots = Slots::new(frontend, queue.size())?;
        Ok(Self { queue, slots, readable: Vec::new(), writable: Vec::new() })
    }

    /// Stages a read of whole sectors from `sector` on into `data`, in order.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    #[inline]
    pub fn read(&mut self, sector: u64, data: &[Segment], token: u64) -> Result<(), Error> {
        self.stage(T_IN, sector, &[], data, token)
    }

    /// Stages a write of whole sectors from `data`, in order, to `sector` on.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    #[inline]
    pub fn write(&mut self, sector: u64, data: &[Segment], token: u64) -> Result<(), Error> {
        self.stage(T_OUT, sector, data, &[], token)
    }

    /// Stages a flush: what was completed before it is stable when it completes.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub fn flush(&mut self, token: u64) -> Result<(), Error> {
        self.stage(T_FLUSH, 0, &[], &[], token)
    }

    /// Stages a read of the serial into `into`, 20 bytes of it, filled up with NUL.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub fn get_id(&mut self, into: &Segment, token: u64) -> Result<(), Error> {
        let id = into.piece().slice(0, ID_BYTES);
        let id = id.ok_or(Error::Invalid("fewer than 20 bytes for the serial"))?;
        self.clear();
        self.writable.push(id.into());
        self.submit(T_GET_ID, 0, None, token)
    }

    /// Stages giving up the contents of `count` sectors.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub fn discard(&mut self, sector: u64, count: u32, token: u64) -> Result<(), Error> {
        self.stage_range(T_DISCARD, sector, count, 0, token)
    }

    /// Stages making `count` sectors read as zeroes; `unmap` lets the device deallocate them.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub fn write_zeroes(&mut self, sector: u64, count: u32, unmap: bool, token: u64) -> Result<(), Error> {
        let flags = if unmap { RANGE_UNMAP } else { 0 };
        self.stage_range(T_WRITE_ZEROES, sector, count, flags, token)
    }

    /// Stages a write of whole sectors from `data`, in order, at the write pointer of the zone that begins at
    /// `zone`; where that was, in sectors, will be the 8 bytes of `place`, little-endian.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full; `place` has not 8 bytes.
    pub fn zone_append(
        &mut self,
        zone: u64,
        data: &[Segment],
        place: &Segment,
        token: u64,
    ) -> Result<(), Error> {
        if place.len() != size_of::<u64>() {
            return Err(Error::Invalid("a sector takes 8 bytes"));
        }
        self.stage(T_ZONE_APPEND, zone, data, std::slice::from_ref(place), token)
    }

    /// Stages any request: header, `readable`, then `writable` and the status.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    #[inline]
    pub fn stage(
        &mut self,
        kind: u32,
        sector: u64,
        readable: &[Segment],
        writable: &[Segment],
        token: u64,
    ) -> Result<(), Error> {
        self.clear();
        self.readable.extend(readable.iter().map(Buffer::from));
        self.writable.extend(writable.iter().map(Buffer::from));
        self.submit(kind, sector, None, token)
    }

    fn stage_range(
        &mut self,
        kind: u32,
        sector: u64,
        count: u32,
        flags: u32,
        token: u64,
    ) -> Result<(), Error> {
        self.clear();
        let range = RangeSegment { sector: sector.into(), num_sectors: count.into(), flags: flags.into() };
        self.submit(kind, 0, Some(range), token)
    }

    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    /// Queues what is in the two lists, header before and status behind.
    #[inline]
    fn submit(
        &mut self,
        kind: u32,
        sector: u64,
        range: Option<RangeSegment>,
        token: u64,
    ) -> Result<(), Error> {
        let number = self.slots.vacant()?;
        let header = RequestHeader { kind: kind.into(), reserved: 0.into(), sector: sector.into() };
        self.slots.write(number, 0, header.as_bytes())?;
        self.slots.write(number, STATUS, &[PENDING])?;
        self.readable.insert(0, self.slots.part(number, 0, HEADER)?);
        if let Some(range) = range {
            self.slots.write(number, HEADER, range.as_bytes())?;
            self.readable.push(self.slots.part(number, HEADER, RANGE)?);
        }
        self.writable.push(self.slots.part(number, STATUS, 1)?);
        self.queue.add(&self.readable, &self.writable, number.into())?;
        self.slots.take(token);
        Ok(())
    }

    /// Shows what was staged to the device, and kicks it if it wants that.
    ///
    /// # Errors
    /// The kick could not be written.
    #[inline]
    pub fn publish(&mut self) -> Result<(), Error> {
        self.queue.publish()
    }

    /// The next request that the device returned.
    ///
    /// # Errors
    /// The device returned nonsense on the ring.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Completion>, Error> {
        let Some((number, len)) = self.queue.poll()? else { return Ok(None) };
        let mut status = [PENDING];
        self.slots.read(number, STATUS, &mut status)?;
        let result = match status {
            [S_OK] => Ok(()),
            [S_IOERR] => Err(Failure::Io),
            [S_UNSUPP] => Err(Failure::Unsupported),
            [S_ZONE_INVALID_CMD] => Err(Failure::ZoneInvalid),
            [S_ZONE_UNALIGNED_WP] => Err(Failure::ZoneUnaligned),
            [S_ZONE_OPEN_RESOURCE] => Err(Failure::ZoneOpenResource),
            [S_ZONE_ACTIVE_RESOURCE] => Err(Failure::ZoneActiveResource),
            [other] => Err(Failure::Unknown(other)),
        };
        Ok(Some(Completion { token: self.slots.give_back(number), len, result }))
    }

    /// Waits until the device has returned something. False when the time is over first.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    /// Shows what was staged to the device, and takes all that is out, for which it may take `timeout` each.
    ///
    /// # Errors
    /// [`Error::Device`]: a request failed. [`Error::Timeout`]; as [`wait`](Self::wait). Requests may then still be out.
    pub fn finish(&mut self, how: Waiting, timeout: Duration) -> Result<(), Error> {
        self.publish()?;
        while self.outstanding() > 0 {
            match self.poll()? {
                Some(done) => done.result.map_err(Error::Device)?,
                None if self.wait(how, timeout)? => {}
                None => return Err(Error::Timeout { what: "answer".to_owned(), after: timeout }),
            }
        }
        Ok(())
    }

    /// Requests staged or with the device.
    pub fn outstanding(&self) -> u32 {
        self.queue.outstanding()
    }

    /// Notifications so far.
    pub fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }

    /// The queue underneath.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    pub(crate) fn into_parts(self) -> (Queue, Segment) {
        (self.queue, self.slots.into_memory())
    }
}
