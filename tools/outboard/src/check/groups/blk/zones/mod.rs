//! Disks with zones that are written in sequence (VIRTIO 1.3, 5.2.6). Zones are changed only where the back end is
//! ours, and only those that are empty: they are reset at the end.

use outboard_virtio_defs::blk::{
    F_ZONED, S_OK, T_ZONE_APPEND, T_ZONE_REPORT, T_ZONE_RESET, Z_HM, ZS_EMPTY, ZT_CONV, ZT_SWR,
    ZoneDescriptor, Zoned,
};
use zerocopy::FromBytes;

use super::{Came, Disk, header, is_blk, pattern, setup};
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

pub(in crate::check::groups) mod limits;
pub(in crate::check::groups) mod report;
pub(in crate::check::groups) mod states;
pub(in crate::check::groups) mod writes;

/// Bytes before the zones of a report, and of each zone in it.
const REPORT: usize = 64;
const ZONE: usize = 64;

/// A disk with zones, and a running queue.
struct ZonedDisk {
    disk: Disk,
    zoned: Zoned,
}

impl ZonedDisk {
    fn zone_sectors(&self) -> u64 {
        u64::from(self.zoned.zone_sectors.get()).max(1)
    }

    /// How many zones there have to be.
    fn count(&self) -> u64 {
        self.disk.capacity().div_ceil(self.zone_sectors())
    }

    /// What writes come in: bytes and sectors.
    fn unit(&self) -> (usize, u64) {
        let granularity = usize::try_from(self.zoned.write_granularity.get()).unwrap_or(0);
        let unit = granularity.max(self.disk.block());
        (unit, (unit / super::SECTOR) as u64)
    }

    /// A report from `sector` on, with room for so many bytes.
    fn report_in(&mut self, sector: u64, room: usize) -> Checked<Came> {
        self.disk.ask(T_ZONE_REPORT, sector, &[], &[u32::try_from(room)?])
    }

    /// The zones from the one that has `sector` on, up to so many.
    fn report(&mut self, sector: u64, most: usize) -> Checked<Vec<ZoneDescriptor>> {
        let came = self.report_in(sector, REPORT + most * ZONE)?;
        ensure!(came.status == S_OK, "a report from sector {sector} has status {}", came.status);
        let count = came.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        ensure!(count <= most as u64, "a report with room for {most} zones has {count}");
        let zones = came.data.get(REPORT..).unwrap_or_default().chunks_exact(ZONE);
        let zones = zones.take(usize::try_from(count)?).map(ZoneDescriptor::read_from_bytes);
        zones.collect::<Result<_, _>>().map_err(|_| Stop::Skip("our own side: a zone's size".to_owned()))
    }

    /// The zone at this sector.
    fn zone(&mut self, start: u64) -> Checked<ZoneDescriptor> {
        let zone = self.report(start, 1)?.pop();
        let zone = zone.filter(|zone| zone.start.get() == start);
        zone.ok_or_else(|| Stop::fail(format!("a report from sector {start} does not begin with that zone")))
    }

    /// All zones.
    fn all(&mut self) -> Checked<Vec<ZoneDescriptor>> {
        const AT_ONCE: usize = 256;
        let mut all: Vec<ZoneDescriptor> = Vec::new();
        while (all.len() as u64) < self.count() {
            let more = self.report(all.len() as u64 * self.zone_sectors(), AT_ONCE)?;
            ensure!(!more.is_empty(), "a report from zone {} has none", all.len());
            all.extend(more);
        }
        Ok(all)
    }

    /// Asks for something to be done to a zone.
    fn command(&mut self, kind: u32, sector: u64) -> Checked<u8> {
        Ok(self.disk.ask(kind, sector, &[], &[])?.status)
    }

    /// The same; that has to work, and leave the zone in this state.
    fn becomes(&mut self, kind: u32, start: u64, state: u8) -> Checked {
        let status = self.command(kind, start)?;
        ensure!(status == S_OK, "request {kind} has status {status}");
        let now = self.zone(start)?.state;
        ensure!(now == state, "after request {kind} the zone is in state {now}, not {state}");
        Ok(())
    }

    /// Appends data to a zone: the status, and where it says that the data is.
    fn append(&mut self, start: u64, data: &[u8]) -> Checked<(u8, u64)> {
        let came = self.disk.ask_in(vec![header(T_ZONE_APPEND, start), data.to_vec()], vec![8, 1])?;
        Ok((came.status, came.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))))
    }

    /// Writes a unit to the start of an empty zone.
    fn begin(&mut self, start: u64) -> Checked {
        let (unit, _) = self.unit();
        self.disk.write(start, &pattern(start, unit))
    }

    /// Does something with so many empty zones, and resets them. Not with all that there are: what is checked may
    /// need one more.
    fn with_empty(&mut self, count: usize, body: impl FnOnce(&mut Self, &[u64]) -> Checked) -> Checked {
        let all = self.all()?;
        let empty = all.iter().filter(|zone| zone.kind == ZT_SWR && zone.state == ZS_EMPTY);
        let starts: Vec<u64> = empty.map(|zone| zone.start.get()).take(count).collect();
        if starts.len() < count {
            return Err(Stop::Skip(format!("{count} empty zones are needed")));
        }
        let came = body(self, &starts);
        let mut back = Ok(());
        for start in starts {
            let status = self.command(T_ZONE_RESET, start)?;
            if status != S_OK {
                back = Err(Stop::Fail(format!("the reset of a zone has status {status}")));
            }
        }
        came.and(back)
    }
}

/// With a disk for each ring format.
fn each_zoned(cx: &mut Cx, mut body: impl FnMut(&mut Cx, &mut ZonedDisk) -> Checked) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_ZONED, "ZONED")?;
    cx.each_format(|cx, format| {
        let disk = Disk::any(cx, &setup(format))?;
        let zoned = disk.config.zoned;
        if zoned.model != Z_HM {
            return Err(Stop::NotApplicable("its zones need not be written in sequence".to_owned()));
        }
        body(cx, &mut ZonedDisk { disk, zoned })
    })
}

/// The same, with a disk whose zones may be changed.
fn each_ours(cx: &mut Cx, mut body: impl FnMut(&mut Cx, &mut ZonedDisk) -> Checked) -> Checked {
    each_zoned(cx, |cx, zoned| {
        zoned.disk.may_write(cx)?;
        body(cx, zoned)
    })
}

fn is_conventional(zone: &ZoneDescriptor) -> bool {
    zone.kind == ZT_CONV
}
