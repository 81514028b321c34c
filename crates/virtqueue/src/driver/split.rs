//! The driver's half of a split ring (VIRTIO 1.3, 2.7.13 and 2.7.14). The used ring is the device's, and not trusted.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::{AddError, Buffer, DeviceFault, DriverConfig, Parts, Slots, Tables};
use crate::area::Area;
use crate::base::Base;
use crate::notify::{Pending, passed};
use crate::ring::{Descriptor, Format};
use crate::split::{AT_FLAGS, AT_INDEX, AT_RING, NO_INTERRUPT, NO_NOTIFY, USED_ENTRY};

#[derive(Debug)]
pub(super) struct Split {
    size: u16,
    event_idx: bool,
    desc: Area,
    avail: Area,
    used: Area,
    tables: Option<Tables>,
    slots: Slots,
    /// Behind each descriptor the next one of its chain, or of the free ones. In ring order for good with
    /// IN_ORDER, which wants that (VIRTIO 1.3, 2.7.9): then completions free descriptors in that order too.
    next: Vec<u16>,
    in_order: bool,
    free_head: u16,
    free: u16,
    /// Available index with all that was added, and as the device sees it.
    added: u16,
    published: u16,
    /// Used index as far as was polled, and as last seen.
    polled: u16,
    seen: u16,
    kicks: Pending,
}

impl Split {
    pub(super) fn new(config: &DriverConfig, parts: Parts, tables: Option<Tables>) -> Self {
        let &DriverConfig { size, event_idx, in_order, .. } = config;
        let Parts { desc, driver, device } = parts;
        Self {
            size,
            event_idx,
            desc,
            avail: driver,
            used: device,
            tables,
            slots: Slots::new(size, in_order),
            next: (0..size).map(|index| (index + 1) % size).collect(),
            in_order,
            free_head: 0,
            free: size,
            added: 0,
            published: 0,
            polled: 0,
            seen: 0,
            kicks: Pending::default(),
        }
    }

    #[inline]
    pub(super) fn add(
        &mut self,
        readable: impl ExactSizeIterator<Item = (Buffer, u16)>,
        writable: impl ExactSizeIterator<Item = (Buffer, u16)>,
        token: u64,
    ) -> Result<(), AddError> {
        let count = readable.len() + writable.len();
        let buffers = readable.chain(writable);
        let head = self.free_head;
        if let Some(tables) = &self.tables
            && tables.suits(count)
        {
            self.room(1)?;
            self.store(head, tables.write(Format::Split, head, count, buffers));
            self.push(head, head, 1, token);
            return Ok(());
        }
        self.room(count)?;
        let (mut index, mut last) = (head, head);
        for (nth, (Buffer { gpa, len }, flags)) in buffers.enumerate() {
            last = index;
            let link = self.next_of(index);
            let more = if nth + 1 < count { Descriptor::NEXT } else { 0 };
            self.store(index, Descriptor { addr: gpa, len, flags: flags | more, link });
            index = link;
        }
        self.push(head, last, count as u16, token);
        Ok(())
    }

