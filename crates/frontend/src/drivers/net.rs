//! The driver of a network device (VIRTIO 1.3, 5.1): its pairs of queues, and calls that wait.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::net::{
    Config, F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN,
    F_CTRL_VQ, F_GUEST_ANNOUNCE, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO,
    F_GUEST_USO4, F_GUEST_USO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, F_MAC, F_MQ,
    F_MRG_RXBUF, F_MTU, F_NOTF_COAL, F_RSS, F_STATUS, F_VQ_NOTF_COAL, Header, MAX_PAIRS, S_LINK_UP,
};

use super::{NetControl, NetQueue};
use crate::{Error, Frontend, Waiting, Wishes};

/// Through which [`Net::send`] copies: the longest packet, an Ethernet header and an IPv6 packet of all it can be.
const BOUNCE: usize = 14 + 40 + 65535;

/// How to drive a network device.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// What is wished for of features and rings.
    pub wishes: Wishes,
    /// Pairs of queues to start, at least 1.
    pub pairs: u16,
    /// Pass the control queue on to the back end, if the device has one. Without, it stays with the front end, as
    /// VMMs mostly have it.
    pub control: bool,
    /// Entries of each ring.
    pub queue_size: u16,
    /// Bytes of each receive buffer, the header included. Without VIRTIO_NET_F_MRG_RXBUF the longest packet that can
    /// be received, so not less than [`SMALL_BUFFER_LEN`](outboard_virtio_defs::net::SMALL_BUFFER_LEN).
    pub buffer_len: usize,
}

impl NetOptions {
    /// The feature bits that this driver knows, without offloads: packets are as on the wire.
    pub const FEATURES: u64 = F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF;
    /// As well, for more than one pair. If the control queue stays with the front end, a pair is switched on by
    /// SET_VRING_ENABLE.
    pub const MULTIQUEUE: u64 = F_MQ | F_CTRL_VQ;
    /// What the device may do for packets that are sent. Who wishes for it fills in the headers
    /// ([`Net::send_with`], [`NetTx::transmit`](super::NetTx::transmit)).
    pub const SENT_OFFLOADS: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;
    /// What the device may leave undone in packets that are received. Who wishes for it looks at the headers
    /// ([`Net::receive_with`], [`Received::header`](super::Received::header)); without VIRTIO_NET_F_MRG_RXBUF each buffer
    /// holds the longest packet.
    pub const RECEIVED_OFFLOADS: u64 =
        F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;
    /// What goes by the control queue, where that is [passed on](Self::control).
    pub const CONTROLLED: u64 = F_CTRL_VQ
        | F_CTRL_RX
        | F_CTRL_RX_EXTRA
        | F_CTRL_VLAN
        | F_CTRL_MAC_ADDR
        | F_CTRL_GUEST_OFFLOADS
        | F_GUEST_ANNOUNCE
        | F_NOTF_COAL
        | F_VQ_NOTF_COAL;
}

impl Default for NetOptions {
    fn default() -> Self {
        let wishes = Wishes { device_features: Self::FEATURES | Self::MULTIQUEUE, ..Wishes::default() };
        Self { wishes, pairs: 1, control: false, queue_size: 256, buffer_len: 2048 }
    }
}

/// A network device. Its pairs can be driven at any depth, each half in a thread of its own; the calls that wait use
/// the first pair.
#[derive(Debug)]
pub struct Net {
    frontend: Frontend,
    pairs: Vec<NetQueue>,
    control: Option<NetControl>,
    features: u64,
    config: Option<Config>,
    /// Changes of it that were told so far.
    changes: u64,
    bounce: Segment,
    waiting: Waiting,
    timeout: Duration,
}

