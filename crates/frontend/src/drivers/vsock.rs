//! The driver of a socket device (VIRTIO 1.3, 5.10): packets, and connections over them. What the device says is checked:
//! lengths against the buffers, data against the room that was announced.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use outboard_guest_memory::Segment;
use outboard_virtio_defs::vsock::{
    CID_HOST, Config, F_SEQPACKET, F_STREAM, HEADER_LEN, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE,
    OP_REQUEST, OP_RESPONSE, OP_RW, OP_SHUTDOWN, RX_QUEUE, SEQ_EOM, TX_QUEUE, TYPE_SEQPACKET, TYPE_STREAM,
};
use outboard_virtqueue::driver::{AddError, Buffer};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::VsockConnection;
use crate::{Error, Frontend, Notifications, Queue, Waiting, Wishes};

/// The most data of a packet that Linux sends, in bytes, and what [`VsockOptions::data`] is by itself.
pub const MAX_DATA: usize = 64 << 10;

/// How to drive a socket device.
#[derive(Clone, Copy, Debug)]
pub struct VsockOptions {
    /// What is wished for of features and rings.
    pub wishes: Wishes,
    /// Receive buffers, and entries of their ring.
    pub buffers: u16,
    /// Bytes of each receive buffer, the header included.
    pub buffer_len: usize,
    /// Room for the data of a connection, in bytes, as it is announced.
    pub room: u32,
    /// Packets that may be out at once, and entries of their ring.
    pub places: u16,
    /// The most data of each of them, in bytes.
    pub data: usize,
}

