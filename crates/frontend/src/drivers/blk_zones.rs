//! Requests of a block device that few disks have: several ranges at a time, secure erase, lifetime, zones
//! (VIRTIO 1.3, 5.2.6). The device is not trusted: what it says of its zones is the caller's to judge.

use outboard_virtio_defs::blk::{
    Lifetime, RANGE_UNMAP, RangeSegment, SECTOR_SIZE, T_DISCARD, T_GET_LIFETIME, T_SECURE_ERASE,
    T_WRITE_ZEROES, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_OPEN, T_ZONE_REPORT, T_ZONE_RESET, T_ZONE_RESET_ALL,
    ZoneDescriptor, ZoneReport,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Blk;
use super::blk::BOUNCE;
use crate::Error;

/// What to do with ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeCommand {
    /// Give up their contents.
    Discard,
    /// Make them read as zeroes; `unmap` lets the device deallocate them.
    WriteZeroes {
        /// The device may deallocate them.
        unmap: bool,
    },
    /// Erase them so that nothing is left.
    SecureErase,
}

/// What to do with a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZoneCommand {
    /// Open it explicitly.
    Open,
    /// Close it.
    Close,
    /// Fill it up: nothing more can be written.
    Finish,
    /// Empty it.
    Reset,
}

impl Blk {
    /// Does something to ranges of `(sector, count)`, all in one request, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn ranges(&mut self, command: RangeCommand, ranges: &[(u64, u32)]) -> Result<(), Error> {
        let (kind, flags) = match command {
            RangeCommand::Discard => (T_DISCARD, 0),
            RangeCommand::WriteZeroes { unmap } => (T_WRITE_ZEROES, if unmap { RANGE_UNMAP } else { 0 }),
            RangeCommand::SecureErase => (T_SECURE_ERASE, 0),
        };
        let segment = |&(sector, count): &(u64, u32)| RangeSegment {
            sector: sector.into(),
            num_sectors: count.into(),
            flags: flags.into(),
        };
        let segments: Vec<RangeSegment> = ranges.iter().map(segment).collect();
        let data = self.bounce_part(0, segments.as_bytes().len())?;
        data.write_from(0, segments.as_bytes())?;
        self.run(|queue| queue.stage(kind, 0, std::slice::from_ref(&data), &[], 0))
    }

    /// How worn the medium is (VIRTIO_BLK_F_LIFETIME); waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn lifetime(&mut self) -> Result<Lifetime, Error> {
        let mut lifetime = Lifetime::default();
        let data = self.bounce_part(0, size_of::<Lifetime>())?;
        self.run(|queue| queue.stage(T_GET_LIFETIME, 0, &[], std::slice::from_ref(&data), 0))?;
        data.read_into(0, lifetime.as_mut_bytes())?;
        Ok(lifetime)
    }

    /// The zones from the one that `sector` is in, at most `most` of them (VIRTIO_BLK_F_ZONED); waits. There are more
    /// only if as many as asked for came.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn zones(&mut self, sector: u64, most: usize) -> Result<Vec<ZoneDescriptor>, Error> {
        let (head, each) = (size_of::<ZoneReport>(), size_of::<ZoneDescriptor>());
        let room = most.min((BOUNCE - head) / each);
        let data = self.bounce_part(0, head + room * each)?;
        self.run(|queue| queue.stage(T_ZONE_REPORT, sector, &[], std::slice::from_ref(&data), 0))?;
        let mut report = ZoneReport::new_zeroed();
        data.read_into(0, report.as_mut_bytes())?;
        let count = usize::try_from(report.zones.get()).unwrap_or(usize::MAX);
        if count > room {
            return Err(Error::Invalid("more zones than there was room for"));
        }
        let mut bytes = vec![0; count * each];
        data.read_into(head, &mut bytes)?;
        Ok(bytes.chunks_exact(each).filter_map(|zone| ZoneDescriptor::read_from_bytes(zone).ok()).collect())
    }

    /// Does something to the zone that begins at `zone`, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn zone(&mut self, command: ZoneCommand, zone: u64) -> Result<(), Error> {
        let kind = match command {
            ZoneCommand::Open => T_ZONE_OPEN,
            ZoneCommand::Close => T_ZONE_CLOSE,
            ZoneCommand::Finish => T_ZONE_FINISH,
            ZoneCommand::Reset => T_ZONE_RESET,
        };
        self.run(|queue| queue.stage(kind, zone, &[], &[], 0))
    }

    /// Empties all zones, and waits.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn reset_all_zones(&mut self) -> Result<(), Error> {
        self.run(|queue| queue.stage(T_ZONE_RESET_ALL, 0, &[], &[], 0))
    }

    /// Writes whole sectors, at most 64 KiB, at the write pointer of the zone that begins at `zone`, and waits.
    /// Where that was, in sectors.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn zone_append(&mut self, zone: u64, data: &[u8]) -> Result<u64, Error> {
        if !(data.len() as u64).is_multiple_of(SECTOR_SIZE) || data.len() > BOUNCE / 2 {
            return Err(Error::Invalid("not whole sectors, or more than 64 KiB"));
        }
        let from = self.bounce_part(0, data.len())?;
        from.write_from(0, data)?;
        let place = self.bounce_part(BOUNCE - size_of::<u64>(), size_of::<u64>())?;
        self.run(|queue| queue.zone_append(zone, std::slice::from_ref(&from), &place, 0))?;
        let mut sector = [0; size_of::<u64>()];
        place.read_into(0, &mut sector)?;
        Ok(u64::from_le_bytes(sector))
    }
}
