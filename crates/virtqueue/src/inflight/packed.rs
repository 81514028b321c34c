//! In-flight records of a packed ring.
//!
//! # Theory of operation
//! Used descriptors overwrite those of requests that are still out, so that the records hold copies. A chain takes
//! as many entries off a free list as it has descriptors; its first entry says how many, which is the last, and
//! when it was taken. The header has everything twice: `free_head`, `used_idx` and the wrap counter for what is
//! being done, and the same with `old_` for what is certain.
//!
//! Taking: the entries are filled while they are still on the certain free list; one store of both heads takes
//! them off. Until then a successor finds nothing; from then on a request in flight.
//! Returning: the chain goes on the free list and the used position ahead, both not yet certain; then the
//! descriptor is marked used in the ring; then the flag is cleared; then all becomes certain. A successor that
//! finds uncertain figures looks at the ring, at the certain used position: a descriptor that is no longer
//! available there was returned, and the figures become certain; else they are rolled back.
//! Each completion is returned by itself, so that never more than one is uncertain; or several that the driver
//! must see together, as one: all of them go on the free list, and the first one is marked used in the ring last.
//! A successor that rolls them back takes the marks off the others, which the driver would reach after the first.
//!
//! Heads, and positions with their wrap counters, are neighbours in the header, and each of the two groups is
//! written by a single store: no kill falls between an index and its wrap counter.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, compiler_fence};

use super::{AT_DESC_NUM, AT_VERSION, IndexSet, InflightQueue, VERSION};
use crate::area::Area;
use crate::error::InflightError;
use crate::ring::{Descriptor, Format, Position, WRAP_FLAGS, avail_flags, used_flags};

pub(crate) const HEADER: usize = 32;
pub(crate) const ENTRY: usize = 32;
/// `free_head` and behind it `old_free_head`.
const AT_HEADS: usize = 12;
/// `used_idx`, `old_used_idx`, `used_wrap`, `old_used_wrap`, padding.
const AT_USED: usize = 16;
/// Within an entry.
const AT_INFLIGHT: usize = 0;
const AT_NEXT: usize = 2;
const AT_LAST: usize = 4;
const AT_NUM: usize = 6;
const AT_COUNTER: usize = 8;
/// id, flags and length, then the address.
const AT_REST: usize = 16;
const AT_ADDR: usize = 24;

/// The records of a running ring.
#[derive(Debug)]
pub(crate) struct Records {
    area: Area,
    size: u16,
    counter: u64,
    free_head: u16,
    used: Position,
    /// Our copy of the entries' links: behind each entry, the next of its chain or of the free list.
    next: Vec<u16>,
    /// Our copy of the last entry of each chain, by its first.
    last: Vec<u16>,
}

/// A request that was in flight.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) slot: u16,
    pub(crate) descriptors: Vec<Descriptor>,
}

/// What the predecessor left behind.
pub(crate) enum Found {
    /// Nothing: the records were not in use.
    Fresh,
    /// These requests in flight, in the order in which they were taken, and the ring's used position.
    InFlight(Vec<Taken>, Position),
}

/// The ring that the records are of, as far as recovery needs it: the flags of its descriptors.
pub(crate) trait Ring {
    fn flags(&self, index: u16) -> u16;
    fn set_flags(&self, index: u16, flags: u16);
}

impl Records {
    /// Takes records over for a ring of `size`, which starts at the used position `used` if they say nothing else.
    pub(crate) fn open(
        queue: InflightQueue,
        size: u16,
        used: Position,
        ring: &impl Ring,
    ) -> Result<(Self, Found), InflightError> {
        let records = queue.records;
        let area = queue.into_area(Format::Packed, size)?;
        let links = vec![0; usize::from(size)];
        let mut this = Self { area, size, counter: 0, free_head: 0, used, next: links.clone(), last: links };
        match this.area.load16(AT_VERSION, Relaxed) {
            0 => {}
            VERSION => {
                let recorded = this.area.load16(AT_DESC_NUM, Relaxed);
                if recorded == size {
                    let taken = this.recover(ring)?;
                    let used = this.used;
                    return Ok((this, Found::InFlight(taken, used)));
                }
                // Another size is a ring set up anew. That is fine unless the old one left something behind.
                if (0..records).any(|slot| this.flag(slot)) {
                    return Err(InflightError::OtherSize { recorded, size });
                }
            }
            version => return Err(InflightError::Version(version)),
        }
        this.initialise(used);
        Ok((this, Found::Fresh))
    }

    fn initialise(&mut self, used: Position) {
        self.area.store16(AT_VERSION, 0, Relaxed);
        for slot in 0..self.size {
            self.area.store8(entry(slot) + AT_INFLIGHT, 0, Relaxed);
            self.link(slot, slot + 1);
        }
        self.area.store64(0, 0, Relaxed); // features
        self.area.store16(AT_DESC_NUM, self.size, Relaxed);
        self.store_heads(0, 0);
        self.store_used(used, used);
        compiler_fence(SeqCst);
        self.area.store16(AT_VERSION, VERSION, Relaxed);
    }

