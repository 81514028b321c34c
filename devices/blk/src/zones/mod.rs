//! A host-managed zoned disk (VIRTIO 1.3, 5.2): emulated over a file or memory, or a device of the host
//! ([`passed`]).
//!
//! [`Zones`] is what all queues share, the one thing that they do: a [`Table`] behind a lock, taken for a few steps
//! at the beginning and the end of a write, and by no read. What is behind a zone's write pointer always reads as
//! zeroes: a zone that is emptied becomes a hole, and so does at the start what a killed program left behind the
//! pointers. See [`sidecar`] for what is remembered when, and [`serve`] for how requests go.

mod layout;
mod passed;
mod report;
mod serve;
mod sidecar;
mod table;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outboard_device::DeviceError;
use outboard_device::defs::blk::{SECTOR_SIZE, Z_HM, Zoned};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

pub(crate) use layout::Wanted;
pub(crate) use passed::ZoneErrand;
pub(crate) use serve::{Claim, Emptied, ZoneQueue};
pub(crate) use table::{Command, Refusal};

use crate::host::{Host, ZoneLimits};
use crate::options::BlkOptions;
use crate::request::Outcome;
use layout::{Kind, Layout};
use sidecar::Sidecar;
use table::{Reservation, Table};
use zone::{Zone, fresh};

/// The zones of a disk, shared by its queues.
pub(crate) struct Zones {
    layout: Layout,
    /// What each zone is, which never changes.
    kinds: Box<[Kind]>,
    table: Mutex<Table>,
    sidecar: Option<Sidecar>,
    /// The device has the last word.
    passed: bool,
}

/// What the disk is made of.
pub(crate) enum Ground<'a> {
    /// Nothing outlives the program.
    Memory,
    /// An image.
    File { path: &'a Path, file: BorrowedFd<'a>, read_only: bool },
    /// A device that is zoned itself.
    Device { file: BorrowedFd<'a>, limits: ZoneLimits },
}

impl Zones {
    /// The zones of a disk; `None` if it has none.
    ///
    /// # Errors
    /// What was asked for makes no sense, or does not fit what is there.
    pub(crate) fn open(host: &Host, options: &BlkOptions) -> Result<Option<Self>, DeviceError> {
        let shape = host.shape();
        let ground = host.ground(options.read_only);
        let zone = match (&ground, options.zoned) {
            (Some(Ground::Device { .. }), Some(_)) => {
                let what = "the device has zones of its own: --zoned is for others";
                return Err(DeviceError::Invalid(what.to_owned()));
            }
            (Some(Ground::Device { file, limits }), None) => {
                return Self::of_device(*file, *limits, shape.bytes).map(Some);
            }
            (_, None) => return Ok(None),
            (_, Some(zone)) => zone,
        };
        let wanted = Wanted {
            zone,
            capacity: options.zone_capacity,
            conventional: options.zone_conventional,
            max_open: options.zone_max_open,
            max_active: options.zone_max_active,
            block: options.block_size.unwrap_or(shape.logical_block),
            disk: shape.bytes,
        };
        match ground.filter(|_| options.read_only || shape.discard.is_some()) {
            Some(ground) => Self::emulate(&wanted, &ground).map(Some),
            None => Err(DeviceError::Invalid(
                "zones are emulated over memory, and over files where holes can be made".to_owned(),
            )),
        }
    }

    /// Zones over a file or memory, as they were left there.
    ///
    /// # Errors
    /// What was asked for makes no sense, or does not fit what is there.
    fn emulate(wanted: &Wanted, ground: &Ground<'_>) -> Result<Self, DeviceError> {
        let (layout, capacity) = Layout::emulated(wanted).map_err(DeviceError::Invalid)?;
        let left_out = wanted.disk - layout.sectors * SECTOR_SIZE;
        if left_out > 0 {
            tracing::warn!("the last {left_out} bytes of the disk make no zone and are left out");
        }
        let conventional = wanted.conventional;
        let (zones, sidecar) = match *ground {
            Ground::Memory | Ground::Device { .. } => {
                (fresh(layout.zone, capacity, conventional, layout.count).collect(), None)
            }
            Ground::File { path, file, read_only } => {
                let failed =
                    |errno: Errno| DeviceError::host(format!("cannot look into {}", path.display()), errno);
                // Before there is a table: with one, whatever is behind its pointers is forgotten.
                let vacant = |zone: u32| {
                    let first = layout.start(zone as usize) * SECTOR_SIZE;
                    match data_from(file, first).map_err(failed)? {
                        None => Ok(()),
                        Some(_) => Err(DeviceError::Invalid(format!(
                            "{} has data where its zones would be, and {} does not know them: take an empty image",
                            path.display(),
                            Sidecar::path(path).display(),
                        ))),
                    }
                };
                let (sidecar, zones) =
                    Sidecar::open(path, &layout, capacity, conventional, read_only, vacant)?;
                if !read_only {
                    forget_behind_pointers(&layout, &zones, file).map_err(failed)?;
                }
                (zones, Some(sidecar))
            }
        };
        let kinds = zones.iter().map(|zone: &Zone| zone.kind).collect();
        let table = Table::new(layout, zones, false);
        if layout.max_active != 0 && table.active() > layout.max_active {
            return Err(DeviceError::Invalid(format!(
                "{} zones are active, more than {}",
                table.active(),
                layout.max_active
            )));
        }
        Ok(Self { layout, kinds, table: Mutex::new(table), sidecar, passed: false })
    }

    /// Size of the disk.
    pub(crate) fn sectors(&self) -> u64 {
        self.layout.sectors
    }

