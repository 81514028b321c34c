//! What is left to do for a frame, and who does what of it.

use outboard_virtio_defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4, F_GUEST_USO6,
    F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, HDR_F_NEEDS_CSUM, HDR_GSO_ECN,
    HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4, Header,
};

use crate::MIN_LEN;
use crate::layers::{MAX_HEADERS, ethernet_len};

/// What is left to do before a frame is one as it goes over a wire. [`check`](crate::check()) makes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing.
    #[default]
    None,
    /// A checksum is to be completed.
    Checksum(Checksum),
    /// It is to be cut into several, each with its checksums.
    Segments(Segments),
}

/// A checksum of which only the start is there, in the frame (VIRTIO 1.3, 5.1.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where the bytes begin that it covers, up to the end of the frame.
    pub(crate) start: u16,
    /// Where it is, from `start`.
    pub(crate) offset: u16,
}

/// How a frame is to be cut. Positions are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    pub(crate) kind: Kind,
    /// Bytes of payload in each but the last.
    pub(crate) size: u16,
    /// The TCP segments tell of congestion: the first alone says that the window was reduced.
    pub(crate) ecn: bool,
    pub(crate) l3_at: u16,
    pub(crate) l4_at: u16,
    /// Where the payload begins.
    pub(crate) end: u16,
}

/// What the segments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp4,
    Tcp6,
    /// Fragments of one UDP datagram over IPv4.
    Fragments,
    /// UDP datagrams of their own.
    Udp4,
    Udp6,
}

impl Kind {
    /// Where the checksum is in the transport header.
    pub(crate) const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp4 | Self::Tcp6 => 16,
            Self::Fragments | Self::Udp4 | Self::Udp6 => 6,
        }
    }
}

impl Segments {
    /// How many bytes each of them begins with that are those of the frame. The UDP header is part of what is cut into
    /// fragments.
    pub(crate) const fn repeated(&self) -> u16 {
        match self.kind {
            Kind::Fragments => self.l4_at,
            _ => self.end,
        }
    }

    /// The length of each but the last, behind its Ethernet header.
    pub(crate) fn packet(&self) -> u32 {
        u32::from(self.repeated() - self.l3_at) + u32::from(self.size)
    }
}

impl Offload {
    /// Whether what goes over a wire is no longer than `mtu` bytes behind its Ethernet header. `len` is the length of the
    /// frame, and `head` its front, as of [`check`](crate::check()).
    #[must_use]
    pub fn fits(&self, mtu: u32, len: u32, head: &[u8]) -> bool {
        match self {
            Self::Segments(segments) => segments.packet() <= mtu,
            // In most cases the tags need not be looked for.
            _ => len <= MIN_LEN.saturating_add(mtu) || len <= mtu.saturating_add(ethernet_len(head).into()),
        }
    }

    /// How many frames go over a wire in place of this one, which is `len` bytes long.
    #[must_use]
    pub fn frames(&self, len: usize) -> u64 {
        match self {
            Self::None | Self::Checksum(_) => 1,
            Self::Segments(segments) => {
                let payload = len.saturating_sub(segments.repeated().into());
                // Cut into nothing, it is one all the same.
                payload.div_ceil(usize::from(segments.size).max(1)).max(1) as u64
            }
        }
    }

    /// The header that asks for it (VIRTIO 1.3, 5.1.6), all of it made from what was checked. `num_buffers` is 0.
    #[must_use]
    pub fn header(&self) -> Header {
        let asking = |Checksum { start, offset }: Checksum| Header {
            flags: HDR_F_NEEDS_CSUM,
            csum_start: start.into(),
            csum_offset: offset.into(),
            ..Header::default()
        };
        match *self {
            Self::None => Header::default(),
            Self::Checksum(checksum) => asking(checksum),
            Self::Segments(segments) => {
                let gso_type = match segments.kind {
                    Kind::Tcp4 => HDR_GSO_TCPV4,
                    Kind::Tcp6 => HDR_GSO_TCPV6,
                    Kind::Fragments => HDR_GSO_UDP,
                    Kind::Udp4 | Kind::Udp6 => HDR_GSO_UDP_L4,
                };
                let ecn = if segments.ecn { HDR_GSO_ECN } else { 0 };
                let checksum = Checksum { start: segments.l4_at, offset: segments.kind.checksum_offset() };
                Header {
                    gso_type: gso_type | ecn,
                    hdr_len: segments.end.into(),
                    gso_size: segments.size.into(),
                    ..asking(checksum)
                }
            }
        }
    }
}