    fn recover(&mut self, ring: &impl Ring) -> Result<Vec<Taken>, InflightError> {
        let heads = self.area.load32(AT_HEADS, Relaxed);
        let (free_head, old_free_head) = (heads as u16, (heads >> 16) as u16);
        let positions = self.area.load64(AT_USED, Relaxed);
        let used = Position { index: positions as u16, wrap: positions >> 32 & 0xff != 0 };
        let old_used = Position { index: (positions >> 16) as u16, wrap: positions >> 40 & 0xff != 0 };
        for position in [used, old_used] {
            if position.index >= self.size {
                return Err(InflightError::Corrupt(position.index));
            }
        }
        // A position that did not move means that nothing was being returned; heads may differ even so, where a
        // chain was being taken, or being returned and not yet shown to the driver.
        let returning = used != old_used;
        let returned = returning && ring.flags(old_used.index) & WRAP_FLAGS != avail_flags(old_used.wrap);
        (self.free_head, self.used) = if returned { (free_head, used) } else { (old_free_head, old_used) };

        let free = self.read_free_list()?;
        let taken = self.read_taken(free)?;

        if returning && !returned {
            self.unmark(old_used, used, ring);
            compiler_fence(SeqCst);
        }

        // Nothing that the records say was changed so far. From here on all is certain, and a kill in between changes
        // nothing: the same conclusions are drawn again.
        self.store_heads(self.free_head, self.free_head);
        compiler_fence(SeqCst);
        self.store_used(self.used, self.used);
        Ok(taken)
    }

    /// Takes the marks off used descriptors behind `first` and before `end`, which the driver has not come to. All
    /// of them were taken from the ring, so that what else stands there is of no use to anybody.
    fn unmark(&self, first: Position, end: Position, ring: &impl Ring) {
        let mut at = first.forward(1, self.size);
        // Figures that nobody wrote, with the same index in another lap or not, end after a lap.
        for _ in 1..self.size {
            if at == end {
                break;
            }
            let flags = ring.flags(at.index);
            if flags & WRAP_FLAGS == used_flags(at.wrap) {
                ring.set_flags(at.index, flags & !WRAP_FLAGS | avail_flags(at.wrap));
            }
            at = at.forward(1, self.size);
        }
    }

    /// The entries on the free list, which ends behind the last entry.
    fn read_free_list(&mut self) -> Result<IndexSet, InflightError> {
        let mut free = IndexSet::new(self.size);
        let mut slot = self.free_head;
        while slot != self.size {
            if slot > self.size || !free.insert(slot) {
                return Err(InflightError::Corrupt(slot));
            }
            slot = self.read_link(slot);
        }
        Ok(free)
    }

    /// The chains in flight, which with the free list are all that there is. Flags of free entries are cleared.
    fn read_taken(&mut self, free: IndexSet) -> Result<Vec<Taken>, InflightError> {
        let mut seen = free;
        let mut order = Vec::new();
        for slot in 0..self.size {
            if seen.contains(slot) {
                continue;
            }
            if self.flag(slot) {
                order.push((self.area.load64(entry(slot) + AT_COUNTER, Relaxed), slot));
            }
        }
        order.sort_unstable();
        self.counter = order.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        let mut free_flags = Vec::new();
        for slot in 0..self.size {
            if seen.contains(slot) && self.flag(slot) {
                free_flags.push(slot);
            }
        }
        let mut taken = Vec::with_capacity(order.len());
        for (_, first) in order {
            let count = self.area.load16(entry(first) + AT_NUM, Relaxed);
            let last = self.area.load16(entry(first) + AT_LAST, Relaxed);
            if count == 0 || count > self.size {
                return Err(InflightError::Corrupt(first));
            }
            let mut descriptors = Vec::new();
            let mut slot = first;
            for left in (0..count).rev() {
                if slot >= self.size || !seen.insert(slot) {
                    return Err(InflightError::Corrupt(slot));
                }
                descriptors.push(self.read_copy(slot));
                if left == 0 {
                    break;
                }
                slot = self.read_link(slot);
            }
            if slot != last {
                return Err(InflightError::Corrupt(first));
            }
            if let Some(place) = self.last.get_mut(usize::from(first)) {
                *place = last;
            }
            taken.push(Taken { slot: first, descriptors });
        }
        if let Some(stray) = (0..self.size).find(|&slot| !seen.contains(slot)) {
            return Err(InflightError::Corrupt(stray));
        }
        for slot in free_flags {
            self.area.store8(entry(slot) + AT_INFLIGHT, 0, Relaxed);
        }
        Ok(taken)
    }

