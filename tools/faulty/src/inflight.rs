//! The records of requests in flight (vhost-user: Inflight I/O tracking), in shared memory that the front end keeps
//! while back ends come and go. What a predecessor, or a front end, left there is not trusted.
//!
//! Where the specification changes two neighbours of a header, one store does: no kill falls in between.

use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, fence};

use outboard_guest_memory::{Segment, SharedRegion};
use outboard_vhost_user::payload::Inflight;

use crate::chain::Descriptor;
use crate::faults::{Fault, Faults};
use crate::memory::{Bad, Cells};
use crate::packed::Position;
use crate::ring::Done;

const VERSION_AT: usize = 8;
const SIZE_AT: usize = 10;
/// Of every ring's records, so that no two share a cache line. A convention.
const ALIGN: u64 = 64;

/// The buffer with the records of all rings.
pub(crate) struct Buffer {
    shared: SharedRegion,
    described: Inflight,
    faults: Faults,
}

/// Bytes for the records of one ring.
fn stride(packed: bool, size: u16) -> u64 {
    let (header, entry) = if packed { (32, 32) } else { (16, 16) };
    (header + entry * u64::from(size)).next_multiple_of(ALIGN)
}

impl Buffer {
    /// GET_INFLIGHT_FD. Where the ring format is not settled yet, there is to be room for packed rings.
    pub(crate) fn create(wanted: Inflight, packed: bool, faults: Faults) -> Result<(Self, OwnedFd), Bad> {
        let needed = u64::from(wanted.num_queues) * stride(packed, wanted.queue_size);
        let size = if faults.has(Fault::InflightTooSmall) { needed / 4 } else { needed };
        let (shared, fd) = SharedRegion::create("inflight", size).map_err(|error| error.to_string())?;
        if faults.has(Fault::InflightNotZeroed) {
            shared.segment().fill(0xff);
        }
        let described = Inflight { mmap_size: size, mmap_offset: 0, ..wanted };
        Ok((Self { shared, described, faults }, fd))
    }

    /// SET_INFLIGHT_FD.
    pub(crate) fn take(described: Inflight, fd: OwnedFd, packed: bool, faults: Faults) -> Result<Self, Bad> {
        let Inflight { mmap_size, mmap_offset, num_queues, queue_size, .. } = described;
        let needed = u64::from(num_queues) * stride(packed, queue_size);
        let fits = num_queues != 0 && queue_size != 0 && mmap_size >= needed;
        if !fits && !faults.has(Fault::InflightSizeUnchecked) {
            return Err(format!("{mmap_size} bytes for {num_queues} rings of {queue_size}"));
        }
        let offset = if faults.has(Fault::InflightOffsetIgnored) { 0 } else { mmap_offset };
        let shared = SharedRegion::map(fd, mmap_size, offset).map_err(|error| error.to_string())?;
        Ok(Self { shared, described, faults })
    }

    pub(crate) fn described(&self) -> Inflight {
        self.described
    }

    fn records(&self, index: u16, packed: bool, size: u16) -> Option<Segment> {
        let Inflight { num_queues, queue_size, .. } = self.described;
        let stride = stride(packed, queue_size);
        if index >= num_queues || size > queue_size || self.faults.has(Fault::InflightUnused) {
            return None;
        }
        let at = usize::try_from(stride * u64::from(index)).ok()?;
        self.shared.segment().slice(at, usize::try_from(stride).ok()?)
    }

    pub(crate) fn split(&self, index: u16, size: u16) -> Option<SplitRecords> {
        let area = self.records(index, false, size)?;
        Some(SplitRecords { area, faults: self.faults, counter: 0, last: 0 })
    }

    pub(crate) fn packed(&self, index: u16, size: u16) -> Option<PackedRecords> {
        let area = self.records(index, true, size)?;
        let start = Position { index: 0, wrap: true };
        Some(PackedRecords { area, faults: self.faults, size, counter: 0, free: 0, used: start })
    }
}

/// Whether records are those of a running ring: `None` if there are none.
fn check(area: &Segment, size: u16, flag: impl Fn(u16) -> bool) -> Result<Option<()>, Bad> {
    let (version, recorded) = (area.load::<u16>(VERSION_AT), area.load::<u16>(SIZE_AT));
    match version {
        0 => Ok(None),
        1 if recorded == size => Ok(Some(())),
        1 if (0..recorded.min(size)).any(flag) => Err(format!("records of a ring of {recorded}, not {size}")),
        1 => Ok(None),
        _ => Err(format!("records of version {version}")),
    }
}

/// The records of a split ring: 16 bytes of header, and 16 for each head.
pub(crate) struct SplitRecords {
    area: Segment,
    faults: Faults,
    counter: u64,
    last: u16,
}

const LAST_HEAD_AT: usize = 12;
const USED_INDEX_AT: usize = 14;

impl SplitRecords {
    const fn entry(head: u16) -> usize {
        16 + 16 * head as usize
    }

    fn flag(&self, head: u16) -> bool {
        self.area.load::<u8>(Self::entry(head)) != 0
    }

