//! Commands on the control queue of a network device (VIRTIO 1.3, 5.1.6.5).
//!
//! A command is a [`Command`], what belongs to it, and one byte that the device writes: [`OK`] or [`ERR`]. Layouts only: what
//! a driver put into them is for the device to check.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The acknowledgement: the command is in force (VIRTIO 1.3, 5.1.6.5).
pub const OK: u8 = 0;
/// The acknowledgement: nothing has changed (VIRTIO 1.3, 5.1.6.5).
pub const ERR: u8 = 1;

/// What a command begins with: its class, and which of the class it is (VIRTIO 1.3, 5.1.6.5).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Command {
    /// The class.
    pub class: u8,
    /// The command within its class.
    pub number: u8,
}

impl Command {
    /// Receive all packets, or not: a byte, 1 or 0 (VIRTIO 1.3, 5.1.6.5.1).
    pub const RX_PROMISC: Self = Self::new(0, 0);
    /// Receive all multicasts, or not: a byte (VIRTIO 1.3, 5.1.6.5.1).
    pub const RX_ALLMULTI: Self = Self::new(0, 1);
    /// Receive all unicasts, or not: a byte (VIRTIO 1.3, 5.1.6.5.1).
    pub const RX_ALLUNI: Self = Self::new(0, 2);
    /// Receive no multicasts, or some: a byte (VIRTIO 1.3, 5.1.6.5.1).
    pub const RX_NOMULTI: Self = Self::new(0, 3);
    /// Receive no unicasts, or some: a byte (VIRTIO 1.3, 5.1.6.5.1).
    pub const RX_NOUNI: Self = Self::new(0, 4);
    /// Receive no broadcasts, or some: a byte (VIRTIO 1.3, 5.1.6.5.1).
    pub const RX_NOBCAST: Self = Self::new(0, 5);
    /// The addresses to receive packets for: two tables, each a number of 32 bits and so many addresses; first unicasts,
    /// then multicasts (VIRTIO 1.3, 5.1.6.5.2).
    pub const MAC_TABLE_SET: Self = Self::new(1, 0);
    /// The device's own address: 6 bytes (VIRTIO 1.3, 5.1.6.5.2).
    pub const MAC_ADDR_SET: Self = Self::new(1, 1);
    /// Receive packets of a VLAN: its number, 16 bits (VIRTIO 1.3, 5.1.6.5.3).
    pub const VLAN_ADD: Self = Self::new(2, 0);
    /// Receive no packets of a VLAN: its number, 16 bits (VIRTIO 1.3, 5.1.6.5.3).
    pub const VLAN_DEL: Self = Self::new(2, 1);
    /// The driver has announced itself, as it was asked to (VIRTIO 1.3, 5.1.6.5.4).
    pub const ANNOUNCE_ACK: Self = Self::new(3, 0);
    /// How many pairs of queues are in use: 16 bits (VIRTIO 1.3, 5.1.6.5.5).
    pub const MQ_VQ_PAIRS_SET: Self = Self::new(4, 0);
    /// How packets are spread over queues: [`RssConfig`], table, [`RssKey`], key (VIRTIO 1.3, 5.1.6.5.7).
    pub const MQ_RSS_CONFIG: Self = Self::new(4, 1);
    /// Of which packets hashes are told: [`HashConfig`], key (VIRTIO 1.3, 5.1.6.5.6.4).
    pub const MQ_HASH_CONFIG: Self = Self::new(4, 2);
    /// What the driver takes from now on: 64 bits, of the features that it agreed to (VIRTIO 1.3, 5.1.6.5.8).
    pub const GUEST_OFFLOADS_SET: Self = Self::new(5, 0);
    /// How calls of all transmit queues are coalesced: [`Coalescing`] (VIRTIO 1.3, 5.1.6.5.9).
    pub const NOTF_COAL_TX_SET: Self = Self::new(6, 0);
    /// How calls of all receive queues are coalesced: [`Coalescing`] (VIRTIO 1.3, 5.1.6.5.9).
    pub const NOTF_COAL_RX_SET: Self = Self::new(6, 1);
    /// How calls of one queue are coalesced: [`QueueCoalescing`] (VIRTIO 1.3, 5.1.6.5.9).
    pub const NOTF_COAL_VQ_SET: Self = Self::new(6, 2);
    /// Asks how calls of one queue are coalesced: [`QueueCoalescing`], of which the device writes the last part behind
    /// its acknowledgement (VIRTIO 1.3, 5.1.6.5.9).
    pub const NOTF_COAL_VQ_GET: Self = Self::new(6, 3);

    /// Any command.
    #[must_use]
    pub const fn new(class: u8, number: u8) -> Self {
        Self { class, number }
    }
}

/// What stands before the table of [`Command::MQ_RSS_CONFIG`]: numbers of 16 bits, each a receive queue without its
/// direction: its index divided by 2 (VIRTIO 1.3, 5.1.6.5.7.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RssConfig {
    /// `HASH_TYPE_` bits: what is hashed.
    pub hash_types: U32,
    /// The entries of the table, less one.
    pub indirection_table_mask: U16,
    /// Where packets go that are not hashed.
    pub unclassified_queue: U16,
}

/// What stands between table and key of [`Command::MQ_RSS_CONFIG`] (VIRTIO 1.3, 5.1.6.5.7.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RssKey {
    /// How many transmit queues are in use.
    pub max_tx_vq: U16,
    /// Bytes of the key.
    pub hash_key_length: u8,
}

