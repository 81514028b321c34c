//! The zones of a host-managed disk (VIRTIO 1.3, 5.2.6): write pointers and states. They last as long as the program.

use outboard_virtio_defs::blk::{
    S_IOERR, S_OK, S_UNSUPP, S_ZONE_ACTIVE_RESOURCE, S_ZONE_INVALID_CMD, S_ZONE_OPEN_RESOURCE,
    S_ZONE_UNALIGNED_WP, SECTOR_SIZE, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_OPEN, T_ZONE_RESET,
    T_ZONE_RESET_ALL, Z_HM, ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZS_NOT_WP, ZT_CONV, ZT_SWR,
    ZoneDescriptor, ZoneReport, Zoned,
};
use zerocopy::IntoBytes;

use crate::chain::Chain;
use crate::faults::{Fault, Faults};

/// Sectors of a zone, and how many of them can be written.
const SECTORS: u64 = 2048;
const CAPACITY: u64 = 1792;
/// The first zones are conventional.
const CONVENTIONAL: u64 = 2;
const MAX_OPEN: u32 = 3;
const MAX_ACTIVE: u32 = 5;
/// The longest append, in sectors.
const MAX_APPEND: u64 = 256;

#[derive(Clone, Copy)]
struct Zone {
    start: u64,
    pointer: u64,
    state: u8,
}

impl Zone {
    fn is_open(&self) -> bool {
        matches!(self.state, ZS_IOPEN | ZS_EOPEN)
    }

    fn is_active(&self) -> bool {
        self.is_open() || self.state == ZS_CLOSED
    }

    fn reset(&mut self) {
        (self.pointer, self.state) = (self.start, ZS_EMPTY);
    }
}

pub(crate) struct Zones {
    faults: Faults,
    zones: Vec<Zone>,
}

impl Zones {
    /// Of a disk of so many sectors, all empty.
    pub(crate) fn new(sectors: u64, faults: Faults) -> Self {
        let zone = |nth| {
            let start = nth * SECTORS;
            Zone { start, pointer: start, state: if nth < CONVENTIONAL { ZS_NOT_WP } else { ZS_EMPTY } }
        };
        Self { faults, zones: (0..sectors / SECTORS).map(zone).collect() }
    }

    /// What the configuration says.
    pub(crate) fn characteristics(&self) -> Zoned {
        let granularity = if self.faults.has(Fault::BlkZoneGranularityZero) { 0 } else { SECTOR_SIZE as u32 };
        Zoned {
            zone_sectors: (SECTORS as u32).into(),
            max_open_zones: MAX_OPEN.into(),
            max_active_zones: MAX_ACTIVE.into(),
            max_append_sectors: (MAX_APPEND as u32).into(),
            write_granularity: granularity.into(),
            model: Z_HM,
            unused: [0; 3],
        }
    }

    fn at(&self, sector: u64) -> Result<usize, u8> {
        let index = usize::try_from(sector / SECTORS).map_err(|_| S_ZONE_INVALID_CMD)?;
        if index < self.zones.len() { Ok(index) } else { Err(S_ZONE_INVALID_CMD) }
    }

    fn zone(&mut self, index: usize) -> Result<&mut Zone, u8> {
        self.zones.get_mut(index).ok_or(S_ZONE_INVALID_CMD)
    }

    /// Answers a report from `sector` on, with room for so many bytes.
    pub(crate) fn report(&self, sector: u64, chain: &mut Chain, room: u64) -> Result<u64, u8> {
        let first = if self.faults.has(Fault::BlkZoneReportFromStart) { 0 } else { self.at(sector)? };
        let header = size_of::<ZoneReport>() as u64;
        let each = size_of::<ZoneDescriptor>() as u64;
        let fit = usize::try_from(room.checked_sub(header).ok_or(S_IOERR)? / each).unwrap_or(usize::MAX);
        let zones = self.zones.get(first..).unwrap_or_default();
        let shown = zones.get(..fit.min(zones.len())).unwrap_or_default();
        let count = if self.faults.has(Fault::BlkZoneReportCountsAll) { zones } else { shown }.len() as u64;
        let mut answer = ZoneReport { zones: count.into(), reserved: [0; 56] }.as_bytes().to_vec();
        for zone in shown {
            let conventional = zone.state == ZS_NOT_WP;
            let descriptor = ZoneDescriptor {
                capacity: if conventional { SECTORS } else { CAPACITY }.into(),
                start: zone.start.into(),
                write_pointer: zone.pointer.into(),
                kind: if conventional { ZT_CONV } else { ZT_SWR },
                state: zone.state,
                reserved: [0; 38],
            };
            answer.extend_from_slice(descriptor.as_bytes());
        }
        chain.write(0, &answer);
        Ok(answer.len() as u64)
    }

