//! Headers as they lie in a frame: IEEE 802.3 and 802.1Q, RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub(crate) const ETHER_IPV4: u16 = 0x0800;
pub(crate) const ETHER_IPV6: u16 = 0x86dd;
/// A VLAN tag follows: of the customer, and of the provider in front of it.
pub(crate) const ETHER_VLAN: [u16; 2] = [0x8100, 0x88a8];

pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
/// Extension headers of IPv6.
pub(crate) const EXTENSION_HOP_BY_HOP: u8 = 0;
pub(crate) const EXTENSION_ROUTING: u8 = 43;
pub(crate) const EXTENSION_FRAGMENT: u8 = 44;
pub(crate) const EXTENSION_DESTINATION: u8 = 60;

/// In [`Ipv4::fragment`]: others follow.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
/// In [`Ipv4::fragment`]: its place in the datagram, in units of 8 bytes.
pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;

pub(crate) const TCP_FIN: u8 = 0x01;
pub(crate) const TCP_PSH: u8 = 0x08;
pub(crate) const TCP_CWR: u8 = 0x80;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Ethernet {
    pub(crate) addresses: [[u8; 6]; 2],
    pub(crate) ether_type: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Vlan {
    pub(crate) control: U16,
    pub(crate) ether_type: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Ipv4 {
    /// Version, and length of the header in words.
    pub(crate) first: u8,
    pub(crate) service: u8,
    pub(crate) total_len: U16,
    pub(crate) identification: U16,
    pub(crate) fragment: U16,
    pub(crate) lifetime: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: U16,
    /// Source and destination.
    pub(crate) addresses: [u8; 8],
}

impl Ipv4 {
    pub(crate) const LEN: usize = size_of::<Self>();
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Ipv6 {
    /// Version, class and flow.
    pub(crate) first: U32,
    pub(crate) payload_len: U16,
    pub(crate) next: u8,
    pub(crate) limit: u8,
    /// Source and destination.
    pub(crate) addresses: [u8; 32],
}

impl Ipv6 {
    pub(crate) const LEN: usize = size_of::<Self>();
}

/// How an extension header begins.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Extension {
    pub(crate) next: u8,
    /// In units of 8 bytes, the first aside.
    pub(crate) len: u8,
    pub(crate) kind: u8,
    /// Of a routing header: how many stops are still to come.
    pub(crate) left: u8,
    pub(crate) rest: [u8; 4],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Tcp {
    pub(crate) ports: [u8; 4],
    pub(crate) sequence: U32,
    pub(crate) acknowledged: U32,
    /// The upper half: length of the header in words.
    pub(crate) offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: U16,
    pub(crate) checksum: U16,
    pub(crate) urgent: U16,
}

impl Tcp {
    pub(crate) const LEN: usize = size_of::<Self>();
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Udp {
    pub(crate) ports: [u8; 4],
    pub(crate) len: U16,
    pub(crate) checksum: U16,
}
