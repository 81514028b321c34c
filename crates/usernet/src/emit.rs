//! Frames on their way to the guest: their headers, their checksums, and where they wait.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use outboard_frames::wire::{
    ETHER_IPV4, ETHER_IPV6, EXTENSION_FRAGMENT, Ethernet, Ipv4, Ipv6, MORE_FRAGMENTS, PROTOCOL_TCP,
    PROTOCOL_UDP, Udp,
};
use outboard_frames::{Limits, MAX_HEADERS, MAX_LEN, Offload, Sum, Takes, check, plain};
use outboard_virtio_defs::net::{
    HDR_F_NEEDS_CSUM, HDR_GSO_NONE, HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, Header,
};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) type Mac = [u8; 6];

pub(crate) const BROADCAST: Mac = [0xff; 6];
pub(crate) const ETHERNET_LEN: usize = size_of::<Ethernet>();
const IPV4_LEN: usize = size_of::<Ipv4>();
const IPV6_LEN: usize = size_of::<Ipv6>();
pub(crate) const UDP_LEN: usize = size_of::<Udp>();
/// Of IPv6: the extension header of a fragment.
const FRAGMENT_LEN: usize = 8;
/// In an IPv4 header: do not fragment.
const DO_NOT_FRAGMENT: u16 = 0x4000;
const LIFETIME: u8 = 64;
/// The most frames that wait. More are dropped: they are answers, which whoever wants them asks for again.
const MAX_WAITING: usize = 256;

/// From where to where a packet goes; both are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
}

impl Way {
    /// The bytes before what IP carries.
    pub(crate) const fn heads_len(self) -> usize {
        ETHERNET_LEN + self.ip_len()
    }

    pub(crate) const fn ip_len(self) -> usize {
        if self.to.is_ipv4() { IPV4_LEN } else { IPV6_LEN }
    }

    /// The sum over the pseudo header of so many bytes.
    pub(crate) fn pseudo(self, protocol: u8, len: usize) -> Sum {
        let sum = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Sum::default().plus(&from.octets()).plus(&to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => Sum::default().plus(&from.octets()).plus(&to.octets()),
            _ => Sum::default(),
        };
        // No packet is longer.
        sum.plus_number(len as u32).plus_number(protocol.into())
    }

    pub(crate) const fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// Where frames go to the guest: to be given a frame with what is left to do for it. False: there is no room.
pub(crate) type Out<'a> = &'a mut dyn FnMut(&Offload, &[u8]) -> bool;

/// Frames on their way to the guest.
pub(crate) struct Outlet {
    pub(crate) ours: Mac,
    /// The guest's, once it was heard.
    pub(crate) guest: Option<Mac>,
    pub(crate) mtu: u16,
    pub(crate) takes: Takes,
    limits: Limits,
    /// They go first.
    waiting: VecDeque<(Offload, Vec<u8>)>,
    /// Frames that did not get to wait.
    pub(crate) lost: u64,
    /// A frame that is being made.
    scratch: Vec<u8>,
    /// Tells fragments of one datagram from those of others.
    identification: u16,
}

impl Outlet {
    pub(crate) fn new(ours: Mac, mtu: u16, takes: Takes) -> Self {
        Self {
            ours,
            guest: None,
            mtu,
            takes,
            // What is made here is not more than what is to be judged.
            limits: Limits { takes: Takes::by_device(u64::MAX), mtu: MAX_LEN },
            waiting: VecDeque::new(),
            lost: 0,
            scratch: vec![0; MAX_LEN as usize],
            identification: 0,
        }
    }

