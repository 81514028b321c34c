//! One region of the table: what the message says, what must hold for it, and where it is mapped.

use std::sync::Arc;

use crate::mapping::Mapping;
use crate::{MemoryError, Piece, Segment};

/// A memory region as messages give it (vhost-user: Memory region description). All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Region {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// Size; not 0, not necessarily in whole pages.
    pub size: u64,
    /// Address of the first byte in the front end's own space, in which ring addresses are given.
    pub user_addr: u64,
    /// Offset of the first byte in the file; not necessarily page-aligned.
    pub mmap_offset: u64,
}

impl Region {
    /// Guest-physical address of the last byte, for a region that was checked.
    pub(super) fn last_gpa(&self) -> u64 {
        self.gpa.saturating_add(self.size.saturating_sub(1))
    }

    fn last_user(&self) -> u64 {
        self.user_addr.saturating_add(self.size.saturating_sub(1))
    }

    fn check(&self) -> Result<(), MemoryError> {
        let rest = self.size.checked_sub(1).ok_or(MemoryError::Empty)?;
        for start in [self.gpa, self.user_addr, self.mmap_offset] {
            start.checked_add(rest).ok_or(MemoryError::Overflow { start, len: self.size })?;
        }
        Ok(())
    }
}

/// Checks a table before anything of it is mapped: sizes, overflow, overlap in either address space. Sorts it.
pub(super) fn check(regions: &mut [Region]) -> Result<(), MemoryError> {
    regions.iter().try_for_each(Region::check)?;
    regions.sort_unstable_by_key(|region| region.user_addr);
    for (before, region) in regions.iter().zip(regions.iter().skip(1)) {
        if before.last_user() >= region.user_addr {
            return Err(MemoryError::UserOverlap { user_addr: region.user_addr, size: region.size });
        }
    }
    regions.sort_unstable_by_key(|region| region.gpa);
    for (before, region) in regions.iter().zip(regions.iter().skip(1)) {
        if before.last_gpa() >= region.gpa {
            return Err(MemoryError::GuestOverlap { gpa: region.gpa, size: region.size });
        }
    }
    Ok(())
}

/// A region and its mapping, which other snapshots may share.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) region: Region,
    /// The whole region; here, beside the numbers, so that translation does not look into the mapping.
    pub(super) piece: Piece,
    pub(super) mapping: Arc<Mapping>,
}

impl Slot {
    /// `mapping` is of this region: as long, at least.
    pub(super) fn new(region: Region, mapping: Arc<Mapping>) -> Self {
        let piece = Piece::new(mapping.data(), mapping.size(), region.gpa);
        Self { region, piece, mapping }
    }

    /// A part of this region that keeps its mapping.
    pub(super) fn keep(&self, piece: Piece) -> Segment {
        Segment::new(piece, self.mapping.clone())
    }

    /// The range, if all of it is in this region.
    pub(super) fn at(&self, gpa: u64, len: u64) -> Option<Piece> {
        self.piece.at(gpa, len)
    }

    /// As much of the range as this region has, from `gpa` on; `None` for nothing.
    pub(super) fn from(&self, gpa: u64, len: u64) -> Option<Piece> {
        let offset = gpa.checked_sub(self.region.gpa)?;
        let here = self.region.size.checked_sub(offset)?.min(len);
        self.at(gpa, here).filter(|piece| !piece.is_empty())
    }
}
