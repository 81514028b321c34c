//! A host-managed zoned device of the host, passed through.
//!
//! The device has the last word on its zones. The table follows it, to know where appends go and which status a refusal
//! is, and is corrected from the device after each request about a zone and each write that failed. Writes go past the
//! page cache and one at a time in each zone, since the device takes them in order only.
//!
//! Calls on zones block: they are errands ([`outboard_device::Errands`]), and hold their zones meanwhile.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;

use outboard_device::defs::blk::{SECTOR_SIZE, ZT_CONV, ZoneDescriptor, ZoneReport};
use outboard_device::{Chain, DeviceError};

use super::layout::{Layout, MAX_APPEND, MAX_ZONES};
use super::table::{Command, Refusal, Table};
use super::zone::{State, Zone};
use super::{Zones, report};
use crate::host::ZoneLimits;
use crate::host::ioctl::{HostZone, ZoneCall, report_zones, zone_call};

/// What a zoned device is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ZoneErrand {
    /// Something to a zone, by its number.
    Command(Command, usize),
    /// Empty all zones.
    ResetAll,
    /// Say what a zone is, after a write that failed.
    Look(usize),
    /// Report zones to the guest, from a sector on.
    Report(u64),
}

impl Zones {
    /// The zones of a device.
    ///
    /// # Errors
    /// The device does not tell, or has zones that cannot be served.
    pub(super) fn of_device(
        device: BorrowedFd<'_>,
        limits: ZoneLimits,
        bytes: u64,
    ) -> Result<Self, DeviceError> {
        let sectors = bytes / SECTOR_SIZE;
        let mut found: Vec<HostZone> = Vec::new();
        let mut next = 0;
        while next < sectors {
            let zones = report_zones(device, next)
                .map_err(|error| DeviceError::host("cannot read the zones of the device", error))?;
            next = zones.last().map_or(sectors, |zone| zone.start.saturating_add(zone.len.max(1)));
            found.extend(zones);
            if found.len() as u64 > MAX_ZONES {
                return Err(DeviceError::Invalid(format!("more than {MAX_ZONES} zones")));
            }
        }
        let odd = || DeviceError::Invalid("the zones of the device are of odd sizes".to_owned());
        let zone = found.first().and_then(|zone| u32::try_from(zone.len).ok()).ok_or_else(odd)?;
        let regular = (0..).zip(&found).all(|(at, one)| one.start == at * u64::from(zone));
        if !zone.is_power_of_two() || !regular {
            return Err(odd());
        }
        let layout = Layout {
            zone,
            count: u32::try_from(found.len()).unwrap_or(u32::MAX),
            sectors,
            max_open: limits.max_open,
            max_active: limits.max_active,
            granularity: limits.granularity / SECTOR_SIZE as u32,
            max_append: zone.min(MAX_APPEND),
        };
        let zones: Vec<Zone> = found.iter().map(understand).collect();
        let kinds = zones.iter().map(|zone| zone.kind).collect();
        let table = Mutex::new(Table::new(layout, zones, true));
        Ok(Self { layout, kinds, table, sidecar: None, passed: true })
    }

    /// Begins to do something to a zone: its number, if the device is to be asked.
    pub(super) fn begin_command(&self, command: Command, sector: u64, again: bool) -> Result<usize, Refusal> {
        let mut table = self.table();
        if !table.is_quiet(sector) {
            return Err(Refusal::Busy);
        }
        let at = match command {
            Command::Reset => table.reset(sector)?,
            command => table.command(command, sector, again)?,
        };
        table.hold(at);
        Ok(at)
    }

    /// What of a write the device has done already, for a process that died: in sectors.
    pub(super) fn done_of(&self, sector: u64, count: u32) -> u32 {
        self.table().done_of(sector, count)
    }

    /// Has the device do something; on the thread for that.
    ///
    /// # Errors
    /// Those of the device. The table is right again all the same, if the device still answers.
    pub(crate) fn run_errand(
        &self,
        device: BorrowedFd<'_>,
        errand: ZoneErrand,
        chain: &mut Chain,
    ) -> io::Result<()> {
        match errand {
            ZoneErrand::Command(command, at) => {
                let call = match command {
                    Command::Open => ZoneCall::Open,
                    Command::Close => ZoneCall::Close,
                    Command::Finish => ZoneCall::Finish,
                    Command::Reset => ZoneCall::Reset,
                };
                let start = self.layout.start(at);
                let len = u64::from(self.layout.zone).min(self.layout.sectors - start);
                let done = zone_call(device, call, start, len);
                self.look(device, at).and(done)
            }
            ZoneErrand::ResetAll => {
                let done = zone_call(device, ZoneCall::Reset, 0, self.layout.sectors);
                if done.is_err() {
                    for at in 0..self.kinds.len() {
                        self.look(device, at)?;
                    }
                }
                done
            }
            ZoneErrand::Look(at) => self.look(device, at),
            ZoneErrand::Report(sector) => self.pass_report(device, sector, chain),
        }
    }

    /// Corrects the table from the device.
    fn look(&self, device: BorrowedFd<'_>, at: usize) -> io::Result<()> {
        let zones = report_zones(device, self.layout.start(at))?;
        let zone = zones.first().map(understand).ok_or(io::ErrorKind::InvalidData)?;
        self.table().correct(at, zone.state, zone.pointer);
        Ok(())
    }

    fn pass_report(&self, device: BorrowedFd<'_>, sector: u64, chain: &mut Chain) -> io::Result<()> {
        let Some((first, _)) = self.layout.place(sector) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let room = chain.writable_len().saturating_sub(size_of::<ZoneReport>());
        let count = (room / size_of::<ZoneDescriptor>()).min(self.kinds.len() - first);
        let head = ZoneReport { zones: (count as u64).into(), reserved: [0; 56] };
        chain.write_obj(&head).map_err(io::Error::other)?;
        let mut next = first;
        while next < first + count {
            let zones = report_zones(device, self.layout.start(next))?;
            if zones.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            for zone in zones.iter().take(first + count - next) {
                let described = report::describe(&self.layout, next, &understand(zone));
                chain.write_obj(&described).map_err(io::Error::other)?;
                next += 1;
            }
        }
        Ok(())
    }
}

/// A zone of the device as one of ours.
fn understand(zone: &HostZone) -> Zone {
    let short = |sectors: u64| u32::try_from(sectors).unwrap_or(u32::MAX);
    if zone.kind == ZT_CONV {
        return Zone::conventional(short(zone.len));
    }
    let pointer = short(zone.pointer.saturating_sub(zone.start));
    // What cannot be understood is not to be touched.
    let state = State::of(zone.condition).unwrap_or(State::Offline);
    Zone::sequential(short(zone.capacity), state, pointer)
}
