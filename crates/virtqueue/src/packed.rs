//! The device's half of a packed ring (VIRTIO 1.3, 2.8). Driver and device write the same descriptors in turn; what
//! we have read of one is ours, what stands there later is not looked at again.

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
use crate::inflight::InflightQueue;
use crate::inflight::packed::{Found, Records, Ring, Taken};
use crate::notify::{EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Pending, Wanted};
use crate::queue::{Addresses, Agreed};
use crate::reach::Reach;
use crate::ring::{Descriptor, Done, Log, Position, WRAP_FLAGS, avail_flags, used_flags};
use crate::single::Single;

/// The half of a descriptor behind its address.
pub(crate) const AT_REST: usize = 8;
/// The flags in it.
const AT_FLAGS: usize = 14;
/// Bytes of an event suppression area.
pub(crate) const EVENT_AREA: u64 = 4;

/// Descriptors of a cache line, on nearly every machine.
const PER_LINE: u16 = 4;
/// Descriptors that are fetched ahead.
const FETCHED_AHEAD: u16 = 8;

pub(crate) struct Packed {
    size: u16,
    agreed: Agreed,
    rings: Rings,
    /// Next descriptor to read.
    avail: Position,
    /// So many descriptors from there on were fetched, with their buffers.
    ahead: u16,
    /// There were no more, when it was looked last.
    at_heels: bool,
    /// Next descriptor to mark used.
    used: Position,
    /// Descriptors of chains in our hands, or staged.
    out: u32,
    /// Completions not yet in the ring.
    staged: Vec<Done>,
    /// Requests that a previous process had taken.
    recovered: VecDeque<Taken>,
    records: Option<Records>,
    /// The chain that is being read, for the records.
    copies: Vec<Descriptor>,
    kicks_off: bool,
    calls: Pending,
}

/// The parts of the ring in memory.
struct Rings {
    desc: Area,
    driver: Area,
    device: Area,
}

impl Rings {
    fn resolve(mem: &MemoryMap, at: Addresses, size: u16) -> Result<Self, RingError> {
        Ok(Self {
            desc: Area::of_user(mem, "descriptor ring", at.desc, 16 * u64::from(size), 16)?,
            driver: Area::of_user(mem, "driver event area", at.avail, EVENT_AREA, 4)?,
            device: Area::of_user(mem, "device event area", at.used, EVENT_AREA, 4)?,
        })
    }
}

/// What a predecessor has shown, or meant to show, to the driver.
struct Shown<'a> {
    rings: &'a Rings,
    mem: &'a MemoryMap,
}

impl Ring for Shown<'_> {
    fn flags(&self, index: u16) -> u16 {
        (self.rings.desc.load64(place(index), Acquire) >> 48) as u16
    }

    fn set_flags(&self, index: u16, flags: u16) {
        let at = Descriptor::SIZE * usize::from(index) + AT_FLAGS;
        self.rings.desc.store16(at, flags, Relaxed);
        if let Some(dirty) = self.mem.log() {
            dirty.mark(self.rings.desc.gpa().wrapping_add(at as u64), 2);
        }
    }
}

impl Packed {
    pub(crate) fn start(
        mem: &MemoryMap,
        at: Addresses,
        size: u16,
        agreed: Agreed,
        base: Base,
        inflight: Option<InflightQueue>,
    ) -> Result<Self, RingError> {
        let rings = Rings::resolve(mem, at, size)?;
        let position = |(index, wrap)| {
            if index < size { Ok(Position { index, wrap }) } else { Err(RingError::Base { index, size }) }
        };
        let mut this = Self {
            size,
            agreed,
            rings,
            avail: position(base.packed_avail())?,
            ahead: 0,
            at_heels: false,
            used: position(base.packed_used())?,
            out: 0,
            staged: Vec::with_capacity(usize::from(size)),
            recovered: VecDeque::new(),
            records: None,
            copies: Vec::new(),
            kicks_off: false,
            calls: Pending::default(),
        };
        if let Some(queue) = inflight {
            let (records, found) = Records::open(queue, size, this.used, &Shown { rings: &this.rings, mem })?;
            this.records = Some(records);
            if let Found::InFlight(taken, used) = found {
                // What is in flight was taken, what is not was used: that is all there was. The records add up to
                // no more than the ring.
                let count: usize = taken.iter().map(|taken| taken.descriptors.len()).sum();
                this.used = used;
                this.avail = used.forward(count as u16, size);
                this.out = count as u32;
                this.recovered = taken.into();
            }
        }
        Ok(this)
    }

