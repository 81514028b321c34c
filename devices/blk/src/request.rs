//! Requests as values: what a guest's header and range segments ask for, and whether the disk can do it. Pure.
//!
//! The guest is the author of every number in here. Lengths are those of the chain, counted in bytes without
//! regard to descriptors (VIRTIO 1.3, 2.7.4 and 5.2.6).

use outboard_device::defs::blk::{
    Lifetime, RANGE_UNMAP, RangeSegment, RequestHeader, S_IOERR, S_OK, S_UNSUPP, S_ZONE_ACTIVE_RESOURCE,
    S_ZONE_INVALID_CMD, S_ZONE_OPEN_RESOURCE, S_ZONE_UNALIGNED_WP, SECTOR_SIZE, T_DISCARD, T_FLUSH, T_GET_ID,
    T_GET_LIFETIME, T_IN, T_OUT, T_SECURE_ERASE, T_WRITE_ZEROES, T_ZONE_APPEND, T_ZONE_CLOSE, T_ZONE_FINISH,
    T_ZONE_OPEN, T_ZONE_REPORT, T_ZONE_RESET, T_ZONE_RESET_ALL,
};

use outboard_device::{Chain, Short};
use zerocopy::IntoBytes;

use crate::zones::Command;

/// The most segments that a discard may have.
pub(crate) const MAX_DISCARD_RANGES: usize = 16;
/// The most segments that a write-zeroes request may have.
pub(crate) const MAX_ZEROES_RANGES: usize = 16;
/// The most segments that a secure erase may have.
pub(crate) const MAX_ERASE_RANGES: usize = 16;
/// The longest segment of a secure erase, in sectors: 64 MiB.
pub(crate) const MAX_ERASE_SECTORS: u32 = 1 << 17;
/// The longest segment of a discard, in sectors: 1 GiB.
pub(crate) const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// The longest segment of a write-zeroes request, in sectors: 64 MiB, since zeroes may have to be written.
pub(crate) const MAX_ZEROES_SECTORS: u32 = 1 << 17;

/// How a request ends (VIRTIO 1.3, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Outcome {
    Done = S_OK,
    Failed = S_IOERR,
    Unsupported = S_UNSUPP,
    ZoneInvalid = S_ZONE_INVALID_CMD,
    ZoneUnaligned = S_ZONE_UNALIGNED_WP,
    ZoneOpenResource = S_ZONE_OPEN_RESOURCE,
    ZoneActiveResource = S_ZONE_ACTIVE_RESOURCE,
}

/// What requests are checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Size of the disk in sectors.
    pub(crate) sectors: u64,
    pub(crate) read_only: bool,
    /// Discards were offered.
    pub(crate) discard: bool,
    /// Secure erase was offered.
    pub(crate) erase: bool,
    /// The lifetime was offered.
    pub(crate) lifetime: bool,
    /// The disk is zoned: whether the driver knows zones.
    pub(crate) zoned: Option<bool>,
}

/// A request that the disk can carry out. Positions are in bytes and, with the data, within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Read {
        offset: u64,
    },
    Write {
        offset: u64,
    },
    Flush,
    Identify,
    Lifetime,
    Ranges(Ranges),
    /// Writes at the write pointer of the zone that begins there.
    Append {
        sector: u64,
    },
    ZoneReport {
        sector: u64,
    },
    Zone {
        command: Command,
        sector: u64,
    },
    ZoneResetAll,
}

/// What is to be done with ranges that follow the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ranges {
    Discard,
    Zero,
    /// `misplaced`: the driver has them where the device is to write. Linux does (7.3 and before): whether there is
    /// something to read it takes from the number of the kind being odd, and this one's is even.
    Erase {
        misplaced: bool,
    },
}

/// A range within the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// The blocks may be given up.
    pub(crate) unmap: bool,
}

