//! The guest memory that a front end makes, shares, and hands out in pieces. Trusted: it is our own. What the back
//! end writes into it is not.
//!
//! The pieces go out as [`Segment`]s. Rings, request headers and data all come from here, so whatever a driver
//! queues is memory that the back end can reach.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use outboard_guest_memory::{MemoryMap, Region, Segment};
use outboard_vhost_user::payload::MemRegion;

use crate::{Backing, Error};

/// The regions that a front end makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Each is backed by a descriptor of its own.
    pub regions: Vec<RegionSpec>,
}

/// One region to be made. All in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest-physical address.
    pub gpa: u64,
    /// Size.
    pub size: u64,
    /// Address in the front end's own space, as the messages tell it. Any will do: nobody but the back end uses it,
    /// and only to find ring addresses.
    pub user_addr: u64,
    /// Where in its file the region starts.
    pub offset: u64,
    /// What it is made of.
    pub backing: Backing,
}

impl RegionSpec {
    /// Guest addresses, shifted by this much, are the front-end addresses of [`RegionSpec::new`].
    pub const USER_SHIFT: u64 = 0x7000_0000_0000;

    /// A region at `gpa`, at the start of a memory file.
    pub fn new(gpa: u64, size: u64) -> Self {
        let user_addr = gpa.wrapping_add(Self::USER_SHIFT);
        Self { gpa, size, user_addr, offset: 0, backing: Backing::Memfd }
    }
}

impl Default for Layout {
    /// One region of 64 MiB, not at address 0: a back end that mistakes one kind of address for another must fail.
    fn default() -> Self {
        Self { regions: vec![RegionSpec::new(0x4000_0000, 64 << 20)] }
    }
}

/// Guest memory: regions, each with its file, and what of them is not handed out.
#[derive(Debug)]
pub struct Memory {
    map: MemoryMap,
    regions: Vec<Made>,
}

#[derive(Debug)]
struct Made {
    region: Region,
    fd: OwnedFd,
    /// Unused ranges (guest address, length), ascending, none adjacent to another.
    free: Vec<(u64, u64)>,
    /// What is handed out: guest address, length.
    out: BTreeMap<u64, u64>,
}

impl Made {
    fn is_unused(&self) -> bool {
        self.out.is_empty()
    }
}

impl Memory {
    /// Makes the regions of `layout`.
    ///
    /// # Errors
    /// The layout contradicts itself, or the host refuses.
    pub fn new(layout: &Layout) -> Result<Self, Error> {
        let mut memory = Self { map: MemoryMap::empty(), regions: Vec::new() };
        for spec in &layout.regions {
            memory.add(spec)?;
        }
        Ok(memory)
    }

