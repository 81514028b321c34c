//! The socket device (VIRTIO 1.3, 5.10). What becomes of connections is asked of a port of the host that gives back what it is
//! sent, as the user names it; without one, refusals can be seen.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::vsock::{
    CID_HOST, Config, F_SEQPACKET, F_STREAM, HEADER_LEN, Header, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE,
    OP_RST, OP_RW, TYPE_STREAM,
};
use outboard_virtqueue::Format;
use outboard_virtqueue::driver::Buffer;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::cx::Cx;
use crate::check::ring::FILL;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

pub(super) mod flows;
pub(super) mod packets;

/// A port of the host where nobody is.
const NOBODY: u32 = 0xffff_0123;
/// Room of a receive buffer, as Linux has it.
const BUFFER: usize = 4096;
/// Room that the guest announces where it does not matter.
const PLENTY: u32 = 256 << 10;

/// A guest with queues for packets both ways.
struct Guest {
    session: Session,
    posted: Vec<(u64, Segment)>,
    tokens: u64,
    cid: u64,
    port: u32,
}

/// What came.
#[derive(Debug)]
struct Packet {
    header: Header,
    data: Vec<u8>,
}

impl Packet {
    fn op(&self) -> u16 {
        self.header.op.get()
    }
}

/// A connection as the guest sees it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// As its packets begin.
    header: Header,
    /// What the host has room for, and has done away with.
    alloc: u32,
    forwarded: u32,
    sent: u32,
    received: u32,
}

impl Guest {
    fn open(cx: &mut Cx, format: Format, features: u64) -> Checked<Self> {
        is_vsock(cx)?;
        let setup = Setup { device_features: features, size: 64, ..Setup::new(format) };
        let mut session = Session::ready(cx, &setup)?;
        let size = u32::try_from(size_of::<Config>())?;
        let config = session.wire.config(0, size, 0)?;
        let config =
            Config::read_from_bytes(&config).map_err(|_| Stop::fail("a configuration of another length"))?;
        Ok(Self { session, posted: Vec::new(), tokens: 0, cid: config.guest_cid.get(), port: 1024 })
    }

    /// Gives the device so many buffers to write packets to.
    fn post(&mut self, count: usize, len: usize) -> Checked {
        for _ in 0..count {
            let segment = self.session.memory.allocate(len, 16)?;
            segment.fill(FILL);
            let token = self.tokens;
            self.tokens += 1;
            self.session.ring(0)?.queue.add::<Buffer, _>(&[], &[Buffer::from(&segment)], token)?;
            self.posted.push((token, segment));
        }
        self.session.ring(0)?.publish()
    }

    /// A packet to a port of the host, from a port of the guest's own.
    fn packet(&mut self, port: u32, op: u16) -> Header {
        self.port += 1;
        Header {
            src_cid: self.cid.into(),
            dst_cid: CID_HOST.into(),
            src_port: self.port.into(),
            dst_port: port.into(),
            kind: TYPE_STREAM.into(),
            op: op.into(),
            buf_alloc: PLENTY.into(),
            ..Header::default()
        }
    }

    fn send(&mut self, header: &Header, data: &[u8]) -> Checked {
        self.send_in(vec![header.as_bytes().to_vec(), data.to_vec()])
    }

