//! The driver of a block device (VIRTIO 1.3, 5.2): its queues, and calls that wait.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::blk::{
    Config, F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_LIFETIME, F_MQ, F_RO, F_SECURE_ERASE, F_SEG_MAX,
    F_SIZE_MAX, F_TOPOLOGY, F_WRITE_ZEROES, F_ZONED, ID_BYTES, SECTOR_SIZE, WRITEBACK_OFFSET,
};

use super::BlkQueue;
use crate::{Error, Frontend, Waiting, Wishes};

/// Through which the calls that wait copy.
pub(super) const BOUNCE: usize = 128 << 10;

/// How to drive a block device.
#[derive(Clone, Copy, Debug)]
pub struct BlkOptions {
    /// What is wished for of features and rings. `inflight` is filled in by [`Blk::open`] if `recoverable`.
    pub wishes: Wishes,
    /// Queues to start, at least 1.
    pub queues: u16,
    /// Entries of each ring.
    pub queue_size: u16,
    /// Requests in flight survive the back end, where it can do that.
    pub recoverable: bool,
}

impl BlkOptions {
    /// The feature bits that this driver knows.
    pub const FEATURES: u64 = F_SIZE_MAX
        | F_SEG_MAX
        | F_RO
        | F_BLK_SIZE
        | F_FLUSH
        | F_TOPOLOGY
        | F_CONFIG_WCE
        | F_MQ
        | F_DISCARD
        | F_WRITE_ZEROES
        | F_LIFETIME
        | F_SECURE_ERASE
        | F_ZONED;
}

impl Default for BlkOptions {
    fn default() -> Self {
        let wishes = Wishes { device_features: Self::FEATURES, ..Wishes::default() };
        Self { wishes, queues: 1, queue_size: 128, recoverable: true }
    }
}

/// A block device. Its queues can be driven at any depth, each in a thread of its own; the calls that wait use the
/// first one.
#[derive(Debug)]
pub struct Blk {
    frontend: Frontend,
    queues: Vec<BlkQueue>,
    features: u64,
    config: Config,
    bounce: Segment,
    waiting: Waiting,
    timeout: Duration,
}

impl Blk {
    /// Agrees with the device as wished, reads its configuration, and starts its queues.
    ///
    /// # Errors
    /// The device has fewer queues; as [`Frontend::agree`], [`Frontend::start`] and [`Frontend::read_config`].
    pub fn open(mut frontend: Frontend, options: &BlkOptions) -> Result<Self, Error> {
        let BlkOptions { mut wishes, queues, queue_size, recoverable } = *options;
        if queues == 0 {
            return Err(Error::Invalid("no queue"));
        }
        if recoverable {
            wishes.inflight = Some((queues, queue_size));
        }
        let timeout = frontend.timeout();
        let features = frontend.agree(&wishes)?;
        let config = frontend.config()?;
        let start = |index| {
            let queue = frontend.start(index, queue_size)?;
            BlkQueue::new(&mut frontend, queue)
        };
        let queues = (0..queues).map(start).collect::<Result<_, _>>()?;
        frontend.driver_ok()?;
        let bounce = frontend.allocate(BOUNCE)?;
        Ok(Self { frontend, queues, features, config, bounce, waiting: Waiting::Interrupt, timeout })
    }

    /// The configuration as read last.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Reads the configuration again: the capacity may have changed (see [`Frontend::heard`]).
    ///
    /// # Errors
    /// As [`Frontend::read_config`].
    pub fn refresh_config(&mut self) -> Result<&Config, Error> {
        self.config = self.frontend.config()?;
        Ok(&self.config)
    }

    /// Size in sectors.
    pub fn capacity(&self) -> u64 {
        self.config.capacity.get()
    }

    /// Did both sides agree on these feature bits?
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// How the calls that wait do it; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Switches the write cache (VIRTIO_BLK_F_CONFIG_WCE).
    ///
    /// # Errors
    /// As [`Frontend::write_config`].
    pub fn set_writeback(&mut self, on: bool) -> Result<(), Error> {
        self.frontend.write_config(WRITEBACK_OFFSET, &[on.into()])
    }

    /// The queues.
    pub fn queues(&mut self) -> &mut [BlkQueue] {
        &mut self.queues
    }

    /// The front end.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Both, for a control thread beside threads that drive the queues.
    pub fn parts(&mut self) -> (&mut Frontend, &mut [BlkQueue]) {
        (&mut self.frontend, &mut self.queues)
    }