impl Default for VsockOptions {
    fn default() -> Self {
        let wishes = Wishes { device_features: F_STREAM | F_SEQPACKET, ..Wishes::default() };
        Self { wishes, buffers: 128, buffer_len: 4096, room: 256 << 10, places: 32, data: MAX_DATA }
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
    /// Places for what is sent that are not out.
    free: Vec<u16>,
    places: u16,
    data: usize,
    buffer_len: usize,
    /// Receive buffers were added to the ring that the device has not seen.
    posted: bool,
    room: u32,
    cid: u64,
    next_port: u32,
    came: VecDeque<VsockPacket>,
    waiting: Waiting,
    timeout: Duration,
}

impl Vsock {
    /// Agrees with the device as wished, reads its configuration, starts its queues for packets, and posts receive
    /// buffers.
    ///
    /// # Errors
    /// As [`Frontend::agree`], [`Frontend::start`] and [`Frontend::config`].
    pub fn open(mut frontend: Frontend, options: &VsockOptions) -> Result<Self, Error> {
        let VsockOptions { wishes, buffers, buffer_len, room, places, data } = *options;
        if buffer_len <= HEADER_LEN || buffers == 0 || places == 0 {
            return Err(Error::Invalid("buffers of this size, or none"));
        }
        let timeout = frontend.timeout();
        frontend.agree(&wishes)?;
        let config: Config = frontend.config()?;
        let rx = frontend.start(RX_QUEUE, buffers)?;
        let tx = frontend.start(TX_QUEUE, places)?;
        frontend.driver_ok()?;
        let rx_area = frontend.allocate(buffer_len * usize::from(buffers))?;
        let tx_area = frontend.allocate((HEADER_LEN + data) * usize::from(places))?;
        let mut this = Self {
            frontend,
            rx,
            tx,
            rx_area,
            tx_area,
            free: (0..places).collect(),
            places,
            data,
            buffer_len,
            posted: false,
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

    /// Signals so far, of both.
    pub fn notifications(&self) -> Notifications {
        let (rx, tx) = (self.rx.notifications(), self.tx.notifications());
        Notifications { kicks: rx.kicks + tx.kicks, calls: rx.calls + tx.calls }
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
    /// `data` are longer than [`VsockOptions::data`]; the device takes none in time; as [`Queue::publish`].
    pub fn send_packet(&mut self, header: &Header, data: &[u8]) -> Result<(), Error> {
        let place = loop {
            while self.taken()?.is_some() {}
            if let Some(place) = self.free.pop() {
                break place;
            }
            if !self.tx.wait(self.waiting, self.timeout)? {
                return Err(Error::Timeout { what: "take a packet".to_owned(), after: self.timeout });
            }
        };
        self.fill(place, data)?;
        self.put(place, header, data.len())?;
        self.tx.publish()
    }

    /// Writes the data of a packet that is to be sent from a place.
    ///
    /// # Errors
    /// They are longer than [`VsockOptions::data`]; there is no such place.
    pub fn fill(&mut self, place: u16, data: &[u8]) -> Result<(), Error> {
        if data.len() > self.data || place >= self.places {
            return Err(Error::Invalid("a packet of this length, or place"));
        }
        Ok(self.tx_area.write_from(self.place(place) + HEADER_LEN, data)?)
    }

    fn place(&self, place: u16) -> usize {
        usize::from(place) * (HEADER_LEN + self.data)
    }

    /// Adds a packet to the ring, whose data are in its place.
    fn put(&mut self, place: u16, header: &Header, len: usize) -> Result<(), Error> {
        let at = self.place(place);
        self.tx_area.write_from(at, header.as_bytes())?;
        let piece = self.tx_area.piece().slice(at, HEADER_LEN + len);
        let piece = Buffer::from(piece.ok_or(AddError::Full)?);
        self.tx.add::<_, Buffer>(&[piece], &[], place.into())?;
        Ok(())
    }

    /// Where the next packet would be sent from; `None` if as many are out as may be.
    pub fn vacant(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Adds a packet to the ring, of `len` bytes that [`fill`](Self::fill) has put where it is sent from
    /// ([`vacant`](Self::vacant)), or that are there still: of messages, a whole one. The device sees it after
    /// [`publish`](Self::publish). There has to be [credit](VsockConnection::credit) for it. Returns the place, if one was
    /// vacant.
    ///
    /// # Errors
    /// As [`Queue::add`].
    pub fn stage(&mut self, connection: &mut VsockConnection, len: usize) -> Result<Option<u16>, Error> {
        let flags = if connection.is_of_messages() { SEQ_EOM } else { 0 };
        self.stage_op(connection, OP_RW, flags, len)
    }

    fn stage_op(
        &mut self,
        connection: &mut VsockConnection,
        op: u16,
        flags: u32,
        len: usize,
    ) -> Result<Option<u16>, Error> {
        let Some(place) = self.free.pop() else { return Ok(None) };
        let header = connection.header(self.cid, self.room, op, flags, len);
        self.put(place, &header, len)?;
        Ok(Some(place))
    }

    /// Asks the device for credit, if a place is vacant; it sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// As [`Queue::add`].
    pub fn stage_credit_request(&mut self, connection: &mut VsockConnection) -> Result<bool, Error> {
        Ok(self.stage_op(connection, OP_CREDIT_REQUEST, 0, 0)?.is_some())
    }

    /// Shows the device what was staged, and receive buffers that it may fill again.
    ///
    /// # Errors
    /// As [`Queue::publish`].
    pub fn publish(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.posted) {
            self.rx.publish()?;
        }
        self.tx.publish()
    }

    /// The place of a packet that the device has taken, which is vacant again. Does not wait.
    ///
    /// # Errors
    /// As [`Queue::poll`].
    pub fn taken(&mut self) -> Result<Option<u16>, Error> {
        let Some((token, _)) = self.tx.poll()? else { return Ok(None) };
        // The tokens are ours.
        self.free.push(token as u16);
        Ok(Some(token as u16))
    }

    /// Takes the next packet that has come, and returns how many bytes of data it has, of which as many as `into` has room
    /// for are copied. What the device has to hear of that is staged. Packets of other connections are lost. Does not wait.
    ///
    /// # Errors
    /// [`Error::Disconnected`] once the other end has ended the connection; what the device does wrong; as [`Queue::poll`].
    pub fn arrived(
        &mut self,
        connection: &mut VsockConnection,
        into: &mut [u8],
    ) -> Result<Option<usize>, Error> {
        while let Some((token, len)) = self.rx.poll()? {
            let (id, len) = (token as u16, len as usize);
            let header = self.header_of(id, len)?;
            let data = len - HEADER_LEN;
            if connection.has(&header) {
                let into = into.get_mut(..data.min(into.len())).unwrap_or_default();
                self.rx_area.read_into(usize::from(id) * self.buffer_len + HEADER_LEN, into)?;
            }
            self.post(id)?;
            self.posted = true;
            if !connection.has(&header) {
                continue;
            }
            connection.hear(&header, self.room)?;
            if connection.is_reset() {
                return Err(Error::Disconnected);
            }
            if connection.untold() > self.room / 2 || header.op.get() == OP_CREDIT_REQUEST {
                // Without a vacant place it is said with the next packet.
                self.stage_op(connection, OP_CREDIT_UPDATE, 0, 0)?;
            }
            return Ok(Some(if header.op.get() == OP_RW { data } else { 0 }));
        }
        Ok(None)
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

    /// The header of a packet that came.
    fn header_of(&self, id: u16, len: usize) -> Result<Header, Error> {
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
        Ok(header)
    }

    fn take(&mut self, id: u16, len: usize) -> Result<VsockPacket, Error> {
        let header = self.header_of(id, len)?;
        let mut data = vec![0; len - HEADER_LEN];
        self.rx_area.read_into(usize::from(id) * self.buffer_len + HEADER_LEN, &mut data)?;
        self.post(id)?;
        self.posted = false;
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
                let mut connection = VsockConnection::asked(&header);
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
        let header = connection.header(self.cid, self.room, op, flags, data.len());
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
            connection.hear(&header, self.room)?;
            match header.op.get() {
                OP_CREDIT_REQUEST => self.say(connection, OP_CREDIT_UPDATE, 0, &[])?,
                OP_RW => connection.keep(&header, data),
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
                if connection.is_reset() {
                    return Err(Error::Disconnected);
                }
                self.say(connection, OP_CREDIT_REQUEST, 0, &[])?;
                self.await_packet(connection, "give credit")?;
            }
            let len = rest.len().min(self.data).min(connection.credit() as usize);
            let (now, later) = rest.split_at(len);
            let ends = connection.is_of_messages() && later.is_empty();
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
        loop {
            if let Some(bytes) = connection.take() {
                if connection.untold() > self.room / 2 {
                    self.say(connection, OP_CREDIT_UPDATE, 0, &[])?;
                }
                return Ok(bytes);
            }
            if connection.has_ended() {
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
        if connection.is_reset() {
            return Ok(());
        }
        self.say(&mut connection, OP_SHUTDOWN, 3, &[])?;
        while !connection.is_reset() {
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