    /// Sends buffers as they are; they have to come back.
    fn send_in(&mut self, mut readable: Vec<Vec<u8>>) -> Checked {
        readable.retain(|bytes| !bytes.is_empty());
        let sample = Sample { queue: 1, readable, writable: Vec::new(), verify: |_, _| Ok(()) };
        let patience = self.session.patience;
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.get_mut(1).ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, 0)?;
        ring.publish()?;
        let (_, len) = ring.returned(patience)?;
        ring.verify(memory, &sample, placed, len)?;
        ensure!(len == 0, "a packet sent has length {len}, not 0");
        Ok(())
    }

    /// The next packet; it has to come.
    fn next(&mut self) -> Checked<Packet> {
        let patience = self.session.patience;
        let next = self.next_within(patience)?;
        next.ok_or_else(|| Stop::fail(format!("no packet came within {patience:?}")))
    }

    fn next_within(&mut self, patience: Duration) -> Checked<Option<Packet>> {
        let Some((token, len)) = self.session.ring(0)?.returned_within(patience)? else { return Ok(None) };
        let at = self.posted.iter().position(|(posted, _)| *posted == token);
        let at = at.ok_or_else(|| Stop::fail("a buffer was returned twice"))?;
        let (_, segment) = self.posted.swap_remove(at);
        let len = usize::try_from(len)?;
        let mut bytes = vec![0; segment.len()];
        segment.read_into(0, &mut bytes)?;
        ensure!(len <= bytes.len(), "length {len} for a buffer of {} bytes", bytes.len());
        self.session.memory.free(segment);
        let (written, rest) = bytes.split_at(len);
        ensure!(rest.iter().all(|&byte| byte == FILL), "bytes were written behind the length, {len}");
        let (header, data) = Header::read_from_prefix(written).map_err(|_| {
            Stop::fail(format!("a packet of {len} bytes, of which the header has {HEADER_LEN}"))
        })?;
        let said = usize::try_from(header.len.get())?;
        ensure!(said == data.len(), "a packet with {} bytes of data says it has {said}", data.len());
        ensure!(header.dst_cid.get() == self.cid, "a packet for {}, not {}", header.dst_cid, self.cid);
        Ok(Some(Packet { header, data: data.to_vec() }))
    }

    /// A packet has to be refused, which the next packet says.
    fn refused(&mut self, header: &Header) -> Checked {
        let came = self.next()?;
        ensure!(came.op() == OP_RST, "operation {}, not RST", came.op());
        let Header { src_cid, src_port, dst_port, kind, .. } = came.header;
        ensure!(
            (src_cid, src_port, dst_port) == (header.dst_cid, header.dst_port, header.src_port),
            "an RST of another connection: {:?}",
            came.header
        );
        ensure!(kind == header.kind, "an RST of type {kind}, not {}", header.kind);
        self.post(1, BUFFER)
    }

    /// Still answers.
    fn works(&mut self) -> Checked {
        let request = self.packet(NOBODY, OP_REQUEST);
        self.send(&request, &[])?;
        self.refused(&request).map_err(|stop| stop.when("afterwards a request of nobody's port"))
    }

    /// Asks for a connection; the answer has to be that there is one.
    fn connect(&mut self, request: Header) -> Checked<Flow> {
        self.send(&request, &[])?;
        let came = self.next()?;
        ensure!(came.op() == OP_RESPONSE, "operation {}, not RESPONSE", came.op());
        let Header { buf_alloc, fwd_cnt, .. } = came.header;
        self.post(1, BUFFER)?;
        Ok(Flow { header: request, alloc: buf_alloc.get(), forwarded: fwd_cnt.get(), sent: 0, received: 0 })
    }

    /// Sends a packet of a connection.
    fn tell(&mut self, flow: &mut Flow, op: u16, flags: u32, data: &[u8]) -> Checked {
        let len = u32::try_from(data.len())?;
        let header = Header {
            op: op.into(),
            flags: flags.into(),
            len: len.into(),
            fwd_cnt: flow.received.into(),
            ..flow.header
        };
        flow.sent = flow.sent.wrapping_add(len);
        self.send(&header, data)
    }

    /// Sends data as far as there is room, and waits for room where there is none; gives what came meanwhile.
    fn give(&mut self, flow: &mut Flow, data: &[u8]) -> Checked<Vec<u8>> {
        let mut came = Vec::new();
        let mut rest = data;
        while !rest.is_empty() {
            let room = flow.alloc.saturating_sub(flow.sent.wrapping_sub(flow.forwarded));
            if room == 0 {
                let packet = self.next().map_err(|stop| stop.when("all credit was used"))?;
                came.extend(self.heed(flow, packet)?);
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(usize::try_from(room)?).min(16 << 10));
            self.tell(flow, OP_RW, 0, now)?;
            rest = later;
        }
        Ok(came)
    }

    /// Takes in what a packet says of a connection; its data.
    fn heed(&mut self, flow: &mut Flow, packet: Packet) -> Checked<Vec<u8>> {
        self.post(1, BUFFER)?;
        ensure!(packet.op() != OP_RST, "the connection was reset");
        ensure!(packet.header.dst_port == flow.header.src_port, "a packet of another connection");
        (flow.alloc, flow.forwarded) = (packet.header.buf_alloc.get(), packet.header.fwd_cnt.get());
        let ahead = flow.forwarded.wrapping_sub(flow.sent).cast_signed();
        ensure!(ahead <= 0, "{} bytes are done away with of {}", flow.forwarded, flow.sent);
        let len = u32::try_from(packet.data.len())?;
        flow.received = flow.received.wrapping_add(len);
        Ok(packet.data)
    }

    /// Receives so many bytes of a connection, and says now and then that they were taken.
    fn take(&mut self, flow: &mut Flow, len: usize, mut came: Vec<u8>) -> Checked<Vec<u8>> {
        while came.len() < len {
            let packet =
                self.next().map_err(|stop| stop.when(format!("{} of {len} bytes came", came.len())))?;
            if packet.op() == OP_RW {
                let data = self.heed(flow, packet)?;
                came.extend(data);
                self.tell(flow, OP_CREDIT_UPDATE, 0, &[])?;
            } else {
                self.heed(flow, packet)?;
            }
        }
        Ok(came)
    }
}

fn is_vsock(cx: &Cx) -> Checked {
    if cx.kind == Kind::Vsock {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// On each format, with buffers to receive into.
fn each(cx: &mut Cx, mut body: impl FnMut(&mut Guest) -> Checked) -> Checked {
    cx.each_format(|cx, format| {
        let mut guest = Guest::open(cx, format, F_STREAM)?;
        guest.post(16, BUFFER)?;
        body(&mut guest)
    })
}

/// The same where a port of the host gives back what it is sent.
fn each_with_echo(cx: &mut Cx, mut body: impl FnMut(&mut Guest, u32) -> Checked) -> Checked {
    is_vsock(cx)?;
    let Some(port) = cx.echo else {
        return Err(Stop::Skip("no port that gives back what it is sent was named: --vsock-echo".to_owned()));
    };
    each(cx, |guest| body(guest, port))
}

/// The same with messages, of a device that has them.
fn each_with_messages(cx: &mut Cx, mut body: impl FnMut(&mut Guest, u32) -> Checked) -> Checked {
    is_vsock(cx)?;
    cx.needs_feature(F_SEQPACKET, "SEQPACKET")?;
    let Some(port) = cx.echo else {
        return Err(Stop::Skip("no port that gives back what it is sent was named: --vsock-echo".to_owned()));
    };
    cx.each_format(|cx, format| {
        let mut guest = Guest::open(cx, format, F_STREAM | F_SEQPACKET)?;
        guest.post(16, BUFFER)?;
        body(&mut guest, port)
    })
}

/// Bytes of which no two stretches are alike.
fn text(len: usize) -> Vec<u8> {
    (0_u32..).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).take(len).collect()
}
