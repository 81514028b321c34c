//! Which pair a packet is for, as the driver wants them spread (VIRTIO 1.3, 5.1.6.4.3 and 5.1.6.5.7), and the way of a packet
//! from one pair's thread to another's.
//!
//! What is behind the interface gives a packet to any pair; the one that the driver wants may be another, on a thread of
//! its own. The packet is then copied, and dropped if that thread is far behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_device::defs::net::{
    HASH_TYPE_IPV4, HASH_TYPE_IPV6, HASH_TYPE_TCPV4, HASH_TYPE_TCPV6, HASH_TYPE_UDPV4, HASH_TYPE_UDPV6,
};
use outboard_device::{Inbox, Outlet, Waker, inbox};
use outboard_frames::{KEY_LEN, Layers, Offload, hash};

use crate::backlog::{Backlog, Place};
use crate::rx::Dropped;

/// The kinds of hashes that are known, a mask.
pub(crate) const TYPES: u32 =
    HASH_TYPE_IPV4 | HASH_TYPE_TCPV4 | HASH_TYPE_UDPV4 | HASH_TYPE_IPV6 | HASH_TYPE_TCPV6 | HASH_TYPE_UDPV6;
/// The longest table, in entries.
pub(crate) const MAX_TABLE: u16 = 128;
/// Packets on their way to a pair, and their bytes.
const ROOM: usize = 1024;
const MOST_BYTES: usize = 2 << 20;

/// How packets are hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hashing {
    /// A mask of [`TYPES`].
    pub(crate) types: u32,
    pub(crate) key: [u8; KEY_LEN],
}

impl Hashing {
    /// The hash of the packet that begins with `head`, and its kind (`HASH_REPORT_*`).
    pub(crate) fn of(&self, head: &[u8]) -> Option<(u32, u16)> {
        hash(&self.key, head, &Layers::parse(head)?, self.types)
    }
}

/// Which pair gets a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Pairs. A power of two of them.
    pub(crate) table: Arc<[u16]>,
    /// For packets without a hash.
    pub(crate) unclassified: u16,
}

impl Spread {
    pub(crate) fn pair(&self, hash: Option<u32>) -> u16 {
        // VIRTIO 1.3, 5.1.6.4.3.4: the lowest bits.
        let entry = hash.and_then(|hash| self.table.get(hash as usize & (self.table.len() - 1)));
        entry.copied().unwrap_or(self.unclassified)
    }
}

/// A packet for another pair.
#[derive(Debug)]
pub(crate) struct Crossing {
    pub(crate) offload: Offload,
    pub(crate) bytes: Vec<u8>,
    /// Among those on their way.
    place: Option<Place>,
}

impl Crossing {
    pub(crate) const fn new(offload: Offload, bytes: Vec<u8>) -> Self {
        Self { offload, bytes, place: None }
    }
}

/// The way to a pair.
#[derive(Clone, Debug)]
struct Way {
    outlet: Outlet<Crossing>,
    /// Bytes of packets on it.
    bytes: Backlog,
}

/// The ways to each pair.
#[derive(Debug)]
pub(crate) struct Crossings(Mutex<Vec<Option<Way>>>);

impl Crossings {
    pub(crate) fn new(pairs: u16) -> Self {
        Self(Mutex::new((0..pairs).map(|_| None).collect()))
    }

    /// What is sent to `pair` from now on, as long as it is not dropped.
    pub(crate) fn open(&self, pair: u16, waker: Waker) -> Inbox<Crossing> {
        let (inbox, outlet) = inbox(ROOM, waker);
        if let Some(way) = self.ways().get_mut(usize::from(pair)) {
            *way = Some(Way { outlet, bytes: Backlog::default() });
        }
        inbox
    }

    /// Sends packets to a pair. Those that it does not take are left: the answer is why.
    pub(crate) fn send(&self, pair: u16, packets: &mut Vec<Crossing>) -> Dropped {
        let way = self.ways().get(usize::from(pair)).cloned().flatten();
        let Some(Way { outlet, bytes }) = way else { return Dropped::Off };
        let mut fit = 0;
        for packet in packets.iter_mut() {
            if bytes.waiting() + packet.bytes.len() > MOST_BYTES {
                break;
            }
            packet.place = Some(bytes.enter(packet.bytes.len()));
            fit += 1;
        }
        let mut left = packets.split_off(fit);
        outlet.post(packets);
        packets.append(&mut left);
        if outlet.is_closed() { Dropped::Off } else { Dropped::ToFull }
    }

    fn ways(&self) -> MutexGuard<'_, Vec<Option<Way>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_looked_up_by_the_lowest_bits() {
        let spread = Spread { table: [3, 1, 2, 0].into(), unclassified: 7 };
        for (hash, pair) in [(None, 7), (Some(0), 3), (Some(5), 1), (Some(0xffff_fffe), 2), (Some(3), 0)] {
            assert_eq!(spread.pair(hash), pair, "{hash:?}");
        }
        let one = Spread { table: [4].into(), unclassified: 0 };
        assert_eq!(one.pair(Some(u32::MAX)), 4);
    }
}
