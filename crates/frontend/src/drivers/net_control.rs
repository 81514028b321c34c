//! The driver's side of the control queue of a network device (VIRTIO 1.3, 5.1.6.5): one command at a time, each waited
//! for. The device is not trusted: it may answer late, never, or with an acknowledgement that is none.

use outboard_guest_memory::Segment;
use outboard_virtio_defs::net_control::{
    Coalescing, Command, HashConfig, OK, QueueCoalescing, RssConfig, RssKey,
};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::exchange::Exchange;
use crate::{Error, Frontend, Queue, Waiting};

/// Bytes of a command and its answer: enough for tables of 500 addresses.
const ROOM: usize = 8192;
/// Entries of the ring.
const DEPTH: u16 = 16;

/// How packets are spread over receive queues (VIRTIO 1.3, 5.1.6.5.7).
#[derive(Clone, Copy, Debug)]
pub struct Rss<'a> {
    /// `HASH_TYPE_` bits: what is hashed.
    pub hash_types: u32,
    /// For each value of the hash's lowest bits a receive queue, by the number of its pair. As many as a power of two.
    pub table: &'a [u16],
    /// The pair that receives what is not hashed.
    pub unclassified: u16,
    /// How many transmit queues are in use.
    pub transmit_queues: u16,
    /// The key of the hash.
    pub key: &'a [u8],
}

/// The control queue of a network device.
#[derive(Debug)]
pub struct NetControl {
    exchange: Exchange,
}

impl NetControl {
    /// Starts it as queue `index`.
    pub(super) fn start(frontend: &mut Frontend, index: u16) -> Result<Self, Error> {
        Ok(Self { exchange: Exchange::start(frontend, index, DEPTH, ROOM)? })
    }

    pub(super) fn into_parts(self) -> (Queue, Segment) {
        self.exchange.into_parts()
    }

    pub(super) fn set_waiting(&mut self, waiting: Waiting) {
        self.exchange.set_waiting(waiting);
    }

    /// Gives a command, with what belongs to it, and waits until it is in force.
    ///
    /// # Errors
    /// [`Error::CommandRefused`]: the device says no; as [`ask`](Self::ask).
    pub fn tell(&mut self, command: Command, data: &[u8]) -> Result<(), Error> {
        match self.ask(command, data, &mut [])? {
            OK => Ok(()),
            _ => Err(Error::CommandRefused { class: command.class, number: command.number }),
        }
    }

    /// Gives a command that is answered with more than an acknowledgement, which is returned as it is.
    ///
    /// # Errors
    /// As [`raw`](Self::raw).
    pub fn ask(&mut self, command: Command, data: &[u8], answer: &mut [u8]) -> Result<u8, Error> {
        let (written, _) = self.raw(&[command.as_bytes(), data], &[1, answer.len()])?;
        let (ack, rest) = written.split_first().ok_or(Error::WrongReply("a command"))?;
        answer.copy_from_slice(rest);
        Ok(*ack)
    }

    /// Sends buffers as they are, for tests of devices, and waits until they are back. Empty ones are left out. Returns
    /// the bytes of those that the device may write, 0xff where it did not; and the length that it gives.
    ///
    /// # Errors
    /// They are longer than 8 KiB, or none; one is out that was not answered in time; the device does not answer in time;
    /// as [`Queue::wait`].
    pub fn raw(&mut self, readable: &[&[u8]], writable: &[usize]) -> Result<(Vec<u8>, u32), Error> {
        self.exchange.one(readable, writable)
    }

    /// Switches one of the `RX_` modes on or off.
    ///
    /// # Errors
    /// As [`tell`](Self::tell), as all that follow.
    pub fn switch(&mut self, mode: Command, on: bool) -> Result<(), Error> {
        self.tell(mode, &[on.into()])
    }

