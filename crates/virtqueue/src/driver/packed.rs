//! The driver's half of a packed ring (VIRTIO 1.3, 2.8.21 and 2.8.22). What the device writes is not trusted.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use super::{AddError, Buffer, DeviceFault, DriverConfig, Parts, Slots, Tables};
use crate::area::Area;
use crate::base::Base;
use crate::notify::{EVENT_DESC, EVENT_DISABLE, EVENT_ENABLE, Pending, Wanted};
use crate::packed::AT_REST;
use crate::ring::{Descriptor, Format, Position, WRAP_FLAGS, avail_flags, used_flags};

#[derive(Debug)]
pub(super) struct Packed {
    size: u16,
    event_idx: bool,
    desc: Area,
    driver: Area,
    device: Area,
    tables: Option<Tables>,
    slots: Slots,
    /// Buffer ids that are free.
    ids: Vec<u16>,
    free: u16,
    avail: Position,
    used: Position,
    /// The first descriptor added since the last publish: the device sees none of the others before it.
    first: Option<(u16, u64)>,
    /// Descriptors added since then.
    unpublished: u32,
    kicks: Pending,
}

impl Packed {
    pub(super) fn new(config: &DriverConfig, parts: Parts, tables: Option<Tables>) -> Self {
        let &DriverConfig { size, event_idx, in_order, .. } = config;
        let Parts { desc, driver, device } = parts;
        let start = Position { index: 0, wrap: true };
        Self {
            size,
            event_idx,
            desc,
            driver,
            device,
            tables,
            slots: Slots::new(size, in_order),
            ids: (0..size).rev().collect(),
            free: size,
            avail: start,
            used: start,
            first: None,
            unpublished: 0,
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
        if let Some(tables) = &self.tables
            && tables.suits(count)
        {
            let id = self.room(1)?;
            let table = tables.write(Format::Packed, id, count, buffers);
            self.store(Descriptor { link: id, ..table });
            self.push(id, 1, token);
            return Ok(());
        }
        let id = self.room(count)?;
        for (nth, (Buffer { gpa, len }, flags)) in buffers.enumerate() {
            let more = if nth + 1 < count { Descriptor::NEXT } else { 0 };
            self.store(Descriptor { addr: gpa, len, flags: flags | more, link: id });
        }
        self.push(id, count as u16, token);
        Ok(())
    }

    pub(super) fn add_raw(&mut self, descriptors: &[Descriptor], token: u64) -> Result<(), AddError> {
        let id = self.room(descriptors.len())?;
        for (nth, &descriptor) in descriptors.iter().enumerate() {
            let link = if nth + 1 == descriptors.len() { id } else { descriptor.link };
            self.store(Descriptor { link, ..descriptor });
        }
        self.push(id, descriptors.len() as u16, token);
        Ok(())
    }

    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if let Some((index, rest)) = self.first.take() {
            self.desc.store64(place(index), rest, Release);
        }
        self.kicks.add(std::mem::take(&mut self.unpublished));
        let Some(since) = self.kicks.take() else { return false };
        // The descriptors must be visible before we look whether the device sleeps.
        fence(SeqCst);
        if since == u32::MAX {
            return true;
        }
        let wanted = Wanted::decode(self.device.load32(0, Relaxed), self.event_idx);
        wanted.within(since, self.avail.index, self.avail.wrap, self.size)
    }

    #[inline]
    pub(super) fn poll_used(&mut self) -> Result<Option<(u64, u32)>, DeviceFault> {
        let (id, len) = match self.slots.batch() {
            Some((id, len)) => (id, len),
            None => {
                let rest = self.desc.load64(place(self.used.index), Acquire);
                let Some(descriptor) = self.used_at(rest) else { return Ok(None) };
                // Without that flag the length means nothing (VIRTIO 1.3, 2.8.6), and DPDK leaves something there.
                let written = if descriptor.flags & Descriptor::WRITE == 0 { 0 } else { descriptor.len };
                (descriptor.link, written)
            }
        };
        let (id, slot, len) = self.slots.take(id.into(), len)?;
        self.used = self.used.forward(slot.count, self.size);
        self.free += slot.count;
        self.ids.push(id);
        Ok(Some((slot.token, len)))
    }