    /// The snapshot of the memory in force.
    pub fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// Hands out `len` bytes (at least 1) at a multiple of `align` (a power of two), not zeroed when they were in
    /// use before, or are backed by a file that was there before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn allocate(&mut self, len: usize, align: u64) -> Result<Segment, Error> {
        let size = len.max(1) as u64;
        let found = self.regions.iter_mut().find_map(|made| {
            let gpa = take(&mut made.free, size, align.max(1))?;
            made.out.insert(gpa, size);
            Some(gpa)
        });
        let gpa = found.ok_or(Error::OutOfMemory { len })?;
        Ok(self.map.segment(gpa, size)?)
    }

    /// Takes a segment back that [`allocate`](Self::allocate) handed out. The back end must have done with it.
    ///
    /// False, and nothing happens, for what is not handed out: a segment that was given back before, a part of one,
    /// or one of another memory.
    #[expect(clippy::needless_pass_by_value, reason = "who gives it back has no more use for it")]
    pub fn free(&mut self, segment: Segment) -> bool {
        let (gpa, len) = (segment.gpa(), segment.len() as u64);
        let ours = |own: &Segment| own.as_ptr() == segment.as_ptr();
        let home = self.regions.iter_mut().find(|made| contains(&made.region, gpa));
        let home = home.filter(|made| made.out.get(&gpa) == Some(&len));
        match home.filter(|_| self.map.segment(gpa, len).is_ok_and(|own| ours(&own))) {
            Some(made) => {
                made.out.remove(&gpa);
                give_back(&mut made.free, gpa, len);
                true
            }
            None => {
                tracing::warn!("memory given back that was not handed out: {segment:?}");
                false
            }
        }
    }

    /// Makes one more region. The back end does not know of it yet.
    pub(crate) fn add(&mut self, spec: &RegionSpec) -> Result<(Region, OwnedFd), Error> {
        let &RegionSpec { gpa, size, user_addr, offset, ref backing } = spec;
        let file_size =
            offset.checked_add(size).ok_or(Error::Invalid("a region of this size at this offset"))?;
        let fd = backing.open(file_size)?;
        let region = Region { gpa, size, user_addr, mmap_offset: offset };
        self.map = self.map.with_region(region, fd.try_clone()?)?;
        let to_share = fd.try_clone()?;
        self.regions.push(Made { region, fd, free: vec![(gpa, size)], out: BTreeMap::new() });
        Ok((region, to_share))
    }

    /// The region at `gpa`, if nothing in it is handed out.
    pub(crate) fn unused(&self, gpa: u64) -> Result<Region, Error> {
        let found = self.regions.iter().find(|made| made.region.gpa == gpa && made.is_unused());
        found.map(|made| made.region).ok_or(Error::RegionInUse(gpa))
    }

    /// Forgets a region. Segments of it that are still held stay mapped.
    pub(crate) fn remove(&mut self, region: &Region) -> Result<(), Error> {
        self.map = self.map.without_region(region)?;
        self.regions.retain(|made| made.region != *region);
        Ok(())
    }

    /// The regions with their descriptors, as messages carry them.
    ///
    /// # Errors
    /// The host has no more descriptors.
    pub fn table(&self) -> Result<Vec<(MemRegion, OwnedFd)>, Error> {
        self.regions.iter().map(|made| Ok((payload(&made.region), made.fd.try_clone()?))).collect()
    }

    /// The front-end address that stands for a guest address.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an address outside of guest memory.
    pub fn user_addr(&self, gpa: u64) -> Result<u64, Error> {
        let home = self.regions.iter().map(|made| made.region).find(|region| contains(region, gpa));
        let region = home.ok_or(Error::Invalid("an address outside of guest memory"))?;
        Ok(region.user_addr.wrapping_add(gpa.wrapping_sub(region.gpa)))
    }

    /// The first guest address behind all memory.
    pub(crate) fn end(&self) -> u64 {
        self.map.regions().map(|region| region.gpa.saturating_add(region.size)).max().unwrap_or(0)
    }
}

/// A region as messages carry it.
pub(crate) fn payload(region: &Region) -> MemRegion {
    MemRegion {
        guest_addr: region.gpa,
        size: region.size,
        user_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
    }
}

fn contains(region: &Region, gpa: u64) -> bool {
    gpa.checked_sub(region.gpa).is_some_and(|offset| offset < region.size)
}

/// Cuts `len` bytes at a multiple of `align` out of the first range that has them.
fn take(free: &mut Vec<(u64, u64)>, len: u64, align: u64) -> Option<u64> {
    let (at, start, range) = free.iter().enumerate().find_map(|(at, &(first, size))| {
        let start = first.checked_next_multiple_of(align)?;
        let fits = start.checked_sub(first)?.checked_add(len)? <= size;
        fits.then_some((at, start, (first, size)))
    })?;
    let (first, size) = range;
    let before = (first, start - first);
    let after = (start + len, size - (start - first) - len);
    free.splice(at..=at, [before, after].into_iter().filter(|(_, size)| *size != 0));
    Some(start)
}

