//! The driver of a socket device (VIRTIO 1.3, 5.10): packets, and connections over them. What the device says is checked:
//! lengths against the buffers, data against the room that was announced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use outboard_guest_memory::Segment;
use outboard_virtio_defs::vsock::{
    CID_HOST, Config, F_SEQPACKET, F_STREAM, HEADER_LEN, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE,
    OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, RX_QUEUE, SEQ_EOM, TX_QUEUE, TYPE_SEQPACKET,
    TYPE_STREAM,
};
use outboard_virtqueue::driver::{AddError, Buffer};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::{Error, Frontend, Queue, Waiting, Wishes};

/// The most data of a packet that [`Vsock::send_packet`] takes, in bytes (Linux sends no more).
pub const MAX_DATA: usize = 64 << 10;
/// Packets of the driver that are out at once.
const TX_DEPTH: u16 = 32;

/// How to drive a socket device.
#[derive(Clone, Copy, Debug)]
pub struct VsockOptions {
    /// What is wished for of features and rings.
    pub wishes: Wishes,
    /// Receive buffers, and entries of each ring.
    pub buffers: u16,
    /// Bytes of each receive buffer, the header included.
    pub buffer_len: usize,
    /// Room for the data of a connection, in bytes, as it is announced.
    pub room: u32,
}

impl Default for VsockOptions {
    fn default() -> Self {
        let wishes = Wishes { device_features: F_STREAM | F_SEQPACKET, ..Wishes::default() };
        Self { wishes, buffers: 128, buffer_len: 4096, room: 256 << 10 }
    }
}

/// A packet that came.
#[derive(Clone, Debug)]
pub struct VsockPacket {
    /// Its header.
    pub header: Header,
    /// What is behind it.
    pub data: Vec<u8>,
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    frontend: Frontend,
    rx: Queue,
    tx: Queue,
    rx_area: Segment,
    tx_area: Segment,
    free: Vec<u16>,
    buffer_len: usize,
    room: u32,
    cid: u64,
    next_port: u32,
    came: VecDeque<VsockPacket>,
    waiting: Waiting,
    timeout: Duration,
}

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
    fn new(kind: u16, cid: u64, port: u32, local: u32) -> Self {
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

    /// Ways that the other end has shut, as the flags of SHUTDOWN.
    pub fn heard(&self) -> u32 {
        self.heard
    }

    /// Whether the other end has ended it.
    pub fn is_reset(&self) -> bool {
        self.is_reset
    }

    fn has(&self, header: &Header) -> bool {
        (header.src_cid.get(), header.src_port.get()) == (self.cid, self.port)
            && (header.dst_port.get(), header.kind.get()) == (self.local, self.kind)
    }

    fn credit(&self) -> u32 {
        self.room.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }
}

impl Vsock {
    /// Agrees with the device as wished, reads its configuration, starts its queues for packets, and posts receive
    /// buffers.
    ///
    /// # Errors
    /// As [`Frontend::agree`], [`Frontend::start`] and [`Frontend::config`].
    pub fn open(mut frontend: Frontend, options: &VsockOptions) -> Result<Self, Error> {
        let VsockOptions { wishes, buffers, buffer_len, room } = *options;
        if buffer_len <= HEADER_LEN || buffers == 0 {
            return Err(Error::Invalid("receive buffers of this size"));
        }
        let timeout = frontend.timeout();
        frontend.agree(&wishes)?;
        let config: Config = frontend.config()?;
        let rx = frontend.start(RX_QUEUE, buffers)?;
        let tx = frontend.start(TX_QUEUE, TX_DEPTH)?;
        frontend.driver_ok()?;
        let rx_area = frontend.allocate(buffer_len * usize::from(buffers))?;
        let tx_area = frontend.allocate((HEADER_LEN + MAX_DATA) * usize::from(TX_DEPTH))?;
        let mut this = Self {
            frontend,
            rx,
            tx,
            rx_area,
            tx_area,
            free: (0..TX_DEPTH).collect(),
            buffer_len,
            room,
            cid: config.guest_cid.get(),
            next_port: 1024,
            came: VecDeque::new(),
            waiting: Waiting::Interrupt,
            timeout,
        };
        for id in 0..buffers {
            this.post(id)?;
        }
        this.rx.publish()?;
        Ok(this)
    }

    /// The guest's context id.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// The queues of what is received and of what is sent, for those who drive them otherwise.
    pub fn queues(&mut self) -> (&mut Queue, &mut Queue) {
        (&mut self.rx, &mut self.tx)
    }