    #[inline]
    pub(super) fn has_used(&self) -> bool {
        let rest = || self.desc.load64(place(self.used.index), Relaxed);
        self.slots.batch().is_some() || self.used_at(rest()).is_some()
    }

    pub(super) fn suppress_calls(&mut self) {
        self.driver.store32(0, u32::from(EVENT_DISABLE) << 16, Relaxed);
    }

    #[inline]
    pub(super) fn arm_calls(&mut self) -> bool {
        let flags = if self.event_idx { EVENT_DESC } else { EVENT_ENABLE };
        let position = if self.event_idx { self.used.encoded() } else { 0 };
        self.driver.store32(0, u32::from(position) | u32::from(flags) << 16, Relaxed);
        // The device must see this before we look for the last time.
        fence(SeqCst);
        !self.has_used()
    }

    pub(super) fn restarted(&mut self) {
        self.kicks = Pending::default();
    }

    pub(super) fn begin_at(&mut self, base: Base) {
        let position = |(index, wrap)| Position { index, wrap };
        (self.avail, self.used) = (position(base.packed_avail()), position(base.packed_used()));
        // No descriptor may look available: the flags of all are as the lap before left them used.
        for index in 0..self.size {
            let wrap = if index < self.used.index { self.used.wrap } else { !self.used.wrap };
            let flags = used_flags(wrap);
            self.desc.store64(
                place(index),
                Descriptor { flags, ..Descriptor::default() }.packed_rest(),
                Relaxed,
            );
        }
    }

    /// Behind the last descriptor that is marked used, whether it was polled or not.
    pub(super) fn base_for_restart(&self) -> Base {
        let mut used = self.used;
        for _ in 0..self.slots.outstanding {
            let rest = self.desc.load64(place(used.index), Acquire);
            let flags = (rest >> 48) as u16 & WRAP_FLAGS;
            let id = (rest >> 32) as u16;
            match self.slots.slots.get(usize::from(id)) {
                Some(slot) if flags == used_flags(used.wrap) && slot.count > 0 => {
                    used = used.forward(slot.count, self.size);
                }
                _ => break,
            }
        }
        Base::packed(used.index, used.wrap, used.index, used.wrap)
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
        let index = index % self.size;
        self.desc.store64(Descriptor::SIZE * usize::from(index), descriptor.addr, Relaxed);
        self.desc.store64(place(index), descriptor.packed_rest(), Release);
    }

    /// The descriptor with this second half, if it stands at the used position and is used.
    #[inline]
    fn used_at(&self, rest: u64) -> Option<Descriptor> {
        let descriptor = Descriptor::from_packed((0, rest));
        let used = descriptor.flags & WRAP_FLAGS == used_flags(self.used.wrap);
        // With nothing out, what stands there is from the lap before.
        (used && self.slots.outstanding > 0).then_some(descriptor)
    }

    /// The next free id, if there is room for `count` descriptors.
    #[inline]
    fn room(&self, count: usize) -> Result<u16, AddError> {
        if count == 0 || count > self.size.into() {
            return Err(AddError::Shape(count));
        }
        if count > self.free.into() {
            return Err(AddError::Full);
        }
        self.ids.last().copied().ok_or(AddError::Full)
    }

    #[inline]
    fn push(&mut self, id: u16, count: u16, token: u64) {
        self.ids.pop();
        self.free -= count;
        self.unpublished += u32::from(count);
        self.slots.insert(id, token, count, 0);
    }

    /// Writes the next descriptor of the ring.
    #[inline]
    fn store(&mut self, descriptor: Descriptor) {
        let Position { index, wrap } = self.avail;
        let flags = descriptor.flags & !WRAP_FLAGS | avail_flags(wrap);
        let rest = Descriptor { flags, ..descriptor }.packed_rest();
        self.desc.store64(Descriptor::SIZE * usize::from(index), descriptor.addr, Relaxed);
        if self.first.is_none() {
            self.first = Some((index, rest));
        } else {
            self.desc.store64(place(index), rest, Relaxed);
        }
        self.avail = self.avail.forward(1, self.size);
    }
}

#[inline]
fn place(index: u16) -> usize {
    Descriptor::SIZE * usize::from(index) + AT_REST
}
