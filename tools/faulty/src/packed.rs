//! The packed ring (VIRTIO 1.3, 2.8). Driver and device write the same descriptors in turn; the driver is trusted
//! with none of them.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use outboard_guest_memory::Segment;
use outboard_vhost_user::payload::VringAddr;

use crate::chain::{Chain, Descriptor, INDIRECT, NEXT, WRITE, Walk};
use crate::faults::{Fault, Faults, die};
use crate::inflight::{PackedRecords, Taken};
use crate::memory::{Bad, Cells, Guest};
use crate::ring::{Done, Terms};

const AVAIL: u16 = 0x80;
const USED: u16 = 0x8000;
/// All flags that there are.
const KNOWN: u16 = AVAIL | USED | NEXT | WRITE | INDIRECT;

/// A place in the ring, and the wrap counter of the lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) index: u16,
    pub(crate) wrap: bool,
}

impl Position {
    /// From the encoding of SET_VRING_BASE.
    fn of_base(half: u32) -> Self {
        Self { index: half as u16 & 0x7fff, wrap: half & 0x8000 != 0 }
    }

    pub(crate) fn to_base(self) -> u32 {
        u32::from(self.index & 0x7fff) | u32::from(self.wrap) << 15
    }

    pub(crate) fn forward(self, count: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(count);
        match index.checked_sub(size.into()) {
            Some(rest) => Self { index: rest as u16, wrap: !self.wrap },
            None => Self { index: index as u16, wrap: self.wrap },
        }
    }

    /// Whether descriptor flags say "available" in this lap.
    pub(crate) fn is_available(self, flags: u16) -> bool {
        (flags & AVAIL != 0) == self.wrap && (flags & USED != 0) != self.wrap
    }
}

/// A running ring.
pub(crate) struct Packed {
    size: u16,
    desc: Segment,
    driver: Segment,
    device: Segment,
    next: Position,
    used: Position,
    /// Descriptors of requests taken and not yet given back.
    out: u16,
    /// Descriptors used since the last decision whether to call; `None` before the first.
    uncalled: Option<u32>,
    recovered: VecDeque<Taken>,
    records: Option<PackedRecords>,
}

/// The three parts of the ring in memory; `None` where they are not shared (yet).
pub(crate) fn resolve(
    mem: &Guest,
    addr: &VringAddr,
    size: u16,
    faults: Faults,
) -> Result<Option<[Segment; 3]>, Bad> {
    for (at, align) in [(addr.descriptor, 16), (addr.available, 4), (addr.used, 4)] {
        if at % align != 0 && !faults.has(Fault::MisalignedRingAccepted) {
            return Err(format!("a part of the ring at {at:#x}, which is no multiple of {align}"));
        }
    }
    let desc = mem.of_user(addr.descriptor, 16 * u64::from(size));
    let parts = (desc, mem.of_user(addr.available, 4), mem.of_user(addr.used, 4));
    let (Some(desc), Some(driver), Some(device)) = parts else { return Ok(None) };
    Ok(Some([desc, driver, device]))
}

impl Packed {
    pub(crate) fn start(
        [desc, driver, device]: [Segment; 3],
        size: u16,
        base: u32,
        records: Option<PackedRecords>,
    ) -> Result<Self, Bad> {
        let next = Position::of_base(base);
        // Some front ends know only the low half. Their rings were drained, so that the two are equal.
        let high = if base >> 16 == 0 { base } else { base >> 16 };
        let used = Position::of_base(high);
        if next.index >= size || used.index >= size {
            return Err(format!("base {base:#x} in a ring of {size}"));
        }
        let recovered = VecDeque::new();
        let mut this =
            Self { size, desc, driver, device, next, used, out: 0, uncalled: None, recovered, records: None };
        if let Some(mut records) = records {
            let flags_at = |index: u16| Descriptor::packed(&this.desc, index.into()).flags;
            if let Some((taken, used)) = records.open(size, this.used, flags_at)? {
                let count = taken.iter().map(|taken| taken.descriptors.len() as u16).sum();
                this.used = used;
                this.next = used.forward(count, size);
                this.out = count;
                this.recovered = taken.into();
            }
            this.records = Some(records);
        }
        Ok(this)
    }

    pub(crate) fn remap(&mut self, [desc, driver, device]: [Segment; 3]) {
        (self.desc, self.driver, self.device) = (desc, driver, device);
    }

    pub(crate) fn base(&self) -> u32 {
        self.next.to_base() | self.used.to_base() << 16
    }

    /// The base if nothing had been taken that was not returned.
    pub(crate) fn base_before(&self) -> u32 {
        self.used.to_base() | self.used.to_base() << 16
    }

    /// Nothing is in flight and the ring stops: the records are as new.
    pub(crate) fn retire(&mut self) {
        if let Some(records) = &self.records {
            records.retire();
        }
    }

    pub(crate) fn has_available(&self) -> bool {
        let flags = Descriptor::packed(&self.desc, self.next.index.into()).flags;
        !self.recovered.is_empty() || self.next.is_available(flags)
    }

