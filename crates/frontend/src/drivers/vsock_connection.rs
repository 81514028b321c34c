//! One end of a connection of a socket device: what of it is counted (VIRTIO 1.3, 5.10.6.3), and what waits for its program.

use std::collections::VecDeque;

use outboard_virtio_defs::vsock::{
    Header, OP_RST, OP_RW, OP_SHUTDOWN, RX_QUEUE, SEQ_EOM, SHUTDOWN_SEND, TYPE_SEQPACKET,
};

use crate::Error;

/// One end of a connection.
#[derive(Debug)]
pub struct VsockConnection {
    kind: u16,
    cid: u64,
    port: u32,
    local: u32,
    /// Bytes that the device has room for, that it has done away with, and that were sent.
    room: u32,
    forwarded: u32,
    sent: u32,
    /// Bytes that came, and those of them that the device was told are done away with.
    received: u32,
    told: u32,
    came: VecDeque<u8>,
    /// Lengths of the messages in it that are whole, and of the one that is not.
    messages: VecDeque<usize>,
    begun: usize,
    /// Ways that the other end has shut.
    heard: u32,
    is_reset: bool,
}

impl VsockConnection {
    pub(super) fn new(kind: u16, cid: u64, port: u32, local: u32) -> Self {
        Self {
            kind,
            cid,
            port,
            local,
            room: 0,
            forwarded: 0,
            sent: 0,
            received: 0,
            told: 0,
            came: VecDeque::new(),
            messages: VecDeque::new(),
            begun: 0,
            heard: 0,
            is_reset: false,
        }
    }

    /// The other end of one that a packet asks for.
    pub(super) fn asked(header: &Header) -> Self {
        let (cid, port, local) = (header.src_cid.get(), header.src_port.get(), header.dst_port.get());
        Self { room: header.buf_alloc.get(), ..Self::new(header.kind.get(), cid, port, local) }
    }

    /// Ways that the other end has shut, as the flags of SHUTDOWN.
    pub fn heard(&self) -> u32 {
        self.heard
    }

    /// Whether the other end has ended it.
    pub fn is_reset(&self) -> bool {
        self.is_reset
    }

    /// Bytes that the device has room for now.
    pub fn credit(&self) -> u32 {
        self.room.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// Whether it is messages that go over it.
    pub(super) fn is_of_messages(&self) -> bool {
        self.kind == TYPE_SEQPACKET
    }

    /// Whether nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.is_reset || self.heard & SHUTDOWN_SEND != 0
    }

    /// Whether a packet is of it.
    pub(super) fn has(&self, header: &Header) -> bool {
        (header.src_cid.get(), header.src_port.get()) == (self.cid, self.port)
            && (header.dst_port.get(), header.kind.get()) == (self.local, self.kind)
    }

    /// The header of its next packet, of the guest `cid` that has `room` for it, with `len` bytes behind it.
    pub(super) fn header(&mut self, cid: u64, room: u32, op: u16, flags: u32, len: usize) -> Header {
        // What is here and was not asked for takes up room.
        let held = self.came.len() as u32;
        self.told = self.received.wrapping_sub(held);
        self.sent = self.sent.wrapping_add(len as u32);
        Header {
            src_cid: cid.into(),
            dst_cid: self.cid.into(),
            src_port: self.local.into(),
            dst_port: self.port.into(),
            len: (len as u32).into(),
            kind: self.kind.into(),
            op: op.into(),
            flags: flags.into(),
            buf_alloc: room.into(),
            fwd_cnt: self.told.into(),
        }
    }

    /// Notes what a packet of it says, its data apart, of which there is `room` for so many.
    ///
    /// # Errors
    /// They are more than that.
    pub(super) fn hear(&mut self, header: &Header, room: u32) -> Result<(), Error> {
        self.room = header.buf_alloc.get();
        self.forwarded = header.fwd_cnt.get();
        match header.op.get() {
            OP_RST => self.is_reset = true,
            OP_SHUTDOWN => self.heard |= header.flags.get(),
            OP_RW => {
                self.received = self.received.wrapping_add(header.len.get());
                if self.untold() > room {
                    return Err(Error::BadPacket { queue: RX_QUEUE, what: "is more than there is room for" });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Bytes that came since the device was told last of those that are done away with.
    pub(super) fn untold(&self) -> u32 {
        self.received.wrapping_sub(self.told)
    }

    /// Keeps the data of a packet for whoever asks for them.
    pub(super) fn keep(&mut self, header: &Header, data: Vec<u8>) {
        self.begun += data.len();
        self.came.extend(data);
        if header.flags.get() & SEQ_EOM != 0 {
            self.messages.push_back(std::mem::take(&mut self.begun));
        }
    }

    /// What was kept: all, or the first message, if there is something.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let len = match self.is_of_messages() {
            true => self.messages.pop_front(),
            false => Some(self.came.len()).filter(|len| *len > 0),
        };
        len.map(|len| self.came.drain(..len).collect())
    }
}