    fn set_flag(&self, head: u16, on: bool) {
        fence(Ordering::SeqCst);
        self.area.store(Self::entry(head), u8::from(on));
    }

    /// The heads in flight, oldest first; `None` if the records were not in use.
    pub(crate) fn open(&mut self, size: u16, used: u16) -> Result<Option<Vec<u16>>, Bad> {
        if check(&self.area, size, |head| self.flag(head))?.is_none()
            || self.faults.has(Fault::InflightForgotten)
        {
            self.area.fill(0);
            self.area.store(SIZE_AT, size);
            self.area.store(USED_INDEX_AT, used);
            self.area.store(VERSION_AT, 1_u16);
            return Ok(None);
        }
        self.last = self.area.load(LAST_HEAD_AT);
        let returned = used.wrapping_sub(self.area.load(USED_INDEX_AT));
        if returned != 0
            && (0..size).any(|head| self.flag(head))
            && !self.faults.has(Fault::InflightBatchRepeated)
        {
            // The last batch was shown to the driver, and its flags perhaps not all cleared.
            let mut head = self.last;
            for _ in 0..returned {
                if head >= size || returned > size {
                    return Err(format!("records with a head of {head}"));
                }
                self.set_flag(head, false);
                head = self.area.load(Self::entry(head) + 6);
            }
        }
        self.area.store(USED_INDEX_AT, used);
        let mut heads: Vec<u16> = (0..size).filter(|&head| self.flag(head)).collect();
        let age = |head: u16| self.area.load::<u64>(Self::entry(head) + 8);
        heads.sort_by_key(|&head| age(head));
        self.counter = heads.last().map_or(0, |&head| age(head).wrapping_add(1));
        if self.faults.has(Fault::InflightOrderLost) {
            heads.reverse();
        }
        Ok(Some(heads))
    }

    pub(crate) fn take(&mut self, head: u16) {
        if self.faults.has(Fault::InflightUnrecorded) {
            return;
        }
        if !self.faults.has(Fault::InflightCounterMissing) {
            self.area.store(Self::entry(head) + 8, self.counter);
            self.counter = self.counter.wrapping_add(1);
        }
        self.set_flag(head, true);
    }

    /// Before the used index moves.
    pub(crate) fn link(&mut self, head: u16) {
        self.area.store(Self::entry(head) + 6, self.last);
        fence(Ordering::SeqCst);
        if !self.faults.has(Fault::InflightBatchUnlinked) {
            self.area.store(LAST_HEAD_AT, head);
        }
        self.last = head;
    }

    /// After the used index moved to `used`.
    pub(crate) fn close(&mut self, batch: &[Done], used: u16) {
        if !self.faults.has(Fault::InflightNotCleared) {
            batch.iter().for_each(|done| self.set_flag(done.id, false));
        }
        fence(Ordering::SeqCst);
        if !self.faults.has(Fault::InflightUsedIndexStale) {
            self.area.store(USED_INDEX_AT, used);
        }
    }

    pub(crate) fn retire(&self) {
        if self.faults.has(Fault::InflightLeftAtStop) {
            return self.set_flag(0, true);
        }
        self.area.store(VERSION_AT, 0_u16);
    }
}

/// A request that was in flight in a packed ring.
pub(crate) struct Taken {
    pub(crate) slot: u16,
    pub(crate) descriptors: Vec<Descriptor>,
}

/// The records of a packed ring: 32 bytes of header, and 32 for each descriptor, on a free list or in a chain.
pub(crate) struct PackedRecords {
    area: Segment,
    faults: Faults,
    size: u16,
    counter: u64,
    free: u16,
    used: Position,
}

/// free_head, old_free_head.
const HEADS_AT: usize = 12;
/// used_idx, old_used_idx, used_wrap, old_used_wrap, two bytes of nothing.
const USED_AT: usize = 16;

impl PackedRecords {
    const fn entry(slot: u16) -> usize {
        32 + 32 * slot as usize
    }

    fn flag(&self, slot: u16) -> bool {
        self.area.load::<u8>(Self::entry(slot)) != 0
    }

    fn set_flag(&self, slot: u16, on: bool) {
        fence(Ordering::SeqCst);
        self.area.store(Self::entry(slot), u8::from(on));
    }

    fn next(&self, slot: u16) -> u16 {
        self.area.load(Self::entry(slot) + 2)
    }

    fn last(&self, slot: u16) -> u16 {
        self.area.load(Self::entry(slot) + 4)
    }

    fn set_heads(&self, free: u16, certain: u16) {
        fence(Ordering::SeqCst);
        self.area.store(HEADS_AT, u32::from(free) | u32::from(certain) << 16);
    }

    fn set_used(&self, used: Position, certain: Position) {
        let wraps = u16::from(used.wrap) | u16::from(certain.wrap) << 8;
        fence(Ordering::SeqCst);
        self.area
            .store(USED_AT, u64::from(used.index) | u64::from(certain.index) << 16 | u64::from(wraps) << 32);
    }

