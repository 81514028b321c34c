//! The memory table as immutable snapshots: validated when made, translated from thereafter.
//!
//! The front end gives the table and is not trusted with it (vhost-user: Memory region description); the guest gives
//! the addresses to translate. A snapshot never changes. Each message makes a new one out of the old, so a failure
//! leaves the old in force, and rings in other threads take the new one over when it suits them.
#![allow(unsafe_code)] // copies out of pieces of the map itself

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::copy::{copy_from_guest, copy_to_guest};
use crate::mapping::Mapping;
use crate::{DirtyLog, MemoryError, Piece, Segment};

mod region;
#[cfg(test)]
mod tests;

pub use region::Region;
use region::Slot;

/// Most regions that a table can have: what back ends in the field answer to GET_MAX_MEM_SLOTS (KVM's slots of x86,
/// less what QEMU keeps for itself).
pub const MAX_SLOTS: usize = 509;

/// A snapshot of the guest's memory: the regions, each mapped, and the dirty log if there is one. Cheap to clone;
/// clones are the same snapshot. A region is mapped until the last snapshot that contains it is dropped, and the last
/// segment of it.
#[derive(Clone)]
pub struct MemoryMap(Arc<Snapshot>);

struct Snapshot {
    /// Ascending by guest address, without overlap in either address space.
    slots: Arc<[Slot]>,
    log: Option<DirtyLog>,
}

impl MemoryMap {
    /// No memory: the state before the first table. Every translation fails.
    pub fn empty() -> Self {
        Self::new(Arc::new([]), None)
    }

    /// Maps a whole table (SET_MEM_TABLE). Each region comes with its own descriptor, closed on return; several may
    /// be of the same file. An empty table is legal. There is no dirty log; see [`MemoryMap::with_log`].
    ///
    /// # Errors
    /// Too many regions; size 0, overflow, overlap in either address space; a file that is short or cannot be
    /// written; the host's refusal. Nothing stays mapped then.
    pub fn from_table(regions: Vec<(Region, OwnedFd)>) -> Result<Self, MemoryError> {
        check_count(regions.len())?;
        let mut sorted: Vec<Region> = regions.iter().map(|(region, _)| *region).collect();
        region::check(&mut sorted)?;
        let slots = regions.into_iter().map(|(region, fd)| slot(region, fd));
        let mut slots = slots.collect::<Result<Vec<_>, _>>()?;
        slots.sort_unstable_by_key(|slot| slot.region.gpa);
        Ok(Self::new(slots.into(), None))
    }

    /// This snapshot plus one region (ADD_MEM_REG), whose descriptor is closed on return.
    ///
    /// # Errors
    /// As [`MemoryMap::from_table`]; a region that is there already overlaps itself.
    pub fn with_region(&self, region: Region, fd: OwnedFd) -> Result<Self, MemoryError> {
        check_count(self.len() + 1)?;
        let mut sorted: Vec<Region> = self.regions().chain([region]).collect();
        region::check(&mut sorted)?;
        let new = slot(region, fd)?;
        let mut slots = self.0.slots.to_vec();
        slots.insert(slots.partition_point(|slot| slot.region.gpa < region.gpa), new);
        Ok(Self::new(slots.into(), self.0.log.clone()))
    }

    /// This snapshot less one region (REM_MEM_REG): the one with the same guest address, front-end address and size.
    ///
    /// # Errors
    /// [`MemoryError::UnknownRegion`].
    pub fn without_region(&self, region: &Region) -> Result<Self, MemoryError> {
        let Region { gpa, size, user_addr, .. } = *region;
        let is_it = |slot: &Slot| {
            let own = slot.region;
            (own.gpa, own.size, own.user_addr) == (gpa, size, user_addr)
        };
        if !self.0.slots.iter().any(is_it) {
            return Err(MemoryError::UnknownRegion { gpa, user_addr, size });
        }
        let slots = self.0.slots.iter().filter(|slot| !is_it(slot)).cloned();
        Ok(Self::new(slots.collect(), self.0.log.clone()))
    }

