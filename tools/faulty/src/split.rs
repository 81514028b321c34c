//! The split ring (VIRTIO 1.3, 2.7). The driver is not trusted with the descriptors, nor with the available ring.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{Ordering, fence};

use outboard_guest_memory::Segment;
use outboard_vhost_user::payload::VringAddr;

use crate::chain::{Chain, Descriptor, INDIRECT, NEXT, Walk};
use crate::faults::{Fault, die};
use crate::inflight::SplitRecords;
use crate::memory::{Bad, Cells, Guest};
use crate::ring::{Done, Terms};

/// A running ring.
pub(crate) struct Split {
    size: u16,
    desc: Segment,
    avail: Segment,
    used: Segment,
    /// The next entry of the available ring.
    next: u16,
    used_index: u16,
    /// The used index at the last decision whether to call; `None` before the first.
    called_at: Option<u16>,
    out: BTreeSet<u16>,
    /// Heads that a process before us had taken.
    recovered: VecDeque<u16>,
    records: Option<SplitRecords>,
}

/// The three parts of the ring in memory; `None` where they are not shared (yet).
pub(crate) fn resolve(
    mem: &Guest,
    addr: &VringAddr,
    size: u16,
    terms: &Terms,
) -> Result<Option<[Segment; 3]>, Bad> {
    let n = u64::from(size);
    let event = if terms.event_idx { 2 } else { 0 };
    for (at, align) in [(addr.descriptor, 16), (addr.available, 2), (addr.used, 4)] {
        if at % align != 0 && !terms.faults.has(Fault::MisalignedRingAccepted) {
            return Err(format!("a part of the ring at {at:#x}, which is no multiple of {align}"));
        }
        if at % 64 != 0 && terms.faults.has(Fault::RingAlignedTo64) {
            return Err(format!("a part of the ring at {at:#x}"));
        }
    }
    let parts = (
        mem.of_user(addr.descriptor, 16 * n),
        mem.of_user(addr.available, 4 + 2 * n + event),
        mem.of_user(addr.used, 4 + 8 * n + event),
    );
    let (Some(desc), Some(avail), Some(used)) = parts else { return Ok(None) };
    Ok(Some([desc, avail, used]))
}

impl Split {
    pub(crate) fn start(
        [desc, avail, used]: [Segment; 3],
        size: u16,
        base: u32,
        records: Option<SplitRecords>,
        terms: &Terms,
    ) -> Result<Self, Bad> {
        if terms.faults.has(Fault::UsedIndexReset) {
            used.store(2, 0_u16);
        }
        let used_index = used.load(2);
        let mut this = Self {
            size,
            desc,
            avail,
            used,
            next: base as u16,
            used_index,
            called_at: None,
            out: BTreeSet::new(),
            recovered: VecDeque::new(),
            records: None,
        };
        if let Some(mut records) = records {
            if let Some(heads) = records.open(size, used_index)? {
                // What is in flight was taken, what is not was used: that is all there was.
                this.next = used_index.wrapping_add(heads.len() as u16);
                this.out.extend(&heads);
                this.recovered = heads.into();
            }
            this.records = Some(records);
        }
        Ok(this)
    }

    pub(crate) fn remap(&mut self, [desc, avail, used]: [Segment; 3]) {
        (self.desc, self.avail, self.used) = (desc, avail, used);
    }

    pub(crate) fn base(&self) -> u32 {
        self.next.into()
    }

    /// The base if so many requests that were taken last had not been.
    pub(crate) fn base_before(&self, waiting: usize) -> u32 {
        self.next.wrapping_sub(waiting as u16).into()
    }

    /// Nothing is in flight and the ring stops: the records are as new.
    pub(crate) fn retire(&mut self) {
        if let Some(records) = &self.records {
            records.retire();
        }
    }

    pub(crate) fn has_available(&self) -> bool {
        !self.recovered.is_empty() || self.avail.load::<u16>(2) != self.next
    }

    /// Takes the next request.
    pub(crate) fn pop(&mut self, walk: Walk<'_>) -> Result<Option<Chain>, Bad> {
        if let Some(&head) = self.recovered.front() {
            let chain = self.walk(head, walk)?;
            self.recovered.pop_front();
            return Ok(Some(chain));
        }
        let avail = self.avail.load::<u16>(2);
        fence(Ordering::Acquire);
        let ahead = avail.wrapping_sub(self.next);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.size && !walk.faults.has(Fault::AvailJumpAccepted) {
            return Err(format!("available index {avail}, {} is next", self.next));
        }
        let head = self.avail.load::<u16>(4 + 2 * self.place(self.next));
        if head >= self.size {
            match walk.faults {
                faults if faults.has(Fault::BadHeadCrashes) => die(),
                _ => return Err(format!("head {head} in a ring of {}", self.size)),
            }
        }
        if self.out.contains(&head) {
            return Err(format!("head {head} is available twice"));
        }
        let chain = self.walk(head, walk)?;
        self.out.insert(head);
        if let Some(records) = &mut self.records {
            records.take(head);
        }
        self.next = self.next.wrapping_add(1);
        Ok(Some(chain))
    }

