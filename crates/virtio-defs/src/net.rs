//! The network device (VIRTIO 1.3, 5.1): feature bits (as masks), configuration space, packet header.
//!
//! Layouts only: what a peer put into them is for the other side to check. Queue 2i receives, queue 2i + 1 transmits
//! (VIRTIO 1.3, 5.1.2); [`net_control`](crate::net_control) is for the queue behind them.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The device takes packets without a checksum (VIRTIO 1.3, 5.1.3).
pub const F_CSUM: u64 = 1 << 0;
/// The driver takes packets without a checksum (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_CSUM: u64 = 1 << 1;
/// Offloads of the driver can be switched through the control queue (VIRTIO 1.3, 5.1.3).
pub const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// `mtu` is filled in (VIRTIO 1.3, 5.1.3).
pub const F_MTU: u64 = 1 << 3;
/// `mac` is filled in (VIRTIO 1.3, 5.1.3).
pub const F_MAC: u64 = 1 << 5;
/// The driver takes TCP over IPv4 that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP over IPv6 that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_TSO6: u64 = 1 << 8;
/// The driver takes TCP with ECN that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_ECN: u64 = 1 << 9;
/// The driver takes UDP that is to be fragmented (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_UFO: u64 = 1 << 10;
/// The device takes TCP over IPv4 that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_HOST_TSO4: u64 = 1 << 11;
/// The device takes TCP over IPv6 that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_HOST_TSO6: u64 = 1 << 12;
/// The device takes TCP with ECN that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_HOST_ECN: u64 = 1 << 13;
/// The device takes UDP that is to be fragmented (VIRTIO 1.3, 5.1.3).
pub const F_HOST_UFO: u64 = 1 << 14;
/// A received packet may lie in several buffers ([`Header::num_buffers`]; VIRTIO 1.3, 5.1.3).
pub const F_MRG_RXBUF: u64 = 1 << 15;
/// `status` is filled in (VIRTIO 1.3, 5.1.3).
pub const F_STATUS: u64 = 1 << 16;
/// There is a control queue (VIRTIO 1.3, 5.1.3).
pub const F_CTRL_VQ: u64 = 1 << 17;
/// The control queue sets the receive mode (VIRTIO 1.3, 5.1.3).
pub const F_CTRL_RX: u64 = 1 << 18;
/// The control queue sets the VLAN filter (VIRTIO 1.3, 5.1.3).
pub const F_CTRL_VLAN: u64 = 1 << 19;
/// The control queue sets more of the receive mode (VIRTIO 1.3, 5.1.3).
pub const F_CTRL_RX_EXTRA: u64 = 1 << 20;
/// The driver can announce itself when asked (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_ANNOUNCE: u64 = 1 << 21;
/// There are several pairs of queues (VIRTIO 1.3, 5.1.3).
pub const F_MQ: u64 = 1 << 22;
/// The control queue sets the MAC address (VIRTIO 1.3, 5.1.3).
pub const F_CTRL_MAC_ADDR: u64 = 1 << 23;
/// The control queue tells statistics (VIRTIO 1.3, 5.1.3).
pub const F_DEVICE_STATS: u64 = 1 << 50;
/// The hash covers the packet inside a tunnel (VIRTIO 1.3, 5.1.3).
pub const F_HASH_TUNNEL: u64 = 1 << 51;
/// Notifications are coalesced, by queue (VIRTIO 1.3, 5.1.3).
pub const F_VQ_NOTF_COAL: u64 = 1 << 52;
/// Notifications are coalesced (VIRTIO 1.3, 5.1.3).
pub const F_NOTF_COAL: u64 = 1 << 53;
/// The driver takes UDP over IPv4 that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_USO4: u64 = 1 << 54;
/// The driver takes UDP over IPv6 that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_USO6: u64 = 1 << 55;
/// The device takes UDP that is to be segmented (VIRTIO 1.3, 5.1.3).
pub const F_HOST_USO: u64 = 1 << 56;
/// The header tells the hash of each packet: it is [`HASH_HEADER_LEN`] bytes long (VIRTIO 1.3, 5.1.3).
pub const F_HASH_REPORT: u64 = 1 << 57;
/// The driver fills in [`Header::hdr_len`] exactly (VIRTIO 1.3, 5.1.3).
pub const F_GUEST_HDRLEN: u64 = 1 << 59;
/// The device spreads packets over the queues by hash (VIRTIO 1.3, 5.1.3).
pub const F_RSS: u64 = 1 << 60;
/// The header tells of coalesced segments (VIRTIO 1.3, 5.1.3).
pub const F_RSC_EXT: u64 = 1 << 61;
/// The device stands by for another one with the same MAC address (VIRTIO 1.3, 5.1.3).
pub const F_STANDBY: u64 = 1 << 62;
/// `speed` and `duplex` are filled in (VIRTIO 1.3, 5.1.3).
pub const F_SPEED_DUPLEX: u64 = 1 << 63;

