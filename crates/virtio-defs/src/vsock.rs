//! The socket device (VIRTIO 1.3, 5.10): configuration space, queues, packets and events.
//!
//! Layouts only: what a peer put into them is for the other side to check.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The device has stream sockets (VIRTIO_VSOCK_F_STREAM).
pub const F_STREAM: u64 = 1 << 0;
/// The device has sockets for messages (VIRTIO_VSOCK_F_SEQPACKET).
pub const F_SEQPACKET: u64 = 1 << 1;
/// That the device has stream sockets follows from [`F_STREAM`] alone (VIRTIO_VSOCK_F_NO_IMPLIED_STREAM).
pub const F_NO_IMPLIED_STREAM: u64 = 1 << 2;

/// Packets to the guest (VIRTIO 1.3, 5.10.2).
pub const RX_QUEUE: u16 = 0;
/// Packets of the guest.
pub const TX_QUEUE: u16 = 1;
/// Events.
pub const EVENT_QUEUE: u16 = 2;

/// The host, as a context id (VIRTIO 1.3, 5.10.4).
pub const CID_HOST: u64 = 2;
/// The lowest context id that a guest may have.
pub const CID_FIRST: u64 = 3;
/// The highest: [`u32::MAX`] has a meaning of its own, and the upper 32 bits are reserved.
pub const CID_LAST: u64 = 0xffff_fffe;
/// No port: a wildcard.
pub const PORT_ANY: u32 = u32::MAX;

/// Bytes without borders (VIRTIO 1.3, 5.10.6).
pub const TYPE_STREAM: u16 = 1;
/// Messages.
pub const TYPE_SEQPACKET: u16 = 2;

/// Asks for a connection (VIRTIO 1.3, 5.10.6).
pub const OP_REQUEST: u16 = 1;
/// Accepts it.
pub const OP_RESPONSE: u16 = 2;
/// Ends it, or refuses it.
pub const OP_RST: u16 = 3;
/// Announces that its sender sends, or receives, no more: [`SHUTDOWN_RECEIVE`], [`SHUTDOWN_SEND`].
pub const OP_SHUTDOWN: u16 = 4;
/// Carries data.
pub const OP_RW: u16 = 5;
/// Tells how much room there is.
pub const OP_CREDIT_UPDATE: u16 = 6;
/// Asks for [`OP_CREDIT_UPDATE`].
pub const OP_CREDIT_REQUEST: u16 = 7;

/// In `flags` of [`OP_SHUTDOWN`]: the sender receives no more (VIRTIO 1.3, 5.10.6.5).
pub const SHUTDOWN_RECEIVE: u32 = 1 << 0;
/// In `flags` of [`OP_SHUTDOWN`]: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 1 << 1;
/// In `flags` of [`OP_RW`] of messages: the last packet of a message (VIRTIO 1.3, 5.10.6.6.2).
pub const SEQ_EOM: u32 = 1 << 0;
/// In `flags` of [`OP_RW`] of messages: the last message of a record.
pub const SEQ_EOR: u32 = 1 << 1;

/// In [`Event::id`]: connections are gone, and the context id may be another (VIRTIO 1.3, 5.10.6.7).
pub const EVENT_TRANSPORT_RESET: u32 = 0;

/// The configuration space (VIRTIO 1.3, 5.10.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// The guest's context id.
    pub guest_cid: U64,
}

/// What every packet begins with (VIRTIO 1.3, 5.10.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: U64,
    /// Context id of the receiver.
    pub dst_cid: U64,
    /// Port of the sender.
    pub src_port: U32,
    /// Port of the receiver.
    pub dst_port: U32,
    /// Bytes behind the header.
    pub len: U32,
    /// [`TYPE_STREAM`] or [`TYPE_SEQPACKET`]. Named `type` in the specification.
    pub kind: U16,
    /// [`OP_REQUEST`] to [`OP_CREDIT_REQUEST`].
    pub op: U16,
    /// Meaning by `op`.
    pub flags: U32,
    /// Bytes that the sender can hold of this connection.
    pub buf_alloc: U32,
    /// Bytes of this connection that the sender has done away with, modulo 2^32.
    pub fwd_cnt: U32,
}

/// Bytes of a [`Header`].
pub const HEADER_LEN: usize = size_of::<Header>();

/// What the device puts into a buffer of the event queue (VIRTIO 1.3, 5.10.6.7).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Event {
    /// [`EVENT_TRANSPORT_RESET`].
    pub id: U32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    // The bindings that other devices are compared with lack this one: offsets by the specification's text.
    #[test]
    fn layouts_are_as_the_specification_counts_their_bytes() {
        assert_eq!((HEADER_LEN, size_of::<Config>(), size_of::<Event>()), (44, 8, 4));
        let offsets = [
            offset_of!(Header, src_cid),
            offset_of!(Header, dst_cid),
            offset_of!(Header, src_port),
            offset_of!(Header, dst_port),
            offset_of!(Header, len),
            offset_of!(Header, kind),
            offset_of!(Header, op),
            offset_of!(Header, flags),
            offset_of!(Header, buf_alloc),
            offset_of!(Header, fwd_cnt),
        ];
        assert_eq!(offsets, [0, 8, 16, 20, 24, 28, 30, 32, 36, 40]);
    }
}
