//! The console device (VIRTIO 1.3, 5.3): ports of bytes, and messages about them. Layouts only.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The configuration space has the size of the console (VIRTIO 1.3, 5.3.3).
pub const F_SIZE: u64 = 1 << 0;
/// There may be several ports, and there are control queues (VIRTIO 1.3, 5.3.3).
pub const F_MULTIPORT: u64 = 1 << 1;
/// Characters can be written by the configuration space (VIRTIO 1.3, 5.3.3).
pub const F_EMERG_WRITE: u64 = 1 << 2;

/// Driver: it is ready, or has failed (VIRTIO 1.3, 5.3.6.2).
pub const DEVICE_READY: u16 = 0;
/// Device: there is a new port (VIRTIO 1.3, 5.3.6.2).
pub const DEVICE_ADD: u16 = 1;
/// Device: a port is gone (VIRTIO 1.3, 5.3.6.2).
pub const DEVICE_REMOVE: u16 = 2;
/// Driver: a port is ready for use, or has failed (VIRTIO 1.3, 5.3.6.2).
pub const PORT_READY: u16 = 3;
/// Device: the port is a console (VIRTIO 1.3, 5.3.6.2).
pub const CONSOLE_PORT: u16 = 4;
/// Device: the size of a console; a [`Resize`] follows (VIRTIO 1.3, 5.3.6.2).
pub const RESIZE: u16 = 5;
/// Both: the port is open on this side, or closed (VIRTIO 1.3, 5.3.6.2).
pub const PORT_OPEN: u16 = 6;
/// Device: the port's name follows, without an end (VIRTIO 1.3, 5.3.6.2).
pub const PORT_NAME: u16 = 7;

/// The configuration space (VIRTIO 1.3, 5.3.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// Columns, in characters.
    pub cols: U16,
    /// Rows, in characters.
    pub rows: U16,
    /// The most ports that there can be.
    pub max_nr_ports: U32,
    /// A character that is written here is put out.
    pub emerg_wr: U32,
}

/// A message about a port (VIRTIO 1.3, 5.3.6.2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Control {
    /// The port.
    pub id: U32,
    /// What it is about: [`DEVICE_READY`] to [`PORT_NAME`].
    pub event: U16,
    /// What is said.
    pub value: U16,
}

/// The size of a console (VIRTIO 1.3, 5.3.6.2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Resize {
    /// Columns, in characters.
    pub cols: U16,
    /// Rows, in characters.
    pub rows: U16,
}