/// What stands before the key of [`Command::MQ_HASH_CONFIG`] (VIRTIO 1.3, 5.1.6.5.6.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct HashConfig {
    /// `HASH_TYPE_` bits: what is hashed.
    pub hash_types: U32,
    /// Zero.
    pub reserved: [U16; 4],
    /// Bytes of the key.
    pub hash_key_length: u8,
}

/// When a call is due at the latest (VIRTIO 1.3, 5.1.6.5.9).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Coalescing {
    /// After so many packets.
    pub max_packets: U32,
    /// So many microseconds after a packet.
    pub max_usecs: U32,
}

/// The same of one queue (VIRTIO 1.3, 5.1.6.5.9).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct QueueCoalescing {
    /// The queue's index.
    pub queue: U16,
    /// Zero.
    pub reserved: U16,
    /// When.
    pub coalescing: Coalescing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;
    use virtio_bindings::virtio_net as oracle;

    #[test]
    fn commands_are_those_of_the_kernel() {
        for (ours, class, number) in [
            (Command::RX_PROMISC, oracle::VIRTIO_NET_CTRL_RX, oracle::VIRTIO_NET_CTRL_RX_PROMISC),
            (Command::RX_ALLMULTI, oracle::VIRTIO_NET_CTRL_RX, oracle::VIRTIO_NET_CTRL_RX_ALLMULTI),
            (Command::RX_ALLUNI, oracle::VIRTIO_NET_CTRL_RX, oracle::VIRTIO_NET_CTRL_RX_ALLUNI),
            (Command::RX_NOMULTI, oracle::VIRTIO_NET_CTRL_RX, oracle::VIRTIO_NET_CTRL_RX_NOMULTI),
            (Command::RX_NOUNI, oracle::VIRTIO_NET_CTRL_RX, oracle::VIRTIO_NET_CTRL_RX_NOUNI),
            (Command::RX_NOBCAST, oracle::VIRTIO_NET_CTRL_RX, oracle::VIRTIO_NET_CTRL_RX_NOBCAST),
            (Command::MAC_TABLE_SET, oracle::VIRTIO_NET_CTRL_MAC, oracle::VIRTIO_NET_CTRL_MAC_TABLE_SET),
            (Command::MAC_ADDR_SET, oracle::VIRTIO_NET_CTRL_MAC, oracle::VIRTIO_NET_CTRL_MAC_ADDR_SET),
            (Command::VLAN_ADD, oracle::VIRTIO_NET_CTRL_VLAN, oracle::VIRTIO_NET_CTRL_VLAN_ADD),
            (Command::VLAN_DEL, oracle::VIRTIO_NET_CTRL_VLAN, oracle::VIRTIO_NET_CTRL_VLAN_DEL),
            (Command::ANNOUNCE_ACK, oracle::VIRTIO_NET_CTRL_ANNOUNCE, oracle::VIRTIO_NET_CTRL_ANNOUNCE_ACK),
            (Command::MQ_VQ_PAIRS_SET, oracle::VIRTIO_NET_CTRL_MQ, oracle::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET),
            (Command::MQ_RSS_CONFIG, oracle::VIRTIO_NET_CTRL_MQ, oracle::VIRTIO_NET_CTRL_MQ_RSS_CONFIG),
            (Command::MQ_HASH_CONFIG, oracle::VIRTIO_NET_CTRL_MQ, oracle::VIRTIO_NET_CTRL_MQ_HASH_CONFIG),
            (
                Command::GUEST_OFFLOADS_SET,
                oracle::VIRTIO_NET_CTRL_GUEST_OFFLOADS,
                oracle::VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
            ),
            (
                Command::NOTF_COAL_TX_SET,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL_TX_SET,
            ),
            (
                Command::NOTF_COAL_RX_SET,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL_RX_SET,
            ),
            (
                Command::NOTF_COAL_VQ_SET,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET,
            ),
            (
                Command::NOTF_COAL_VQ_GET,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL,
                oracle::VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET,
            ),
        ] {
            assert_eq!((u32::from(ours.class), u32::from(ours.number)), (class, number));
        }
        assert_eq!([OK, ERR].map(u32::from), [oracle::VIRTIO_NET_OK, oracle::VIRTIO_NET_ERR]);
    }

    #[test]
    fn layouts_are_those_of_the_kernel() {
        use oracle::{
            virtio_net_ctrl_coal, virtio_net_ctrl_coal_vq, virtio_net_hash_config, virtio_net_rss_config,
            virtio_net_rss_config_trailer,
        };
        assert_eq!(size_of::<Coalescing>(), size_of::<virtio_net_ctrl_coal>());
        assert_eq!(offset_of!(Coalescing, max_usecs), offset_of!(virtio_net_ctrl_coal, max_usecs));
        assert_eq!(size_of::<QueueCoalescing>(), size_of::<virtio_net_ctrl_coal_vq>());
        assert_eq!(offset_of!(QueueCoalescing, coalescing), offset_of!(virtio_net_ctrl_coal_vq, coal));
        assert_eq!(size_of::<RssConfig>(), offset_of!(virtio_net_rss_config, indirection_table));
        assert_eq!(
            offset_of!(RssKey, hash_key_length),
            offset_of!(virtio_net_rss_config_trailer, hash_key_length)
        );
        assert_eq!(size_of::<RssKey>(), 3);
        assert_eq!(
            offset_of!(HashConfig, hash_key_length),
            offset_of!(virtio_net_hash_config, hash_key_length)
        );
        assert_eq!(size_of::<HashConfig>(), 13);
    }
}