    pub(crate) fn resolve(&mut self, mem: &MemoryMap, at: Addresses) -> Result<(), RingError> {
        self.rings = Rings::resolve(mem, at, self.size)?;
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
        let first = self.rings.desc.load_descriptor(self.avail.index, Acquire);
        let mut descriptor = Descriptor::from_packed(first);
        if descriptor.flags & WRAP_FLAGS != avail_flags(self.avail.wrap) {
            return Ok(false);
        }
        let free = u32::from(self.size).saturating_sub(self.out);
        let mut count = 0_u16;
        let mut filling = body.buffers.fill(reach);
        let mut at = self.avail;
        self.copies.clear();
        loop {
            if u32::from(count) == free {
                return Err(RingError::Overrun { size: self.size }.into());
            }
            count += 1;
            at = at.forward(1, self.size);
            if self.records.is_some() {
                self.copies.push(descriptor);
            }
            if descriptor.has(Descriptor::INDIRECT) {
                self.agreed.check_indirect(descriptor)?;
                read_table(&Table::of(descriptor, reach.mem()), &mut filling)?;
                break;
            }
            filling.push(descriptor)?;
            if !descriptor.has(Descriptor::NEXT) {
                break;
            }
            descriptor = Descriptor::from_packed(self.rings.desc.load_descriptor(at.index, Relaxed));
        }
        filling.seal();
        self.ahead = self.ahead.saturating_sub(count);
        if body.buffers.is_one_piece() {
            self.look_ahead(at, reach);
        }
        // The id stands in the last descriptor of a chain (VIRTIO 1.3, 2.8.6).
        body.id = descriptor.link;
        body.count = count;
        if let Some(records) = &mut self.records {
            body.slot = records.take(&self.copies);
        }
        self.out += u32::from(count);
        self.avail = at;
        Ok(true)
    }

    /// Takes the next request, if it is one buffer of at least `least` bytes whose descriptor has these flags. Whatever else
    /// it is, or is wrong with it, is for [`pop`](Self::pop) to find.
    #[inline]
    pub(crate) fn take_single(&mut self, reach: &Reach, flags: u16, least: usize) -> Option<Single> {
        if !self.recovered.is_empty() || self.out >= u32::from(self.size) {
            return None;
        }
        let descriptor = Descriptor::from_packed(self.rings.desc.load_descriptor(self.avail.index, Acquire));
        if descriptor.flags != flags | avail_flags(self.avail.wrap) {
            return None;
        }
        let piece = reach.near(descriptor).filter(|piece| piece.len() >= least)?;
        let at = self.avail.forward(1, self.size);
        self.ahead = self.ahead.saturating_sub(1);
        self.look_ahead(at, reach);
        let slot = self.records.as_mut().map_or(0, |records| records.take(&[descriptor]));
        self.out += 1;
        self.avail = at;
        Some(Single {
            done: Done { id: descriptor.link, count: 1, slot, ..Done::default() },
            descriptor,
            piece,
        })
    }