/// In [`Config::status`]: there is a link (VIRTIO 1.3, 5.1.4).
pub const S_LINK_UP: u16 = 1;
/// In [`Config::status`]: the driver is to announce itself (VIRTIO 1.3, 5.1.4).
pub const S_ANNOUNCE: u16 = 2;

/// In [`Header::flags`]: the checksum is to be completed from `csum_start` on (VIRTIO 1.3, 5.1.6).
pub const HDR_F_NEEDS_CSUM: u8 = 1;
/// In [`Header::flags`]: the device has found the checksum right (VIRTIO 1.3, 5.1.6).
pub const HDR_F_DATA_VALID: u8 = 2;
/// In [`Header::flags`]: the packet was coalesced; `csum_start` and `csum_offset` tell of what (VIRTIO 1.3, 5.1.6).
pub const HDR_F_RSC_INFO: u8 = 4;

/// In [`Header::gso_type`]: one packet (VIRTIO 1.3, 5.1.6).
pub const HDR_GSO_NONE: u8 = 0;
/// In [`Header::gso_type`]: TCP over IPv4 (VIRTIO 1.3, 5.1.6).
pub const HDR_GSO_TCPV4: u8 = 1;
/// In [`Header::gso_type`]: UDP fragments (VIRTIO 1.3, 5.1.6).
pub const HDR_GSO_UDP: u8 = 3;
/// In [`Header::gso_type`]: TCP over IPv6 (VIRTIO 1.3, 5.1.6).
pub const HDR_GSO_TCPV6: u8 = 4;
/// In [`Header::gso_type`]: UDP segments (VIRTIO 1.3, 5.1.6).
pub const HDR_GSO_UDP_L4: u8 = 5;
/// Beside the TCP types in [`Header::gso_type`]: with ECN (VIRTIO 1.3, 5.1.6).
pub const HDR_GSO_ECN: u8 = 0x80;

/// A hash type: the addresses of IPv4 (VIRTIO 1.3, 5.1.6.4.3.1).
pub const HASH_TYPE_IPV4: u32 = 1 << 0;
/// A hash type: addresses and ports of TCP over IPv4 (VIRTIO 1.3, 5.1.6.4.3.1).
pub const HASH_TYPE_TCPV4: u32 = 1 << 1;
/// A hash type: addresses and ports of UDP over IPv4 (VIRTIO 1.3, 5.1.6.4.3.1).
pub const HASH_TYPE_UDPV4: u32 = 1 << 2;
/// A hash type: the addresses of IPv6 (VIRTIO 1.3, 5.1.6.4.3.1).
pub const HASH_TYPE_IPV6: u32 = 1 << 3;
/// A hash type: addresses and ports of TCP over IPv6 (VIRTIO 1.3, 5.1.6.4.3.1).
pub const HASH_TYPE_TCPV6: u32 = 1 << 4;
/// A hash type: addresses and ports of UDP over IPv6 (VIRTIO 1.3, 5.1.6.4.3.1).
pub const HASH_TYPE_UDPV6: u32 = 1 << 5;

/// What was hashed: [`HASH_TYPE_IPV4`] (VIRTIO 1.3, 5.1.6.4.4).
pub const HASH_REPORT_IPV4: u16 = 1;
/// What was hashed: [`HASH_TYPE_TCPV4`] (VIRTIO 1.3, 5.1.6.4.4).
pub const HASH_REPORT_TCPV4: u16 = 2;
/// What was hashed: [`HASH_TYPE_UDPV4`] (VIRTIO 1.3, 5.1.6.4.4).
pub const HASH_REPORT_UDPV4: u16 = 3;
/// What was hashed: [`HASH_TYPE_IPV6`] (VIRTIO 1.3, 5.1.6.4.4).
pub const HASH_REPORT_IPV6: u16 = 4;
/// What was hashed: [`HASH_TYPE_TCPV6`] (VIRTIO 1.3, 5.1.6.4.4).
pub const HASH_REPORT_TCPV6: u16 = 5;
/// What was hashed: [`HASH_TYPE_UDPV6`] (VIRTIO 1.3, 5.1.6.4.4).
pub const HASH_REPORT_UDPV6: u16 = 6;

