//! A ring's position as the messages carry it (vhost-user: SET_VRING_BASE, GET_VRING_BASE).

use std::fmt;

use crate::Format;

/// Where a ring goes on, in the encoding of the protocol.
///
/// Split: bits 0-15 are the next available index, free running. The used index is no part of it: it stands in the
/// ring. Packed: bits 0-14 the next available descriptor, bit 15 its wrap counter, bits 16-30 the next used
/// descriptor, bit 31 its wrap counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Base(pub u32);

impl Base {
    /// A packed ring that was never used: both positions 0, both wrap counters 1.
    pub const FRESH_PACKED: Self = Self(0x8000_8000);

    /// A split ring that goes on at available index `avail`.
    pub const fn split(avail: u16) -> Self {
        Self(avail as u32)
    }

    /// A packed ring that goes on at these descriptors (below 32768) with these wrap counters.
    pub const fn packed(avail: u16, avail_wrap: bool, used: u16, used_wrap: bool) -> Self {
        let avail = (avail & 0x7fff) as u32 | (avail_wrap as u32) << 15;
        let used = (used & 0x7fff) as u32 | (used_wrap as u32) << 15;
        Self(avail | used << 16)
    }

    /// Whether this is where a driver starts a ring. A split ring is there again after each 65536 requests, a packed one
    /// after each second lap.
    pub const fn is_beginning(self, format: Format) -> bool {
        match format {
            Format::Split => self.avail_index() == 0,
            Format::Packed => {
                let ((avail, avail_wrap), (used, used_wrap)) = (self.packed_avail(), self.packed_used());
                avail == 0 && avail_wrap && used == 0 && used_wrap
            }
        }
    }

    /// Next available index of a split ring.
    pub const fn avail_index(self) -> u16 {
        self.0 as u16
    }

    /// Next available descriptor of a packed ring, and its wrap counter.
    pub const fn packed_avail(self) -> (u16, bool) {
        (self.0 as u16 & 0x7fff, self.0 & 0x8000 != 0)
    }

    /// Next used descriptor of a packed ring, and its wrap counter.
    ///
    /// Some front ends know only the low half (DPDK). Their rings were drained when they stopped, so that a high
    /// half of 0 beside a low half other than 0 means "the same as available". All of it 0 is a true position,
    /// that after one lap, and taken literally.
    pub const fn packed_used(self) -> (u16, bool) {
        let half = if self.0 >> 16 == 0 { self.0 } else { self.0 >> 16 };
        (half as u16 & 0x7fff, half & 0x8000 != 0)
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base({:#x})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_is_where_drivers_start_and_nowhere_else() {
        // Some front ends know only the low half of a packed ring's position.
        for base in [Base::FRESH_PACKED, Base(0x8000)] {
            assert!(base.is_beginning(Format::Packed) && base.packed_used() == (0, true));
        }
        assert!(Base::split(0).is_beginning(Format::Split));
        for base in [Base(0), Base::packed(0, false, 0, true), Base::packed(1, true, 0, true)] {
            assert!(!base.is_beginning(Format::Packed), "{base:?}");
        }
        assert!(!Base::split(1).is_beginning(Format::Split));
    }

    #[test]
    fn fresh_packed_is_position_0_with_wrap_1() {
        assert_eq!(Base::packed(0, true, 0, true), Base::FRESH_PACKED);
        assert_eq!(Base::FRESH_PACKED.packed_avail(), (0, true));
        assert_eq!(Base::FRESH_PACKED.packed_used(), (0, true));
    }

    #[test]
    fn packed_halves_come_back_apart() {
        let base = Base::packed(7, false, 5, true);
        assert_eq!(base.0, 0x8005_0007);
        assert_eq!((base.packed_avail(), base.packed_used()), ((7, false), (5, true)));
    }

    #[test]
    fn low_half_alone_means_used_equals_available() {
        assert_eq!(Base(0x8000).packed_used(), (0, true));
        assert_eq!(Base(0x0013).packed_used(), (0x13, false));
        assert_eq!(Base(0).packed_used(), (0, false));
    }

    #[test]
    fn split_keeps_the_whole_index() {
        assert_eq!(Base::split(0xffff).0, 0xffff);
        assert_eq!(Base::split(0xffff).avail_index(), 0xffff);
    }
}