fn give_back(free: &mut Vec<(u64, u64)>, start: u64, len: u64) {
    let at = free.partition_point(|&(first, _)| first < start);
    free.insert(at, (start, len));
    free.dedup_by(|next, before| {
        let adjacent = before.0 + before.1 == next.0;
        if adjacent {
            before.1 += next.1;
        }
        adjacent
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Memory {
        Memory::new(&Layout {
            regions: vec![RegionSpec::new(0x1000, 0x1000), RegionSpec::new(0x10_0000, 0x1000)],
        })
        .unwrap()
    }

    #[test]
    fn allocate_aligns_and_goes_on_in_the_next_region() {
        let mut memory = small();
        assert_eq!(memory.allocate(3, 1).unwrap().gpa(), 0x1000);
        assert_eq!(memory.allocate(16, 64).unwrap().gpa(), 0x1040);
        assert_eq!(memory.allocate(0x1000, 1).unwrap().gpa(), 0x10_0000);
        assert_eq!(memory.allocate(8, 4).unwrap().gpa(), 0x1004);
        assert!(matches!(memory.allocate(0x1000, 1), Err(Error::OutOfMemory { len: 0x1000 })));
    }

    #[test]
    fn free_joins_what_is_adjacent_and_makes_the_region_unused_again() {
        let mut memory = small();
        let pieces: Vec<Segment> = (0..4).map(|_| memory.allocate(0x400, 1).unwrap()).collect();
        assert!(matches!(memory.unused(0x1000), Err(Error::RegionInUse(0x1000))));
        for index in [2, 0, 3, 1] {
            assert!(memory.free(pieces[index].clone()));
        }
        let region = memory.unused(0x1000).unwrap();
        memory.remove(&region).unwrap();
        assert!(memory.unused(0x1000).is_err());
        assert_eq!(memory.allocate(8, 1).unwrap().gpa(), 0x10_0000);
    }

    #[test]
    fn free_of_what_is_not_handed_out_changes_nothing() {
        let mut memory = small();
        let piece = memory.allocate(0x400, 1).unwrap();
        let foreign = small().allocate(0x400, 1).unwrap();
        assert_eq!(foreign.gpa(), piece.gpa());
        assert!(!memory.free(foreign));
        assert!(!memory.free(piece.slice(0, 0x200).unwrap()));
        assert!(!memory.free(piece.slice(0x200, 0x200).unwrap()));
        let outside = Memory::new(&Layout { regions: vec![RegionSpec::new(0x5000, 0x1000)] });
        assert!(!memory.free(outside.unwrap().allocate(8, 1).unwrap()));
        assert!(memory.free(piece.clone()));
        assert!(!memory.free(piece.clone()));
        // Nothing is handed out twice.
        let [one, two] = [0x800; 2].map(|len| memory.allocate(len, 1).unwrap().gpa());
        assert_eq!([one, two], [0x1000, 0x1800]);
        assert_eq!(memory.allocate(1, 1).unwrap().gpa(), 0x10_0000);
        // What was given back before is another's by now.
        assert!(!memory.free(piece));
    }

    #[test]
    fn user_addr_follows_the_region() {
        let spec = RegionSpec {
            gpa: 0x1000,
            size: 0x2000,
            user_addr: 0x77_0000,
            offset: 0x1000,
            ..RegionSpec::new(0, 0)
        };
        let memory = Memory::new(&Layout { regions: vec![spec] }).unwrap();
        assert_eq!(memory.user_addr(0x1234).unwrap(), 0x77_0234);
        assert!(memory.user_addr(0x3000).is_err());
        assert_eq!(memory.end(), 0x3000);
    }

    #[test]
    fn regions_that_overlap_are_refused() {
        let layout = Layout { regions: vec![RegionSpec::new(0, 0x2000), RegionSpec::new(0x1000, 0x1000)] };
        assert!(matches!(Memory::new(&layout), Err(Error::Memory(_))));
    }
}