    /// The addresses to receive packets for: of one interface each, and of many.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn set_mac_table(&mut self, unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> Result<(), Error> {
        let mut data = Vec::new();
        for table in [unicast, multicast] {
            let count = u32::try_from(table.len()).map_err(|_| Error::Invalid("so many addresses"))?;
            data.extend_from_slice(&count.to_le_bytes());
            data.extend_from_slice(table.as_flattened());
        }
        self.tell(Command::MAC_TABLE_SET, &data)
    }

    /// The device's own address.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn set_mac(&mut self, mac: [u8; 6]) -> Result<(), Error> {
        self.tell(Command::MAC_ADDR_SET, &mac)
    }

    /// Receives packets of a VLAN, or no more.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn set_vlan(&mut self, id: u16, on: bool) -> Result<(), Error> {
        self.tell(if on { Command::VLAN_ADD } else { Command::VLAN_DEL }, &id.to_le_bytes())
    }

    /// Says that the driver has announced itself, as it was asked to.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn announced(&mut self) -> Result<(), Error> {
        self.tell(Command::ANNOUNCE_ACK, &[])
    }

    /// How many pairs of queues are in use.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn set_pairs(&mut self, pairs: u16) -> Result<(), Error> {
        self.tell(Command::MQ_VQ_PAIRS_SET, &pairs.to_le_bytes())
    }

    /// How packets are spread over receive queues.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch); a table or key whose length cannot be told.
    pub fn set_rss(&mut self, rss: &Rss<'_>) -> Result<(), Error> {
        let mask = rss.table.len().checked_sub(1).and_then(|mask| u16::try_from(mask).ok());
        let mask = mask.ok_or(Error::Invalid("a table of this length"))?;
        let front = RssConfig {
            hash_types: U32::new(rss.hash_types),
            indirection_table_mask: U16::new(mask),
            unclassified_queue: U16::new(rss.unclassified),
        };
        let key = RssKey { max_tx_vq: U16::new(rss.transmit_queues), hash_key_length: key_len(rss.key)? };
        let table = rss.table.iter().flat_map(|pair| pair.to_le_bytes());
        let mut data = front.as_bytes().to_vec();
        data.extend(table);
        data.extend_from_slice(key.as_bytes());
        data.extend_from_slice(rss.key);
        self.tell(Command::MQ_RSS_CONFIG, &data)
    }

    /// Of which packets hashes are told, and by which key.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch); a key whose length cannot be told.
    pub fn set_hash(&mut self, hash_types: u32, key: &[u8]) -> Result<(), Error> {
        let front = HashConfig {
            hash_types: U32::new(hash_types),
            hash_key_length: key_len(key)?,
            ..HashConfig::default()
        };
        self.tell(Command::MQ_HASH_CONFIG, &[front.as_bytes(), key].concat())
    }

    /// Which of the offloads that were agreed the driver takes from now on: a mask of features.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn set_offloads(&mut self, features: u64) -> Result<(), Error> {
        self.tell(Command::GUEST_OFFLOADS_SET, U64::new(features).as_bytes())
    }

    /// How calls of all transmit queues, and those of all receive queues, are coalesced.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn coalesce(&mut self, transmitted: Coalescing, received: Coalescing) -> Result<(), Error> {
        self.tell(Command::NOTF_COAL_TX_SET, transmitted.as_bytes())?;
        self.tell(Command::NOTF_COAL_RX_SET, received.as_bytes())
    }

    /// How calls of one queue are coalesced.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn coalesce_queue(&mut self, queue: u16, coalescing: Coalescing) -> Result<(), Error> {
        let data = QueueCoalescing { queue: queue.into(), coalescing, ..QueueCoalescing::default() };
        self.tell(Command::NOTF_COAL_VQ_SET, data.as_bytes())
    }

    /// Asks how calls of one queue are coalesced.
    ///
    /// # Errors
    /// As of [`switch`](Self::switch).
    pub fn coalescing_of(&mut self, queue: u16) -> Result<Coalescing, Error> {
        // Index and reserved field; the rest of the structure is the device's to write.
        let data = [U16::new(queue), U16::ZERO];
        let mut answer = [0; size_of::<Coalescing>()];
        let Command { class, number } = Command::NOTF_COAL_VQ_GET;
        match self.ask(Command::NOTF_COAL_VQ_GET, data.as_bytes(), &mut answer)? {
            OK => Coalescing::read_from_bytes(&answer).map_err(|_| Error::WrongReply("a command")),
            _ => Err(Error::CommandRefused { class, number }),
        }
    }

    /// The queue underneath.
    pub fn queue(&mut self) -> &mut Queue {
        self.exchange.queue()
    }
}

fn key_len(key: &[u8]) -> Result<u8, Error> {
    u8::try_from(key.len()).map_err(|_| Error::Invalid("a key of this length"))
}
