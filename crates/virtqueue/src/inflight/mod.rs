//! The records of requests in flight (vhost-user: Inflight I/O tracking): shared memory that the front end keeps
//! while a back end dies, so that the next one knows what its predecessor had taken but not returned.
//!
//! At run time we only write; what we need to know we keep in our own memory. The buffer is read at activation
//! alone, and believed only where it is consistent: the front end may have put anything there.

use std::os::fd::OwnedFd;

use outboard_guest_memory::{MemoryError, SharedRegion};

use crate::MAX_SIZE;
use crate::area::Area;
use crate::error::InflightError;
use crate::ring::Format;

pub(crate) mod packed;
pub(crate) mod split;

/// Records of different queues never share a cache line. Not in the specification, but what everybody does.
const QUEUE_ALIGN: u64 = 64;
/// The only version of the layouts. 0 means never initialised.
const VERSION: u16 = 1;
/// Where both layouts have their version, and behind it the number of entries.
const AT_VERSION: usize = 8;
const AT_DESC_NUM: usize = 10;

/// The buffer with the records of all queues of a device.
#[derive(Debug, Clone)]
pub struct InflightRegion {
    region: SharedRegion,
    format: Format,
    queues: u16,
    queue_size: u16,
}

/// The records of one queue. At most one running [`Virtqueue`](crate::Virtqueue) may have them.
#[derive(Debug)]
pub struct InflightQueue {
    area: Area,
    format: Format,
    records: u16,
}

impl InflightRegion {
    /// Bytes of a buffer for `queues` queues with up to `queue_size` entries each.
    pub fn size(format: Format, queues: u16, queue_size: u16) -> u64 {
        u64::from(queues) * stride(format, queue_size)
    }

    /// Makes a buffer (vhost-user: GET_INFLIGHT_FD), of zeroes: no queue initialised. The caller has bounded
    /// `queues` by what its device has. The descriptor is the front end's.
    ///
    /// # Errors
    /// No queues, no entries or too many; no memory.
    pub fn create(format: Format, queues: u16, queue_size: u16) -> Result<(Self, OwnedFd), InflightError> {
        check_shape(queues, queue_size)?;
        let size = Self::size(format, queues, queue_size);
        let (region, fd) = SharedRegion::create("inflight", size)?;
        Ok((Self { region, format, queues, queue_size }, fd))
    }

    /// Takes a buffer from the front end (vhost-user: SET_INFLIGHT_FD), whoever made it.
    ///
    /// # Errors
    /// A shape that cannot be, a buffer or file too small for it, memory that cannot be mapped.
    pub fn open(
        fd: OwnedFd,
        mmap_size: u64,
        mmap_offset: u64,
        queues: u16,
        queue_size: u16,
        format: Format,
    ) -> Result<Self, InflightError> {
        check_shape(queues, queue_size)?;
        let needed = Self::size(format, queues, queue_size);
        if mmap_size < needed {
            return Err(InflightError::TooSmall { given: mmap_size, needed, queues, queue_size });
        }
        // What lies behind the records is of no use to us.
        let region = SharedRegion::map(fd, needed, mmap_offset)?;
        Ok(Self { region, format, queues, queue_size })
    }

    /// The records of queue `index`; `None` if there are none.
    ///
    /// # Errors
    /// Records that are not aligned, due to the offset of the buffer in its file.
    pub fn queue(&self, index: u16) -> Result<Option<InflightQueue>, InflightError> {
        if index >= self.queues {
            return Ok(None);
        }
        let stride = stride(self.format, self.queue_size);
        let too_large = |_| MemoryError::Overflow { start: u64::from(index), len: stride };
        let offset = usize::try_from(stride * u64::from(index)).map_err(too_large)?;
        let len = usize::try_from(stride).map_err(too_large)?;
        let area = Area::of_shared(&self.region, offset, len).ok_or(InflightError::Misaligned)?;
        Ok(Some(InflightQueue { area, format: self.format, records: self.queue_size }))
    }

    /// Queues that there are records for.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Entries per queue.
    pub fn queue_size(&self) -> u16 {
        self.queue_size
    }

    /// The ring format that the records are for.
    pub fn format(&self) -> Format {
        self.format
    }
}

