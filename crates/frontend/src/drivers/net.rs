//! The driver of a network device (VIRTIO 1.3, 5.1): its pairs of queues, and calls that wait.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::net::{
    Config, F_CTRL_VQ, F_MAC, F_MQ, F_MRG_RXBUF, F_MTU, F_STATUS, Header, MAX_PAIRS,
};

use super::NetQueue;
use crate::{Error, Frontend, Waiting, Wishes};

/// Through which [`Net::send`] copies: the longest packet.
const BOUNCE: usize = 64 << 10;

/// How to drive a network device.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// What is wished for of features and rings.
    pub wishes: Wishes,
    /// Pairs of queues to start, at least 1.
    pub pairs: u16,
    /// Entries of each ring.
    pub queue_size: u16,
    /// Bytes of each receive buffer, the header included. Without VIRTIO_NET_F_MRG_RXBUF the longest packet that can
    /// be received, so not less than [`SMALL_BUFFER_LEN`](outboard_virtio_defs::net::SMALL_BUFFER_LEN).
    pub buffer_len: usize,
}

impl NetOptions {
    /// The feature bits that this driver knows. It takes and gives packets as they are on the wire: no offloads.
    pub const FEATURES: u64 = F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF;
    /// As well, for more than one pair. The control queue itself stays with the front end: a pair is switched on
    /// by SET_VRING_ENABLE.
    pub const MULTIQUEUE: u64 = F_MQ | F_CTRL_VQ;
}

impl Default for NetOptions {
    fn default() -> Self {
        let wishes = Wishes { device_features: Self::FEATURES | Self::MULTIQUEUE, ..Wishes::default() };
        Self { wishes, pairs: 1, queue_size: 256, buffer_len: 2048 }
    }
}

/// A network device. Its pairs can be driven at any depth, each half in a thread of its own; the calls that wait use
/// the first pair.
#[derive(Debug)]
pub struct Net {
    frontend: Frontend,
    pairs: Vec<NetQueue>,
    features: u64,
    config: Option<Config>,
    bounce: Segment,
    waiting: Waiting,
    timeout: Duration,
}

impl Net {
    /// Agrees with the device as wished, reads its configuration if it has one (front ends mostly keep it
    /// themselves), starts its pairs, and posts receive buffers.
    ///
    /// # Errors
    /// The device has fewer pairs; as [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, options: &NetOptions) -> Result<Self, Error> {
        let NetOptions { mut wishes, pairs, queue_size, buffer_len } = *options;
        if pairs == 0 || pairs > MAX_PAIRS / 2 {
            return Err(Error::Invalid("so many pairs of queues"));
        }
        if pairs == 1 {
            wishes.device_features &= !NetOptions::MULTIQUEUE;
        }
        // What GET_QUEUE_NUM counts is not agreed among network back ends: rings, or pairs.
        frontend.rings_counted_as_one = 2;
        let timeout = frontend.timeout();
        let features = frontend.agree(&wishes)?;
        let config = if frontend.has(ProtocolFeatures::CONFIG) {
            match frontend.config() {
                Err(Error::ConfigRefused { .. }) => None,
                config => Some(config?),
            }
        } else {
            None
        };
        let start = |pair| {
            let rx = frontend.start(2 * pair, queue_size)?;
            let tx = frontend.start(2 * pair + 1, queue_size)?;
            NetQueue::new(&mut frontend, rx, tx, buffer_len, features)
        };
        let pairs = (0..pairs).map(start).collect::<Result<_, _>>()?;
        frontend.driver_ok()?;
        let bounce = frontend.allocate(BOUNCE)?;
        Ok(Self { frontend, pairs, features, config, bounce, waiting: Waiting::Interrupt, timeout })
    }

    /// The configuration, where the back end has one.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The MAC address that the back end gave the device, if it did.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.config.filter(|_| self.has(F_MAC)).map(|config| config.mac)
    }

    /// Did both sides agree on these feature bits?
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// How the calls that wait do it; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// The pairs of queues.
    pub fn pairs(&mut self) -> &mut [NetQueue] {
        &mut self.pairs
    }

    /// The front end.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Both, for a control thread beside threads that drive the queues.
    pub fn parts(&mut self) -> (&mut Frontend, &mut [NetQueue]) {
        (&mut self.frontend, &mut self.pairs)
    }

    /// After the back end is gone: goes on with the next one. Receive buffers stay posted; packets that were out and
    /// not returned are sent again, or are lost, as packets may be.
    ///
    /// # Errors
    /// As [`Frontend::reconnect`].
    pub fn reconnect(&mut self) -> Result<(), Error> {
        let queues = self.pairs.iter_mut().flat_map(|pair| {
            let (rx, tx) = pair.halves();
            [rx.queue(), tx.queue()]
        });
        self.frontend.reconnect(queues)
    }

    /// Sends a packet, without a header, and waits until the device has taken it.
    ///
    /// # Errors
    /// It is longer than 64 KiB; packets are out on the first pair; as [`super::NetTx::wait`].
    pub fn send(&mut self, packet: &[u8]) -> Result<(), Error> {
        let (waiting, after) = (self.waiting, self.timeout);
        let piece = self.bounce.slice(0, packet.len()).ok_or(Error::Invalid("a packet of this length"))?;
        let tx = self.pairs.first_mut().ok_or(Error::Invalid("no queue"))?.tx();
        if tx.outstanding() != 0 {
            return Err(Error::Invalid("packets are out on the first pair"));
        }
        piece.write_from(0, packet)?;
        tx.transmit(&Header::default(), &[piece], 0)?;
        tx.publish()?;
        while tx.poll()?.is_none() {
            if !tx.wait(waiting, after)? {
                return Err(Error::Timeout { what: "take a packet".to_owned(), after });
            }
        }
        Ok(())
    }

    /// Receives a packet, without its header, and says how long it is; what does not fit into `into` is dropped.
    /// `None` when none comes in time.
    ///
    /// # Errors
    /// As [`super::NetRx::poll`] and [`super::NetRx::wait`].
    pub fn receive(&mut self, into: &mut [u8], timeout: Duration) -> Result<Option<usize>, Error> {
        let waiting = self.waiting;
        let rx = self.pairs.first_mut().ok_or(Error::Invalid("no queue"))?.rx();
        loop {
            if let Some(packet) = rx.poll()? {
                let len = packet.len();
                rx.copy(&packet, into);
                rx.recycle(packet)?;
                rx.publish()?;
                return Ok(Some(len));
            }
            if !rx.wait(waiting, timeout)? {
                return Ok(None);
            }
        }
    }

    /// Stops the queues, resets the device, and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, pairs, bounce, .. } = self;
        let (queues, areas): (Vec<_>, Vec<_>) = pairs.into_iter().flat_map(NetQueue::into_parts).unzip();
        frontend.reset(queues)?;
        for segment in areas.into_iter().chain([bounce]) {
            frontend.memory().free(segment);
        }
        Ok(frontend)
    }
}
