//! Where the headers of a frame are. A frame is hostile: what is malformed, too deep, or beyond the bytes at hand is
//! opaque, which is no error, as switches forward what they do not understand.
//!
//! The lengths that IP and UDP headers state are not looked at: those of a frame that is still to be segmented have
//! no fixed meaning, and no position here depends on them.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::wire::{
    ETHER_IPV4, ETHER_IPV6, ETHER_VLAN, EXTENSION_DESTINATION, EXTENSION_FRAGMENT, EXTENSION_HOP_BY_HOP,
    EXTENSION_ROUTING, Ethernet, Extension, FRAGMENT_OFFSET, Ipv4, Ipv6, MORE_FRAGMENTS, PROTOCOL_TCP,
    PROTOCOL_UDP, Tcp, Udp, Vlan,
};

/// Headers are looked for in so many bytes at the front of a frame.
pub const MAX_HEADERS: usize = 256;
/// Tags that are looked behind: one of a provider, one of a customer.
const MAX_TAGS: usize = 2;
/// The longest Ethernet header, with its tags, in bytes.
pub(crate) const MAX_ETHERNET: usize = size_of::<Ethernet>() + MAX_TAGS * size_of::<Vlan>();
/// Extension headers of IPv6 that are looked behind.
const MAX_EXTENSIONS: usize = 8;

/// What the frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200).
    Ipv6,
    /// Anything else.
    Other,
}

/// What the IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP, with all of its header.
    Tcp,
    /// UDP, with all of its header.
    Udp,
    /// Anything else: other protocols, fragments, packets that take a route of their own.
    Other,
}

/// The headers of a frame. Positions are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What stands behind the Ethernet header and its VLAN tags.
    pub l3: L3,
    /// Where it begins.
    pub l3_at: u16,
    /// What stands behind the IP header, its options and extension headers.
    pub l4: L4,
    /// Where it begins; [`Layers::l3_at`] if [`Layers::l3`] is not known.
    pub l4_at: u16,
    /// Where the headers end that were understood.
    pub end: u16,
}

impl Layers {
    /// Finds the headers in `head`, the front of a frame. `None` if not even the Ethernet header is there.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut walk = Walk { head: head.get(..MAX_HEADERS).unwrap_or(head), at: 0 };
        let ether_type = ethernet(&mut walk)?;
        let l3_at = walk.at();
        let start = walk.clone();
        let found = match ether_type {
            ETHER_IPV4 => ipv4(&mut walk).map(|l4| (L3::Ipv4, l4)),
            ETHER_IPV6 => ipv6(&mut walk).map(|l4| (L3::Ipv6, l4)),
            _ => None,
        };
        let Some((l3, protocol)) = found else {
            let end = start.at();
            return Some(Self { l3: L3::Other, l3_at, l4: L4::Other, l4_at: l3_at, end });
        };
        let l4_at = walk.at();
        let l4 = match protocol {
            Some(PROTOCOL_TCP) => tcp(&mut walk).map(|()| L4::Tcp),
            Some(PROTOCOL_UDP) => walk.take::<Udp>().map(|_| L4::Udp),
            _ => None,
        };
        match l4 {
            Some(l4) => Some(Self { l3, l3_at, l4, l4_at, end: walk.at() }),
            None => Some(Self { l3, l3_at, l4: L4::Other, l4_at, end: l4_at }),
        }
    }
}

/// The length of the Ethernet header that a frame begins with, its VLAN tags included, in bytes; without them as far as they
/// are not in `head`.
pub(crate) fn ethernet_len(head: &[u8]) -> u16 {
    let mut walk = Walk { head, at: 0 };
    ethernet(&mut walk).map_or(size_of::<Ethernet>() as u16, |_| walk.at())
}

/// The EtherType behind the tags.
fn ethernet(walk: &mut Walk<'_>) -> Option<u16> {
    let mut ether_type = walk.take::<Ethernet>()?.ether_type.get();
    for _ in 0..MAX_TAGS {
        if !ETHER_VLAN.contains(&ether_type) {
            break;
        }
        ether_type = walk.take::<Vlan>()?.ether_type.get();
    }
    Some(ether_type)
}

