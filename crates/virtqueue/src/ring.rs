//! What both ring formats share: names, descriptor layout and flags, positions.

use outboard_guest_memory::DirtyLog;

/// Index of a virtqueue within its device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct QueueId(pub u16);

/// Layout of a ring in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    /// Descriptor table, available ring and used ring (VIRTIO 1.3, 2.7).
    Split,
    /// One ring of descriptors with event suppression areas (VIRTIO 1.3, 2.8).
    Packed,
}

/// A descriptor of either format, as fields. The last 16-bit field is `next` in split rings, the buffer id in
/// packed ones, and stands behind or before the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// [`Descriptor::NEXT`] and so on.
    pub flags: u16,
    /// Split: index of the next descriptor. Packed: buffer id.
    pub link: u16,
}

impl Descriptor {
    /// Another descriptor of the same chain follows.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
    /// Packed: equals the driver's wrap counter once available.
    pub const AVAIL: u16 = 0x80;
    /// Packed: equals the device's wrap counter once used.
    pub const USED: u16 = 0x8000;

    /// Bytes of a descriptor, in rings and in tables.
    pub const SIZE: usize = 16;

    /// Out of the two little-endian halves of a split ring's descriptor.
    #[inline]
    pub(crate) const fn from_split((addr, rest): (u64, u64)) -> Self {
        Self { addr, len: rest as u32, flags: (rest >> 32) as u16, link: (rest >> 48) as u16 }
    }

    /// Out of the two little-endian halves of a packed ring's descriptor.
    #[inline]
    pub(crate) const fn from_packed((addr, rest): (u64, u64)) -> Self {
        Self { addr, len: rest as u32, flags: (rest >> 48) as u16, link: (rest >> 32) as u16 }
    }

    /// The second half, for a split ring.
    #[inline]
    pub(crate) const fn split_rest(self) -> u64 {
        self.len as u64 | (self.flags as u64) << 32 | (self.link as u64) << 48
    }

    /// The second half, for a packed ring.
    #[inline]
    pub(crate) const fn packed_rest(self) -> u64 {
        self.len as u64 | (self.link as u64) << 32 | (self.flags as u64) << 48
    }

    #[inline]
    pub(crate) const fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Both wrap flags as a ring with this wrap counter shows a used descriptor.
#[inline]
pub(crate) const fn used_flags(wrap: bool) -> u16 {
    if wrap { Descriptor::AVAIL | Descriptor::USED } else { 0 }
}

/// Both wrap flags as a ring with this wrap counter shows an available descriptor.
#[inline]
pub(crate) const fn avail_flags(wrap: bool) -> u16 {
    if wrap { Descriptor::AVAIL } else { Descriptor::USED }
}

/// The bits that say whose a packed descriptor is.
pub(crate) const WRAP_FLAGS: u16 = Descriptor::AVAIL | Descriptor::USED;

/// A place in a packed ring: index below the ring's size, and the wrap counter of the lap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(crate) index: u16,
    pub(crate) wrap: bool,
}

impl Position {
    /// `count` descriptors further; `count` is at most `size`.
    #[inline]
    pub(crate) fn forward(self, count: u16, size: u16) -> Self {
        let index = u32::from(self.index) + u32::from(count);
        if index >= u32::from(size) {
            Self { index: (index - u32::from(size)) as u16, wrap: !self.wrap }
        } else {
            Self { index: index as u16, wrap: self.wrap }
        }
    }

    /// `count` descriptors back; `count` is at most `size`.
    pub(crate) fn back(self, count: u16, size: u16) -> Self {
        if count > self.index {
            let index = u32::from(self.index) + u32::from(size) - u32::from(count);
            Self { index: index as u16, wrap: !self.wrap }
        } else {
            Self { index: self.index - count, wrap: self.wrap }
        }
    }

    /// As event areas and [`crate::Base`] encode it: index in 15 bits, wrap counter above.
    #[inline]
    pub(crate) fn encoded(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

/// A completion on its way to the driver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// Split: head index. Packed: buffer id.
    pub(crate) id: u16,
    /// Descriptors of the ring that the chain takes (packed).
    pub(crate) count: u16,
    /// In-flight entry (packed).
    pub(crate) slot: u16,
    /// Bytes written for the driver.
    pub(crate) len: u32,
    /// The driver is to see it at once with the next one.
    pub(crate) joined: bool,
}

/// Where writes are recorded for live migration (vhost-user: Migration).
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) dirty: Option<DirtyLog>,
    /// Buffers are recorded (VHOST_F_LOG_ALL).
    pub(crate) data: bool,
    /// Writes to the ring are recorded; the used ring (packed: the device event area) starts at this
    /// guest-physical address.
    pub(crate) used: Option<u64>,
}

impl Log {
    /// Records a write of `len` bytes at `offset` of the used ring.
    #[inline]
    pub(crate) fn used(&self, offset: u64, len: u64) {
        if let (Some(dirty), Some(start)) = (&self.dirty, self.used) {
            dirty.mark(start.wrapping_add(offset), len);
        }
    }

    /// Records a write to ring memory by its address, if writes to the ring are recorded.
    #[inline]
    pub(crate) fn ring(&self, gpa: u64, len: u64) {
        if let (Some(dirty), Some(_)) = (&self.dirty, self.used) {
            dirty.mark(gpa, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_halves_round_trip_in_both_formats() {
        let it = Descriptor { addr: 0x1122_3344_5566_7788, len: 0xdead_beef, flags: 0x8087, link: 0x1234 };
        assert_eq!(Descriptor::from_split((it.addr, it.split_rest())), it);
        assert_eq!(Descriptor::from_packed((it.addr, it.packed_rest())), it);
        assert_eq!(it.split_rest(), 0x1234_8087_dead_beef);
        assert_eq!(it.packed_rest(), 0x8087_1234_dead_beef);
    }

    #[test]
    fn position_forward_and_back_meet_at_every_border() {
        for size in [1_u16, 2, 3, 7, 256, 32768] {
            for index in [0, size / 2, size - 1] {
                for count in [0, 1.min(size), size / 2, size - 1, size] {
                    let start = Position { index, wrap: true };
                    let end = start.forward(count, size);
                    assert!(end.index < size);
                    assert_eq!(end.back(count, size), start, "{size} {index} {count}");
                }
            }
        }
    }

    #[test]
    fn position_full_lap_flips_the_wrap_counter_only() {
        let start = Position { index: 3, wrap: true };
        assert_eq!(start.forward(5, 5), Position { index: 3, wrap: false });
    }
}