/// Bytes of [`Header`], which every packet of a device of VIRTIO 1.0 or later begins with (VIRTIO 1.3, 5.1.6).
pub const HEADER_LEN: usize = size_of::<Header>();
/// Bytes of the header with [`F_HASH_REPORT`] (VIRTIO 1.3, 5.1.6).
pub const HASH_HEADER_LEN: usize = HEADER_LEN + size_of::<HashReport>();

/// The largest `max_virtqueue_pairs` (VIRTIO 1.3, 5.1.4).
pub const MAX_PAIRS: u16 = 0x8000;
/// What a receive buffer must hold if nothing is to be segmented: header, Ethernet header and 1500 bytes
/// (VIRTIO 1.3, 5.1.6.3.1).
pub const SMALL_BUFFER_LEN: usize = HEADER_LEN + 14 + 1500;

/// The configuration space (VIRTIO 1.3, 5.1.4). A field counts only if its feature bit was offered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// The MAC address ([`F_MAC`]).
    pub mac: [u8; 6],
    /// `S_` bits ([`F_STATUS`]).
    pub status: U16,
    /// The most pairs of queues ([`F_MQ`] or [`F_RSS`]).
    pub max_virtqueue_pairs: U16,
    /// The longest packet in bytes, the Ethernet header aside ([`F_MTU`]).
    pub mtu: U16,
    /// In Mbit/s; `u32::MAX` if unknown ([`F_SPEED_DUPLEX`]).
    pub speed: U32,
    /// 0: half, 1: full, 0xff: unknown ([`F_SPEED_DUPLEX`]).
    pub duplex: u8,
    /// The longest hash key in bytes ([`F_RSS`] or [`F_HASH_REPORT`]).
    pub rss_max_key_size: u8,
    /// The longest indirection table in entries ([`F_RSS`]).
    pub rss_max_indirection_table_length: U16,
    /// Hash types, a mask ([`F_RSS`] or [`F_HASH_REPORT`]).
    pub supported_hash_types: U32,
    /// Tunnel types, a mask ([`F_HASH_TUNNEL`]).
    pub supported_tunnel_types: U32,
}

/// What every packet begins with, in both directions (VIRTIO 1.3, 5.1.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// `HDR_F_` bits.
    pub flags: u8,
    /// One of the `HDR_GSO_` values.
    pub gso_type: u8,
    /// Length of the packet's own headers in bytes, a hint if there is a `gso_type`.
    pub hdr_len: U16,
    /// Payload bytes of each segment if there is a `gso_type`.
    pub gso_size: U16,
    /// Where to begin the checksum, in bytes from the packet's start ([`HDR_F_NEEDS_CSUM`]).
    pub csum_start: U16,
    /// Where to put the checksum, in bytes from `csum_start`.
    pub csum_offset: U16,
    /// In how many buffers the packet lies, when received with [`F_MRG_RXBUF`]; 1 when received without; 0 when
    /// transmitted.
    pub num_buffers: U16,
}

/// The bytes of a [`Header`] as two numbers: put together in registers, and stored in two pieces.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HeaderWords {
    front: U64,
    back: U32,
}

impl From<Header> for HeaderWords {
    #[inline]
    fn from(header: Header) -> Self {
        let Header { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers } = header;
        let front = u64::from(flags)
            | u64::from(gso_type) << 8
            | u64::from(hdr_len.get()) << 16
            | u64::from(gso_size.get()) << 32
            | u64::from(csum_start.get()) << 48;
        let back = u32::from(csum_offset.get()) | u32::from(num_buffers.get()) << 16;
        Self { front: front.into(), back: back.into() }
    }
}