    /// Gives out what waits. False if there is no room.
    pub(crate) fn give_waiting(&mut self, out: Out<'_>) -> bool {
        while let Some((offload, frame)) = self.waiting.front() {
            if !out(offload, frame) {
                return false;
            }
            self.waiting.pop_front();
        }
        true
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// The way out, for as long as somebody makes frames.
pub(crate) struct Emit<'a, 'b> {
    pub(crate) outlet: &'a mut Outlet,
    /// Nobody takes frames just now: they wait.
    out: Option<Out<'b>>,
}

impl<'a, 'b> Emit<'a, 'b> {
    /// To those that wait.
    pub(crate) const fn later(outlet: &'a mut Outlet) -> Self {
        Self { outlet, out: None }
    }

    /// To the guest, as long as it has room.
    pub(crate) const fn now(outlet: &'a mut Outlet, out: Out<'b>) -> Self {
        Self { outlet, out: Some(out) }
    }

    /// Whether frames get through at once. If not, one more is kept, but whoever has more of them has to wait.
    pub(crate) const fn is_open(&self) -> bool {
        self.out.is_some()
    }

    /// A frame that is as on a wire.
    pub(crate) fn frame(&mut self, frame: &[u8]) {
        self.put(&Offload::None, frame);
    }

    fn put(&mut self, offload: &Offload, frame: &[u8]) {
        if let Some(out) = &mut self.out {
            if out(offload, frame) {
                return;
            }
            self.out = None;
        }
        if self.outlet.waiting.len() < MAX_WAITING {
            self.outlet.waiting.push_back((*offload, frame.to_vec()));
        } else {
            self.outlet.lost += 1;
        }
    }

    /// A packet that has its checksums.
    pub(crate) fn packet(&mut self, way: Way, protocol: u8, limit: u8, payload: &[u8]) {
        let Some(to) = self.outlet.guest else { return };
        self.packet_to(to, way, protocol, limit, payload);
    }

    /// Likewise, to somebody on the link.
    pub(crate) fn packet_to(&mut self, to: Mac, way: Way, protocol: u8, limit: u8, payload: &[u8]) {
        let mut frame = vec![0; way.heads_len()];
        frame.extend_from_slice(payload);
        if heads(&mut frame, [to, self.outlet.ours], way, protocol, limit).is_some() {
            self.fitting(way, &frame);
        }
    }

    /// A datagram. `fill` is given room for the longest, and says how many bytes it has written, or why none.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn datagram<E>(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let way = Way { from: from.ip(), to: to.ip() };
        let at = way.heads_len();
        let mut scratch = std::mem::take(&mut self.outlet.scratch);
        let room = scratch.get_mut(at + UDP_LEN..ETHERNET_LEN + usize::from(u16::MAX)).unwrap_or_default();
        let filled = fill(room);
        if let Ok(len) = &filled
            && let Some(frame) = scratch.get_mut(..at + UDP_LEN + len)
            && let Some(datagram) = frame.get_mut(at..)
            && let Ok((udp, _)) = Udp::mut_from_prefix(datagram)
        {
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()];
            udp.ports.copy_from_slice(ports.as_flattened());
            // No more than fits into an IP packet.
            udp.len = ((UDP_LEN + len) as u16).into();
            udp.checksum = way.pseudo(PROTOCOL_UDP, UDP_LEN + len).partial();
            self.transport(frame, way, PROTOCOL_UDP, None);
        }
        self.outlet.scratch = scratch;
        filled
    }

    /// A TCP segment of `len` bytes, made by `fill` behind as many bytes that are not its own; with `size`, segments of so
    /// many bytes each are to become of it.
    pub(crate) fn segment<R>(
        &mut self,
        way: Way,
        (before, len): (usize, usize),
        size: Option<u16>,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let at = way.heads_len();
        let mut scratch = std::mem::take(&mut self.outlet.scratch);
        let front = at.saturating_sub(before);
        // What is not sent is made all the same.
        scratch.resize(scratch.len().max(at + len), 0);
        let result = fill(scratch.get_mut(front..at + len).unwrap_or_default());
        if let Some(frame) = scratch.get_mut(..at + len) {
            let partial = way.pseudo(PROTOCOL_TCP, len).partial();
            if let Some(place) = frame.get_mut(at + 16..at + 18) {
                place.copy_from_slice(partial.as_bytes());
            }
            self.transport(frame, way, PROTOCOL_TCP, size);
        }
        self.outlet.scratch = scratch;
        result
    }

