//! A packet and the header before it (VIRTIO 1.3, 5.1.6): what a driver asks for, and whether that can be. The driver is
//! trusted with none of it.

use outboard_virtio_defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4, F_GUEST_USO6,
    F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, HDR_F_NEEDS_CSUM, HDR_GSO_ECN,
    HDR_GSO_NONE, HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4, Header,
};

/// The shortest and the longest packet, in bytes.
const SHORTEST: usize = 14;
pub(crate) const LONGEST: usize = 14 + 40 + 65535;

/// A packet on its way to the driver.
pub(crate) struct Packet {
    pub(crate) header: Header,
    pub(crate) frame: Vec<u8>,
}

/// What protocols are in a frame.
struct Inside {
    is_v6: bool,
    protocol: u8,
    l4_at: usize,
    /// Where the payload begins.
    end: usize,
}

impl Packet {
    /// A packet that a driver sent, with a header that asks for no more than the driver's did; `None` if it is to be
    /// dropped.
    pub(crate) fn judge(asked: &Header, frame: Vec<u8>, agreed: u64) -> Option<Self> {
        if !(SHORTEST..=LONGEST).contains(&frame.len()) {
            return None;
        }
        if asked.flags & HDR_F_NEEDS_CSUM == 0 {
            let plain = asked.gso_type == HDR_GSO_NONE;
            return plain.then(|| Self { header: Header::default(), frame });
        }
        let (start, offset) = (asked.csum_start.get(), asked.csum_offset.get());
        let end = usize::from(start) + usize::from(offset) + 2;
        if agreed & F_CSUM == 0 || end > frame.len() || usize::from(start) < SHORTEST {
            return None;
        }
        let mut header = Header {
            flags: HDR_F_NEEDS_CSUM,
            csum_start: asked.csum_start,
            csum_offset: asked.csum_offset,
            ..Header::default()
        };
        if asked.gso_type == HDR_GSO_NONE {
            return Some(Self { header, frame });
        }
        let inside = inside(&frame)?;
        let (kind, ecn) = (asked.gso_type & !HDR_GSO_ECN, asked.gso_type & HDR_GSO_ECN != 0);
        let (is_v6, protocol, feature) = match kind {
            HDR_GSO_TCPV4 => (false, 6, F_HOST_TSO4),
            HDR_GSO_TCPV6 => (true, 6, F_HOST_TSO6),
            HDR_GSO_UDP if !ecn => (false, 17, F_HOST_UFO),
            HDR_GSO_UDP_L4 if !ecn => (inside.is_v6, 17, F_HOST_USO),
            _ => return None,
        };
        let ecn_agreed = !ecn || agreed & F_HOST_ECN != 0;
        let place = usize::from(offset) == if protocol == 6 { 16 } else { 6 };
        let fits = inside.is_v6 == is_v6 && inside.protocol == protocol && inside.l4_at == usize::from(start);
        if agreed & feature == 0 || !ecn_agreed || !place || !fits || asked.gso_size.get() < 8 {
            return None;
        }
        if frame.len() - inside.end > usize::from(asked.gso_size.get()) {
            header.gso_type = asked.gso_type;
            header.gso_size = asked.gso_size;
            header.hdr_len = (inside.end as u16).into();
        }
        Some(Self { header, frame })
    }

    /// Whether a driver that takes these offloads can be given it, once its checksum is completed, should it not take that.
    pub(crate) fn suit(mut self, takes: u64) -> Option<Self> {
        let is_v6 = self.frame.get(12..14) == Some(&[0x86, 0xdd]);
        let needed = match self.header.gso_type & !HDR_GSO_ECN {
            HDR_GSO_NONE => 0,
            HDR_GSO_TCPV4 => F_GUEST_TSO4,
            HDR_GSO_TCPV6 => F_GUEST_TSO6,
            HDR_GSO_UDP => F_GUEST_UFO,
            _ if is_v6 => F_GUEST_USO6,
            _ => F_GUEST_USO4,
        };
        let ecn = if self.header.gso_type & HDR_GSO_ECN == 0 { 0 } else { F_GUEST_ECN };
        let needed = needed | ecn;
        if takes & needed != needed || (needed != 0 && takes & F_GUEST_CSUM == 0) {
            return None;
        }
        if self.header.flags & HDR_F_NEEDS_CSUM != 0 && takes & F_GUEST_CSUM == 0 {
            let start = usize::from(self.header.csum_start.get());
            let place = start + usize::from(self.header.csum_offset.get());
            let checksum = !sum(self.frame.get(start..)?);
            let checksum = if checksum == 0 { u16::MAX } else { checksum };
            self.frame.get_mut(place..place + 2)?.copy_from_slice(&checksum.to_be_bytes());
            self.header = Header::default();
        }
        Some(self)
    }
}

/// The sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let mut word = [0; 2];
        word.iter_mut().zip(pair).for_each(|(to, from)| *to = *from);
        let (sum, carried) = sum.overflowing_add(u16::from_be_bytes(word));
        sum + u16::from(carried)
    })
}

/// TCP or UDP, straight behind an IP header.
fn inside(frame: &[u8]) -> Option<Inside> {
    let byte = |at: usize| frame.get(at).copied();
    let (is_v6, protocol, l4_at) = match frame.get(12..14)? {
        [8, 0] if byte(14)? & 0xf >= 5 && byte(14)? >> 4 == 4 => {
            (false, byte(23)?, 14 + 4 * usize::from(byte(14)? & 0xf))
        }
        [0x86, 0xdd] => (true, byte(20)?, 54),
        _ => return None,
    };
    let end = match protocol {
        6 if byte(l4_at + 12)? >> 4 >= 5 => l4_at + 4 * usize::from(byte(l4_at + 12)? >> 4),
        17 => l4_at + 8,
        _ => return None,
    };
    (end <= frame.len()).then_some(Inside { is_v6, protocol, l4_at, end })
}
