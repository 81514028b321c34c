//! Indirect tables in memory, one per entry of the ring. Written by us, read by the device.

use std::sync::atomic::Ordering::Relaxed;

use super::Buffer;
use crate::area::Area;
use crate::ring::{Descriptor, Format};

#[derive(Debug)]
pub(super) struct Tables {
    area: Area,
    entries: u16,
}

impl Tables {
    pub(super) fn new(area: Area, entries: u16) -> Self {
        Self { area, entries }
    }

    /// Whether a request of `count` buffers goes into a table.
    #[inline]
    pub(super) fn suits(&self, count: usize) -> bool {
        count > 1 && count <= self.entries.into()
    }

    /// Writes table `index` for a request of `count` buffers, and returns the descriptor for it.
    #[inline]
    pub(super) fn write(
        &self,
        format: Format,
        index: u16,
        count: usize,
        buffers: impl Iterator<Item = (Buffer, u16)>,
    ) -> Descriptor {
        let start = usize::from(index) * usize::from(self.entries) * Descriptor::SIZE;
        for (entry, (buffer, flags)) in buffers.enumerate() {
            let mut it = Descriptor { addr: buffer.gpa, len: buffer.len, flags, link: 0 };
            let at = start + entry * Descriptor::SIZE;
            let rest = match format {
                Format::Split => {
                    if entry + 1 < count {
                        it.flags |= Descriptor::NEXT;
                        it.link = entry as u16 + 1;
                    }
                    it.split_rest()
                }
                Format::Packed => it.packed_rest(),
            };
            self.area.store64(at, it.addr, Relaxed);
            self.area.store64(at + 8, rest, Relaxed);
        }
        let addr = self.area.gpa() + start as u64;
        Descriptor { addr, len: (count * Descriptor::SIZE) as u32, flags: Descriptor::INDIRECT, link: 0 }
    }
}