impl Offload {
    /// For the frame when its front has grown by so many bytes, before all that this is about: a VLAN tag has come or gone.
    /// `None` if that cannot be said in a header.
    #[must_use]
    pub fn moved(&self, by: i16) -> Option<Self> {
        let moved = |at: u16| at.checked_add_signed(by);
        Some(match *self {
            Self::None => Self::None,
            Self::Checksum(Checksum { start, offset }) => {
                Self::Checksum(Checksum { start: moved(start)?, offset })
            }
            Self::Segments(segments) => {
                let (l3_at, l4_at) = (moved(segments.l3_at)?, moved(segments.l4_at)?);
                let end = moved(segments.end).filter(|&end| usize::from(end) <= MAX_HEADERS)?;
                Self::Segments(Segments { l3_at, l4_at, end, ..segments })
            }
        })
    }
}

/// The work on frames that one side takes over from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Takes {
    checksum: bool,
    tcp4: bool,
    tcp6: bool,
    ecn: bool,
    fragments: bool,
    udp4: bool,
    udp6: bool,
}

impl Takes {
    /// All work that there is.
    pub const ALL: Self =
        Self { checksum: true, tcp4: true, tcp6: true, ecn: true, fragments: true, udp4: true, udp6: true };

    /// What the device does for the driver, by the feature bits that were agreed.
    #[must_use]
    pub fn by_device(features: u64) -> Self {
        let has = |bit| features & bit != 0;
        Self {
            checksum: has(F_CSUM),
            tcp4: has(F_HOST_TSO4),
            tcp6: has(F_HOST_TSO6),
            ecn: has(F_HOST_ECN),
            fragments: has(F_HOST_UFO),
            udp4: has(F_HOST_USO),
            udp6: has(F_HOST_USO),
        }
    }

    /// What the driver does for the device, by the feature bits that were agreed.
    #[must_use]
    pub fn by_driver(features: u64) -> Self {
        let has = |bit| features & bit != 0;
        Self {
            checksum: has(F_GUEST_CSUM),
            tcp4: has(F_GUEST_TSO4),
            tcp6: has(F_GUEST_TSO6),
            ecn: has(F_GUEST_ECN),
            fragments: has(F_GUEST_UFO),
            udp4: has(F_GUEST_USO4),
            udp6: has(F_GUEST_USO6),
        }
    }

    /// Whether it takes this.
    #[must_use]
    pub const fn has(self, offload: &Offload) -> bool {
        match offload {
            Offload::None => true,
            Offload::Checksum(_) => self.checksum,
            Offload::Segments(segments) => self.checksum && self.cuts(segments.kind, segments.ecn),
        }
    }

    /// Whether it cuts TCP segments of IPv4, or of IPv6.
    #[must_use]
    pub const fn cuts_tcp(self, is_ipv6: bool) -> bool {
        self.checksum && if is_ipv6 { self.tcp6 } else { self.tcp4 }
    }

    /// Whether it cuts frames into these.
    pub(crate) const fn cuts(self, kind: Kind, ecn: bool) -> bool {
        let kind = match kind {
            Kind::Tcp4 => self.tcp4,
            Kind::Tcp6 => self.tcp6,
            Kind::Fragments => self.fragments,
            Kind::Udp4 => self.udp4,
            Kind::Udp6 => self.udp6,
        };
        kind && (self.ecn || !ecn)
    }

    /// Whether it completes checksums.
    pub(crate) const fn completes(self) -> bool {
        self.checksum
    }

    /// Whether it cuts anything: frames may be longer than the wire takes.
    #[must_use]
    pub const fn cuts_any(self) -> bool {
        self.tcp4 || self.tcp6 || self.fragments || self.udp4 || self.udp6
    }
}