impl InflightQueue {
    /// The area, if these are records for a ring of this format and size.
    fn into_area(self, format: Format, size: u16) -> Result<Area, InflightError> {
        if self.format != format {
            return Err(InflightError::Format);
        }
        if self.records < size {
            return Err(InflightError::RingTooLarge { records: self.records, size });
        }
        Ok(self.area)
    }

    /// Overwrites a byte, as a hostile front end would.
    #[cfg(test)]
    pub(crate) fn poke(&self, at: usize, value: u8) {
        self.area.store8(at, value, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Indexes below a ring's size, each once.
#[derive(Debug)]
pub(crate) struct IndexSet(Vec<u64>);

impl IndexSet {
    pub(crate) fn new(size: u16) -> Self {
        Self(vec![0; usize::from(size).div_ceil(64)])
    }

    /// Adds an index; `false` if it was there already, or is out of range.
    #[inline]
    pub(crate) fn insert(&mut self, index: u16) -> bool {
        let bit = 1 << (index % 64);
        match self.0.get_mut(usize::from(index / 64)) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, index: u16) {
        if let Some(word) = self.0.get_mut(usize::from(index / 64)) {
            *word &= !(1 << (index % 64));
        }
    }

    #[inline]
    pub(crate) fn contains(&self, index: u16) -> bool {
        self.0.get(usize::from(index / 64)).is_some_and(|word| word & 1 << (index % 64) != 0)
    }
}

fn stride(format: Format, queue_size: u16) -> u64 {
    let (header, entry) = match format {
        Format::Split => (split::HEADER, split::ENTRY),
        Format::Packed => (packed::HEADER, packed::ENTRY),
    };
    (header as u64 + entry as u64 * u64::from(queue_size)).next_multiple_of(QUEUE_ALIGN)
}

fn check_shape(queues: u16, queue_size: u16) -> Result<(), InflightError> {
    if queues == 0 || queue_size == 0 || u32::from(queue_size) > MAX_SIZE {
        return Err(InflightError::Shape { queues, queue_size });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_header_and_entries_in_whole_cache_lines() {
        assert_eq!(InflightRegion::size(Format::Split, 1, 128), 16 + 16 * 128 + 48);
        assert_eq!(InflightRegion::size(Format::Packed, 3, 128), 3 * (32 + 32 * 128 + 32));
        assert_eq!(InflightRegion::size(Format::Split, 2, 3), 128);
    }

    #[test]
    fn open_of_a_small_buffer_is_refused() {
        let (_, fd) = InflightRegion::create(Format::Split, 2, 16).unwrap();
        let size = InflightRegion::size(Format::Split, 2, 16);
        let again = || fd.try_clone().unwrap();
        let error = InflightRegion::open(again(), size - 1, 0, 2, 16, Format::Split).unwrap_err();
        assert!(matches!(error, InflightError::TooSmall { .. }), "{error}");
        let error = InflightRegion::open(again(), u64::MAX, 0, 2, 32, Format::Split).unwrap_err();
        assert!(matches!(error, InflightError::Memory(MemoryError::ShortFile { .. })), "{error}");
        assert!(InflightRegion::open(again(), size, 0, 2, 16, Format::Split).is_ok());
    }

    #[test]
    fn shape_without_queues_or_entries_is_refused() {
        for (queues, size) in [(0, 8), (8, 0), (1, 32769)] {
            let error = InflightRegion::create(Format::Packed, queues, size).unwrap_err();
            assert_eq!(error, InflightError::Shape { queues, queue_size: size });
        }
    }

    #[test]
    fn queue_beyond_the_count_is_none() {
        let (region, _) = InflightRegion::create(Format::Packed, 2, 4).unwrap();
        assert!(region.queue(1).unwrap().is_some());
        assert!(region.queue(2).unwrap().is_none());
    }

    #[test]
    fn open_at_an_odd_offset_is_misaligned() {
        let (_, fd) = InflightRegion::create(Format::Split, 2, 16).unwrap();
        let region = InflightRegion::open(fd, 512, 4, 1, 8, Format::Split).unwrap();
        assert_eq!(region.queue(0).unwrap_err(), InflightError::Misaligned);
    }
}