    /// A frame of which all is there but the headers in front of `protocol`'s, whose checksum is to be completed.
    fn transport(&mut self, frame: &mut [u8], way: Way, protocol: u8, size: Option<u16>) {
        let Some(guest) = self.outlet.guest else { return };
        let Some(()) = heads(frame, [guest, self.outlet.ours], way, protocol, LIFETIME) else { return };
        let packet_len = frame.len() - ETHERNET_LEN;
        let mtu = usize::from(self.outlet.mtu);
        let (gso_type, size) = match (protocol, size, way.to) {
            (PROTOCOL_TCP, Some(size), IpAddr::V4(_)) => (HDR_GSO_TCPV4, size),
            (PROTOCOL_TCP, Some(size), IpAddr::V6(_)) => (HDR_GSO_TCPV6, size),
            (PROTOCOL_UDP, _, IpAddr::V4(_)) if packet_len > mtu => {
                self.outlet.identification = self.outlet.identification.wrapping_add(1);
                if let Some(ip) = frame.get_mut(ETHERNET_LEN..) {
                    may_be_fragmented(ip, self.outlet.identification);
                }
                // As the MTU.
                (HDR_GSO_UDP, (mtu - IPV4_LEN) as u16 & !7)
            }
            _ => (HDR_GSO_NONE, 0),
        };
        let header = Header {
            flags: HDR_F_NEEDS_CSUM,
            gso_type,
            gso_size: size.into(),
            // At most 54.
            csum_start: (way.heads_len() as u16).into(),
            csum_offset: if protocol == PROTOCOL_TCP { 16 } else { 6 }.into(),
            ..Header::default()
        };
        let head = frame.get(..MAX_HEADERS).unwrap_or(frame);
        let Ok(offload) = check(&header, frame.len() as u32, head, &self.outlet.limits) else { return };
        let is_too_long = gso_type == HDR_GSO_NONE && packet_len > mtu;
        if self.outlet.takes.has(&offload) && !is_too_long {
            return self.put(&offload, frame);
        }
        plain(&offload, frame, |frame| self.fitting(way, frame));
    }

    /// A frame that is as on a wire, or, if it is longer than the MTU, fragments.
    fn fitting(&mut self, way: Way, frame: &[u8]) {
        if frame.len() - ETHERNET_LEN <= usize::from(self.outlet.mtu) {
            self.frame(frame);
        } else if way.to.is_ipv4() {
            self.fragments4(frame);
        } else {
            self.fragments6(frame);
        }
    }

    /// A packet of IPv4 without options that is longer than the MTU, in fragments (RFC 791, 3.2).
    fn fragments4(&mut self, frame: &[u8]) {
        const HEADS: usize = ETHERNET_LEN + IPV4_LEN;
        let Some((heads, payload)) = frame.split_at_checked(HEADS) else { return };
        self.outlet.identification = self.outlet.identification.wrapping_add(1);
        let size = (usize::from(self.outlet.mtu) - IPV4_LEN) & !7;
        let mut fragment = Vec::with_capacity(HEADS + size);
        for (number, piece) in payload.chunks(size).enumerate() {
            let at = number * size;
            let more = if at + piece.len() < payload.len() { MORE_FRAGMENTS } else { 0 };
            fragment.clear();
            fragment.extend_from_slice(heads);
            fragment.extend_from_slice(piece);
            if let Some(ip) = fragment.get_mut(ETHERNET_LEN..)
                && let Ok((ip, piece)) = Ipv4::mut_from_prefix(ip)
            {
                // No packet is so long that it would not fit.
                ip.total_len = ((IPV4_LEN + piece.len()) as u16).into();
                fragmented(ip, (at / 8) as u16 | more, self.outlet.identification);
            }
            self.frame(&fragment);
        }
    }