/// What follows the header of a received packet with [`F_HASH_REPORT`] (VIRTIO 1.3, 5.1.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct HashReport {
    /// The hash.
    pub value: U32,
    /// What was hashed: a `HASH_REPORT_` value, 0 for nothing.
    pub report: U16,
    /// Zero.
    pub padding: U16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceId, features::feature_name};
    use std::mem::offset_of;
    use virtio_bindings::virtio_net as oracle;

    /// Ours, the kernel's bit number, and the name that [`feature_name`] has for it.
    const BITS: &[(u64, u32, &str)] = &[
        (F_CSUM, oracle::VIRTIO_NET_F_CSUM, "CSUM"),
        (F_GUEST_CSUM, oracle::VIRTIO_NET_F_GUEST_CSUM, "GUEST_CSUM"),
        (F_CTRL_GUEST_OFFLOADS, oracle::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, "CTRL_GUEST_OFFLOADS"),
        (F_MTU, oracle::VIRTIO_NET_F_MTU, "MTU"),
        (F_MAC, oracle::VIRTIO_NET_F_MAC, "MAC"),
        (F_GUEST_TSO4, oracle::VIRTIO_NET_F_GUEST_TSO4, "GUEST_TSO4"),
        (F_GUEST_TSO6, oracle::VIRTIO_NET_F_GUEST_TSO6, "GUEST_TSO6"),
        (F_GUEST_ECN, oracle::VIRTIO_NET_F_GUEST_ECN, "GUEST_ECN"),
        (F_GUEST_UFO, oracle::VIRTIO_NET_F_GUEST_UFO, "GUEST_UFO"),
        (F_HOST_TSO4, oracle::VIRTIO_NET_F_HOST_TSO4, "HOST_TSO4"),
        (F_HOST_TSO6, oracle::VIRTIO_NET_F_HOST_TSO6, "HOST_TSO6"),
        (F_HOST_ECN, oracle::VIRTIO_NET_F_HOST_ECN, "HOST_ECN"),
        (F_HOST_UFO, oracle::VIRTIO_NET_F_HOST_UFO, "HOST_UFO"),
        (F_MRG_RXBUF, oracle::VIRTIO_NET_F_MRG_RXBUF, "MRG_RXBUF"),
        (F_STATUS, oracle::VIRTIO_NET_F_STATUS, "STATUS"),
        (F_CTRL_VQ, oracle::VIRTIO_NET_F_CTRL_VQ, "CTRL_VQ"),
        (F_CTRL_RX, oracle::VIRTIO_NET_F_CTRL_RX, "CTRL_RX"),
        (F_CTRL_VLAN, oracle::VIRTIO_NET_F_CTRL_VLAN, "CTRL_VLAN"),
        (F_CTRL_RX_EXTRA, oracle::VIRTIO_NET_F_CTRL_RX_EXTRA, "CTRL_RX_EXTRA"),
        (F_GUEST_ANNOUNCE, oracle::VIRTIO_NET_F_GUEST_ANNOUNCE, "GUEST_ANNOUNCE"),
        (F_MQ, oracle::VIRTIO_NET_F_MQ, "MQ"),
        (F_CTRL_MAC_ADDR, oracle::VIRTIO_NET_F_CTRL_MAC_ADDR, "CTRL_MAC_ADDR"),
        (F_DEVICE_STATS, oracle::VIRTIO_NET_F_DEVICE_STATS, "DEVICE_STATS"),
        (F_VQ_NOTF_COAL, oracle::VIRTIO_NET_F_VQ_NOTF_COAL, "VQ_NOTF_COAL"),
        (F_NOTF_COAL, oracle::VIRTIO_NET_F_NOTF_COAL, "NOTF_COAL"),
        (F_GUEST_USO4, oracle::VIRTIO_NET_F_GUEST_USO4, "GUEST_USO4"),
        (F_GUEST_USO6, oracle::VIRTIO_NET_F_GUEST_USO6, "GUEST_USO6"),
        (F_HOST_USO, oracle::VIRTIO_NET_F_HOST_USO, "HOST_USO"),
        (F_HASH_REPORT, oracle::VIRTIO_NET_F_HASH_REPORT, "HASH_REPORT"),
        (F_GUEST_HDRLEN, oracle::VIRTIO_NET_F_GUEST_HDRLEN, "GUEST_HDRLEN"),
        (F_RSS, oracle::VIRTIO_NET_F_RSS, "RSS"),
        (F_RSC_EXT, oracle::VIRTIO_NET_F_RSC_EXT, "RSC_EXT"),
        (F_STANDBY, oracle::VIRTIO_NET_F_STANDBY, "STANDBY"),
        (F_SPEED_DUPLEX, oracle::VIRTIO_NET_F_SPEED_DUPLEX, "SPEED_DUPLEX"),
    ];

    #[test]
    fn feature_bits_and_their_names_equal_the_kernels() {
        for &(ours, theirs, name) in BITS {
            assert_eq!(ours, 1 << theirs, "{name}");
            assert_eq!(feature_name(DeviceId::NET, theirs), Some(name));
        }
    }

    #[test]
    fn header_and_status_values_equal_the_kernels() {
        let pairs = [
            (HDR_F_NEEDS_CSUM, oracle::VIRTIO_NET_HDR_F_NEEDS_CSUM),
            (HDR_F_DATA_VALID, oracle::VIRTIO_NET_HDR_F_DATA_VALID),
            (HDR_F_RSC_INFO, oracle::VIRTIO_NET_HDR_F_RSC_INFO),
            (HDR_GSO_NONE, oracle::VIRTIO_NET_HDR_GSO_NONE),
            (HDR_GSO_TCPV4, oracle::VIRTIO_NET_HDR_GSO_TCPV4),
            (HDR_GSO_UDP, oracle::VIRTIO_NET_HDR_GSO_UDP),
            (HDR_GSO_TCPV6, oracle::VIRTIO_NET_HDR_GSO_TCPV6),
            (HDR_GSO_UDP_L4, oracle::VIRTIO_NET_HDR_GSO_UDP_L4),
            (HDR_GSO_ECN, oracle::VIRTIO_NET_HDR_GSO_ECN),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(u32::from(ours), theirs);
        }
        let types = [
            (HASH_TYPE_IPV4, oracle::VIRTIO_NET_RSS_HASH_TYPE_IPv4),
            (HASH_TYPE_TCPV4, oracle::VIRTIO_NET_RSS_HASH_TYPE_TCPv4),
            (HASH_TYPE_UDPV4, oracle::VIRTIO_NET_RSS_HASH_TYPE_UDPv4),
            (HASH_TYPE_IPV6, oracle::VIRTIO_NET_RSS_HASH_TYPE_IPv6),
            (HASH_TYPE_TCPV6, oracle::VIRTIO_NET_RSS_HASH_TYPE_TCPv6),
            (HASH_TYPE_UDPV6, oracle::VIRTIO_NET_RSS_HASH_TYPE_UDPv6),
            (HASH_REPORT_IPV4.into(), oracle::VIRTIO_NET_HASH_REPORT_IPv4),
            (HASH_REPORT_TCPV4.into(), oracle::VIRTIO_NET_HASH_REPORT_TCPv4),
            (HASH_REPORT_UDPV4.into(), oracle::VIRTIO_NET_HASH_REPORT_UDPv4),
            (HASH_REPORT_IPV6.into(), oracle::VIRTIO_NET_HASH_REPORT_IPv6),
            (HASH_REPORT_TCPV6.into(), oracle::VIRTIO_NET_HASH_REPORT_TCPv6),
            (HASH_REPORT_UDPV6.into(), oracle::VIRTIO_NET_HASH_REPORT_UDPv6),
        ];
        for (ours, theirs) in types {
            assert_eq!(ours, theirs);
        }
        assert_eq!(u32::from(S_LINK_UP), oracle::VIRTIO_NET_S_LINK_UP);
        assert_eq!(u32::from(S_ANNOUNCE), oracle::VIRTIO_NET_S_ANNOUNCE);
        assert_eq!(u32::from(MAX_PAIRS), oracle::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX);
    }

    #[test]
    fn fields_are_where_the_kernel_has_them() {
        use oracle::{
            virtio_net_config, virtio_net_hdr_mrg_rxbuf, virtio_net_hdr_v1, virtio_net_hdr_v1_hash,
        };
        macro_rules! same_offsets {
            ($ours:ty, $theirs:ty, $($field:ident),+) => {
                $(assert_eq!(offset_of!($ours, $field), offset_of!($theirs, $field), stringify!($field));)+
            };
        }
        same_offsets!(
            Config,
            virtio_net_config,
            mac,
            status,
            max_virtqueue_pairs,
            mtu,
            speed,
            duplex,
            rss_max_key_size,
            rss_max_indirection_table_length,
            supported_hash_types
        );
        // The kernel does not have the last field yet.
        assert_eq!(offset_of!(Config, supported_tunnel_types), size_of::<virtio_net_config>());
        same_offsets!(Header, virtio_net_hdr_v1, flags, gso_type, hdr_len, gso_size, num_buffers);
        same_offsets!(Header, oracle::virtio_net_hdr, csum_start, csum_offset);
        assert_eq!(HEADER_LEN, size_of::<virtio_net_hdr_v1>());
        assert_eq!(HEADER_LEN, size_of::<virtio_net_hdr_mrg_rxbuf>());
        assert_eq!(HASH_HEADER_LEN, size_of::<virtio_net_hdr_v1_hash>());
        assert_eq!(SMALL_BUFFER_LEN, 1526);
    }
}