    /// Fetches the front of the buffers behind those of this chain, which ends at `from`, while it is served. Where the
    /// driver has added no more it is not looked again before all that was there is taken: each look takes the line away
    /// from the driver, which is about to write to it.
    #[inline]
    fn look_ahead(&mut self, from: Position, reach: &Reach) {
        if self.ahead > if self.at_heels { 0 } else { FETCHED_AHEAD / 2 } {
            return;
        }
        self.at_heels = false;
        while self.ahead < FETCHED_AHEAD.min(self.size) {
            let at = from.forward(self.ahead, self.size);
            let descriptor = Descriptor::from_packed(self.rings.desc.load_descriptor(at.index, Relaxed));
            if descriptor.flags & WRAP_FLAGS != avail_flags(at.wrap) {
                self.at_heels = true;
                return;
            }
            reach.prefetch(descriptor);
            if at.index % PER_LINE == PER_LINE - 1 {
                // The driver is done with this line, which we shall write to.
                self.rings.desc.prefetch_for_write(Descriptor::SIZE * usize::from(at.index));
                let line_behind_next = at.forward((2 * PER_LINE).min(self.size), self.size);
                self.rings.desc.prefetch_descriptor(line_behind_next.index);
            }
            self.ahead += 1;
        }
    }

    fn pop_recovered(&mut self, body: &mut Body, reach: &Reach) -> Result<bool, Box<RingError>> {
        let Some(taken) = self.recovered.front() else { return Ok(false) };
        let mut filling = body.buffers.fill(reach);
        for &descriptor in &taken.descriptors {
            body.id = descriptor.link;
            if descriptor.has(Descriptor::INDIRECT) {
                self.agreed.check_indirect(descriptor)?;
                read_table(&Table::of(descriptor, reach.mem()), &mut filling)?;
            } else {
                filling.push(descriptor)?;
            }
        }
        filling.seal();
        body.count = taken.descriptors.len() as u16;
        body.slot = taken.slot;
        body.recovered = true;
        self.recovered.pop_front();
        Ok(true)
    }

    /// Gives back the chain that was popped last. The next pop finds it in the ring.
    pub(crate) fn unpop(&mut self, body: &Body) {
        if let Some(records) = &mut self.records {
            records.untake(body.slot);
        }
        self.avail = self.avail.back(body.count, self.size);
        self.out = self.out.saturating_sub(body.count.into());
    }

    #[inline(always)]
    pub(crate) fn stage(&mut self, done: Done) {
        self.staged.push(done);
    }

    /// Shows what was staged to the driver; `false` if there was nothing.
    #[inline]
    pub(crate) fn publish(&mut self, log: &Log) -> bool {
        let Some((first, more)) = self.staged.split_first() else { return false };
        let mut at = self.used;
        let mut count = u32::from(first.count);
        if let Some(records) = &mut self.records {
            // One by one, as the records want it, but for those that belong together: they are one to them.
            count = 0;
            for unit in self.staged.chunk_by(|done, _| done.joined) {
                let end = unit.iter().fold(at, |at, done| at.forward(done.count, self.size));
                let slots = || unit.iter().map(|done| done.slot);
                records.begin_return(slots(), end);
                // The first one last: what the driver, or our successor, finds there goes for all.
                let mut back = end;
                for &done in unit.iter().rev() {
                    back = back.back(done.count, self.size);
                    self.rings.desc.store64(place(back.index), used_rest(done, back.wrap), Release);
                    count += u32::from(done.count);
                }
                records.end_return(slots());
                at = end;
            }
        } else {
            // The driver, which reads in order, sees nothing of a batch before its first descriptor. So that one
            // goes last, and the batch shows up as a whole.
            let start = at;
            at = at.forward(first.count, self.size);
            for &done in more {
                self.rings.desc.store64(place(at.index), used_rest(done, at.wrap), Relaxed);
                count += u32::from(done.count);
                at = at.forward(done.count, self.size);
            }
            self.rings.desc.store64(place(start.index), used_rest(*first, start.wrap), Release);
        }
        if log.dirty.is_some() {
            let mut at = self.used;
            for done in &self.staged {
                let offset = Descriptor::SIZE as u64 * u64::from(at.index);
                log.ring(self.rings.desc.gpa().wrapping_add(offset), Descriptor::SIZE as u64);
                at = at.forward(done.count, self.size);
            }
        }
        self.staged.clear();
        self.used = at;
        self.out = self.out.saturating_sub(count);
        self.calls.add(count);
        true
    }

