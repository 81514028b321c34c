//! Guest memory: a list of regions, each mapped by itself, and numbers in shared memory.
//!
//! What a table must be like is decided here, not in the crate that maps it: that crate sees one region at a time.
//! Nobody is trusted with addresses or lengths.

use std::os::fd::OwnedFd;

use outboard_guest_memory::{MemoryError, MemoryMap, Region, Segment};
use outboard_vhost_user::payload::MemRegion;
use zerocopy::{FromZeros, IntoBytes};

use crate::faults::{Fault, Faults, die};

/// What GET_MAX_MEM_SLOTS answers.
pub(crate) const MAX_SLOTS: usize = 509;

/// The guest's memory, as far as it is shared.
pub(crate) struct Guest {
    faults: Faults,
    slots: Vec<Slot>,
}

#[derive(Clone)]
struct Slot {
    region: MemRegion,
    /// Absent only where a fault accepts what cannot be mapped.
    map: Option<MemoryMap>,
}

/// Why memory was not changed or not found.
pub(crate) type Bad = String;

impl Guest {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, slots: Vec::new() }
    }

    /// SET_MEM_TABLE: all of it, or nothing.
    pub(crate) fn replace(&mut self, table: Vec<(MemRegion, OwnedFd)>) -> Result<(), Bad> {
        let limit = if self.faults.has(Fault::TableOfFour) { 4 } else { MAX_SLOTS };
        if table.len() > limit {
            return Err(format!("{} regions", table.len()));
        }
        if self.faults.has(Fault::TableInParts) {
            self.slots.clear();
            return table.into_iter().try_for_each(|(region, fd)| self.add(region, fd));
        }
        let mut new = Self::new(self.faults);
        for (region, fd) in table {
            new.add(region, fd)?;
        }
        if self.faults.has(Fault::MappingsLeaked) {
            self.leak();
        }
        if self.faults.has(Fault::TableAdds) {
            self.slots.append(&mut new.slots);
        } else {
            self.slots = new.slots;
        }
        Ok(())
    }

    /// Leaves everything mapped for ever, for a fault that does.
    pub(crate) fn leak(&mut self) {
        std::mem::forget(std::mem::take(&mut self.slots));
    }

    /// ADD_MEM_REG.
    pub(crate) fn add(&mut self, region: MemRegion, fd: OwnedFd) -> Result<(), Bad> {
        let limit = if self.faults.has(Fault::FewSlots) { 8 } else { MAX_SLOTS };
        if self.slots.len() >= limit {
            return Err("no slot is left".to_owned());
        }
        if self.faults.has(Fault::UnalignedRegionRefused) && !region.mmap_offset.is_multiple_of(4096) {
            return Err("the offset is not that of a page".to_owned());
        }
        if !self.faults.has(Fault::OverlapAccepted)
            && self.slots.iter().any(|slot| overlap(&slot.region, &region))
        {
            return Err("regions overlap".to_owned());
        }
        let MemRegion { guest_addr, mut size, user_addr, mut mmap_offset } = region;
        if self.faults.has(Fault::OffsetRoundedDown) {
            mmap_offset -= mmap_offset % 4096;
        }
        if self.faults.has(Fault::OffsetIgnored) {
            mmap_offset = 0;
        }
        if self.faults.has(Fault::SizeRoundedDown) {
            size -= size % 4096;
        }
        if guest_addr == 0 && self.faults.has(Fault::AddressZeroRefused) {
            return Err("nothing lies at guest address 0".to_owned());
        }
        if guest_addr.max(user_addr) >> 47 != 0 && self.faults.has(Fault::HighAddressRefused) {
            return Err("so high there is no memory".to_owned());
        }
        if guest_addr == user_addr && self.faults.has(Fault::IdentityRefused) {
            return Err("the same address twice".to_owned());
        }
        let asked = Region { gpa: guest_addr, size, user_addr, mmap_offset };
        let map = match MemoryMap::from_table(vec![(asked, fd)]) {
            Ok(map) => Some(map),
            Err(_) if self.faults.has(Fault::BadRegionAccepted) => None,
            Err(MemoryError::ShortFile { .. }) if self.faults.has(Fault::ShortFileCrashes) => die(),
            Err(error) => return Err(error.to_string()),
        };
        self.slots.push(Slot { region, map });
        Ok(())
    }

    /// REM_MEM_REG: the region with the same addresses and size. Where its file was mapped does not count.
    pub(crate) fn remove(&mut self, region: &MemRegion) -> Result<(), Bad> {
        let offset_counts = self.faults.has(Fault::RemovalNeedsOffset);
        let is_it = |own: &MemRegion| {
            (own.guest_addr, own.size, own.user_addr) == (region.guest_addr, region.size, region.user_addr)
                && (!offset_counts || own.mmap_offset == region.mmap_offset)
        };
        match self.slots.iter().position(|slot| is_it(&slot.region)) {
            _ if self.faults.has(Fault::RemovalIgnored) => Ok(()),
            Some(at) => {
                self.slots.remove(at);
                Ok(())
            }
            None if self.faults.has(Fault::UnknownRemovalAcked) => Ok(()),
            None => Err("no such region".to_owned()),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    /// The memory at addresses of the front end's, which must lie in one region.
    pub(crate) fn of_user(&self, addr: u64, len: u64) -> Option<Segment> {
        self.slots.iter().find_map(|Slot { region, map }| {
            let offset = addr.checked_sub(region.user_addr)?;
            map.as_ref()?.segment(region.guest_addr.checked_add(offset)?, len).ok()
        })
    }

    /// Whether these addresses of the front end's lie in one region.
    pub(crate) fn in_one_region(&self, addresses: [u64; 3]) -> bool {
        let has = |region: &MemRegion, addr: u64| {
            addr.checked_sub(region.user_addr).is_some_and(|offset| offset < region.size)
        };
        self.slots.iter().any(|slot| addresses.iter().all(|&addr| has(&slot.region, addr)))
    }

    /// The memory at guest addresses, in pieces where several regions have it. Nothing for a length of 0.
    pub(crate) fn of_guest(&self, gpa: u64, len: u64) -> Option<Vec<Segment>> {
        gpa.checked_add(len)?;
        let (mut at, mut left) = (gpa, len);
        let mut found = Vec::new();
        while left > 0 {
            let Slot { region, map } = self.slots.iter().find(|slot| contains(&slot.region, at))?;
            let here = left.min(region.size - (at - region.guest_addr));
            found.push(map.as_ref()?.segment(at, here).ok()?);
            at = at.checked_add(here)?;
            left -= here;
        }
        Some(found)
    }
}

fn contains(region: &MemRegion, gpa: u64) -> bool {
    gpa.checked_sub(region.guest_addr).is_some_and(|offset| offset < region.size)
}

fn overlap(one: &MemRegion, other: &MemRegion) -> bool {
    let meet = |a: u64, b: u64| a < b.saturating_add(other.size) && b < a.saturating_add(one.size);
    meet(one.guest_addr, other.guest_addr) || meet(one.user_addr, other.user_addr)
}

/// Numbers at an offset of shared memory. An aligned number is read and written at once, never in halves.
pub(crate) trait Cells {
    /// What is there; 0 outside.
    fn load<T: FromZeros + IntoBytes + zerocopy::FromBytes>(&self, at: usize) -> T;

    /// Writes; nothing outside.
    fn store<T: IntoBytes + zerocopy::Immutable>(&self, at: usize, value: T);
}

impl Cells for Segment {
    fn load<T: FromZeros + IntoBytes + zerocopy::FromBytes>(&self, at: usize) -> T {
        let mut value = T::new_zeroed();
        // Its callers stay within: rings and records are as long as their sizes say.
        let _ = self.read_into(at, value.as_mut_bytes());
        value
    }

    fn store<T: IntoBytes + zerocopy::Immutable>(&self, at: usize, value: T) {
        let _ = self.write_from(at, value.as_bytes());
    }
}
