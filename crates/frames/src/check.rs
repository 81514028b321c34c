//! What a guest's header asks for, against the bytes that it asks for it (VIRTIO 1.3, 5.1.6.2).
//!
//! Fields that the driver need not set, or that only repeat what the frame says, are never looked at: unknown flags,
//! `hdr_len`, `num_buffers`, and the places of a checksum that is not asked for. Whoever passes a frame on makes a
//! header of his own ([`Offload::header`]).

use outboard_virtio_defs::net::{
    HDR_F_NEEDS_CSUM, HDR_GSO_ECN, HDR_GSO_NONE, HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4,
    Header,
};

use crate::layers::MAX_ETHERNET;
use crate::offload::{Checksum, Kind, Offload, Segments, Takes};
use crate::wire::{Ipv4, Ipv6};
use crate::{L3, L4, Layers, MAX_HEADERS};

/// The shortest frame in bytes: its Ethernet header.
pub const MIN_LEN: u32 = 14;
/// The longest frame in bytes, still to be segmented: an Ethernet header, and the longest IPv6 packet.
pub const MAX_LEN: u32 = 14 + 40 + 65535;
/// The most segments of a frame: enough for the longest one in segments of 256 bytes. A guest that asks for more wants us
/// to work for it, or others' buffers to be used up.
pub const MAX_SEGMENTS: u32 = 256;

/// The longest IPv4 packet in bytes.
const MAX_PACKET: u32 = 65535;

/// What frames may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What a header may ask for.
    pub takes: Takes,
    /// The longest packet as it goes over a wire, in bytes behind the Ethernet header and its VLAN tags.
    pub mtu: u32,
}

impl Limits {
    /// How many bytes of a frame's front [`check()`] looks at, if the frame has `len` bytes and this header.
    #[must_use]
    pub const fn looked_at(&self, header: &Header, len: u32) -> usize {
        if header.flags & HDR_F_NEEDS_CSUM != 0 {
            MAX_HEADERS
        } else if len > MIN_LEN.saturating_add(self.mtu) {
            MAX_ETHERNET
        } else {
            0
        }
    }
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no Ethernet header.
    #[error("shorter than an Ethernet header")]
    TooShort,
    /// It is longer than any frame, or than one that is not to be segmented.
    #[error("too long")]
    TooLong,
    /// A checksum is asked for that was not agreed.
    #[error("asks for a checksum, which was not agreed")]
    CsumNotAgreed,
    /// The checksum would be outside of the frame, or in its IP or Ethernet header.
    #[error("has no place for the checksum that it asks for")]
    CsumRange,
    /// The kind of segments is none, or goes with no checksum.
    #[error("asks for an unknown kind of segments")]
    GsoType,
    /// The kind of segments was not agreed.
    #[error("asks for segments that were not agreed")]
    GsoNotAgreed,
    /// The segments would be too many, or too small for data.
    #[error("asks for too small segments")]
    GsoSize,
    /// The frame is none that can be cut as is asked.
    #[error("cannot be cut as it asks")]
    Layers,
}

/// Judges what `header` asks for. `len` is the length of the frame in bytes, `head` its front: all of it, or as many bytes as
/// [`Limits::looked_at`] says.
///
/// # Errors
/// The frame is to be dropped.
pub fn check(header: &Header, len: u32, head: &[u8], limits: &Limits) -> Result<Offload, Refused> {
    let cut = header.gso_type != HDR_GSO_NONE;
    if len < MIN_LEN {
        return Err(Refused::TooShort);
    }
    if len > MAX_LEN || (!cut && !Offload::None.fits(limits.mtu, len, head)) {
        return Err(Refused::TooLong);
    }
    if header.flags & HDR_F_NEEDS_CSUM == 0 {
        // VIRTIO 1.3, 5.1.6.2.1: what is segmented has its checksum completed.
        return if cut { Err(Refused::GsoType) } else { Ok(Offload::None) };
    }
    if !limits.takes.completes() {
        return Err(Refused::CsumNotAgreed);
    }
    let layers = Layers::parse(head).ok_or(Refused::TooShort)?;
    let checksum = checksum(header, len, &layers)?;
    if !cut {
        return Ok(Offload::Checksum(checksum));
    }
    segments(header, len, &layers, checksum, limits)
}

/// Of any protocol, as long as it stays behind the IP header and in the frame.
fn checksum(header: &Header, len: u32, layers: &Layers) -> Result<Checksum, Refused> {
    let (start, offset) = (header.csum_start.get(), header.csum_offset.get());
    let least = usize::from(layers.l3_at)
        + match layers.l3 {
            L3::Ipv4 => Ipv4::LEN,
            L3::Ipv6 => Ipv6::LEN,
            L3::Other => 0,
        };
    let end = u32::from(start) + u32::from(offset) + 2;
    if end > len || usize::from(start) < least {
        return Err(Refused::CsumRange);
    }
    Ok(Checksum { start, offset })
}

fn segments(
    header: &Header,
    len: u32,
    layers: &Layers,
    checksum: Checksum,
    limits: &Limits,
) -> Result<Offload, Refused> {
    let ecn = header.gso_type & HDR_GSO_ECN != 0;
    // With the layers that the frame must have.
    let (kind, l3, l4) = match (header.gso_type & !HDR_GSO_ECN, layers.l3) {
        (HDR_GSO_TCPV4, _) => (Kind::Tcp4, L3::Ipv4, L4::Tcp),
        (HDR_GSO_TCPV6, _) => (Kind::Tcp6, L3::Ipv6, L4::Tcp),
        // Of IPv6 they would need a header of their own. Nobody has sent them for years.
        (HDR_GSO_UDP, _) if !ecn => (Kind::Fragments, L3::Ipv4, L4::Udp),
        (HDR_GSO_UDP_L4, L3::Ipv6) if !ecn => (Kind::Udp6, L3::Ipv6, L4::Udp),
        (HDR_GSO_UDP_L4, _) if !ecn => (Kind::Udp4, L3::Ipv4, L4::Udp),
        _ => return Err(Refused::GsoType),
    };
    if !limits.takes.cuts(kind, ecn) {
        return Err(Refused::GsoNotAgreed);
    }
    let at_home = checksum.start == layers.l4_at && checksum.offset == kind.checksum_offset();
    if (layers.l3, layers.l4) != (l3, l4) || !at_home {
        return Err(Refused::Layers);
    }
    // All fragments but the last are a multiple of 8 (RFC 791, 3.2).
    let unit = if kind == Kind::Fragments { 8 } else { 1 };
    let size = header.gso_size.get() / unit * unit;
    let segments = Segments { kind, size, ecn, l3_at: layers.l3_at, l4_at: layers.l4_at, end: layers.end };
    let payload = len.saturating_sub(u32::from(segments.repeated()));
    if size < 8 || payload.div_ceil(size.into()) > MAX_SEGMENTS {
        return Err(Refused::GsoSize);
    }
    if payload <= u32::from(size) {
        // One segment is none; but then it must be a frame that needs no cutting.
        let fits = len - u32::from(layers.l3_at) <= limits.mtu;
        return if fits { Ok(Offload::Checksum(checksum)) } else { Err(Refused::TooLong) };
    }
    if segments.packet() > limits.mtu.min(MAX_PACKET) {
        return Err(Refused::GsoSize);
    }
    if kind == Kind::Fragments && len - u32::from(layers.l3_at) > MAX_PACKET {
        return Err(Refused::TooLong);
    }
    Ok(Offload::Segments(segments))
}