    /// A packet of IPv6 that is longer than the MTU, in fragments (RFC 8200, 4.5).
    fn fragments6(&mut self, frame: &[u8]) {
        const HEADS: usize = ETHERNET_LEN + IPV6_LEN;
        let Some((heads, payload)) = frame.split_at_checked(HEADS) else { return };
        let ip = heads.get(ETHERNET_LEN..).unwrap_or_default();
        let Ok(&Ipv6 { next, .. }) = Ipv6::ref_from_bytes(ip) else { return };
        self.outlet.identification = self.outlet.identification.wrapping_add(1);
        let size = (usize::from(self.outlet.mtu) - IPV6_LEN - FRAGMENT_LEN) & !7;
        let mut fragment = Vec::with_capacity(HEADS + FRAGMENT_LEN + size);
        for (number, piece) in payload.chunks(size).enumerate() {
            let at = number * size;
            let more = u16::from(at + piece.len() < payload.len());
            fragment.clear();
            fragment.extend_from_slice(heads);
            fragment.extend([next, 0]);
            // No packet is so long that it would not fit.
            fragment.extend((at as u16 | more).to_be_bytes());
            fragment.extend(u32::from(self.outlet.identification).to_be_bytes());
            fragment.extend_from_slice(piece);
            if let Some(ip) = fragment.get_mut(ETHERNET_LEN..)
                && let Ok((ip, _)) = Ipv6::mut_from_prefix(ip)
            {
                ip.next = EXTENSION_FRAGMENT;
                ip.payload_len = ((FRAGMENT_LEN + piece.len()) as u16).into();
            }
            self.frame(&fragment);
        }
    }
}

/// Writes the headers of Ethernet and IP at the front of `frame`. `None` if it is too long for a packet, or too short.
pub(crate) fn heads(frame: &mut [u8], macs: [Mac; 2], way: Way, protocol: u8, limit: u8) -> Option<()> {
    let ether_type = if way.to.is_ipv4() { ETHER_IPV4 } else { ETHER_IPV6 };
    let (ethernet, packet) = Ethernet::mut_from_prefix(frame).ok()?;
    *ethernet = Ethernet { addresses: macs, ether_type: ether_type.into() };
    ip_head(packet, way, protocol, limit)
}

/// Writes the header of IP at the front of `packet`.
pub(crate) fn ip_head(packet: &mut [u8], way: Way, protocol: u8, limit: u8) -> Option<()> {
    let len = packet.len();
    match (way.from, way.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let (ip, _) = Ipv4::mut_from_prefix(packet).ok()?;
            *ip = Ipv4 {
                first: 0x45,
                service: 0,
                total_len: u16::try_from(len).ok()?.into(),
                identification: 0.into(),
                fragment: DO_NOT_FRAGMENT.into(),
                lifetime: limit,
                protocol,
                checksum: 0.into(),
                addresses: [0; 8],
            };
            ip.addresses.copy_from_slice([from.octets(), to.octets()].as_flattened());
            ip.checksum = Sum::default().plus(ip.as_bytes()).checksum();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (ip, payload) = Ipv6::mut_from_prefix(packet).ok()?;
            *ip = Ipv6 {
                first: (6 << 28).into(),
                payload_len: u16::try_from(payload.len()).ok()?.into(),
                next: protocol,
                limit,
                addresses: [0; 32],
            };
            ip.addresses.copy_from_slice([from.octets(), to.octets()].as_flattened());
        }
        _ => return None,
    }
    Some(())
}

/// A datagram that becomes fragments says so.
fn may_be_fragmented(packet: &mut [u8], identification: u16) {
    if let Ok((ip, _)) = Ipv4::mut_from_prefix(packet) {
        fragmented(ip, 0, identification);
    }
}

/// Makes a header that of a fragment.
fn fragmented(ip: &mut Ipv4, fragment: u16, identification: u16) {
    ip.fragment = fragment.into();
    ip.identification = identification.into();
    ip.checksum = 0.into();
    ip.checksum = Sum::default().plus(ip.as_bytes()).checksum();
}
