//! Zone reports (VIRTIO 1.3, 5.2.6).

use outboard_device::Chain;
use outboard_device::defs::blk::{ZoneDescriptor, ZoneReport};

use super::Zones;
use super::layout::{Kind, Layout};
use super::zone::{State, Zone};
use crate::request::Outcome;

/// So many zones are looked at in one go, under the lock.
const BATCH: usize = 32;

impl Zones {
    /// There is such a sector, and room for a report.
    pub(super) fn check_report(&self, sector: u64, chain: &Chain) -> Result<(), Outcome> {
        let well = sector < self.layout.sectors && chain.writable_len() >= size_of::<ZoneReport>();
        if well { Ok(()) } else { Err(Outcome::ZoneInvalid) }
    }

    /// Reports the zones from the one that `sector` is in, as many as there is room for.
    pub(super) fn report(&self, chain: &mut Chain, sector: u64) -> Result<(), Outcome> {
        let (first, _) = self.layout.place(sector).ok_or(Outcome::ZoneInvalid)?;
        self.check_report(sector, chain)?;
        let room = chain.writable_len() - size_of::<ZoneReport>();
        let count = (room / size_of::<ZoneDescriptor>()).min(self.kinds.len() - first);
        let head = ZoneReport { zones: (count as u64).into(), reserved: [0; 56] };
        chain.write_obj(&head).map_err(|_| Outcome::Failed)?;
        let mut next = first;
        while next < first + count {
            let batch = BATCH.min(first + count - next);
            let mut zones = [Zone::conventional(0); BATCH];
            {
                let table = self.table();
                let from = table.zones().get(next..next + batch).unwrap_or_default();
                zones.iter_mut().zip(from).for_each(|(zone, from)| *zone = *from);
            }
            for (zone, at) in zones.iter().zip(next..next + batch) {
                chain.write_obj(&describe(&self.layout, at, zone)).map_err(|_| Outcome::Failed)?;
            }
            next += batch;
        }
        Ok(())
    }
}

pub(super) fn describe(layout: &Layout, at: usize, zone: &Zone) -> ZoneDescriptor {
    let start = layout.start(at);
    let pointer = match (zone.kind, zone.state) {
        (Kind::Sequential, State::Full | State::ReadOnly | State::Offline) | (Kind::Conventional, _) => {
            start + u64::from(layout.zone)
        }
        _ => start + u64::from(zone.pointer),
    };
    ZoneDescriptor {
        capacity: u64::from(zone.capacity).into(),
        start: start.into(),
        write_pointer: pointer.into(),
        kind: zone.kind.code(),
        state: zone.state as u8,
        reserved: [0; 38],
    }
}