    /// Whether the driver wants a call for what was published since the last one was decided on.
    #[inline]
    pub(crate) fn call_needed(&mut self) -> bool {
        let Some(since) = self.calls.take() else { return false };
        // The descriptors must be visible before we look whether the driver sleeps.
        fence(SeqCst);
        if since == u32::MAX {
            return true;
        }
        let wanted = Wanted::decode(self.rings.driver.load32(0, Relaxed), self.agreed.event_idx);
        wanted.within(since, self.used.index, self.used.wrap, self.size)
    }

    /// Asks for no kicks.
    #[inline]
    pub(crate) fn suppress_kicks(&mut self, log: &Log) {
        if !self.kicks_off {
            self.kicks_off = true;
            self.store_event(u32::from(EVENT_DISABLE) << 16, log);
        }
    }

    /// Asks for a kick for the next chain; `true` if there is none yet.
    #[inline]
    pub(crate) fn arm_kicks(&mut self, log: &Log) -> bool {
        self.kicks_off = false;
        let flags = if self.agreed.event_idx { EVENT_DESC } else { EVENT_ENABLE };
        let position = if self.agreed.event_idx { self.avail.encoded() } else { 0 };
        self.store_event(u32::from(position) | u32::from(flags) << 16, log);
        // The driver must see this before we look for the last time (VIRTIO 1.3, 2.8.21.3.1).
        fence(SeqCst);
        !self.has_available()
    }

    #[inline]
    pub(crate) fn has_available(&self) -> bool {
        if !self.recovered.is_empty() {
            return true;
        }
        let flags = (self.rings.desc.load64(place(self.avail.index), Relaxed) >> 48) as u16;
        flags & WRAP_FLAGS == avail_flags(self.avail.wrap)
    }

    /// Requests that a previous process had taken, and that were not given out yet.
    pub(crate) fn recovering(&self) -> usize {
        self.recovered.len()
    }

    pub(crate) fn base(&self) -> Base {
        Base::packed(self.avail.index, self.avail.wrap, self.used.index, self.used.wrap)
    }

    pub(crate) fn retire(&mut self) {
        if let Some(records) = &self.records {
            records.retire();
        }
    }

    /// Both fields of our event area at once.
    fn store_event(&self, event: u32, log: &Log) {
        self.rings.device.store32(0, event, Relaxed);
        log.used(0, EVENT_AREA);
    }
}

/// Every entry of an indirect table, which follow each other (VIRTIO 1.3, 2.8.7).
fn read_table(table: &Table<'_>, filling: &mut Filling<'_>) -> Result<(), Box<RingError>> {
    if table.len() > crate::MAX_SIZE {
        return Err(RingError::Loop { limit: crate::MAX_SIZE }.into());
    }
    for index in 0..table.len() {
        let entry = Descriptor::from_packed(table.entry(index)?);
        if entry.has(Descriptor::INDIRECT) {
            return Err(RingError::IndirectNested.into());
        }
        filling.push(entry)?;
    }
    Ok(())
}

/// What the second half of a used descriptor says: length, id, flags, in one store.
#[inline]
fn used_rest(done: Done, wrap: bool) -> u64 {
    let write = if done.len > 0 { Descriptor::WRITE } else { 0 };
    let flags = used_flags(wrap) | write;
    Descriptor { addr: 0, len: done.len, flags, link: done.id }.packed_rest()
}

#[inline]
fn place(index: u16) -> usize {
    Descriptor::SIZE * usize::from(index) + AT_REST
}
