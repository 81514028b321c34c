//! A pair of queues of a network device (VIRTIO 1.3, 5.1.6): one receives, one transmits.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::net::{F_HASH_REPORT, HASH_HEADER_LEN, HEADER_LEN, HashReport, Header};
use outboard_virtqueue::driver::Buffer;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::NetRx;
use super::slots::Slots;
use crate::{Error, Frontend, Notifications, Queue, Waiting};

/// Each packet that is out has so many bytes for its header: a cache line.
const SLOT: usize = 64;

/// Bytes that each packet begins with, of a device that agreed on these features.
pub(super) const fn header_len(features: u64) -> usize {
    if features & F_HASH_REPORT == 0 { HEADER_LEN } else { HASH_HEADER_LEN }
}

/// A pair of queues. Each half can be driven in a thread of its own.
#[derive(Debug)]
pub struct NetQueue {
    rx: NetRx,
    tx: NetTx,
}

impl NetQueue {
    /// Drivers over two started queues. `buffer_len` is that of each receive buffer in bytes, the header included.
    pub(crate) fn new(
        frontend: &mut Frontend,
        rx: Queue,
        tx: Queue,
        buffer_len: usize,
        features: u64,
    ) -> Result<Self, Error> {
        let tx = NetTx::new(frontend, tx, features)?;
        let rx = NetRx::new(frontend, rx, buffer_len, features)?;
        Ok(Self { rx, tx })
    }

    /// What receives.
    pub fn rx(&mut self) -> &mut NetRx {
        &mut self.rx
    }

    /// What transmits.
    pub fn tx(&mut self) -> &mut NetTx {
        &mut self.tx
    }

    /// Both.
    pub fn halves(&mut self) -> (&mut NetRx, &mut NetTx) {
        (&mut self.rx, &mut self.tx)
    }

    pub(crate) fn into_parts(self) -> [(Queue, Segment); 2] {
        [self.rx.into_parts(), (self.tx.queue, self.tx.slots.into_memory())]
    }
}

/// The transmitting half of a pair. Packets are staged one by one and shown to the device by
/// [`publish`](Self::publish).
#[derive(Debug)]
pub struct NetTx {
    queue: Queue,
    /// The notes are the callers' tokens.
    slots: Slots<u64, SLOT>,
    readable: Vec<Buffer>,
    header_len: usize,
}

impl NetTx {
    fn new(frontend: &mut Frontend, queue: Queue, features: u64) -> Result<Self, Error> {
        let slots = Slots::new(frontend, queue.size())?;
        if features & F_HASH_REPORT != 0 {
            // Of what is sent the device does not want to know.
            for number in 0..queue.size() {
                slots.write(number, HEADER_LEN, HashReport::new_zeroed().as_bytes())?;
            }
        }
        Ok(Self { queue, slots, readable: Vec::new(), header_len: header_len(features) })
    }

    /// Bytes that each packet begins with: 12, or 20 with VIRTIO_NET_F_HASH_REPORT.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Stages a packet: `header`, which is copied, then the bytes of `packet`, in order, which are not. `token`
    /// comes back when the device has done with them.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    #[inline]
    pub fn transmit(&mut self, header: &Header, packet: &[Segment], token: u64) -> Result<(), Error> {
        let number = self.slots.vacant()?;
        self.slots.write(number, 0, header.as_bytes())?;
        self.readable.clear();
        self.readable.push(self.slots.part(number, 0, self.header_len)?);
        self.stage(number, packet, token)
    }

    /// Stages a packet that begins with its header already, of [`header_len`](Self::header_len) bytes: the fewest
    /// descriptors.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    #[inline]
    pub fn transmit_framed(&mut self, packet: &[Segment], token: u64) -> Result<(), Error> {
        let number = self.slots.vacant()?;
        self.readable.clear();
        self.stage(number, packet, token)
    }

    #[inline]
    fn stage(&mut self, number: u16, packet: &[Segment], token: u64) -> Result<(), Error> {
        self.readable.extend(packet.iter().map(Buffer::from));
        self.queue.add::<_, Buffer>(&self.readable, &[], number.into())?;
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

    /// The token of the next packet that the device has done with.
    ///
    /// # Errors
    /// The device returned nonsense on the ring.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<u64>, Error> {
        // The device writes nothing into what it transmits: whatever length it gives is of no meaning.
        let Some((number, _)) = self.queue.poll()? else { return Ok(None) };
        Ok(Some(self.slots.give_back(number)))
    }

    /// Waits until the device has returned something. False when the time is over first.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    /// Packets staged or with the device.
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
}