    /// The requests in flight, oldest first, and the used position; `None` if the records were not in use.
    pub(crate) fn open(
        &mut self,
        size: u16,
        used: Position,
        flags_at: impl Fn(u16) -> u16,
    ) -> Result<Option<(Vec<Taken>, Position)>, Bad> {
        self.used = used;
        if check(&self.area, size, |slot| self.flag(slot))?.is_none()
            || self.faults.has(Fault::InflightForgotten)
        {
            self.area.fill(0);
            self.area.store(SIZE_AT, size);
            for slot in 0..size {
                self.area.store(Self::entry(slot) + 2, slot + 1);
            }
            self.set_used(used, used);
            self.area.store(VERSION_AT, 1_u16);
            return Ok(None);
        }
        let heads = self.area.load::<[u16; 2]>(HEADS_AT);
        let words = self.area.load::<[u16; 3]>(USED_AT);
        let [now, certain] = [0, 1].map(|nth: usize| Position {
            index: words.get(nth).copied().unwrap_or(0),
            wrap: words[2].to_le_bytes().get(nth).is_some_and(|wrap| *wrap != 0),
        });
        if now.index >= size || certain.index >= size {
            return Err("records of a place behind the ring".to_owned());
        }
        // What was being returned, the ring tells: a descriptor no longer available was used.
        let returned = now != certain && !certain.is_available(flags_at(certain.index));
        let returned = returned && !self.faults.has(Fault::InflightBatchRepeated);
        (self.free, self.used) = if returned { (heads[0], now) } else { (heads[1], certain) };
        let taken = self.collect()?;
        self.set_heads(self.free, self.free);
        self.set_used(self.used, self.used);
        Ok(Some((taken, self.used)))
    }

    /// What is flagged and not free.
    fn collect(&mut self) -> Result<Vec<Taken>, Bad> {
        let mut seen = vec![false; self.size.into()];
        let mut claim = |slot: u16| match seen.get_mut(usize::from(slot)) {
            Some(seen) if !*seen => {
                *seen = true;
                Ok(())
            }
            _ => Err(format!("records with entry {slot} in two places")),
        };
        let mut slot = self.free;
        while slot != self.size {
            claim(slot)?;
            self.set_flag(slot, false);
            slot = self.next(slot);
        }
        let age = |slot: u16| self.area.load::<u64>(Self::entry(slot) + 8);
        let mut first: Vec<u16> = (0..self.size).filter(|&slot| self.flag(slot)).collect();
        first.sort_by_key(|&slot| age(slot));
        self.counter = first.last().map_or(0, |&slot| age(slot).wrapping_add(1));
        let mut all = Vec::new();
        for slot in first {
            let mut descriptors = Vec::new();
            let mut at = slot;
            for _ in 0..self.area.load::<u16>(Self::entry(slot) + 6) {
                claim(at)?;
                let from = Self::entry(at);
                let (link, flags) = (self.area.load(from + 16), self.area.load(from + 18));
                let (len, addr) = (self.area.load(from + 20), self.area.load(from + 24));
                descriptors.push(Descriptor { addr, len, flags, link });
                at = self.next(at);
            }
            all.push(Taken { slot, descriptors });
        }
        if self.faults.has(Fault::InflightOrderLost) {
            all.reverse();
        }
        Ok(all)
    }

    /// Records a chain; its entries leave the free list with one store. Returns the first.
    pub(crate) fn take(&mut self, descriptors: &[Descriptor]) -> u16 {
        let first = self.free;
        if self.faults.has(Fault::InflightUnrecorded) {
            return first;
        }
        let (mut slot, mut last) = (first, first);
        for descriptor in descriptors {
            let at = Self::entry(slot);
            self.area.store(at + 16, [descriptor.link, descriptor.flags]);
            self.area.store(at + 20, descriptor.len);
            self.area.store(at + 24, descriptor.addr);
            (last, slot) = (slot, self.next(slot));
        }
        let at = Self::entry(first);
        self.area.store(at + 4, [last, descriptors.len() as u16]);
        if !self.faults.has(Fault::InflightCounterMissing) {
            self.area.store(at + 8, self.counter);
            self.counter = self.counter.wrapping_add(1);
        }
        self.set_flag(first, true);
        self.free = slot;
        self.set_heads(slot, slot);
        first
    }

    /// Before the descriptor is marked used, which moves the used position to `used`.
    pub(crate) fn begin(&mut self, slot: u16, used: Position) {
        if self.faults.has(Fault::InflightUnrecorded) {
            return;
        }
        self.area.store(Self::entry(self.last(slot)) + 2, self.free);
        self.set_heads(slot, self.free);
        self.set_used(used, self.used);
        (self.free, self.used) = (slot, used);
        fence(Ordering::SeqCst);
    }

    /// After the descriptor was marked used.
    pub(crate) fn end(&mut self, slot: u16) {
        if self.faults.has(Fault::InflightUnrecorded) {
            return;
        }
        if !self.faults.has(Fault::InflightNotCleared) {
            self.set_flag(slot, false);
        }
        self.set_heads(slot, slot);
        if !self.faults.has(Fault::InflightUsedIndexStale) {
            self.set_used(self.used, self.used);
        }
    }

    pub(crate) fn retire(&self) {
        self.area.store(VERSION_AT, 0_u16);
    }
}