    /// The same memory with another dirty log, or none.
    #[must_use]
    pub fn with_log(&self, log: Option<DirtyLog>) -> Self {
        Self::new(self.0.slots.clone(), log)
    }

    /// The dirty log, if one is set.
    #[inline]
    pub fn log(&self) -> Option<&DirtyLog> {
        self.0.log.as_ref()
    }

    /// The regions as the front end gave them, ascending by guest address.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        self.0.slots.iter().map(|slot| slot.region)
    }

    /// Where the regions lie in this process: address and length in bytes, ascending by guest address.
    pub fn host_ranges(&self) -> impl Iterator<Item = (usize, usize)> {
        self.0.slots.iter().map(|slot| (slot.piece.as_ptr().expose_provenance(), slot.piece.len()))
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.0.slots.len()
    }

    /// Whether there is no memory.
    pub fn is_empty(&self) -> bool {
        self.0.slots.is_empty()
    }

    /// Whether both are clones of one snapshot. Snapshots made apart are different even with equal tables.
    #[inline]
    pub fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How many faults in this memory were survived because its file was truncated (see [`sigbus`](crate::sigbus)).
    /// Other than 0 means that the contents of the guest's memory are no longer the guest's. Looks at every region.
    pub fn patches(&self) -> u64 {
        self.0.slots.iter().map(|slot| slot.mapping.patches()).sum()
    }

    /// Translates `len` bytes at `addr` in the front end's address space (ring addresses of SET_VRING_ADDR), which
    /// must be within one region.
    ///
    /// # Errors
    /// [`MemoryError::UserUnmapped`].
    pub fn host_of_user(&self, addr: u64, len: u64) -> Result<Segment, MemoryError> {
        let found = self.0.slots.iter().find_map(|slot| {
            let offset = addr.checked_sub(slot.region.user_addr)?;
            let piece = slot.piece.slice(usize::try_from(offset).ok()?, usize::try_from(len).ok()?)?;
            Some(slot.keep(piece))
        });
        found.ok_or(MemoryError::UserUnmapped { addr, len })
    }

    /// Translates `len` bytes at guest address `gpa`, in order of address: `each` gets one piece for each region
    /// that the range goes through. Nothing for a length of 0, whatever the address.
    ///
    /// # Errors
    /// [`MemoryError::Overflow`], or [`MemoryError::Unmapped`] if any byte is not in the table. `each` is not called
    /// then.
    pub fn pieces(&self, gpa: u64, len: u64, mut each: impl FnMut(Piece)) -> Result<(), MemoryError> {
        let mut at = gpa;
        let mut left = len;
        for slot in self.find(gpa, len)? {
            let Some(piece) = slot.from(at, left) else { break };
            each(piece);
            left -= piece.len() as u64;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// The whole region that guest address `gpa` is in: for many translations of neighbouring addresses by
    /// [`Piece::at`], without another look at the table.
    pub fn region_around(&self, gpa: u64) -> Option<Piece> {
        Some(self.find(gpa, 1).ok()?.first()?.piece)
    }

    /// The guest address of a byte that this process knows at `place`: the way back from [`Piece::as_ptr`].
    pub fn guest_address(&self, place: *const u8) -> Option<u64> {
        self.0.slots.iter().find_map(|slot| {
            let offset = place.addr().checked_sub(slot.piece.as_ptr().addr())?;
            (offset < slot.piece.len()).then(|| slot.region.gpa.wrapping_add(offset as u64))
        })
    }

    /// Translates `len` bytes at guest address `gpa`, which must be within one region. The segment keeps them mapped.
    ///
    /// # Errors
    /// [`MemoryError::Overflow`]; [`MemoryError::Unmapped`] if any byte is not in the table (or `gpa` is not, for
    /// a length of 0); [`MemoryError::NotContiguous`] if the range goes through several regions.
    pub fn segment(&self, gpa: u64, len: u64) -> Result<Segment, MemoryError> {
        self.locate(gpa, len).map(|(slot, piece)| slot.keep(piece))
    }

    /// [`MemoryMap::segment`] for those who keep this snapshot.
    ///
    /// # Errors
    /// As [`MemoryMap::segment`].
    pub fn piece(&self, gpa: u64, len: u64) -> Result<Piece, MemoryError> {
        self.locate(gpa, len).map(|(_, piece)| piece)
    }

    /// Copies out `buf.len()` bytes from guest address `gpa`, through as many regions as it takes.
    ///
    /// # Errors
    /// As [`MemoryMap::pieces`], and nothing is copied.
    pub fn read_into(&self, gpa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut rest = &mut *buf;
        self.pieces(gpa, rest.len() as u64, |piece| {
            let len = piece.len().min(rest.len());
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(len);
            rest = behind;
            // SAFETY: a piece of this map, which is held, and no shorter than `part`.
            unsafe { copy_from_guest(piece.as_ptr(), part) };
        })
    }

    /// Copies `buf` to guest address `gpa`, through as many regions as it takes. Does not mark the dirty log.
    ///
    /// # Errors
    /// As [`MemoryMap::pieces`], and nothing is copied.
    pub fn write_from(&self, gpa: u64, buf: &[u8]) -> Result<(), MemoryError> {
        let mut rest = buf;
        self.pieces(gpa, rest.len() as u64, |piece| {
            let (part, behind) = rest.split_at(piece.len().min(rest.len()));
            rest = behind;
            // SAFETY: a piece of this map, which is held, and no shorter than `part`.
            unsafe { copy_to_guest(piece.as_ptr(), part) };
        })
    }

    /// The region that has all of the range, and where.
    fn locate(&self, gpa: u64, len: u64) -> Result<(&Slot, Piece), MemoryError> {
        let within = |slot: &'_ Slot| slot.at(gpa, len);
        if len == 0 {
            let found = self.0.slots.iter().find_map(|slot| Some((slot, within(slot)?)));
            return found.ok_or(MemoryError::Unmapped { gpa, len });
        }
        let slots = self.find(gpa, len)?;
        let found = slots.first().and_then(|slot| Some((slot, within(slot)?)));
        found.ok_or(MemoryError::NotContiguous { gpa, len })
    }

    fn new(slots: Arc<[Slot]>, log: Option<DirtyLog>) -> Self {
        Self(Arc::new(Snapshot { slots, log }))
    }

    /// The slots from the one with `gpa` on, if together and without a hole they have the whole range; none for a
    /// length of 0.
    fn find(&self, gpa: u64, len: u64) -> Result<&[Slot], MemoryError> {
        let Some(rest) = len.checked_sub(1) else { return Ok(&[]) };
        let last = gpa.checked_add(rest).ok_or(MemoryError::Overflow { start: gpa, len })?;
        let unmapped = MemoryError::Unmapped { gpa, len };
        let first = self.0.slots.partition_point(|slot| slot.region.last_gpa() < gpa);
        let slots = self.0.slots.get(first..).unwrap_or(&[]);
        let mut next = gpa;
        for slot in slots {
            if slot.region.gpa > next {
                break;
            }
            if slot.region.last_gpa() >= last {
                return Ok(slots);
            }
            // No overflow: there is a byte of the range behind this region.
            next = slot.region.last_gpa() + 1;
        }
        Err(unmapped)
    }
}

impl fmt::Debug for MemoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.0.slots.iter().map(|slot| slot.region);
        f.debug_struct("MemoryMap")
            .field("regions", &Vec::from_iter(slots))
            .field("log", &self.0.log)
            .finish()
    }
}

fn check_count(count: usize) -> Result<(), MemoryError> {
    if count > MAX_SLOTS {
        return Err(MemoryError::TooManyRegions { count, limit: MAX_SLOTS });
    }
    Ok(())
}

/// Maps a region that has been checked. The descriptor is closed: the mapping does not need it.
fn slot(region: Region, fd: OwnedFd) -> Result<Slot, MemoryError> {
    let mapping = Mapping::map(fd.as_fd(), region.mmap_offset, region.size);
    drop(fd);
    Ok(Slot::new(region, Arc::new(mapping?)))
}
