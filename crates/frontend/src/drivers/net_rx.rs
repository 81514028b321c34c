//! The receiving half of a pair of queues of a network device (VIRTIO 1.3, 5.1.6.4). The device is not trusted: the
//! lengths and buffer counts that it gives are checked before they count.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::features::VIRTIO_F_IN_ORDER;
use outboard_virtio_defs::net::{F_HASH_REPORT, F_MRG_RXBUF, HEADER_LEN, HashReport, Header};
use outboard_virtqueue::driver::{AddError, Buffer};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::net_queue::header_len;
use crate::{Error, Frontend, Notifications, Queue, Waiting};

/// A packet that was received. It lies in buffers of the queue that it came from, until
/// [`NetRx::recycle`] gives them back to the device.
#[derive(Debug)]
#[must_use = "its buffers go back to the device by `NetRx::recycle` only"]
pub struct Received {
    header: Header,
    hash: Option<HashReport>,
    queue: u16,
    first: u16,
    buffers: u16,
    len: usize,
}

impl Received {
    /// The header, as the device wrote it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its hash, as the device tells it; `None` without VIRTIO_NET_F_HASH_REPORT.
    pub fn hash(&self) -> Option<&HashReport> {
        self.hash.as_ref()
    }

    /// Bytes of the packet, without the header.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there nothing behind the header?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In how many buffers it lies.
    pub fn buffers(&self) -> u16 {
        self.buffers
    }
}

/// Where a receive buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On the ring.
    Device,
    /// In a packet that has begun to arrive.
    Arriving,
    /// In a packet that was handed out.
    Caller,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    place: Place,
    /// Bytes that the device wrote.
    len: u32,
    /// The packet's next buffer.
    next: u16,
}

/// A packet of which buffers are still missing.
#[derive(Debug)]
struct Arriving {
    packet: Received,
    last: u16,
    missing: u16,
}

/// The receiving half of a pair: it keeps the ring filled with buffers of one size.
#[derive(Debug)]
pub struct NetRx {
    queue: Queue,
    area: Segment,
    buffer_len: usize,
    header_len: usize,
    mergeable: bool,
    hashed: bool,
    /// With IN_ORDER, buffers that the device skips over have no length: it has filled them (VIRTIO 1.3, 2.7.9).
    in_order: bool,
    slots: Vec<Slot>,
    arriving: Option<Arriving>,
}

impl NetRx {
    pub(super) fn new(
        frontend: &mut Frontend,
        queue: Queue,
        buffer_len: usize,
        features: u64,
    ) -> Result<Self, Error> {
        let depth = usize::from(queue.size());
        let header_len = header_len(features);
        let sane = buffer_len > header_len && u32::try_from(buffer_len).is_ok();
        let len = buffer_len.checked_mul(depth).filter(|_| sane);
        let area = frontend.allocate(len.ok_or(Error::Invalid("receive buffers of this size"))?)?;
        let slot = Slot { place: Place::Caller, len: 0, next: 0 };
        let mut rx = Self {
            queue,
            area,
            buffer_len,
            header_len,
            mergeable: features & F_MRG_RXBUF != 0,
            hashed: features & F_HASH_REPORT != 0,
            in_order: features & VIRTIO_F_IN_ORDER != 0,
            slots: vec![slot; depth],
            arriving: None,
        };
        for id in 0..rx.queue.size() {
            rx.post(id)?;
        }
        rx.publish()?;
        Ok(rx)
    }