    /// Records a chain that was taken, with its descriptors, of which there are no more than entries free (the
    /// ring's size bounds both). Returns its entry.
    #[inline]
    pub(crate) fn take(&mut self, descriptors: &[Descriptor]) -> u16 {
        let first = self.free_head;
        let mut last = first;
        let mut slot = first;
        for descriptor in descriptors {
            last = slot;
            let rest = u64::from(descriptor.link)
                | u64::from(descriptor.flags) << 16
                | u64::from(descriptor.len) << 32;
            self.area.store64(entry(slot) + AT_REST, rest, Relaxed);
            self.area.store64(entry(slot) + AT_ADDR, descriptor.addr, Relaxed);
            slot = self.next_of(slot);
        }
        self.area.store16(entry(first) + AT_NUM, descriptors.len() as u16, Relaxed);
        self.area.store16(entry(first) + AT_LAST, last, Relaxed);
        self.area.store64(entry(first) + AT_COUNTER, self.counter, Relaxed);
        self.area.store8(entry(first) + AT_INFLIGHT, 1, Relaxed);
        self.counter = self.counter.wrapping_add(1);
        if let Some(place) = self.last.get_mut(usize::from(first)) {
            *place = last;
        }
        self.free_head = slot;
        compiler_fence(SeqCst);
        self.store_heads(slot, slot);
        first
    }

    /// Records that the last chain taken goes back, unseen.
    pub(crate) fn untake(&mut self, first: u16) {
        self.link(self.last_of(first), self.free_head);
        self.free_head = first;
        compiler_fence(SeqCst);
        self.store_heads(first, first);
        compiler_fence(SeqCst);
        self.area.store8(entry(first) + AT_INFLIGHT, 0, Relaxed);
    }

    /// Records that the chains at `slots` are about to be returned, which moves the used position to `used`.
    #[inline]
    pub(crate) fn begin_return(&mut self, slots: impl Iterator<Item = u16>, used: Position) {
        let certain = self.free_head;
        for first in slots {
            self.link(self.last_of(first), self.free_head);
            self.free_head = first;
        }
        compiler_fence(SeqCst);
        self.store_heads(self.free_head, certain);
        compiler_fence(SeqCst);
        self.store_used(used, self.used);
        self.used = used;
        compiler_fence(SeqCst);
    }

    /// Records that these chains were returned: their descriptors are marked used in the ring.
    #[inline]
    pub(crate) fn end_return(&mut self, slots: impl Iterator<Item = u16>) {
        compiler_fence(SeqCst);
        for first in slots {
            self.area.store8(entry(first) + AT_INFLIGHT, 0, Relaxed);
        }
        compiler_fence(SeqCst);
        self.store_heads(self.free_head, self.free_head);
        compiler_fence(SeqCst);
        self.store_used(self.used, self.used);
    }

    /// Nothing is in flight, and the ring stops: whoever starts one with these records starts afresh.
    pub(crate) fn retire(&self) {
        self.area.store16(AT_VERSION, 0, Relaxed);
    }

    fn flag(&self, slot: u16) -> bool {
        self.area.load8(entry(slot) + AT_INFLIGHT, Relaxed) != 0
    }

    fn read_link(&mut self, slot: u16) -> u16 {
        let next = self.area.load16(entry(slot) + AT_NEXT, Relaxed);
        if let Some(place) = self.next.get_mut(usize::from(slot)) {
            *place = next;
        }
        next
    }

    fn read_copy(&self, slot: u16) -> Descriptor {
        let rest = self.area.load64(entry(slot) + AT_REST, Relaxed);
        Descriptor {
            addr: self.area.load64(entry(slot) + AT_ADDR, Relaxed),
            len: (rest >> 32) as u32,
            flags: (rest >> 16) as u16,
            link: rest as u16,
        }
    }

    #[inline]
    fn next_of(&self, slot: u16) -> u16 {
        self.next.get(usize::from(slot)).copied().unwrap_or(self.size)
    }

    #[inline]
    fn last_of(&self, first: u16) -> u16 {
        self.last.get(usize::from(first)).copied().unwrap_or(first)
    }

    #[inline]
    fn link(&mut self, slot: u16, next: u16) {
        if let Some(place) = self.next.get_mut(usize::from(slot)) {
            *place = next;
            self.area.store16(entry(slot) + AT_NEXT, next, Relaxed);
        }
    }

    #[inline]
    fn store_heads(&self, free: u16, certain: u16) {
        self.area.store32(AT_HEADS, u32::from(free) | u32::from(certain) << 16, Relaxed);
    }

    #[inline]
    fn store_used(&self, used: Position, certain: Position) {
        let indexes = u64::from(used.index) | u64::from(certain.index) << 16;
        let wraps = u64::from(used.wrap) << 32 | u64::from(certain.wrap) << 40;
        self.area.store64(AT_USED, indexes | wraps, Relaxed);
    }
}

#[inline]
fn entry(slot: u16) -> usize {
    HEADER + ENTRY * usize::from(slot)
}