impl Request {
    /// Understands a header that `readable` bytes follow, in a chain with room for `writable` bytes of data.
    pub(crate) fn parse(
        header: &RequestHeader,
        readable: usize,
        writable: usize,
        limits: &Limits,
    ) -> Result<Self, Outcome> {
        let sector = header.sector.get();
        match header.kind.get() {
            T_IN => Ok(Self::Read { offset: position(sector, writable, limits)? }),
            T_OUT if limits.read_only => Err(Outcome::Failed),
            T_OUT => Ok(Self::Write { offset: position(sector, readable, limits)? }),
            T_FLUSH => Ok(Self::Flush),
            T_GET_ID => Ok(Self::Identify),
            T_GET_LIFETIME if limits.lifetime && writable < size_of::<Lifetime>() => Err(Outcome::Failed),
            T_GET_LIFETIME if limits.lifetime => Ok(Self::Lifetime),
            T_DISCARD | T_WRITE_ZEROES if limits.read_only => Err(Outcome::Failed),
            T_SECURE_ERASE if limits.erase => {
                let misplaced = readable == 0;
                let bytes = if misplaced { writable } else { readable };
                Ok(Self::Ranges(ranges(Ranges::Erase { misplaced }, bytes)?))
            }
            T_DISCARD if limits.discard => Ok(Self::Ranges(ranges(Ranges::Discard, readable)?)),
            // Zeroes would be writes, and in sequence. They are not offered with zones.
            T_WRITE_ZEROES if limits.zoned.is_none() => Ok(Self::Ranges(ranges(Ranges::Zero, readable)?)),
            kind if limits.zoned == Some(true) => Self::parse_zoned(kind, sector, readable, writable, limits),
            _ => Err(Outcome::Unsupported),
        }
    }

    /// VIRTIO 1.3, 5.2.6.2: what is not offered is unsupported, and what is wrong with zones is an invalid command.
    fn parse_zoned(
        kind: u32,
        sector: u64,
        readable: usize,
        writable: usize,
        limits: &Limits,
    ) -> Result<Self, Outcome> {
        let zone = |command: Command| match limits.read_only {
            true => Err(Outcome::Failed),
            false => Ok(Self::Zone { command, sector }),
        };
        match kind {
            T_ZONE_REPORT => Ok(Self::ZoneReport { sector }),
            T_ZONE_OPEN => zone(Command::Open),
            T_ZONE_CLOSE => zone(Command::Close),
            T_ZONE_FINISH => zone(Command::Finish),
            T_ZONE_RESET => zone(Command::Reset),
            T_ZONE_APPEND | T_ZONE_RESET_ALL if limits.read_only => Err(Outcome::Failed),
            T_ZONE_RESET_ALL => Ok(Self::ZoneResetAll),
            // Only the sector that was written to comes back, and all of it.
            T_ZONE_APPEND if writable != size_of::<u64>() => Err(Outcome::Failed),
            T_ZONE_APPEND if !(readable as u64).is_multiple_of(SECTOR_SIZE) => Err(Outcome::Failed),
            T_ZONE_APPEND if readable == 0 => Err(Outcome::ZoneInvalid),
            T_ZONE_APPEND => Ok(Self::Append { sector }),
            _ => Err(Outcome::Unsupported),
        }
    }
}

impl Ranges {
    pub(crate) fn is_erase(self) -> bool {
        matches!(self, Self::Erase { .. })
    }

    /// Bytes of segments that are left in a request.
    pub(crate) fn left(self, chain: &Chain) -> usize {
        match self {
            Self::Erase { misplaced: true } => chain.writable_len(),
            _ => chain.readable_len(),
        }
    }

    /// The next segment of a request.
    ///
    /// # Errors
    /// There is less than one.
    pub(crate) fn next(self, chain: &mut Chain) -> Result<RangeSegment, Short> {
        let mut segment = RangeSegment::default();
        match self {
            Self::Erase { misplaced: true } => chain.read_writable(segment.as_mut_bytes())?,
            _ => segment = chain.read_obj()?,
        }
        Ok(segment)
    }
}

impl Span {
    /// Understands one segment of a request with ranges. VIRTIO 1.3, 5.2.6.2: unknown flags, and unmap where
    /// it makes no sense, are unsupported.
    pub(crate) fn parse(ranges: Ranges, segment: &RangeSegment, limits: &Limits) -> Result<Self, Outcome> {
        let (max_sectors, known_flags) = match ranges {
            Ranges::Discard => (MAX_DISCARD_SECTORS, 0),
            Ranges::Zero => (MAX_ZEROES_SECTORS, RANGE_UNMAP),
            Ranges::Erase { .. } => (MAX_ERASE_SECTORS, 0),
        };
        let (flags, sectors) = (segment.flags.get(), segment.num_sectors.get());
        if flags & !known_flags != 0 {
            return Err(Outcome::Unsupported);
        }
        if sectors > max_sectors {
            return Err(Outcome::Failed);
        }
        let offset = start(segment.sector.get(), u64::from(sectors), limits)?;
        Ok(Self { offset, len: u64::from(sectors) * SECTOR_SIZE, unmap: flags & RANGE_UNMAP != 0 })
    }
}