/// Behind the header, the protocol that follows; `Some(None)` if it cannot be told, or not be taken for a whole one.
fn ipv4(walk: &mut Walk<'_>) -> Option<Option<u8>> {
    let header = walk.take::<Ipv4>()?;
    let len = 4 * usize::from(header.first & 0xf);
    if header.first >> 4 != 4 {
        return None;
    }
    walk.skip(len.checked_sub(Ipv4::LEN)?)?;
    let is_fragment = header.fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0;
    Some((!is_fragment).then_some(header.protocol))
}

/// Likewise, behind the extension headers.
fn ipv6(walk: &mut Walk<'_>) -> Option<Option<u8>> {
    let header = walk.take::<Ipv6>()?;
    if header.first.get() >> 28 != 6 {
        return None;
    }
    let mut next = header.next;
    for _ in 0..=MAX_EXTENSIONS {
        if !matches!(next, EXTENSION_HOP_BY_HOP | EXTENSION_ROUTING | EXTENSION_DESTINATION) {
            return Some((next != EXTENSION_FRAGMENT).then_some(next));
        }
        let mut behind = walk.clone();
        let Some(extension) = behind.take::<Extension>() else { break };
        // With stops to come, the destination is not the one that checksums are made with.
        let has_stops = next == EXTENSION_ROUTING && extension.left > 0;
        if has_stops || behind.skip(8 * usize::from(extension.len)).is_none() {
            break;
        }
        *walk = behind;
        next = extension.next;
    }
    Some(None)
}

fn tcp(walk: &mut Walk<'_>) -> Option<()> {
    let len = 4 * usize::from(walk.take::<Tcp>()?.offset >> 4);
    walk.skip(len.checked_sub(Tcp::LEN)?)
}

/// A way through the front of a frame.
#[derive(Clone)]
struct Walk<'a> {
    head: &'a [u8],
    /// How far it went. Not beyond the end of `head`.
    at: usize,
}