    fn walk(&self, head: u16, walk: Walk<'_>) -> Result<Chain, Bad> {
        let mut chain = Chain::new(head, 1, 0);
        let mut index = head;
        let mut walked = 0;
        loop {
            let descriptor = Descriptor::split(&self.desc, index.into());
            if descriptor.has(INDIRECT) {
                chain.push_table(walk, descriptor)?;
                return Ok(chain);
            }
            chain.push(walk, descriptor)?;
            if walk.faults.has(Fault::DescriptorsOverwritten) {
                self.desc.store(16 * usize::from(index) + 8, 0_u32);
            }
            if !descriptor.has(NEXT) {
                return Ok(chain);
            }
            index = if walk.faults.has(Fault::LinksIgnored) { index + 1 } else { descriptor.link };
            walked += 1;
            if index >= self.size && walk.faults.has(Fault::BadLinkCrashes) {
                die();
            }
            if index >= self.size {
                return Err(format!("descriptor {index} in a table of {}", self.size));
            }
            if walked >= self.size && !walk.faults.has(Fault::LoopsForEver) {
                return Err("a loop of descriptors".to_owned());
            }
        }
    }

    /// Writes used elements, shows them to the driver, and closes their records.
    pub(crate) fn publish(&mut self, batch: &[Done], terms: &Terms) {
        let Some(last) = batch.last() else { return };
        if let Some(records) = &mut self.records {
            batch.iter().for_each(|done| records.link(done.id));
        }
        let old = self.used_index;
        for (nth, done) in (0_u16..).zip(batch) {
            let place = self.place(old.wrapping_add(nth));
            let at = 4 + 8 * if terms.faults.has(Fault::UsedRingOf256) { place % 256 } else { place };
            self.used.store(at, u32::from(done.id));
            self.used.store(at + 4, done.len);
        }
        let mut count = batch.len() as u16;
        if terms.faults.has(Fault::UsedTwice) {
            let at = 4 + 8 * self.place(old.wrapping_add(count));
            self.used.store(at, u32::from(last.id));
            self.used.store(at + 4, last.len);
            count += 1;
        }
        let new = old.wrapping_add(count);
        let moved = if terms.faults.has(Fault::UsedIndexByOne) { old.wrapping_add(1) } else { new };
        let moved = if terms.faults.has(Fault::UsedIndexOf15Bits) { moved & 0x7fff } else { moved };
        fence(Ordering::Release);
        if !terms.faults.has(Fault::UsedIndexForgotten) {
            self.used.store(2, moved);
        }
        fence(Ordering::SeqCst);
        if let Some(records) = &mut self.records {
            records.close(batch, new);
        }
        self.log_used(old, count, terms);
        for done in batch {
            self.out.remove(&done.id);
        }
        self.used_index = new;
    }

    fn log_used(&self, first: u16, count: u16, terms: &Terms) {
        for nth in 0..count {
            let at = 4 + 8 * self.place(first.wrapping_add(nth));
            if !terms.faults.has(Fault::LogUsedElementsMissing) {
                terms.log_used(at as u64, 8);
            }
        }
        if !terms.faults.has(Fault::LogUsedIndexMissing) {
            terms.log_used(2, 2);
        }
    }

    /// Whether the driver wants to hear of what was published since the last decision.
    pub(crate) fn call_wanted(&mut self, terms: &Terms) -> bool {
        fence(Ordering::SeqCst);
        let Some(old) = self.called_at.replace(self.used_index) else { return true };
        if old == self.used_index {
            return false;
        }
        if !terms.event_idx {
            return self.avail.load::<u16>(0) & 1 == 0 || terms.faults.has(Fault::NoInterruptIgnored);
        }
        let event = self.avail.load::<u16>(4 + 2 * usize::from(self.size));
        if terms.faults.has(Fault::UsedEventIgnored) {
            return true;
        }
        let off = u16::from(terms.faults.has(Fault::UsedEventOffByOne));
        let event = event.wrapping_add(off);
        self.used_index.wrapping_sub(event).wrapping_sub(1) < self.used_index.wrapping_sub(old)
    }

    /// Asks for a kick for the next request.
    pub(crate) fn arm(&mut self, terms: &Terms) {
        if terms.event_idx {
            let at = 4 + 8 * usize::from(self.size);
            let behind = if terms.faults.has(Fault::AvailEventStuck) { 0x4000 } else { 0 };
            self.used.store(at, self.next.wrapping_sub(behind));
            if !terms.faults.has(Fault::LogEventMissing) {
                terms.log_used(at as u64, 2);
            }
        } else {
            self.used.store(0, u16::from(terms.faults.has(Fault::KicksSuppressed)));
            terms.log_used(0, 2);
        }
        fence(Ordering::SeqCst);
    }

    fn place(&self, index: u16) -> usize {
        usize::from(index % self.size)
    }
}