impl Net {
    /// Agrees with the device as wished, reads its configuration if it has one (front ends mostly keep it
    /// themselves), starts its pairs, and posts receive buffers. Where the control queue is passed on, it is started
    /// too, and all these pairs are taken in use by it.
    ///
    /// # Errors
    /// The device has fewer pairs; as [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, options: &NetOptions) -> Result<Self, Error> {
        let NetOptions { mut wishes, pairs, control, queue_size, buffer_len } = *options;
        if pairs == 0 || pairs > MAX_PAIRS / 2 {
            return Err(Error::Invalid("so many pairs of queues"));
        }
        if pairs == 1 && !control {
            wishes.device_features &= !NetOptions::MULTIQUEUE;
        }
        // What GET_QUEUE_NUM counts is not agreed among network back ends: rings, or pairs.
        frontend.rings_counted_as_one = 2;
        let timeout = frontend.timeout();
        let features = frontend.agree(&wishes)?;
        let config = read_config(&mut frontend)?;
        let start = |pair| {
            let rx = frontend.start(2 * pair, queue_size)?;
            let tx = frontend.start(2 * pair + 1, queue_size)?;
            NetQueue::new(&mut frontend, rx, tx, buffer_len, features)
        };
        let pairs = (0..pairs).map(start).collect::<Result<Vec<_>, _>>()?;
        let control = match control && features & F_CTRL_VQ != 0 {
            true => Some(NetControl::start(&mut frontend, control_index(features, config.as_ref())?)?),
            false => None,
        };
        frontend.driver_ok()?;
        let bounce = frontend.allocate(BOUNCE)?;
        let (waiting, changes) = (Waiting::Interrupt, 0);
        let mut this = Self { frontend, pairs, control, features, config, changes, bounce, waiting, timeout };
        this.use_pairs()?;
        Ok(this)
    }

    /// After a reset one pair is in use, whatever runs (VIRTIO 1.3, 5.1.6.5.5).
    fn use_pairs(&mut self) -> Result<(), Error> {
        match (&mut self.control, u16::try_from(self.pairs.len())) {
            (Some(control), Ok(pairs @ 2..)) => control.set_pairs(pairs),
            _ => Ok(()),
        }
    }

    /// The configuration, where the back end has one.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// The MAC address that the back end gave the device, if it did.
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.config.filter(|_| self.has(F_MAC)).map(|config| config.mac)
    }

    /// Takes in what came on the back channel, and reads the configuration again if it has changed. True if so.
    ///
    /// # Errors
    /// As [`Frontend::listen`] and [`Frontend::read_config`].
    pub fn look(&mut self) -> Result<bool, Error> {
        let changes = self.frontend.listen()?.config_changes;
        let changed = std::mem::replace(&mut self.changes, changes) != changes;
        if changed {
            self.config = read_config(&mut self.frontend)?;
        }
        Ok(changed)
    }

    /// Whether there is a link, by the configuration as it was read last; `None` where the back end does not tell.
    pub fn has_link(&self) -> Option<bool> {
        self.config.filter(|_| self.has(F_STATUS)).map(|config| config.status.get() & S_LINK_UP != 0)
    }

    /// Did both sides agree on these feature bits?
    pub fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// How the calls that wait do it; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        if let Some(control) = &mut self.control {
            control.set_waiting(waiting);
        }
    }

    /// The control queue, if it was passed on.
    pub fn control(&mut self) -> Option<&mut NetControl> {
        self.control.as_mut()
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
    /// not returned are sent again, or are lost, as packets may be. By the control queue, if it is passed on, the pairs are
    /// taken in use again; what else was told the old back end is the caller's to tell.
    ///
    /// # Errors
    /// As [`Frontend::reconnect`].
    pub fn reconnect(&mut self) -> Result<(), Error> {
        let queues = self.pairs.iter_mut().flat_map(|pair| {
            let (rx, tx) = pair.halves();
            [rx.queue(), tx.queue()]
        });
        self.frontend.reconnect(queues.chain(self.control.as_mut().map(NetControl::queue)))?;
        self.changes = 0;
        self.use_pairs()
    }

    /// Sends a packet as it goes over a wire, without a header, and waits until the device has taken it.
    ///
    /// # Errors
    /// It is longer than 65589 bytes; packets are out on the first pair; as [`super::NetTx::wait`].
    pub fn send(&mut self, packet: &[u8]) -> Result<(), Error> {
        self.send_with(&Header::default(), packet)
    }

    /// The same with any header.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(&mut self, header: &Header, packet: &[u8]) -> Result<(), Error> {
        let (waiting, after) = (self.waiting, self.timeout);
        let piece = self.bounce.slice(0, packet.len()).ok_or(Error::Invalid("a packet of this length"))?;
        let tx = self.pairs.first_mut().ok_or(Error::Invalid("no queue"))?.tx();
        if tx.outstanding() != 0 {
            return Err(Error::Invalid("packets are out on the first pair"));
        }
        piece.write_from(0, packet)?;
        tx.transmit(header, &[piece], 0)?;
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
        Ok(self.receive_with(into, timeout)?.map(|(_, len)| len))
    }

    /// The same, and the header, as the device wrote it.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_with(
        &mut self,
        into: &mut [u8],
        timeout: Duration,
    ) -> Result<Option<(Header, usize)>, Error> {
        let waiting = self.waiting;
        let rx = self.pairs.first_mut().ok_or(Error::Invalid("no queue"))?.rx();
        loop {
            if let Some(packet) = rx.poll()? {
                let came = (*packet.header(), packet.len());
                rx.copy(&packet, into);
                rx.recycle(packet)?;
                rx.publish()?;
                return Ok(Some(came));
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
        let Self { mut frontend, pairs, control, bounce, .. } = self;
        let pairs = pairs.into_iter().flat_map(NetQueue::into_parts);
        let (queues, areas): (Vec<_>, Vec<_>) = pairs.chain(control.map(NetControl::into_parts)).unzip();
        frontend.reset(queues)?;
        for segment in areas.into_iter().chain([bounce]) {
            frontend.memory().free(segment);
        }
        Ok(frontend)
    }
}

fn read_config(frontend: &mut Frontend) -> Result<Option<Config>, Error> {
    if !frontend.has(ProtocolFeatures::CONFIG) {
        return Ok(None);
    }
    match frontend.config() {
        Err(Error::ConfigRefused { .. }) => Ok(None),
        config => config.map(Some),
    }
}

/// Which queue the control queue is (VIRTIO 1.3, 5.1.2): the one behind all pairs that there can be.
fn control_index(features: u64, config: Option<&Config>) -> Result<u16, Error> {
    if features & (F_MQ | F_RSS) == 0 {
        return Ok(2);
    }
    let most = config.map(|config| config.max_virtqueue_pairs.get());
    let index = most.filter(|most| *most > 0).and_then(|most| most.checked_mul(2));
    index.ok_or(Error::Invalid("the device does not tell how many pairs it has"))
}
