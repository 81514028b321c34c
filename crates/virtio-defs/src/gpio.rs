//! The GPIO controller (VIRTIO 1.3, 5.18).
//!
//! A request is a [`Request`], answered by a status byte and a value byte, or by a status byte and the block of names.
//! On the event queue a driver puts an [`IrqRequest`] for each line, answered by one byte, when there is an
//! interrupt. Layouts only: what a driver put into them is for the device to check.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Interrupts, and the queue for them (VIRTIO 1.3, 5.18.3).
pub const F_IRQ: u64 = 1 << 0;

/// Most bytes of a line's name, its NUL included, that Linux shows.
pub const NAME_MAX: usize = 32;

/// The configuration space (VIRTIO 1.3, 5.18.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// How many lines there are.
    pub ngpio: U16,
    /// 0.
    pub padding: [u8; 2],
    /// Bytes of the block of names; 0: the lines have none.
    pub gpio_names_size: U32,
}

/// A request (VIRTIO 1.3, 5.18.6.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Request {
    /// What is asked for: [`GET_LINE_NAMES`] and those behind it.
    pub kind: U16,
    /// The line.
    pub gpio: U16,
    /// What belongs to it.
    pub value: U32,
}

/// The names of all lines (VIRTIO 1.3, 5.18.6.2).
pub const GET_LINE_NAMES: u16 = 1;
/// Which way a line goes (VIRTIO 1.3, 5.18.6.3).
pub const GET_DIRECTION: u16 = 2;
/// Sets which way a line goes (VIRTIO 1.3, 5.18.6.4).
pub const SET_DIRECTION: u16 = 3;
/// A line's level (VIRTIO 1.3, 5.18.6.5).
pub const GET_VALUE: u16 = 4;
/// Sets a line's level (VIRTIO 1.3, 5.18.6.6).
pub const SET_VALUE: u16 = 5;
/// Sets what a line's interrupts are for (VIRTIO 1.3, 5.18.6.7).
pub const SET_IRQ_TYPE: u16 = 6;

/// Status: done (VIRTIO 1.3, 5.18.6.1).
pub const STATUS_OK: u8 = 0;
/// Status: not done (VIRTIO 1.3, 5.18.6.1).
pub const STATUS_ERR: u8 = 1;

/// The line goes nowhere: it is not in use (VIRTIO 1.3, 5.18.6.4).
pub const DIRECTION_NONE: u8 = 0;
/// The device drives the line.
pub const DIRECTION_OUT: u8 = 1;
/// The device reads the line.
pub const DIRECTION_IN: u8 = 2;

/// No interrupts (VIRTIO 1.3, 5.18.6.7).
pub const IRQ_NONE: u8 = 0;
/// At rising edges.
pub const IRQ_EDGE_RISING: u8 = 1;
/// At falling edges.
pub const IRQ_EDGE_FALLING: u8 = 2;
/// At both.
pub const IRQ_EDGE_BOTH: u8 = 3;
/// As long as the level is high.
pub const IRQ_LEVEL_HIGH: u8 = 4;
/// As long as the level is low.
pub const IRQ_LEVEL_LOW: u8 = 8;

/// What a driver puts on the event queue, to unmask the interrupt of a line (VIRTIO 1.3, 5.18.6.8).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IrqRequest {
    /// The line.
    pub gpio: U16,
}

/// The buffer comes back without an interrupt (VIRTIO 1.3, 5.18.6.8).
pub const IRQ_STATUS_INVALID: u8 = 0;
/// There was an interrupt (VIRTIO 1.3, 5.18.6.8).
pub const IRQ_STATUS_VALID: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_the_specification() {
        let config = Config { ngpio: 0x0102.into(), padding: [0; 2], gpio_names_size: 0x0304_0506.into() };
        assert_eq!(config.as_bytes(), [2, 1, 0, 0, 6, 5, 4, 3]);
        let request = Request { kind: 0x0102.into(), gpio: 0x0304.into(), value: 0x0506_0708.into() };
        assert_eq!(request.as_bytes(), [2, 1, 4, 3, 8, 7, 6, 5]);
        assert_eq!(IrqRequest { gpio: 0x0102.into() }.as_bytes(), [2, 1]);
    }
}