    /// After the back end is gone: goes on with the next one. Requests that are out stay so, and complete once.
    ///
    /// # Errors
    /// As [`Frontend::reconnect`].
    pub fn reconnect(&mut self) -> Result<(), Error> {
        self.frontend.reconnect(self.queues.iter_mut().map(BlkQueue::queue))
    }

    /// Reads whole sectors into `out`, and waits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails the request; requests are out on the first queue; as [`BlkQueue::wait`].
    pub fn read_at(&mut self, sector: u64, out: &mut [u8]) -> Result<(), Error> {
        let mut sector = sector;
        for piece in out.chunks_mut(self.piece_len()) {
            let data = self.bounce(piece.len())?;
            self.run(|queue| queue.read(sector, std::slice::from_ref(&data), 0))?;
            data.read_into(0, piece)?;
            sector = sector.saturating_add(piece.len() as u64 / SECTOR_SIZE);
        }
        Ok(())
    }

    /// Writes whole sectors, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn write_at(&mut self, sector: u64, data: &[u8]) -> Result<(), Error> {
        let mut sector = sector;
        for piece in data.chunks(self.piece_len()) {
            let data = self.bounce(piece.len())?;
            data.write_from(0, piece)?;
            self.run(|queue| queue.write(sector, &[data], 0))?;
            sector = sector.saturating_add(piece.len() as u64 / SECTOR_SIZE);
        }
        Ok(())
    }

    /// Makes what was written stable, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn flush(&mut self) -> Result<(), Error> {
        self.run(|queue| queue.flush(0))
    }

    /// Gives up the contents of sectors, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn discard(&mut self, sector: u64, count: u32) -> Result<(), Error> {
        self.run(|queue| queue.discard(sector, count, 0))
    }

    /// Makes sectors read as zeroes, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn write_zeroes(&mut self, sector: u64, count: u32, unmap: bool) -> Result<(), Error> {
        self.run(|queue| queue.write_zeroes(sector, count, unmap, 0))
    }

    /// The device's serial, without the NULs behind it.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn serial(&mut self) -> Result<String, Error> {
        let data = self.bounce.clone();
        self.run(|queue| queue.get_id(&data, 0))?;
        let mut id = [0; ID_BYTES];
        data.read_into(0, &mut id)?;
        let text: Vec<u8> = id.into_iter().take_while(|&byte| byte != 0).collect();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Stages one request on the first queue and waits for it.
    pub(super) fn run(
        &mut self,
        stage: impl FnOnce(&mut BlkQueue) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (waiting, after) = (self.waiting, self.timeout);
        let queue = self.queues.first_mut().ok_or(Error::Invalid("no queue"))?;
        if queue.outstanding() != 0 {
            return Err(Error::Invalid("requests are out on the first queue"));
        }
        stage(queue)?;
        queue.publish()?;
        loop {
            if let Some(completion) = queue.poll()? {
                return completion.result.map_err(Error::Device);
            }
            if !queue.wait(waiting, after)? {
                return Err(Error::Timeout { what: "return a request".to_owned(), after });
            }
        }
    }

    /// `len` bytes of the buffer that the calls that wait copy through: whole sectors.
    fn bounce(&self, len: usize) -> Result<Segment, Error> {
        if !(len as u64).is_multiple_of(SECTOR_SIZE) {
            return Err(Error::Invalid("not whole sectors"));
        }
        self.bounce_part(0, len)
    }

    /// `len` bytes of that buffer, from `at` on.
    pub(super) fn bounce_part(&self, at: usize, len: usize) -> Result<Segment, Error> {
        self.bounce.slice(at, len).ok_or(Error::OutOfMemory { len })
    }

    /// The longest segment that the device takes, in bytes, whole sectors.
    pub fn segment_max(&self) -> usize {
        let sector = SECTOR_SIZE as usize;
        // Some devices offer a limit and leave it 0: QEMU's, for one. Linux takes that for none.
        match self.config.size_max.get() as usize {
            limit @ 1.. if self.has(F_SIZE_MAX) => (limit / sector).max(1) * sector,
            _ => usize::MAX / sector * sector,
        }
    }

    /// The longest request of one segment through the bounce buffer.
    fn piece_len(&self) -> usize {
        self.segment_max().min(BOUNCE)
    }

    /// Stops the queues, resets the device, and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, queues, bounce, .. } = self;
        let (queues, slots): (Vec<_>, Vec<_>) = queues.into_iter().map(BlkQueue::into_parts).unzip();
        frontend.reset(queues)?;
        for segment in slots.into_iter().chain([bounce]) {
            frontend.memory().free(segment);
        }
        Ok(frontend)
    }
}
