//! How an emulated disk is cut into zones. Pure; the numbers come from the command line.

use outboard_device::defs::blk::{SECTOR_SIZE, ZT_CONV, ZT_SWR};

/// The most zones of a disk: their states are kept in memory.
pub(super) const MAX_ZONES: u64 = 1 << 20;
/// The longest append, in sectors: 1 MiB.
pub(super) const MAX_APPEND: u32 = 2048;

/// What the zones of a disk are like. Lengths in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Size of a zone, a power of two; the last one may be shorter.
    pub(crate) zone: u32,
    /// How many there are.
    pub(crate) count: u32,
    /// Size of the disk.
    pub(crate) sectors: u64,
    /// The most open ones, 0 for any number.
    pub(crate) max_open: u32,
    /// The most active ones, 0 for any number.
    pub(crate) max_active: u32,
    /// What writes come in.
    pub(crate) granularity: u32,
    /// The longest append.
    pub(crate) max_append: u32,
}

/// What an emulated disk is asked to be like. Lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) zone: u64,
    pub(crate) capacity: Option<u64>,
    pub(crate) conventional: u32,
    pub(crate) max_open: u32,
    pub(crate) max_active: u32,
    pub(crate) block: u32,
    pub(crate) disk: u64,
}

/// What is special to a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Can be written anywhere.
    Conventional,
    /// Must be written in sequence.
    Sequential,
}

impl Kind {
    /// As the specification numbers it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Conventional => ZT_CONV,
            Self::Sequential => ZT_SWR,
        }
    }
}

impl Layout {
    /// The layout asked for, and the capacity of its sequential zones; or what is wrong with it, for the user.
    pub(crate) fn emulated(wanted: &Wanted) -> Result<(Self, u32), String> {
        let &Wanted { zone, conventional, max_open, max_active, .. } = wanted;
        let block = u64::from(wanted.block);
        let sectors = |bytes: u64| u32::try_from(bytes / SECTOR_SIZE).unwrap_or(u32::MAX);
        if !zone.is_power_of_two() || !(4096..=1 << 40).contains(&zone) {
            return Err("a zone is a power of two from 4 KiB to 1 TiB (--zoned)".to_owned());
        }
        let capacity = wanted.capacity.unwrap_or(zone);
        if capacity == 0 || capacity > zone || !capacity.is_multiple_of(block) {
            return Err(format!("a zone's capacity is whole blocks of {block}, and no more than the zone"));
        }
        let count = wanted.disk / zone;
        if count == 0 || count > MAX_ZONES {
            return Err(format!("{} bytes make {count} zones of {zone}: not 1 to {MAX_ZONES}", wanted.disk));
        }
        if u64::from(conventional) >= count {
            return Err(format!(
                "{conventional} of {count} zones conventional: none is left to be sequential"
            ));
        }
        // Open zones are active (VIRTIO 1.3, 5.2.6).
        if max_active != 0 && max_open > max_active {
            return Err(format!("{max_open} open zones are more than {max_active} active ones"));
        }
        let layout = Self {
            zone: sectors(zone),
            count: u32::try_from(count).unwrap_or(u32::MAX),
            sectors: count * (zone / SECTOR_SIZE),
            max_open: if max_open == 0 { max_active } else { max_open },
            max_active,
            granularity: sectors(block),
            max_append: sectors(capacity).min(MAX_APPEND),
        };
        Ok((layout, sectors(capacity)))
    }

    /// The zone that a sector is in, and where in it.
    pub(crate) fn place(&self, sector: u64) -> Option<(usize, u32)> {
        let (zone, within) = (sector / u64::from(self.zone), sector % u64::from(self.zone));
        (sector < self.sectors).then_some((zone as usize, within as u32))
    }

    /// Where a zone begins.
    pub(crate) fn start(&self, zone: usize) -> u64 {
        zone as u64 * u64::from(self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        zone: 1 << 20,
        capacity: None,
        conventional: 2,
        max_open: 4,
        max_active: 6,
        block: 4096,
        disk: (10 << 20) + 5000,
    };

    #[test]
    fn layout_is_counted_in_whole_zones() {
        let (layout, capacity) = Layout::emulated(&WANTED).unwrap();
        assert_eq!((layout.zone, layout.count, layout.sectors), (2048, 10, 20480));
        assert_eq!((layout.granularity, layout.max_append, capacity), (8, 2048, 2048));
        assert_eq!(layout.place(2047), Some((0, 2047)));
        assert_eq!(layout.place(20479), Some((9, 2047)));
        assert_eq!(layout.place(20480), None);
        assert_eq!(layout.place(u64::MAX), None);
        let active = Wanted { max_open: 0, ..WANTED };
        assert_eq!(Layout::emulated(&active).unwrap().0.max_open, 6, "open zones are active");
    }

    #[test]
    fn layout_that_makes_no_sense_is_refused_with_the_reason() {
        let cases: &[(Wanted, &str)] = &[
            (Wanted { zone: 3 << 20, ..WANTED }, "power of two"),
            (Wanted { zone: 2048, ..WANTED }, "power of two"),
            (Wanted { zone: 1 << 41, ..WANTED }, "power of two"),
            (Wanted { capacity: Some((1 << 20) + 4096), ..WANTED }, "no more than the zone"),
            (Wanted { capacity: Some(512), ..WANTED }, "whole blocks of 4096"),
            (Wanted { disk: 4096, ..WANTED }, "0 zones"),
            (Wanted { disk: 1 << 60, ..WANTED }, "not 1 to"),
            (Wanted { conventional: 10, ..WANTED }, "none is left"),
            (Wanted { max_open: 7, ..WANTED }, "more than 6 active"),
        ];
        for (wanted, reason) in cases {
            let error = Layout::emulated(wanted).unwrap_err();
            assert!(error.contains(reason), "{wanted:?}: {error}");
        }
    }
}