impl<'a> Walk<'a> {
    fn take<T: FromBytes + Immutable + KnownLayout + Unaligned>(&mut self) -> Option<&'a T> {
        let (header, _) = T::ref_from_prefix(self.head.get(self.at..)?).ok()?;
        self.at += size_of::<T>();
        Some(header)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        let at = self.at.checked_add(len).filter(|&at| at <= self.head.len())?;
        self.at = at;
        Some(())
    }

    fn at(&self) -> u16 {
        // At most MAX_HEADERS.
        self.at as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Frame, Net};

    fn layers(l3: L3, l3_at: u16, l4: L4, l4_at: u16, end: u16) -> Option<Layers> {
        Some(Layers { l3, l3_at, l4, l4_at, end })
    }

    #[test]
    fn headers_of_common_frames_are_found() {
        let cases = [
            (Frame::tcp(Net::V4), layers(L3::Ipv4, 14, L4::Tcp, 34, 54)),
            (Frame::udp(Net::V4), layers(L3::Ipv4, 14, L4::Udp, 34, 42)),
            (Frame::tcp(Net::V6), layers(L3::Ipv6, 14, L4::Tcp, 54, 74)),
            (Frame::udp(Net::V6), layers(L3::Ipv6, 14, L4::Udp, 54, 62)),
            (Frame { tags: 1, ..Frame::tcp(Net::V4) }, layers(L3::Ipv4, 18, L4::Tcp, 38, 58)),
            (Frame { tags: 2, ..Frame::tcp(Net::V6) }, layers(L3::Ipv6, 22, L4::Tcp, 62, 82)),
            (Frame { tags: 3, ..Frame::tcp(Net::V6) }, layers(L3::Other, 22, L4::Other, 22, 22)),
            (Frame { between: 40, ..Frame::udp(Net::V4) }, layers(L3::Ipv4, 14, L4::Udp, 74, 82)),
            (Frame { between: 24, ..Frame::udp(Net::V6) }, layers(L3::Ipv6, 14, L4::Udp, 78, 86)),
            (Frame { options: 40, ..Frame::tcp(Net::V4) }, layers(L3::Ipv4, 14, L4::Tcp, 34, 94)),
        ];
        for (frame, expected) in cases {
            assert_eq!(Layers::parse(&frame.bytes(b"payload")), expected, "{frame:?}");
        }
    }

    #[test]
    fn frame_cut_anywhere_is_known_up_to_the_cut() {
        let bytes = Frame { tags: 1, between: 8, options: 12, ..Frame::tcp(Net::V6) }.bytes(b"payload");
        for len in 0..bytes.len() {
            let found = Layers::parse(&bytes[..len]);
            let expected = match len {
                0..18 => None,
                18..58 => layers(L3::Other, 18, L4::Other, 18, 18),
                58..66 => layers(L3::Ipv6, 18, L4::Other, 58, 58),
                66..98 => layers(L3::Ipv6, 18, L4::Other, 66, 66),
                _ => layers(L3::Ipv6, 18, L4::Tcp, 66, 98),
            };
            assert_eq!(found, expected, "{len}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_opaque() {
        let other = layers(L3::Other, 14, L4::Other, 14, 14);
        let spoilt = |frame: Frame, at: usize, value: u8| {
            let mut bytes = frame.bytes(b"payload");
            bytes[at] = value;
            Layers::parse(&bytes)
        };
        assert_eq!(spoilt(Frame::tcp(Net::V4), 14, 0x44), other, "a header of four words");
        assert_eq!(spoilt(Frame::tcp(Net::V4), 14, 0x65), other, "another version");
        assert_eq!(spoilt(Frame::tcp(Net::V6), 14, 0x45), other, "another version");
        let no_tcp = layers(L3::Ipv4, 14, L4::Other, 34, 34);
        assert_eq!(spoilt(Frame::tcp(Net::V4), 46, 0x40), no_tcp, "four words of TCP header");
        assert_eq!(spoilt(Frame::tcp(Net::V4), 46, 0xf0), no_tcp, "more TCP header than there is frame");
        assert_eq!(spoilt(Frame::tcp(Net::V4), 23, 1), no_tcp, "ICMP");
    }

    #[test]
    fn fragments_and_routes_have_no_transport_header() {
        let mut bytes = Frame::udp(Net::V4).bytes(b"payload");
        for fragment in [0x2000_u16, 0x0001, 0x1fff, 0x3fff] {
            bytes[20..22].copy_from_slice(&fragment.to_be_bytes());
            assert_eq!(Layers::parse(&bytes), layers(L3::Ipv4, 14, L4::Other, 34, 34), "{fragment:x}");
        }
        bytes[20..22].copy_from_slice(&0x4000_u16.to_be_bytes());
        assert_eq!(Layers::parse(&bytes).unwrap().l4, L4::Udp, "not to be fragmented");

        let mut bytes = Frame { between: 8, ..Frame::udp(Net::V6) }.bytes(b"payload");
        bytes[20] = EXTENSION_FRAGMENT;
        assert_eq!(Layers::parse(&bytes), layers(L3::Ipv6, 14, L4::Other, 54, 54));
        bytes[20] = EXTENSION_ROUTING;
        bytes[57] = 0;
        assert_eq!(Layers::parse(&bytes).unwrap().l4, L4::Udp, "a route that has come to its end");
        bytes[57] = 1;
        assert_eq!(Layers::parse(&bytes).unwrap().l4, L4::Other, "a stop is left");
    }

    #[test]
    fn extension_headers_without_end_are_given_up() {
        let [eight, nine] = [64, 72].map(|between| Frame { between, ..Frame::udp(Net::V6) }.bytes(b""));
        assert_eq!(Layers::parse(&eight).unwrap().l4, L4::Udp);
        assert_eq!(Layers::parse(&nine).unwrap().l4, L4::Other);
    }
}
