//! The I2C adapter (VIRTIO 1.3, 5.16).
//!
//! A request is an [`OutHdr`], what is to be written or room for what is read, and one byte that the device writes:
//! [`OK`] or [`ERR`]. Layouts only: what a driver put into them is for the device to check.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Requests without data are understood, and [`M_RD`] says which way a request goes: mandatory (VIRTIO 1.3, 5.16.3).
pub const F_ZERO_LENGTH_REQUEST: u64 = 1 << 0;

/// The request and the one behind it belong together; if it fails, so does that (VIRTIO 1.3, 5.16.6.1).
pub const FAIL_NEXT: u32 = 1 << 0;
/// The request reads (VIRTIO 1.3, 5.16.6.1).
pub const M_RD: u32 = 1 << 1;

/// Status: carried out (VIRTIO 1.3, 5.16.6.1).
pub const OK: u8 = 0;
/// Status: not carried out (VIRTIO 1.3, 5.16.6.1).
pub const ERR: u8 = 1;

/// What a request begins with (VIRTIO 1.3, 5.16.6.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct OutHdr {
    /// Who is meant, as the first bytes on the bus with the direction bit 0: [`seven_bit`], [`ten_bit`].
    pub addr: U16,
    /// 0.
    pub padding: U16,
    /// [`FAIL_NEXT`], [`M_RD`].
    pub flags: U32,
}

/// How a 7-bit address stands in [`OutHdr::addr`] (VIRTIO 1.3, 5.16.6.1).
#[must_use]
pub const fn seven_bit(address: u8) -> u16 {
    (address as u16 & 0x7f) << 1
}

/// How a 10-bit address stands in [`OutHdr::addr`] (VIRTIO 1.3, 5.16.6.1).
#[must_use]
pub const fn ten_bit(address: u16) -> u16 {
    (address & 0xff) << 8 | 0xf0 | (address >> 8 & 3) << 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_that_of_the_specification() {
        let header = OutHdr { addr: 0x0102.into(), padding: 0x0304.into(), flags: 0x0506_0708.into() };
        assert_eq!(header.as_bytes(), [2, 1, 4, 3, 8, 7, 6, 5]);
    }

    #[test]
    fn addresses_stand_as_on_the_bus() {
        assert_eq!([seven_bit(0x50), seven_bit(0x7f)], [0xa0, 0xfe]);
        assert_eq!([ten_bit(0), ten_bit(0x150), ten_bit(0x3ff)], [0x00f0, 0x50f2, 0xfff6]);
    }
}
