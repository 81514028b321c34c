//! The device's half of a split ring (VIRTIO 1.3, 2.7). The driver writes descriptors and available ring, and is
//! not trusted with either; the used ring is ours to write, and read once, for its index, when the ring starts.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use outboard_guest_memory::MemoryMap;

use crate::area::Area;
use crate::base::Base;
use crate::buffers::Filling;
use crate::chain::Body;
use crate::error::RingError;
use crate::indirect::Table;
use crate::inflight::split::{Found, Records};
use crate::inflight::{IndexSet, InflightQueue};
use crate::notify::{Pending, passed};
use crate::queue::{Addresses, Agreed};
use crate::reach::Reach;
use crate::ring::{Descriptor, Done, Log};
use crate::single::Single;

/// Where the parts of an available or used ring are, in bytes.
pub(crate) const AT_FLAGS: usize = 0;
pub(crate) const AT_INDEX: usize = 2;
pub(crate) const AT_RING: usize = 4;
/// Bytes of an entry of the used ring.
pub(crate) const USED_ENTRY: usize = 8;
/// Flag of the used ring: the device wants no kicks.
pub(crate) const NO_NOTIFY: u16 = 1;
/// Flag of the available ring: the driver wants no calls.
pub(crate) const NO_INTERRUPT: u16 = 1;

/// Bytes of a cache line, on nearly every machine.
const LINE: usize = 64;
/// Entries of the used ring that are fetched ahead.
const USED_AHEAD: u16 = 16;
/// Chains that are fetched ahead.
const FETCHED_AHEAD: u16 = 8;

pub(crate) struct Split {
    size: u16,
    agreed: Agreed,
    rings: Rings,
    /// Next entry of the available ring to read.
    next: u16,
    /// The driver's index, as we last saw it.
    seen: u16,
    /// How many chains are fetched ahead: more of them where the last one was a single buffer. Of others, little more would
    /// be fetched than what the driver is still writing next to.
    reach: u16,
    /// The first buffers of chains before this entry of the available ring were fetched.
    ahead: u16,
    /// The used index, as the driver sees it.
    used: u16,
    /// Heads of completions written to the used ring behind the index.
    staged: Vec<u16>,
    /// Heads in our hands, or staged.
    out: IndexSet,
    /// Heads that a previous process had taken.
    recovered: VecDeque<u16>,
    records: Option<Records>,
    kicks_off: bool,
    calls: Pending,
}

/// The parts of the ring in memory.
struct Rings {
    desc: Area,
    avail: Area,
    used: Area,
}

impl Rings {
    fn resolve(mem: &MemoryMap, at: Addresses, size: u16, event_idx: bool) -> Result<Self, RingError> {
        let n = u64::from(size);
        let event = if event_idx { 2 } else { 0 };
        Ok(Self {
            desc: Area::of_user(mem, "descriptor table", at.desc, 16 * n, 16)?,
            avail: Area::of_user(mem, "available ring", at.avail, 4 + 2 * n + event, 2)?,
            used: Area::of_user(mem, "used ring", at.used, 4 + 8 * n + event, 4)?,
        })
    }
}

impl Split {
    pub(crate) fn start(
        mem: &MemoryMap,
        at: Addresses,
        size: u16,
        agreed: Agreed,
        base: Base,
        inflight: Option<InflightQueue>,
    ) -> Result<Self, RingError> {
        if !size.is_power_of_two() {
            return Err(RingError::Size { size: size.into() });
        }
        let rings = Rings::resolve(mem, at, size, agreed.event_idx)?;
        let used = rings.used.load16(AT_INDEX, Acquire);
        let mut next = base.avail_index();
        let mut out = IndexSet::new(size);
        let mut recovered = VecDeque::new();
        let records = match inflight {
            None => None,
            Some(queue) => {
                let (records, found) = Records::open(queue, size, used)?;
                if let Found::InFlight(heads) = found {
                    // What is in flight was taken, what is not was used: that is all there was.
                    next = used.wrapping_add(heads.len() as u16);
                    heads.iter().for_each(|&head| {
                        out.insert(head);
                    });
                    recovered = heads.into();
                }
                Some(records)
            }
        };
        let staged = Vec::with_capacity(usize::from(size));
        Ok(Self {
            size,
            agreed,
            rings,
            next,
            seen: next,
            reach: 1,
            ahead: next,
            used,
            staged,
            out,
            recovered,
            records,
            kicks_off: false,
            calls: Pending::default(),
        })
    }