    /// Opens, closes, finishes or resets.
    pub(crate) fn command(&mut self, kind: u32, sector: u64) -> Result<u64, u8> {
        if kind == T_ZONE_RESET_ALL {
            let written = self.zones.iter_mut().filter(|zone| ![ZS_NOT_WP, ZS_EMPTY].contains(&zone.state));
            let most = if self.faults.has(Fault::BlkZoneResetAllOne) { 1 } else { usize::MAX };
            written.take(most).for_each(Zone::reset);
            return Ok(0);
        }
        let index = self.at(sector)?;
        let faults = self.faults;
        let zone = self.zone(index)?;
        let state = zone.state;
        if sector != zone.start && !faults.has(Fault::BlkZoneSectorRounded) {
            return Err(S_ZONE_INVALID_CMD);
        }
        match (kind, state) {
            (_, ZS_NOT_WP) if faults.has(Fault::BlkZoneConventionalOk) => {}
            (_, ZS_NOT_WP) | (T_ZONE_OPEN, ZS_FULL) | (T_ZONE_CLOSE, ZS_FULL | ZS_EMPTY) => {
                return Err(S_ZONE_INVALID_CMD);
            }
            (T_ZONE_OPEN, _) => self.open(index, ZS_EOPEN)?,
            (T_ZONE_CLOSE, _) if zone.pointer == zone.start => zone.reset(),
            (T_ZONE_CLOSE, _) => zone.state = ZS_CLOSED,
            (T_ZONE_FINISH, _) if faults.has(Fault::BlkZoneFinishIgnored) => {}
            (T_ZONE_FINISH, _) => zone.state = ZS_FULL,
            (T_ZONE_RESET, _) => zone.reset(),
            _ => return Err(S_UNSUPP),
        }
        Ok(0)
    }

    /// Opens a zone; one that a write has opened is closed for it if need be.
    fn open(&mut self, index: usize, state: u8) -> Result<(), u8> {
        let count = |is: fn(&Zone) -> bool| self.zones.iter().filter(|zone| is(zone)).count() as u32;
        let (open, active) = (count(Zone::is_open), count(Zone::is_active));
        let limited = !self.faults.has(Fault::BlkZoneLimitsIgnored);
        let zone = *self.zone(index)?;
        if limited && !zone.is_active() && active >= MAX_ACTIVE {
            return Err(S_ZONE_ACTIVE_RESOURCE);
        }
        if limited && !zone.is_open() && open >= MAX_OPEN {
            let other = self.zones.iter_mut().find(|zone| zone.state == ZS_IOPEN);
            other.ok_or(S_ZONE_OPEN_RESOURCE)?.state = ZS_CLOSED;
        }
        self.zone(index)?.state = state;
        Ok(())
    }

    /// Whether so many sectors can be read.
    pub(crate) fn read(&self, sector: u64, sectors: u64) -> Result<(), u8> {
        let (first, last) = (self.at(sector)?, self.at(sector + sectors.max(1) - 1)?);
        let crosses = first != last && last as u64 >= CONVENTIONAL;
        if crosses && !self.faults.has(Fault::BlkZoneReadsCross) { Err(S_ZONE_INVALID_CMD) } else { Ok(()) }
    }

    /// Makes place for so many sectors, and says where.
    pub(crate) fn write(&mut self, sector: u64, sectors: u64, append: bool) -> Result<u64, u8> {
        let faults = self.faults;
        let index = self.at(sector)?;
        let zone = *self.zone(index)?;
        if zone.state == ZS_NOT_WP {
            let within = index == self.at(sector + sectors.max(1) - 1)?;
            let allowed = within && (!append || faults.has(Fault::BlkZoneConventionalOk));
            return if allowed { Ok(sector) } else { Err(S_ZONE_INVALID_CMD) };
        }
        if append && (sector != zone.start || sectors > MAX_APPEND || sectors == 0) {
            return Err(S_ZONE_INVALID_CMD);
        }
        let at = if append { zone.pointer } else { sector };
        let end = at + sectors;
        if zone.state == ZS_FULL || end > zone.start + CAPACITY {
            return Err(S_ZONE_INVALID_CMD);
        }
        if at != zone.pointer && !faults.has(Fault::BlkZoneWriteAnywhere) {
            return Err(S_ZONE_UNALIGNED_WP);
        }
        if sectors == 0 {
            return Err(S_OK);
        }
        if !zone.is_open() {
            self.open(index, ZS_IOPEN)?;
        }
        let zone = self.zone(index)?;
        zone.pointer = zone.pointer.max(end);
        if zone.pointer == zone.start + CAPACITY && !faults.has(Fault::BlkZoneNeverFull) {
            zone.state = ZS_FULL;
        }
        Ok(at)
    }
}