    pub(super) fn add_raw(&mut self, descriptors: &[Descriptor], token: u64) -> Result<(), AddError> {
        self.room(descriptors.len())?;
        let head = self.free_head;
        let mut taken = vec![head];
        for _ in 1..descriptors.len() {
            taken.push(self.next_of(*taken.last().unwrap_or(&head)));
        }
        for (&index, &descriptor) in taken.iter().zip(descriptors) {
            let link = taken.get(usize::from(descriptor.link)).copied().unwrap_or(descriptor.link);
            self.store(index, Descriptor { link, ..descriptor });
        }
        self.push(head, *taken.last().unwrap_or(&head), taken.len() as u16, token);
        Ok(())
    }

    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        let count = self.added.wrapping_sub(self.published);
        self.avail.store16(AT_INDEX, self.added, Release);
        self.published = self.added;
        self.kicks.add(count.into());
        let Some(since) = self.kicks.take() else { return false };
        // The index must be visible before we look whether the device sleeps.
        fence(SeqCst);
        let Ok(since) = u16::try_from(since) else { return true };
        if self.event_idx {
            let event = self.used.load16(AT_RING + USED_ENTRY * usize::from(self.size), Relaxed);
            passed(event, self.added, self.added.wrapping_sub(since))
        } else {
            self.used.load16(AT_FLAGS, Relaxed) & NO_NOTIFY == 0
        }
    }

    #[inline]
    pub(super) fn poll_used(&mut self) -> Result<Option<(u64, u32)>, DeviceFault> {
        let (id, len) = match self.slots.batch() {
            Some((id, len)) => {
                if self.polled == self.seen {
                    // A batch counts each of its requests in the index.
                    return Err(DeviceFault::Order(id.into()));
                }
                (id.into(), len)
            }
            None => {
                if self.polled == self.seen {
                    self.look()?;
                    if self.polled == self.seen {
                        return Ok(None);
                    }
                }
                let at = AT_RING + USED_ENTRY * self.slot(self.polled);
                (self.used.load32(at, Relaxed), self.used.load32(at + 4, Relaxed))
            }
        };
        let (head, slot, len) = self.slots.take(id, len)?;
        self.polled = self.polled.wrapping_add(1);
        self.free += slot.count;
        if !self.in_order {
            if let Some(next) = self.next.get_mut(usize::from(slot.last)) {
                *next = self.free_head;
            }
            self.free_head = head;
        }
        Ok(Some((slot.token, len)))
    }

    #[inline]
    pub(super) fn has_used(&self) -> bool {
        self.polled != self.seen || self.used.load16(AT_INDEX, Relaxed) != self.polled
    }

    pub(super) fn suppress_calls(&mut self) {
        if !self.event_idx {
            self.avail.store16(AT_FLAGS, NO_INTERRUPT, Relaxed);
        }
    }

    #[inline]
    pub(super) fn arm_calls(&mut self) -> bool {
        if self.event_idx {
            self.avail.store16(AT_RING + 2 * usize::from(self.size), self.polled, Relaxed);
        } else {
            self.avail.store16(AT_FLAGS, 0, Relaxed);
        }
        // The device must see this before we look for the last time.
        fence(SeqCst);
        !self.has_used()
    }

    pub(super) fn restarted(&mut self) {
        self.kicks = Pending::default();
    }

    pub(super) fn begin_at(&mut self, avail: u16, used: u16) {
        (self.added, self.published) = (avail, avail);
        (self.polled, self.seen) = (used, used);
        self.avail.store16(AT_INDEX, avail, Release);
        self.used.store16(AT_INDEX, used, Release);
    }

    pub(super) fn base_for_restart(&self) -> Base {
        Base::split(self.used.load16(AT_INDEX, Acquire))
    }

    pub(super) fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn free(&self) -> u32 {
        self.free.into()
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(super) fn write_descriptor(&mut self, index: u16, descriptor: Descriptor) {
        self.store(index % self.size, descriptor);
    }

    pub(super) fn write_avail(&mut self, slot: u16, head: u16) {
        self.avail.store16(AT_RING + 2 * self.slot(slot), head, Relaxed);
    }

    pub(super) fn write_avail_index(&mut self, index: u16) {
        self.avail.store16(AT_INDEX, index, Release);
    }

    fn look(&mut self) -> Result<(), DeviceFault> {
        let index = self.used.load16(AT_INDEX, Acquire);
        let outstanding = self.slots.outstanding;
        if u32::from(index.wrapping_sub(self.polled)) > outstanding {
            return Err(DeviceFault::UsedIndex { index, seen: self.polled, outstanding });
        }
        self.seen = index;
        Ok(())
    }

    #[inline]
    fn room(&self, count: usize) -> Result<(), AddError> {
        if count == 0 || count > self.size.into() {
            return Err(AddError::Shape(count));
        }
        if count > self.free.into() { Err(AddError::Full) } else { Ok(()) }
    }

    /// Takes the first `count` free descriptors, from `head` to `last`, for a request, and enters it.
    #[inline]
    fn push(&mut self, head: u16, last: u16, count: u16, token: u64) {
        self.free_head = self.next_of(last);
        self.free -= count;
        self.slots.insert(head, token, count, last);
        self.avail.store16(AT_RING + 2 * self.slot(self.added), head, Relaxed);
        self.added = self.added.wrapping_add(1);
    }

    #[inline]
    fn store(&self, index: u16, descriptor: Descriptor) {
        let at = Descriptor::SIZE * usize::from(index);
        self.desc.store64(at, descriptor.addr, Relaxed);
        self.desc.store64(at + 8, descriptor.split_rest(), Relaxed);
    }

    #[inline]
    fn next_of(&self, index: u16) -> u16 {
        self.next.get(usize::from(index)).copied().unwrap_or(0)
    }

    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }
}