    /// The configuration space's part.
    pub(crate) fn config(&self) -> Zoned {
        let layout = &self.layout;
        Zoned {
            zone_sectors: layout.zone.into(),
            max_open_zones: layout.max_open.into(),
            max_active_zones: layout.max_active.into(),
            max_append_sectors: layout.max_append.into(),
            write_granularity: (layout.granularity * SECTOR_SIZE as u32).into(),
            model: Z_HM,
            unused: [0; 3],
        }
    }

    /// The file that has to be synced with the image, if there is one.
    ///
    /// # Errors
    /// It cannot be shared.
    pub(crate) fn share(&self) -> Result<Option<OwnedFd>, DeviceError> {
        let shared = self.sidecar.as_ref().map(Sidecar::share).transpose();
        shared.map_err(|error| DeviceError::host("cannot share the table of zones", error))
    }

    /// Makes the write pointers stable.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn sync(&self) -> Result<(), DeviceError> {
        let synced = self.sidecar.as_ref().map_or(Ok(()), Sidecar::sync);
        synced.map_err(|error| DeviceError::host("cannot sync the table of zones", error))
    }

    /// A read of sequential zones stays within one (VIRTIO 1.3, 5.2.6.2).
    fn check_read(&self, sector: u64, sectors: u64) -> Result<(), Outcome> {
        let zone = u64::from(self.layout.zone);
        if sector % zone + sectors <= zone || !self.is_sequential(sector, sectors) {
            return Ok(());
        }
        Err(Outcome::ZoneInvalid)
    }

    /// Whether a range touches a sequential zone.
    fn is_sequential(&self, sector: u64, sectors: u64) -> bool {
        let zone = u64::from(self.layout.zone);
        let (first, last) = (sector / zone, (sector + sectors.max(1) - 1) / zone);
        let zones = self.kinds.get(first as usize..=last as usize).unwrap_or_default();
        zones.contains(&Kind::Sequential)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host is done with a write: what is done is remembered before anybody hears of it. First, what of the disk,
    /// in bytes, has to become a hole before anything else happens to the zone, which is held until
    /// [`Zones::release`].
    fn settle(&self, write: Reservation, well: bool) -> (Option<(u64, u64)>, io::Result<()>) {
        let mut table = self.table();
        let at = write.zone as usize;
        let behind = table.settle(write, well).then(|| {
            let start = self.layout.start(at);
            let (pointer, end) =
                table.zone(at).map_or((0, 0), |zone| (zone.pointer, zone.capacity.max(zone.pointer)));
            ((start + u64::from(pointer)) * SECTOR_SIZE, u64::from(end - pointer) * SECTOR_SIZE)
        });
        (behind, self.remember(&table, Some(at)))
    }

    /// Remembers a zone; `None`: all of them.
    fn remember(&self, table: &Table, at: Option<usize>) -> io::Result<()> {
        let Some(sidecar) = &self.sidecar else { return Ok(()) };
        match at {
            Some(at) => table.zone(at).map_or(Ok(()), |zone| sidecar.put(at, zone)),
            None => sidecar.put_all(table.zones()),
        }
    }

    /// Opens, closes or finishes a zone.
    fn command(&self, command: Command, sector: u64, again: bool) -> Result<io::Result<()>, Refusal> {
        let mut table = self.table();
        let at = table.command(command, sector, again)?;
        Ok(self.remember(&table, Some(at)))
    }

    /// Begins to empty a zone, or all of them: which part of the disk has to become a hole, in bytes, before
    /// [`Zones::release`].
    fn reset(&self, sector: Option<u64>) -> Result<(Option<usize>, u64, u64), Refusal> {
        let mut table = self.table();
        let (at, first, last) = match sector {
            Some(sector) => {
                let at = table.reset(sector)?;
                (Some(at), at, at)
            }
            None => {
                table.reset_all()?;
                let first = self.kinds.iter().position(|&kind| kind == Kind::Sequential);
                (None, first.unwrap_or_default(), self.kinds.len().saturating_sub(1))
            }
        };
        if let Err(error) = self.remember(&table, at) {
            table.release(at, false);
            tracing::warn!("a zone cannot be emptied: {error}");
            return Err(Outcome::Failed.into());
        }
        let start = self.layout.start(first) * SECTOR_SIZE;
        Ok((at, start, self.layout.start(last + 1) * SECTOR_SIZE - start))
    }

    /// What [`Zones::reset`] or [`Zones::settle`] began is over.
    fn release(&self, at: Option<usize>, well: bool) {
        let mut table = self.table();
        table.release(at, well);
        if !well && let Err(error) = self.remember(&table, at) {
            tracing::warn!("a zone's state cannot be remembered: {error}");
        }
    }
}

/// Where data begins in a file, from `offset` on.
fn data_from(file: BorrowedFd<'_>, offset: u64) -> Result<Option<u64>, Errno> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Makes holes of what a program that was killed, or a host that crashed, left behind the write pointers.
fn forget_behind_pointers(layout: &Layout, zones: &[Zone], file: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut data = 0;
    for (at, zone) in zones.iter().enumerate().filter(|(_, zone)| zone.kind == Kind::Sequential) {
        let start = layout.start(at);
        let pointer = (start + u64::from(zone.pointer)) * SECTOR_SIZE;
        let end = (start + u64::from(zone.capacity)) * SECTOR_SIZE;
        if data < pointer {
            data = match data_from(file, pointer)? {
                Some(data) => data,
                None => return Ok(()),
            };
        }
        if data < end {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(file, mode, pointer, end - pointer)?;
            data = end;
        }
    }
    Ok(())
}
