//! Packets as the guest sends them. Nothing in them is believed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use outboard_frames::Sum;
use outboard_frames::wire::{EXTENSION_FRAGMENT, FRAGMENT_OFFSET, Ipv4, Ipv6, MORE_FRAGMENTS};
use zerocopy::FromBytes;

use crate::emit::{ETHERNET_LEN, Way};

/// Extension headers of IPv6 that may stand before what the packet carries.
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
const MAX_EXTENSIONS: usize = 4;

/// A packet in its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) way: Way,
    /// How many routers it may still pass.
    pub(crate) limit: u8,
    pub(crate) protocol: u8,
    /// Where in the frame that is what it carries.
    pub(crate) payload: Range<usize>,
    /// It is a part of one.
    pub(crate) fragment: Option<Fragment>,
}

/// Which part of a packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) identification: u32,
    /// Where it belongs, in bytes.
    pub(crate) at: usize,
    pub(crate) is_last: bool,
}

impl Packet {
    /// The packet of a frame, which may say that it is shorter than it is. `long`: its length means nothing, for it is still
    /// to be cut into several. `None`: it is malformed, or has a header that is not understood.
    pub(crate) fn parse4(frame: &[u8], long: bool) -> Option<Self> {
        let packet = frame.get(ETHERNET_LEN..)?;
        let (ip, _) = Ipv4::ref_from_prefix(packet).ok()?;
        let header_len = 4 * usize::from(ip.first & 0xf);
        let header = packet.get(..header_len).filter(|header| header.len() >= size_of::<Ipv4>())?;
        if ip.first >> 4 != 4 || !Sum::default().plus(header).is_right() {
            return None;
        }
        let len = if long { packet.len() } else { usize::from(ip.total_len.get()) };
        if len < header_len || len > packet.len() {
            return None;
        }
        let [a, b, c, d, e, f, g, h] = ip.addresses;
        let (from, to) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
        let place = ip.fragment.get();
        let fragment = (place & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0).then(|| Fragment {
            identification: u32::from(ip.identification.get()),
            at: 8 * usize::from(place & FRAGMENT_OFFSET),
            is_last: place & MORE_FRAGMENTS == 0,
        });
        Some(Self {
            way: Way { from: from.into(), to: to.into() },
            limit: ip.lifetime,
            protocol: ip.protocol,
            payload: ETHERNET_LEN + header_len..ETHERNET_LEN + len,
            fragment,
        })
    }

    /// Likewise of IPv6.
    pub(crate) fn parse6(frame: &[u8], long: bool) -> Option<Self> {
        let packet = frame.get(ETHERNET_LEN..)?;
        let (ip, behind) = Ipv6::ref_from_prefix(packet).ok()?;
        let len = if long { behind.len() } else { usize::from(ip.payload_len.get()) };
        if ip.first.get() >> 28 != 6 || len > behind.len() {
            return None;
        }
        let (from, to) = ip.addresses.split_at(16);
        let address =
            |bytes: &[u8]| bytes.try_into().map(|bytes: [u8; 16]| IpAddr::from(Ipv6Addr::from(bytes)));
        let way = Way { from: address(from).ok()?, to: address(to).ok()? };
        let end = frame.len() - behind.len() + len;
        let (mut protocol, mut at, mut fragment) = (ip.next, frame.len() - behind.len(), None);
        for _ in 0..MAX_EXTENSIONS {
            if !matches!(protocol, HOP_BY_HOP | DESTINATION | EXTENSION_FRAGMENT) || fragment.is_some() {
                break;
            }
            let (&[next, len, a, b, identification @ ..], _) =
                frame.get(at..end)?.split_first_chunk::<8>()?;
            if protocol == EXTENSION_FRAGMENT {
                let place = u16::from_be_bytes([a, b]);
                at += 8;
                fragment = Some(Fragment {
                    identification: u32::from_be_bytes(identification),
                    at: usize::from(place & !7),
                    is_last: place & 1 == 0,
                });
            } else {
                at += 8 + 8 * usize::from(len);
            }
            protocol = next;
        }
        (at <= end).then_some(Self { way, limit: ip.limit, protocol, payload: at..end, fragment })
    }

    /// Whether the checksum is right that covers what the packet carries and a pseudo header.
    pub(crate) fn is_right(&self, payload: &[u8]) -> bool {
        self.way.pseudo(self.protocol, payload.len()).plus(payload).is_right()
    }
}
