//! Shared memory regions of the device (VIRTIO 1.3, 2.10), and what the back end maps into them over the back channel
//! (vhost-user: SHMEM_MAP). The back end is not trusted: mappings that do not fit are refused, and their number is
//! bounded.

use std::os::fd::OwnedFd;

use outboard_vhost_user::payload::{ShmemConfig, ShmemMapping};

use crate::Frontend;

/// Each mapping holds a descriptor.
const MOST_MAPPINGS: usize = 256;

/// A file, or a part of it, that the back end shows in a shared memory region.
#[derive(Debug)]
pub struct SharedMapping {
    /// The region's id.
    pub region: u8,
    /// Where it starts in the region, in bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// May the driver write to it?
    pub writable: bool,
    /// What is mapped.
    pub file: OwnedFd,
    /// Where it starts in the file, in bytes.
    pub file_offset: u64,
}

/// The regions, and what is in them.
#[derive(Debug, Default)]
pub(crate) struct SharedMemory {
    regions: Vec<(u8, u64)>,
    mappings: Vec<SharedMapping>,
}

impl SharedMemory {
    pub(crate) fn new(config: &ShmemConfig) -> Self {
        let sizes = { config.sizes };
        let regions = (0..=u8::MAX).zip(sizes).filter(|&(_, size)| size != 0).collect();
        Self { regions, mappings: Vec::new() }
    }

    /// Takes a mapping in.
    pub(crate) fn map(&mut self, asked: &ShmemMapping, file: OwnedFd) -> Result<(), &'static str> {
        let &ShmemMapping { shmid: region, fd_offset: file_offset, shm_offset: offset, len, flags, .. } =
            asked;
        let page = rustix::param::page_size() as u64;
        if len == 0 || [file_offset, offset, len].iter().any(|value| !value.is_multiple_of(page)) {
            return Err("a mapping that is not whole pages");
        }
        let size = self.regions.iter().find(|(id, _)| *id == region).map(|(_, size)| *size);
        let end = offset.checked_add(len);
        if file_offset.checked_add(len).is_none() || end.is_none_or(|end| size.is_none_or(|size| end > size))
        {
            return Err("a mapping outside of the shared memory region");
        }
        let apart = |other: &SharedMapping| {
            other.region != region || offset >= other.offset + other.len || other.offset >= offset + len
        };
        if !self.mappings.iter().all(apart) {
            return Err("a mapping over another one");
        }
        if self.mappings.len() >= MOST_MAPPINGS {
            return Err("too many mappings");
        }
        let writable = flags & ShmemMapping::WRITABLE != 0;
        self.mappings.push(SharedMapping { region, offset, len, writable, file, file_offset });
        Ok(())
    }

    /// Forgets a mapping, a whole one.
    pub(crate) fn unmap(&mut self, asked: &ShmemMapping) -> Result<(), &'static str> {
        let &ShmemMapping { shmid, shm_offset, len, .. } = asked;
        let is_it = |mapping: &SharedMapping| {
            (mapping.region, mapping.offset, mapping.len) == (shmid, shm_offset, len)
        };
        let at = self.mappings.iter().position(is_it).ok_or("no such mapping")?;
        self.mappings.swap_remove(at);
        Ok(())
    }

    pub(crate) fn unmap_all(&mut self) {
        self.mappings.clear();
    }
}

impl Frontend {
    /// The device's shared memory regions: id, and size in bytes (vhost-user: GET_SHMEM_CONFIG). None where SHMEM is
    /// not agreed on.
    pub fn shared_regions(&self) -> &[(u8, u64)] {
        &self.channel.shared.regions
    }

    /// What the back end shows in them at the moment. It comes and goes with the back channel (see
    /// [`heard`](Self::heard)), and goes with a reset.
    pub fn shared_mappings(&self) -> &[SharedMapping] {
        &self.channel.shared.mappings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_guest_memory::memfd;

    const PAGE: u64 = 4096;

    fn memory() -> SharedMemory {
        SharedMemory::new(&ShmemConfig::new([(1, 4 * PAGE), (9, PAGE)]))
    }

    fn map(memory: &mut SharedMemory, shmid: u8, pages: (u64, u64)) -> Result<(), &'static str> {
        memory.map(&asked(shmid, pages), memfd("test", PAGE).unwrap())
    }

    fn asked(shmid: u8, (first, count): (u64, u64)) -> ShmemMapping {
        let (shm_offset, len) = (first.wrapping_mul(PAGE), count * PAGE);
        ShmemMapping { shmid, padding: [0; 7], fd_offset: 0, shm_offset, len, flags: 1 }
    }

    #[test]
    fn mappings_that_fit_are_kept_until_they_are_unmapped() {
        let mut memory = memory();
        assert_eq!(memory.regions, [(1, 4 * PAGE), (9, PAGE)]);
        for (region, pages) in [(1, (0, 1)), (1, (2, 2)), (1, (1, 1)), (9, (0, 1))] {
            map(&mut memory, region, pages).unwrap();
        }
        assert_eq!(memory.mappings.len(), 4);
        // Whole ones only.
        assert!(memory.unmap(&asked(1, (2, 1))).is_err());
        memory.unmap(&asked(1, (2, 2))).unwrap();
        assert!(memory.unmap(&asked(1, (2, 2))).is_err());
        map(&mut memory, 1, (3, 1)).unwrap();
        memory.unmap_all();
        map(&mut memory, 1, (0, 4)).unwrap();
    }

    #[test]
    fn mappings_that_do_not_fit_are_refused() {
        let mut memory = memory();
        map(&mut memory, 1, (1, 2)).unwrap();
        for pages in [(1, 1), (0, 2), (2, 1), (0, 4)] {
            assert_eq!(map(&mut memory, 1, pages), Err("a mapping over another one"), "{pages:?}");
        }
        for (region, pages) in [(1, (3, 2)), (9, (0, 2)), (2, (0, 1)), (1, (u64::MAX, 1))] {
            let refused = map(&mut memory, region, pages);
            assert_eq!(refused, Err("a mapping outside of the shared memory region"), "{pages:?}");
        }
        let odd = |change: fn(&mut ShmemMapping)| {
            let mut asked = asked(1, (0, 1));
            change(&mut asked);
            asked
        };
        for asked in [
            odd(|asked| asked.len = 0),
            odd(|asked| asked.len = 100),
            odd(|asked| asked.fd_offset = 1),
            odd(|asked| asked.shm_offset = 8),
        ] {
            let refused = memory.map(&asked, memfd("test", PAGE).unwrap());
            assert_eq!(refused, Err("a mapping that is not whole pages"));
        }
        assert_eq!(memory.mappings.len(), 1);
    }

    #[test]
    fn mappings_are_bounded_in_number() {
        let mut memory = SharedMemory::new(&ShmemConfig::new([(0, 1 << 40)]));
        let fits = (0..1000).take_while(|&page| map(&mut memory, 0, (page, 1)).is_ok()).count();
        assert_eq!(fits, MOST_MAPPINGS);
    }
}
