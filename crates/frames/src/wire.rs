//! Headers as they lie in a frame: IEEE 802.3 and 802.1Q, RFC 791 (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP).

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An EtherType: IPv4.
pub const ETHER_IPV4: u16 = 0x0800;
/// An EtherType: IPv6.
pub const ETHER_IPV6: u16 = 0x86dd;
/// A VLAN tag follows: of the customer, and of the provider in front of it.
pub(crate) const ETHER_VLAN: [u16; 2] = [0x8100, 0x88a8];

/// TCP, in an IP header.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP, in an IP header.
pub const PROTOCOL_UDP: u8 = 17;
/// Extension headers of IPv6.
pub(crate) const EXTENSION_HOP_BY_HOP: u8 = 0;
pub(crate) const EXTENSION_ROUTING: u8 = 43;
/// An extension header of IPv6: this is a fragment.
pub const EXTENSION_FRAGMENT: u8 = 44;
pub(crate) const EXTENSION_DESTINATION: u8 = 60;

/// In [`Ipv4::fragment`]: others follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// In [`Ipv4::fragment`]: its place in the datagram, in units of 8 bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// In [`Tcp::flags`]: nothing follows.
pub const TCP_FIN: u8 = 0x01;
/// In [`Tcp::flags`]: a connection begins.
pub const TCP_SYN: u8 = 0x02;
/// In [`Tcp::flags`]: there is no such connection.
pub const TCP_RST: u8 = 0x04;
pub(crate) const TCP_PSH: u8 = 0x08;
/// In [`Tcp::flags`]: [`Tcp::acknowledged`] means something.
pub const TCP_ACK: u8 = 0x10;
pub(crate) const TCP_CWR: u8 = 0x80;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ethernet {
    /// Destination and source.
    pub addresses: [[u8; 6]; 2],
    /// What follows.
    pub ether_type: U16,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Vlan {
    pub(crate) control: U16,
    pub(crate) ether_type: U16,
}

/// The header of an IPv4 packet, without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv4 {
    /// Version, and length of the header in words.
    pub first: u8,
    /// Type of service.
    pub service: u8,
    /// Bytes of the packet, with its header.
    pub total_len: U16,
    /// Tells the fragments of one datagram from those of others.
    pub identification: U16,
    /// Flags, and where in its datagram a fragment belongs.
    pub fragment: U16,
    /// How many routers it may pass.
    pub lifetime: u8,
    /// What follows.
    pub protocol: u8,
    /// Of the header, with options.
    pub checksum: U16,
    /// Source and destination.
    pub addresses: [u8; 8],
}

impl Ipv4 {
    pub(crate) const LEN: usize = size_of::<Self>();
}

/// The header of an IPv6 packet, without extensions.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, class and flow.
    pub first: U32,
    /// Bytes behind this header.
    pub payload_len: U16,
    /// What follows.
    pub next: u8,
    /// How many routers it may pass.
    pub limit: u8,
    /// Source and destination.
    pub addresses: [u8; 32],
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

/// The header of a TCP segment, without options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tcp {
    /// Source and destination.
    pub ports: [u8; 4],
    /// The place of the first byte.
    pub sequence: U32,
    /// The place of the byte that is expected next.
    pub acknowledged: U32,
    /// The upper half: length of the header in words.
    pub offset: u8,
    /// What it is about.
    pub flags: u8,
    /// How much more the sender takes.
    pub window: U16,
    /// Of all of it, with a pseudo header.
    pub checksum: U16,
    /// Where urgent data ends.
    pub urgent: U16,
}

impl Tcp {
    pub(crate) const LEN: usize = size_of::<Self>();
}

/// The header of a UDP datagram.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Udp {
    /// Source and destination.
    pub ports: [u8; 4],
    /// Bytes of the datagram, with its header.
    pub len: U16,
    /// Of all of it, with a pseudo header; 0: there is none.
    pub checksum: U16,
}