    /// The next packet.
    ///
    /// # Errors
    /// [`Error::BadPacket`]: the device wrote less than a header, or claims more than it could have written. The
    /// buffers are back on the ring, and the next packet can be polled. Otherwise the ring is of no use any more.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<Received>, Error> {
        while let Some((id, len)) = self.queue.poll()? {
            // The tokens are ours.
            let id = id as u16;
            let len = if len == 0 && self.in_order { self.buffer_len as u32 } else { len };
            if let Some(packet) = self.arrived(id, len)? {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }

    /// Takes in a buffer that the device returned; gives the packet that it completes.
    #[inline]
    fn arrived(&mut self, id: u16, len: u32) -> Result<Option<Received>, Error> {
        let arriving = match self.arriving.take() {
            _ if len as usize > self.buffer_len => return self.refuse(id, "is longer than its buffer"),
            Some(mut arriving) => {
                if let Some(last) = self.slots.get_mut(usize::from(arriving.last)) {
                    last.next = id;
                }
                arriving.packet.buffers += 1;
                arriving.packet.len += len as usize;
                Arriving { last: id, missing: arriving.missing - 1, ..arriving }
            }
            None if (len as usize) < self.header_len => return self.refuse(id, "is shorter than its header"),
            None => {
                let (mut header, at) = (Header::new_zeroed(), usize::from(id) * self.buffer_len);
                self.area.read_into(at, header.as_mut_bytes())?;
                let mut hash = self.hashed.then(HashReport::new_zeroed);
                if let Some(hash) = &mut hash {
                    self.area.read_into(at + HEADER_LEN, hash.as_mut_bytes())?;
                }
                // Without the feature it is 1, but some devices leave it 0 (VIRTIO 1.3, 5.1.6.4.1).
                let buffers = if self.mergeable { header.num_buffers.get() } else { 1 };
                if buffers == 0 || buffers > self.queue.size() {
                    return self.refuse(id, "lies in an impossible number of buffers");
                }
                let (queue, len) = (self.queue.index(), len as usize - self.header_len);
                let packet = Received { header, hash, queue, first: id, buffers: 1, len };
                Arriving { packet, last: id, missing: buffers - 1 }
            }
        };
        if let Some(slot) = self.slots.get_mut(usize::from(id)) {
            *slot = Slot { place: Place::Arriving, len, next: id };
        }
        if arriving.missing > 0 {
            self.arriving = Some(arriving);
            return Ok(None);
        }
        let packet = arriving.packet;
        self.mark(&packet, Place::Caller);
        Ok(Some(packet))
    }

    /// Gives back a buffer that cannot be right, and what came of its packet before.
    #[cold]
    fn refuse(&mut self, id: u16, what: &'static str) -> Result<Option<Received>, Error> {
        self.post(id)?;
        // Buffers of a packet that has begun are nobody's but ours.
        let begun = |slot: &Slot| slot.place == Place::Arriving;
        while let Some(id) = self.slots.iter().position(begun) {
            self.post(id as u16)?;
        }
        self.publish()?;
        Err(Error::BadPacket { queue: self.queue.index(), what })
    }

    /// The packet where it lies, without its header, in pieces, in order.
    pub fn pieces(&self, packet: &Received) -> impl Iterator<Item = Segment> {
        let offsets = std::iter::once(self.header_len).chain(std::iter::repeat(0));
        self.ids(packet).zip(offsets).filter_map(|(id, offset)| {
            let id = usize::from(id);
            let len = (self.slots.get(id)?.len as usize).checked_sub(offset).filter(|len| *len > 0)?;
            self.area.slice(id * self.buffer_len + offset, len)
        })
    }

    /// Copies the start of the packet, without its header, into `into`; says how many bytes.
    pub fn copy(&self, packet: &Received, into: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces(packet) {
            let room = into.get_mut(copied..).unwrap_or_default();
            let len = piece.len().min(room.len());
            if piece.read_into(0, room.get_mut(..len).unwrap_or_default()).is_ok() {
                copied += len;
            }
        }
        copied
    }

    /// Stages the packet's buffers for further packets. The device sees them with the next
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// The packet is of another queue.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "a packet is recycled once")]
    pub fn recycle(&mut self, packet: Received) -> Result<(), Error> {
        if packet.queue != self.queue.index() {
            return Err(Error::Invalid("a packet of another queue"));
        }
        let mut id = packet.first;
        for _ in 0..packet.buffers {
            let slot = self.slots.get(usize::from(id)).filter(|slot| slot.place == Place::Caller);
            let next = slot.ok_or(Error::Invalid("a packet of another queue"))?.next;
            self.post(id)?;
            id = next;
        }
        Ok(())
    }

    /// Shows recycled buffers to the device, and kicks it if it wants that.
    ///
    /// # Errors
    /// The kick could not be written.
    #[inline]
    pub fn publish(&mut self) -> Result<(), Error> {
        self.queue.publish()
    }

    /// Waits until the device has returned something. False when the time is over first.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    pub(super) fn into_parts(self) -> (Queue, Segment) {
        (self.queue, self.area)
    }

    /// Notifications so far.
    pub fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }

    /// The queue underneath.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    #[inline]
    fn post(&mut self, id: u16) -> Result<(), Error> {
        let buffer = self.area.piece().slice(usize::from(id) * self.buffer_len, self.buffer_len);
        let buffer = Buffer::from(buffer.ok_or(AddError::Full)?);
        self.queue.add::<Buffer, _>(&[], &[buffer], id.into())?;
        if let Some(slot) = self.slots.get_mut(usize::from(id)) {
            slot.place = Place::Device;
        }
        Ok(())
    }

    #[inline]
    fn mark(&mut self, packet: &Received, place: Place) {
        let mut id = packet.first;
        for _ in 0..packet.buffers {
            let Some(slot) = self.slots.get_mut(usize::from(id)) else { return };
            slot.place = place;
            id = slot.next;
        }
    }

    /// The packet's buffers, in order.
    fn ids(&self, packet: &Received) -> impl Iterator<Item = u16> {
        let first = (packet.queue == self.queue.index()).then_some(packet.first);
        let next = |id: &u16| self.slots.get(usize::from(*id)).map(|slot| slot.next);
        std::iter::successors(first, next).take(packet.buffers.into())
    }
}