/// Segments are whole, at least one, and no more than were offered.
fn ranges(ranges: Ranges, bytes: usize) -> Result<Ranges, Outcome> {
    let most = match ranges {
        Ranges::Discard => MAX_DISCARD_RANGES,
        Ranges::Zero => MAX_ZEROES_RANGES,
        Ranges::Erase { .. } => MAX_ERASE_RANGES,
    };
    let (count, rest) = (bytes / size_of::<RangeSegment>(), bytes % size_of::<RangeSegment>());
    if rest == 0 && (1..=most).contains(&count) { Ok(ranges) } else { Err(Outcome::Failed) }
}

/// Where `bytes` of data from `sector` begin, if they are whole sectors and all within the disk.
fn position(sector: u64, bytes: usize, limits: &Limits) -> Result<u64, Outcome> {
    let bytes = bytes as u64;
    if !bytes.is_multiple_of(SECTOR_SIZE) {
        return Err(Outcome::Failed);
    }
    start(sector, bytes / SECTOR_SIZE, limits)
}

fn start(sector: u64, sectors: u64, limits: &Limits) -> Result<u64, Outcome> {
    let end = sector.checked_add(sectors).ok_or(Outcome::Failed)?;
    if end > limits.sectors {
        return Err(Outcome::Failed);
    }
    sector.checked_mul(SECTOR_SIZE).ok_or(Outcome::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Limits =
        Limits { sectors: 100, read_only: false, discard: true, erase: true, lifetime: true, zoned: None };

    fn header(kind: u32, sector: u64) -> RequestHeader {
        RequestHeader { kind: kind.into(), reserved: 0.into(), sector: sector.into() }
    }

    fn segment(sector: u64, num_sectors: u32, flags: u32) -> RangeSegment {
        RangeSegment { sector: sector.into(), num_sectors: num_sectors.into(), flags: flags.into() }
    }

    #[test]
    fn transfer_within_the_disk_has_its_position_in_bytes() {
        for (sector, bytes) in [(0, 0), (0, 512), (99, 512), (100, 0), (0, 51200)] {
            let offset = sector * 512;
            assert_eq!(Request::parse(&header(T_IN, sector), 0, bytes, &DISK), Ok(Request::Read { offset }));
            assert_eq!(
                Request::parse(&header(T_OUT, sector), bytes, 0, &DISK),
                Ok(Request::Write { offset })
            );
        }
    }

    #[test]
    fn transfer_outside_the_disk_or_in_parts_of_sectors_fails() {
        let cases =
            [(99, 1024), (100, 512), (101, 0), (u64::MAX, 512), (1 << 55, 512), (0, 511), (0, 1), (0, 513)];
        for (sector, bytes) in cases {
            assert_eq!(Request::parse(&header(T_IN, sector), 0, bytes, &DISK), Err(Outcome::Failed));
            assert_eq!(Request::parse(&header(T_OUT, sector), bytes, 0, &DISK), Err(Outcome::Failed));
        }
    }

    #[test]
    fn changes_on_a_read_only_disk_fail() {
        let disk = Limits { read_only: true, ..DISK };
        for kind in [T_OUT, T_DISCARD, T_WRITE_ZEROES] {
            assert_eq!(Request::parse(&header(kind, 0), 512, 0, &disk), Err(Outcome::Failed));
        }
        assert!(Request::parse(&header(T_IN, 0), 0, 512, &disk).is_ok());
        assert_eq!(Request::parse(&header(T_FLUSH, 0), 0, 0, &disk), Ok(Request::Flush));
    }

    #[test]
    fn kinds_unknown_and_not_offered_are_unsupported() {
        let no_discard = Limits { discard: false, ..DISK };
        assert_eq!(Request::parse(&header(T_DISCARD, 0), 16, 0, &no_discard), Err(Outcome::Unsupported));
        let plain = Limits { erase: false, lifetime: false, ..DISK };
        for kind in [2, 3, 5, T_GET_LIFETIME, T_SECURE_ERASE, T_ZONE_APPEND, 0x8000_0000, u32::MAX] {
            assert_eq!(Request::parse(&header(kind, 0), 16, 6, &plain), Err(Outcome::Unsupported));
        }
        assert_eq!(Request::parse(&header(T_GET_LIFETIME, 0), 0, 6, &DISK), Ok(Request::Lifetime));
        assert_eq!(Request::parse(&header(T_GET_LIFETIME, 0), 0, 5, &DISK), Err(Outcome::Failed));
    }

    #[test]
    fn zone_requests_are_for_drivers_that_know_zones() {
        let zoned = Limits { zoned: Some(true), ..DISK };
        let command = |command| Ok(Request::Zone { command, sector: 8 });
        let cases = [
            (T_ZONE_APPEND, Ok(Request::Append { sector: 8 })),
            (T_ZONE_REPORT, Ok(Request::ZoneReport { sector: 8 })),
            (T_ZONE_OPEN, command(Command::Open)),
            (T_ZONE_CLOSE, command(Command::Close)),
            (T_ZONE_FINISH, command(Command::Finish)),
            (T_ZONE_RESET, command(Command::Reset)),
            (T_ZONE_RESET_ALL, Ok(Request::ZoneResetAll)),
            (T_WRITE_ZEROES, Err(Outcome::Unsupported)),
            (17, Err(Outcome::Unsupported)),
        ];
        for (kind, expected) in cases {
            assert_eq!(Request::parse(&header(kind, 8), 512, 8, &zoned), expected, "{kind}");
            for limits in [DISK, Limits { zoned: Some(false), ..DISK }] {
                if kind != T_WRITE_ZEROES {
                    let parsed = Request::parse(&header(kind, 8), 512, 8, &limits);
                    assert_eq!(parsed, Err(Outcome::Unsupported), "{kind}");
                }
            }
            let read_only = Limits { read_only: true, ..zoned };
            let parsed = Request::parse(&header(kind, 8), 512, 8, &read_only);
            match kind {
                T_ZONE_REPORT => assert!(parsed.is_ok()),
                17 => assert_eq!(parsed, Err(Outcome::Unsupported)),
                _ => assert_eq!(parsed, Err(Outcome::Failed), "{kind}"),
            }
        }
        for (readable, writable, expected) in [
            (0, 8, Outcome::ZoneInvalid),
            (511, 8, Outcome::Failed),
            (512, 0, Outcome::Failed),
            (512, 9, Outcome::Failed),
        ] {
            assert_eq!(Request::parse(&header(T_ZONE_APPEND, 0), readable, writable, &zoned), Err(expected));
        }
    }

    #[test]
    fn ranges_have_one_to_the_announced_number_of_whole_segments() {
        let kinds = [
            (T_DISCARD, Ranges::Discard, 16),
            (T_WRITE_ZEROES, Ranges::Zero, 16),
            (T_SECURE_ERASE, Ranges::Erase { misplaced: false }, 16),
        ];
        for (kind, ranges, most) in kinds {
            for bytes in 0..300 {
                let good = bytes % 16 == 0 && bytes > 0 && bytes / 16 <= most;
                let expected = if good { Ok(Request::Ranges(ranges)) } else { Err(Outcome::Failed) };
                assert_eq!(Request::parse(&header(kind, 0), bytes, 0, &DISK), expected, "{bytes}");
            }
        }
    }

    #[test]
    fn span_with_flags_that_make_no_sense_is_unsupported() {
        for flags in [2, 3, 0x8000_0000, u32::MAX] {
            let segment = segment(0, 1, flags);
            assert_eq!(Span::parse(Ranges::Zero, &segment, &DISK), Err(Outcome::Unsupported));
            assert_eq!(Span::parse(Ranges::Discard, &segment, &DISK), Err(Outcome::Unsupported));
            assert_eq!(
                Span::parse(Ranges::Erase { misplaced: false }, &segment, &DISK),
                Err(Outcome::Unsupported)
            );
        }
        assert_eq!(
            Span::parse(Ranges::Discard, &segment(0, 1, RANGE_UNMAP), &DISK),
            Err(Outcome::Unsupported)
        );
        let unmapped = Span { offset: 0, len: 512, unmap: true };
        assert_eq!(Span::parse(Ranges::Zero, &segment(0, 1, RANGE_UNMAP), &DISK), Ok(unmapped));
    }

    #[test]
    fn span_outside_the_disk_or_too_long_fails() {
        let huge = Limits { sectors: u64::MAX / 512, ..DISK };
        for ranges in [Ranges::Discard, Ranges::Zero, Ranges::Erase { misplaced: true }] {
            for (sector, sectors) in [(100, 1), (0, 101), (u64::MAX, 1), (1, u32::MAX)] {
                assert_eq!(Span::parse(ranges, &segment(sector, sectors, 0), &DISK), Err(Outcome::Failed));
            }
            assert!(Span::parse(ranges, &segment(5, MAX_ZEROES_SECTORS, 0), &huge).is_ok());
            assert_eq!(
                Span::parse(ranges, &segment(5, MAX_DISCARD_SECTORS + 1, 0), &huge),
                Err(Outcome::Failed)
            );
        }
    }
}