    /// Takes the next request.
    pub(crate) fn pop(&mut self, walk: Walk<'_>) -> Result<Option<Chain>, Bad> {
        if let Some(taken) = self.recovered.front() {
            let mut chain = Chain::new(0, taken.descriptors.len() as u16, taken.slot);
            for &descriptor in &taken.descriptors {
                add(&mut chain, walk, descriptor)?;
            }
            self.recovered.pop_front();
            return Ok(Some(chain));
        }
        let flags = self.desc.load::<u16>(16 * usize::from(self.next.index) + 14);
        if flags & !KNOWN != 0 && walk.faults.has(Fault::OddFlagsCrash) {
            die();
        }
        if !self.next.is_available(flags) {
            return Ok(None);
        }
        fence(Ordering::Acquire);
        let mut chain = Chain::default();
        let mut copies = Vec::new();
        let mut at = self.next;
        loop {
            if usize::from(self.size - self.out) <= copies.len() && !walk.faults.has(Fault::LoopsForEver) {
                return Err(format!("more descriptors than the {} of the ring", self.size));
            }
            let descriptor = Descriptor::packed(&self.desc, at.index.into());
            at = at.forward(1, self.size);
            copies.push(descriptor);
            add(&mut chain, walk, descriptor)?;
            if !descriptor.has(NEXT) || descriptor.has(INDIRECT) {
                break;
            }
        }
        if walk.faults.has(Fault::PackedIdOfFirst) {
            chain.id = copies.first().map_or(0, |first| first.link);
        }
        if chain.id >= self.size && walk.faults.has(Fault::OddIdCrashes) {
            die();
        }
        chain.count = copies.len() as u16;
        if let Some(records) = &mut self.records {
            chain.slot = records.take(&copies);
        }
        self.out += chain.count;
        self.next = at;
        Ok(Some(chain))
    }

    /// Marks descriptors used, in order, and closes their records.
    pub(crate) fn publish(&mut self, batch: &[Done], terms: &Terms) {
        for done in batch {
            let count = if terms.faults.has(Fault::PackedChainsCountOne) { 1 } else { done.count };
            let next = self.used.forward(count, self.size);
            if let Some(records) = &mut self.records {
                records.begin(done.slot, next);
            }
            self.mark_used(self.used, done, terms);
            if terms.faults.has(Fault::UsedTwice) {
                self.mark_used(next, done, terms);
            }
            if let Some(records) = &mut self.records {
                records.end(done.slot);
            }
            if !terms.faults.has(Fault::LogUsedElementsMissing) {
                terms.log_ring(self.desc.gpa() + 16 * u64::from(self.used.index), 16);
            }
            self.used = next;
            self.out = self.out.saturating_sub(done.count);
            self.uncalled = self.uncalled.map(|uncalled| uncalled + u32::from(done.count));
        }
    }

    fn mark_used(&self, position: Position, done: &Done, terms: &Terms) {
        let at = 16 * usize::from(position.index);
        let wrap = position.wrap != terms.faults.has(Fault::PackedWrapWrong);
        let written = done.len > 0 && !terms.faults.has(Fault::PackedWriteFlagMissing);
        let flags = if wrap { AVAIL | USED } else { 0 } | if written { WRITE } else { 0 };
        self.desc.store(at + 8, done.len);
        self.desc.store(at + 12, done.id);
        fence(Ordering::Release);
        if !terms.faults.has(Fault::UsedIndexForgotten) {
            self.desc.store(at + 14, flags);
        }
        fence(Ordering::SeqCst);
    }

    /// Whether the driver wants to hear of what was published since the last decision.
    pub(crate) fn call_wanted(&mut self, terms: &Terms) -> bool {
        fence(Ordering::SeqCst);
        let Some(since) = self.uncalled.replace(0) else { return true };
        if since == 0 {
            return false;
        }
        let (event, flags) = (self.driver.load::<u16>(0), self.driver.load::<u16>(2) & 3);
        match flags {
            1 => terms.faults.has(Fault::NoInterruptIgnored),
            2 if terms.event_idx && !terms.faults.has(Fault::UsedEventIgnored) => {
                let event = Position::of_base(event.into());
                let lap = if event.wrap == self.used.wrap { 0 } else { i64::from(self.size) };
                let off = i64::from(terms.faults.has(Fault::UsedEventOffByOne));
                let behind = i64::from(self.used.index) + lap - i64::from(event.index) - off;
                since > u32::from(self.size) || (1..=i64::from(since)).contains(&behind)
            }
            _ => true,
        }
    }

    /// Asks for a kick for the next request.
    pub(crate) fn arm(&mut self, terms: &Terms) {
        let stuck = terms.faults.has(Fault::AvailEventStuck);
        let event = match (terms.event_idx, terms.faults.has(Fault::KicksSuppressed)) {
            (false, true) => 1 << 16,
            (false, false) => 0,
            // The place behind the ring's end is never reached.
            (true, _) if stuck => u32::from(self.size) | 2 << 16,
            (true, _) => self.next.to_base() | 2 << 16,
        };
        self.device.store(0, event);
        if !terms.faults.has(Fault::LogEventMissing) {
            terms.log_used(0, 4);
        }
        fence(Ordering::SeqCst);
    }
}

/// Adds a descriptor of the ring to a chain; the last one names the buffer (VIRTIO 1.3, 2.8.6).
fn add(chain: &mut Chain, walk: Walk<'_>, descriptor: Descriptor) -> Result<(), Bad> {
    chain.id = descriptor.link;
    match descriptor.has(INDIRECT) {
        true => chain.push_table(walk, descriptor),
        false => chain.push(walk, descriptor),
    }
}