    /// How to wait for the device; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    fn post(&mut self, id: u16) -> Result<(), Error> {
        let buffer = self.rx_area.piece().slice(usize::from(id) * self.buffer_len, self.buffer_len);
        let buffer = Buffer::from(buffer.ok_or(AddError::Full)?);
        self.rx.add::<Buffer, _>(&[], &[buffer], id.into())?;
        Ok(())
    }

    /// Sends a packet as it is; the device may not have taken it yet.
    ///
    /// # Errors
    /// `data` are longer than [`MAX_DATA`]; the device takes none in time; as [`Queue::publish`].
    pub fn send_packet(&mut self, header: &Header, data: &[u8]) -> Result<(), Error> {
        if data.len() > MAX_DATA {
            return Err(Error::Invalid("a packet of this length"));
        }
        let slot = loop {
            while let Some((token, _)) = self.tx.poll()? {
                // The tokens are ours.
                self.free.push(token as u16);
            }
            if let Some(slot) = self.free.pop() {
                break slot;
            }
            if !self.tx.wait(self.waiting, self.timeout)? {
                return Err(Error::Timeout { what: "take a packet".to_owned(), after: self.timeout });
            }
        };
        let at = usize::from(slot) * (HEADER_LEN + MAX_DATA);
        self.tx_area.write_from(at, header.as_bytes())?;
        self.tx_area.write_from(at + HEADER_LEN, data)?;
        let piece = self.tx_area.piece().slice(at, HEADER_LEN + data.len());
        let piece = Buffer::from(piece.ok_or(AddError::Full)?);
        self.tx.add::<_, Buffer>(&[piece], &[], slot.into())?;
        self.tx.publish()
    }

    /// The next packet that comes; `None` when none comes in time.
    ///
    /// # Errors
    /// [`Error::BadPacket`]: the device wrote less than a header, or a length that is not that of what it wrote; as
    /// [`Queue::poll`] and [`Queue::wait`].
    pub fn next_packet(&mut self, timeout: Duration) -> Result<Option<VsockPacket>, Error> {
        if let Some(packet) = self.came.pop_front() {
            return Ok(Some(packet));
        }
        let deadline = Instant::now() + timeout;
        loop {
            if let Some((token, len)) = self.rx.poll()? {
                return self.take(token as u16, len as usize).map(Some);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.rx.wait(self.waiting, left)? {
                return Ok(None);
            }
        }
    }

    fn take(&mut self, id: u16, len: usize) -> Result<VsockPacket, Error> {
        let bad = |what| Error::BadPacket { queue: RX_QUEUE, what };
        if len < HEADER_LEN || len > self.buffer_len {
            return Err(bad("is shorter than its header, or longer than its buffer"));
        }
        let mut header = Header::new_zeroed();
        let at = usize::from(id) * self.buffer_len;
        self.rx_area.read_into(at, header.as_mut_bytes())?;
        if header.len.get() as usize != len - HEADER_LEN {
            return Err(bad("has another length than its header says"));
        }
        let mut data = vec![0; len - HEADER_LEN];
        self.rx_area.read_into(at + HEADER_LEN, &mut data)?;
        self.post(id)?;
        self.rx.publish()?;
        Ok(VsockPacket { header, data })
    }

    /// Connects to a port of the host; `None` if it is refused.
    ///
    /// # Errors
    /// The device does not answer; as [`send_packet`](Self::send_packet) and [`next_packet`](Self::next_packet).
    pub fn connect(&mut self, port: u32, messages: bool) -> Result<Option<VsockConnection>, Error> {
        self.connect_to(CID_HOST, port, messages)
    }

    /// Connects to a port of whoever has a context id; `None` if it is refused.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_to(
        &mut self,
        cid: u64,
        port: u32,
        messages: bool,
    ) -> Result<Option<VsockConnection>, Error> {
        let kind = if messages { TYPE_SEQPACKET } else { TYPE_STREAM };
        let local = self.next_port;
        self.next_port = self.next_port.wrapping_add(1).max(1024);
        let mut connection = VsockConnection::new(kind, cid, port, local);
        self.say(&mut connection, OP_REQUEST, 0, &[])?;
        let answer = self.await_packet(&mut connection, "answer a request")?;
        Ok((answer == OP_RESPONSE).then_some(connection))
    }

    /// Waits until somebody asks for a connection, and accepts. Packets of others meanwhile are lost.
    ///
    /// # Errors
    /// Nobody does in time; as [`next_packet`](Self::next_packet).
    pub fn accept(&mut self) -> Result<VsockConnection, Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(VsockPacket { header, .. }) = self.next_packet(left)? else {
                return Err(Error::Timeout { what: "ask for a connection".to_owned(), after: self.timeout });
            };
            if header.op.get() == OP_REQUEST {
                let (cid, port, local) = (header.src_cid.get(), header.src_port.get(), header.dst_port.get());
                let mut connection = VsockConnection::new(header.kind.get(), cid, port, local);
                connection.room = header.buf_alloc.get();
                self.say(&mut connection, OP_RESPONSE, 0, &[])?;
                return Ok(connection);
            }
        }
    }

    /// Sends a packet of a connection.
    ///
    /// # Errors
    /// As [`send_packet`](Self::send_packet).
    pub fn say(
        &mut self,
        connection: &mut VsockConnection,
        op: u16,
        flags: u32,
        data: &[u8],
    ) -> Result<(), Error> {
        // What is here and was not asked for takes up room.
        let held = connection.came.len() as u32;
        connection.told = connection.received.wrapping_sub(held);
        let header = Header {
            src_cid: self.cid.into(),
            dst_cid: connection.cid.into(),
            src_port: connection.local.into(),
            dst_port: connection.port.into(),
            len: (data.len() as u32).into(),
            kind: connection.kind.into(),
            op: op.into(),
            flags: flags.into(),
            buf_alloc: self.room.into(),
            fwd_cnt: connection.told.into(),
        };
        connection.sent = connection.sent.wrapping_add(data.len() as u32);
        self.send_packet(&header, data)
    }

    /// Takes the next packet of a connection; others wait. Says which operation it was.
    fn await_packet(&mut self, connection: &mut VsockConnection, what: &str) -> Result<u16, Error> {
        let mut others = VecDeque::new();
        let deadline = Instant::now() + self.timeout;
        let op = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(VsockPacket { header, data }) = self.next_packet(left)? else {
                return Err(Error::Timeout { what: what.to_owned(), after: self.timeout });
            };
            if !connection.has(&header) {
                others.push_back(VsockPacket { header, data });
                continue;
            }
            connection.room = header.buf_alloc.get();
            connection.forwarded = header.fwd_cnt.get();
            match header.op.get() {
                OP_RST => connection.is_reset = true,
                OP_SHUTDOWN => connection.heard |= header.flags.get(),
                OP_CREDIT_REQUEST => self.say(connection, OP_CREDIT_UPDATE, 0, &[])?,
                OP_RW => {
                    connection.received = connection.received.wrapping_add(data.len() as u32);
                    if connection.received.wrapping_sub(connection.told) > self.room {
                        return Err(Error::BadPacket {
                            queue: RX_QUEUE,
                            what: "is more than there is room for",
                        });
                    }
                    connection.begun += data.len();
                    connection.came.extend(data);
                    if header.flags.get() & SEQ_EOM != 0 {
                        connection.messages.push_back(std::mem::take(&mut connection.begun));
                    }
                }
                _ => {}
            }
            break header.op.get();
        };
        others.append(&mut self.came);
        self.came = others;
        Ok(op)
    }

    /// Sends `bytes`, as one message if it is messages that go over the connection, as the device has room for them.
    ///
    /// # Errors
    /// The connection is over, or no room comes in time.
    pub fn send(&mut self, connection: &mut VsockConnection, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        loop {
            while connection.credit() == 0 && !rest.is_empty() {
                if connection.is_reset {
                    return Err(Error::Disconnected);
                }
                self.say(connection, OP_CREDIT_REQUEST, 0, &[])?;
                self.await_packet(connection, "give credit")?;
            }
            let len = rest.len().min(MAX_DATA).min(connection.credit() as usize);
            let (now, later) = rest.split_at(len);
            let ends = connection.kind == TYPE_SEQPACKET && later.is_empty();
            self.say(connection, OP_RW, if ends { SEQ_EOM } else { 0 }, now)?;
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Receives what is there: at least a byte, or a whole message. Nothing at the end.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn receive(&mut self, connection: &mut VsockConnection) -> Result<Vec<u8>, Error> {
        let messages = connection.kind == TYPE_SEQPACKET;
        loop {
            let len = match messages {
                true => connection.messages.pop_front(),
                false => Some(connection.came.len()).filter(|len| *len > 0),
            };
            if let Some(len) = len {
                let bytes = connection.came.drain(..len).collect();
                if connection.received.wrapping_sub(connection.told) > self.room / 2 {
                    self.say(connection, OP_CREDIT_UPDATE, 0, &[])?;
                }
                return Ok(bytes);
            }
            let ended = outboard_virtio_defs::vsock::SHUTDOWN_SEND;
            if connection.is_reset || connection.heard & ended != 0 {
                return Ok(Vec::new());
            }
            self.await_packet(connection, "send data")?;
        }
    }

    /// Closes a connection on both ways and waits until the device has agreed.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn close_connection(&mut self, mut connection: VsockConnection) -> Result<(), Error> {
        if connection.is_reset {
            return Ok(());
        }
        self.say(&mut connection, OP_SHUTDOWN, 3, &[])?;
        while !connection.is_reset {
            self.await_packet(&mut connection, "end a connection")?;
        }
        Ok(())
    }

    /// Stops the queues, resets the device, and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, rx, tx, rx_area, tx_area, .. } = self;
        frontend.reset([rx, tx])?;
        for segment in [rx_area, tx_area] {
            frontend.memory().free(segment);
        }
        Ok(frontend)
    }
}