    pub(crate) fn resolve(&mut self, mem: &MemoryMap, at: Addresses) -> Result<(), RingError> {
        self.rings = Rings::resolve(mem, at, self.size, self.agreed.event_idx)?;
        Ok(())
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Reads the next chain into `body`; `false` if there is none.
    #[inline]
    pub(crate) fn pop(&mut self, body: &mut Body, reach: &Reach) -> Result<bool, Box<RingError>> {
        if !self.recovered.is_empty() {
            return self.pop_recovered(body, reach);
        }
        if self.next == self.seen {
            self.seen = self.avail_index()?;
            if self.next == self.seen {
                return Ok(false);
            }
        }
        let head = self.rings.avail.load16(AT_RING + 2 * self.slot(self.next), Relaxed);
        if head >= self.size {
            return Err(RingError::Head { head, size: self.size }.into());
        }
        self.look_ahead(reach);
        if !self.out.insert(head) {
            return Err(RingError::HeadTwice { head }.into());
        }
        if let Err(error) = self.read_chain(head, body, reach) {
            self.out.remove(head);
            return Err(error);
        }
        self.reach = if body.buffers.is_one_piece() { FETCHED_AHEAD } else { 1 };
        if let Some(records) = &mut self.records {
            records.take(head);
        }
        self.next = self.next.wrapping_add(1);
        Ok(true)
    }

    /// Takes the next request, if it is one buffer of at least `least` bytes whose descriptor has these flags. Whatever else
    /// it is, or is wrong with it, is for [`pop`](Self::pop) to find.
    #[inline]
    pub(crate) fn take_single(&mut self, reach: &Reach, flags: u16, least: usize) -> Option<Single> {
        if !self.recovered.is_empty() {
            return None;
        }
        if self.next == self.seen {
            self.seen = self.avail_index().ok()?;
            if self.next == self.seen {
                return None;
            }
        }
        let head = self.rings.avail.load16(AT_RING + 2 * self.slot(self.next), Relaxed);
        if head >= self.size {
            return None;
        }
        let descriptor = Descriptor::from_split(self.rings.desc.load_descriptor(head, Relaxed));
        let piece =
            reach.near(descriptor).filter(|piece| descriptor.flags == flags && piece.len() >= least)?;
        if !self.out.insert(head) {
            return None;
        }
        self.look_ahead(reach);
        self.reach = FETCHED_AHEAD;
        if let Some(records) = &mut self.records {
            records.take(head);
        }
        self.next = self.next.wrapping_add(1);
        Some(Single { done: Done { id: head, count: 1, ..Done::default() }, descriptor, piece })
    }

    /// Fetches what the driver wrote, most likely on another processor, for the chains behind this one, while this one is
    /// served: the front of their first buffers, and the first descriptors of those that are as far behind them. Some at a
    /// time, where there are many.
    #[inline]
    fn look_ahead(&mut self, reach: &Reach) {
        let mut fetched = self.ahead.wrapping_sub(self.next);
        // The current one included.
        let there = self.seen.wrapping_sub(self.next);
        let end = there.min(self.reach + 1);
        if fetched > self.reach / 2 + 1 && fetched <= self.reach + 1 {
            return;
        }
        if fetched == 0 || fetched > self.reach + 1 {
            fetched = 1;
        }
        while fetched < end {
            let descriptor = self.rings.desc.load_descriptor(self.head_ahead(fetched), Relaxed);
            reach.prefetch(Descriptor::from_split(descriptor));
            if there > fetched + self.reach {
                self.rings.desc.prefetch_descriptor(self.head_ahead(fetched + self.reach));
            }
            fetched += 1;
        }
        self.ahead = self.next.wrapping_add(fetched);
    }

    /// What stands so far behind the next entry of the available ring, made an index that there is, whatever the driver has
    /// written there: a hint.
    #[inline]
    fn head_ahead(&self, count: u16) -> u16 {
        let at = self.slot(self.next.wrapping_add(count));
        self.rings.avail.load16(AT_RING + 2 * at, Relaxed) & (self.size - 1)
    }

    fn pop_recovered(&mut self, body: &mut Body, reach: &Reach) -> Result<bool, Box<RingError>> {
        let Some(&head) = self.recovered.front() else { return Ok(false) };
        self.read_chain(head, body, reach)?;
        body.recovered = true;
        self.recovered.pop_front();
        Ok(true)
    }

    /// Gives back the chain that was popped last. The next pop finds it in the ring.
    pub(crate) fn unpop(&mut self, body: &Body) {
        if let Some(records) = &mut self.records {
            records.untake(body.id);
        }
        self.out.remove(body.id);
        self.next = self.next.wrapping_sub(1);
    }

    /// Writes a used element behind the index. What is out is at most the ring's size, so it has room.
    #[inline(always)]
    pub(crate) fn stage(&mut self, done: Done) {
        let entry = self.used.wrapping_add(self.staged.len() as u16);
        let at = AT_RING + USED_ENTRY * self.slot(entry);
        if at.is_multiple_of(LINE) {
            // The driver has read the entries there a lap ago.
            self.rings
                .used
                .prefetch_for_write(AT_RING + USED_ENTRY * self.slot(entry.wrapping_add(USED_AHEAD)));
        }
        self.rings.used.store32(at, done.id.into(), Relaxed);
        self.rings.used.store32(at + 4, done.len, Relaxed);
        self.staged.push(done.id);
    }

    /// Shows what was staged to the driver; `false` if there was nothing.
    #[inline]
    pub(crate) fn publish(&mut self, log: &Log) -> bool {
        if self.staged.is_empty() {
            return false;
        }
        let count = self.staged.len() as u16;
        let new = self.used.wrapping_add(count);
        if let Some(records) = &mut self.records {
            records.link(&self.staged);
        }
        self.rings.used.store16(AT_INDEX, new, Release);
        if let Some(records) = &mut self.records {
            records.close(&self.staged, new);
        }
        if log.dirty.is_some() {
            self.log_used(log, count);
        }
        for &head in &self.staged {
            self.out.remove(head);
        }
        self.staged.clear();
        self.used = new;
        self.calls.add(count.into());
        true
    }

    fn log_used(&self, log: &Log, count: u16) {
        let first = self.slot(self.used);
        let until_wrap = (usize::from(self.size) - first).min(count.into());
        log.used((AT_RING + USED_ENTRY * first) as u64, (USED_ENTRY * until_wrap) as u64);
        log.used(AT_RING as u64, (USED_ENTRY * (usize::from(count) - until_wrap)) as u64);
        log.used(AT_INDEX as u64, 2);
    }

    /// Whether the driver wants a call for what was published since the last one was decided on.
    #[inline]
    pub(crate) fn call_needed(&mut self) -> bool {
        let Some(since) = self.calls.take() else { return false };
        // The used index must be visible before we look whether the driver sleeps.
        fence(SeqCst);
        let Ok(since) = u16::try_from(since) else { return true };
        if self.agreed.event_idx {
            let event = self.rings.avail.load16(AT_RING + 2 * usize::from(self.size), Relaxed);
            passed(event, self.used, self.used.wrapping_sub(since))
        } else {
            self.rings.avail.load16(AT_FLAGS, Relaxed) & NO_INTERRUPT == 0
        }
    }

    /// Asks for no kicks. With EVENT_IDX there is nothing to do: the driver kicks once for the index that was
    /// asked for, and then not until it is moved.
    #[inline]
    pub(crate) fn suppress_kicks(&mut self, log: &Log) {
        if !self.agreed.event_idx && !self.kicks_off {
            self.kicks_off = true;
            self.rings.used.store16(AT_FLAGS, NO_NOTIFY, Relaxed);
            log.used(AT_FLAGS as u64, 2);
        }
    }

    /// Asks for a kick for the next chain; `true` if there is none yet.
    #[inline]
    pub(crate) fn arm_kicks(&mut self, log: &Log) -> bool {
        if self.agreed.event_idx {
            let at = AT_RING + USED_ENTRY * usize::from(self.size);
            self.rings.used.store16(at, self.next, Relaxed);
            log.used(at as u64, 2);
        } else {
            // Also the first time: what a predecessor left there is unknown.
            self.kicks_off = false;
            self.rings.used.store16(AT_FLAGS, 0, Relaxed);
            log.used(AT_FLAGS as u64, 2);
        }
        // The driver must see this before we look for the last time (VIRTIO 1.3, 2.7.7).
        fence(SeqCst);
        !self.has_available()
    }

    #[inline]
    pub(crate) fn has_available(&self) -> bool {
        !self.recovered.is_empty()
            || self.next != self.seen
            || self.rings.avail.load16(AT_INDEX, Relaxed) != self.next
    }

    /// Requests that a previous process had taken, and that were not given out yet.
    pub(crate) fn recovering(&self) -> usize {
        self.recovered.len()
    }

    pub(crate) fn base(&self) -> Base {
        Base::split(self.next)
    }

    pub(crate) fn retire(&mut self) {
        if let Some(records) = &self.records {
            records.retire();
        }
    }

    /// The driver's index, if it can be.
    #[inline]
    fn avail_index(&self) -> Result<u16, Box<RingError>> {
        let avail = self.rings.avail.load16(AT_INDEX, Acquire);
        if avail.wrapping_sub(self.next) > self.size {
            return Err(RingError::AvailIndex { avail, next: self.next, size: self.size }.into());
        }
        Ok(avail)
    }

    #[inline]
    fn read_chain(&self, head: u16, body: &mut Body, reach: &Reach) -> Result<(), Box<RingError>> {
        body.id = head;
        let mut filling = body.buffers.fill(reach);
        let mut index = head;
        for count in 1..=self.size {
            body.count = count;
            let descriptor = Descriptor::from_split(self.rings.desc.load_descriptor(index, Relaxed));
            if descriptor.has(Descriptor::INDIRECT) {
                self.agreed.check_indirect(descriptor)?;
                return read_table(&Table::of(descriptor, reach.mem()), filling);
            }
            filling.push(descriptor)?;
            if !descriptor.has(Descriptor::NEXT) {
                filling.seal();
                return Ok(());
            }
            index = descriptor.link;
            if index >= self.size {
                return Err(RingError::Link { index, size: self.size.into() }.into());
            }
        }
        Err(RingError::Loop { limit: self.size.into() }.into())
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }
}

/// Reads an indirect table, whose entries are linked as those of the ring's table.
fn read_table(table: &Table<'_>, mut filling: Filling<'_>) -> Result<(), Box<RingError>> {
    let limit = table.len().min(crate::MAX_SIZE);
    let mut index = 0;
    for _ in 0..limit {
        let entry = Descriptor::from_split(table.entry(index)?);
        if entry.has(Descriptor::INDIRECT) {
            return Err(RingError::IndirectNested.into());
        }
        filling.push(entry)?;
        if !entry.has(Descriptor::NEXT) {
            filling.seal();
            return Ok(());
        }
        index = entry.link.into();
        if index >= table.len() {
            return Err(RingError::Link { index: entry.link, size: table.len() }.into());
        }
    }
    Err(RingError::Loop { limit }.into())
}
