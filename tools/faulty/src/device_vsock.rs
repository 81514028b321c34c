//! A socket device (VIRTIO 1.3, 5.10) with one port of the host, 7, that gives back what it is sent, streams and messages.

use std::collections::VecDeque;

use outboard_virtio_defs::vsock::{
    CID_HOST, Config, F_SEQPACKET, F_STREAM, HEADER_LEN, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE,
    OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, SEQ_EOM, SHUTDOWN_RECEIVE, SHUTDOWN_SEND,
    TYPE_SEQPACKET, TYPE_STREAM,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

const CID: u64 = 3;
const ECHO: u32 = 7;
const RX: u16 = 0;
const TX: u16 = 1;
const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
/// Room of a connection.
const ROOM: u32 = 128 << 10;
/// Connections at a time, ports that are remembered, and answers that wait.
const MOST: usize = 64;

/// A connection.
struct Flow {
    /// As packets to the guest begin.
    header: Header,
    /// What the guest has room for, and has done away with.
    alloc: u32,
    forwarded: u32,
    /// Bytes there and back.
    received: u32,
    sent: u32,
    /// What is to go back, and where messages end in it, counted from the first byte ever.
    held: VecDeque<u8>,
    ends: VecDeque<u32>,
    /// The guest sends no more, and was told that nothing comes.
    is_ending: bool,
}

pub(crate) struct Vsock {
    faults: Faults,
    agreed: u64,
    flows: Vec<Flow>,
    /// Packets without data for the guest.
    due: VecDeque<Header>,
    used: Vec<u32>,
}

impl Vsock {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, agreed: 0, flows: Vec::new(), due: VecDeque::new(), used: Vec::new() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.has(fault)
    }

    fn answer(&mut self, header: Header) {
        if self.due.len() < MOST {
            self.due.push_back(header);
        } else if self.has(Fault::VsockBacklogCrashes) {
            die();
        }
    }

    fn refuse(&mut self, of: &Header) {
        self.flows.retain(|flow| !flow.is_of(of));
        let kind = if self.has(Fault::VsockTypeIgnored) { TYPE_STREAM.into() } else { of.kind };
        self.answer(Header { kind, ..reply(of, OP_RST) });
    }

    /// Takes what the guest sends.
    fn packet(&mut self, header: &Header, data: &[u8]) {
        let op = header.op.get();
        if header.src_cid.get() != self.cid() && !self.has(Fault::VsockWrongSourceServed) {
            return;
        }
        let at = self.flows.iter().position(|flow| flow.is_of(header));
        match (op, at) {
            (OP_RST, None) if !self.has(Fault::VsockRstAnswered) => {}
            (OP_RST, Some(at)) => drop(self.flows.remove(at)),
            (OP_REQUEST, None) => self.request(header),
            (_, None) if op == OP_RW && self.has(Fault::VsockUnknownFlowSilent) => {}
            (_, None) | (OP_REQUEST, _) => self.refuse(header),
            (_, Some(at)) => self.of_flow(at, header, data),
        }
    }

    fn cid(&self) -> u64 {
        if self.has(Fault::VsockCidReserved) { CID_HOST } else { CID }
    }

    fn request(&mut self, header: &Header) {
        let is_served = match header.kind.get() {
            TYPE_STREAM => true,
            TYPE_SEQPACKET => self.agreed & F_SEQPACKET != 0 || self.has(Fault::VsockSeqpacketUnasked),
            _ => false,
        };
        let port = header.src_port.get();
        let is_stuck = self.has(Fault::VsockPortStuck) && self.used.contains(&port);
        if header.dst_port.get() != ECHO || !is_served || is_stuck || self.flows.len() >= MOST {
            if !(self.has(Fault::VsockClosedPortSilent) && header.dst_port.get() != ECHO) {
                self.refuse(header);
            }
            return;
        }
        if self.used.len() < MOST {
            self.used.push(port);
        }
        let room = if self.has(Fault::VsockNoCreditInResponse) { 0 } else { ROOM };
        let answer = Header { buf_alloc: room.into(), ..reply(header, OP_RESPONSE) };
        self.answer(answer);
        self.flows.push(Flow {
            header: Header { buf_alloc: ROOM.into(), ..reply(header, OP_RW) },
            alloc: header.buf_alloc.get(),
            forwarded: 0,
            received: 0,
            sent: 0,
            held: VecDeque::new(),
            ends: VecDeque::new(),
            is_ending: false,
        });
    }

    fn of_flow(&mut self, at: usize, header: &Header, data: &[u8]) {
        let faults = self.faults;
        let said = header.len.get() as usize;
        let mixed = faults.has(Fault::VsockFlowsMixed) && header.op.get() == OP_RW;
        let Some(flow) = self.flows.get_mut(if mixed { 0 } else { at }) else { return };
        if !(faults.has(Fault::VsockCreditForgotten) && flow.alloc == 0) {
            (flow.alloc, flow.forwarded) = (header.buf_alloc.get(), header.fwd_cnt.get());
        }
        match header.op.get() {
            OP_RW if said > data.len() && !faults.has(Fault::VsockLengthBelieved) => self.refuse(header),
            OP_RW => {
                let len = said.min(data.len());
                let over = flow.held.len() + len > ROOM as usize;
                if over && !faults.has(Fault::VsockOverrunTaken) {
                    return self.refuse(header);
                }
                flow.received = flow.received.wrapping_add(len as u32);
                flow.held.extend(data.iter().take(if over { 0 } else { len }));
                if header.flags.get() & SEQ_EOM != 0 && header.kind.get() == TYPE_SEQPACKET {
                    flow.ends.push_back(flow.received);
                }
            }
            OP_CREDIT_REQUEST if !faults.has(Fault::VsockCreditRequestSilent) => {
                let update = flow.update(faults);
                self.answer(update);
            }
            OP_SHUTDOWN => {
                let whole = header.flags.get() & BOTH == BOTH;
                flow.is_ending = true;
                if whole && faults.has(Fault::VsockShutdownSilent) {
                    self.flows.remove(at);
                } else if whole || faults.has(Fault::VsockHalfIsWhole) {
                    self.refuse(header);
                }
            }
            _ => {}
        }
    }
}

impl Flow {
    fn is_of(&self, header: &Header) -> bool {
        let own = &self.header;
        (own.dst_port, own.src_port, own.kind) == (header.src_port, header.dst_port, header.kind)
    }

    fn update(&self, faults: Faults) -> Header {
        let forwarded = if faults.has(Fault::VsockNoUpdate) { 0 } else { self.sent };
        Header { op: OP_CREDIT_UPDATE.into(), fwd_cnt: forwarded.into(), ..self.header }
    }

    /// How many bytes may go to the guest.
    fn room(&self, faults: Faults) -> usize {
        let out = self.sent.wrapping_sub(self.forwarded);
        let room = if faults.has(Fault::VsockCreditIgnored) { ROOM } else { self.alloc.saturating_sub(out) };
        self.held.len().min(room as usize)
    }

    /// The next packet with data, of so many bytes at most; the header alone when all is over.
    fn give(&mut self, most: usize, faults: Faults) -> Option<(Header, Vec<u8>)> {
        let mut len = self.room(faults).min(most);
        if let Some(end) = self.ends.front() {
            len = len.min(end.wrapping_sub(self.sent) as usize);
        }
        let mut data: Vec<u8> = self.held.drain(..len).collect();
        if data.is_empty() {
            let is_over = self.is_ending && self.held.is_empty();
            self.is_ending &= !is_over;
            let end = Header { op: OP_SHUTDOWN.into(), flags: SHUTDOWN_SEND.into(), ..self.header };
            return is_over.then_some((end, data));
        }
        if faults.has(Fault::VsockEchoChanges)
            && self.sent == 0
            && let Some(first) = data.first_mut()
        {
            *first ^= 1;
        }
        self.sent = self.sent.wrapping_add(len as u32);
        let is_end = self.ends.front() == Some(&self.sent);
        if is_end {
            self.ends.pop_front();
        }
        let flags = if is_end && !faults.has(Fault::VsockEomLost) { SEQ_EOM } else { 0 };
        let update = self.update(faults);
        let header = Header { op: OP_RW.into(), flags: flags.into(), len: (len as u32).into(), ..update };
        Some((header, data))
    }
}

/// A packet back to where one came from.
fn reply(to: &Header, op: u16) -> Header {
    Header {
        src_cid: to.dst_cid,
        dst_cid: to.src_cid,
        src_port: to.dst_port,
        dst_port: to.src_port,
        kind: to.kind,
        op: op.into(),
        ..Header::default()
    }
}

impl Device for Vsock {
    fn features(&self) -> u64 {
        F_STREAM | F_SEQPACKET
    }

    fn queues(&self) -> u16 {
        3
    }

    fn config(&self) -> Vec<u8> {
        Config { guest_cid: self.cid().into() }.as_bytes().to_vec()
    }

    fn set_config(&mut self, offset: u32, _: &[u8]) -> Result<(), Bad> {
        Err(format!("nothing can be written at {offset}"))
    }

    fn serve(&mut self, queue: u16, chain: &mut Chain) -> u32 {
        if queue != TX {
            return 0;
        }
        let mut header = [0; HEADER_LEN];
        let lengths: Vec<usize> = chain.lengths().collect();
        let first = lengths.first().copied().unwrap_or_default();
        if first < HEADER_LEN && lengths.len() > 1 && self.has(Fault::VsockHeaderAlone)
            || lengths.len() > 4 && self.has(Fault::VsockLargeDropped)
        {
            return 0;
        }
        if !chain.read(0, &mut header) {
            if self.has(Fault::VsockShortCrashes) {
                die();
            }
            return 0;
        }
        let len = chain.readable_len().min(u64::from(ROOM) * 2) as usize;
        let mut data = vec![0; len.saturating_sub(HEADER_LEN)];
        chain.read(HEADER_LEN as u64, &mut data);
        if let Ok(header) = Header::read_from_bytes(&header) {
            self.packet(&header, &data);
        }
        0
    }

    fn fills(&self, queue: u16) -> bool {
        queue == RX
    }

    fn fill(&mut self, queue: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        let first = waiting.first_mut().filter(|_| queue == RX)?;
        let faults = self.faults;
        let room = first.writable_len() as usize;
        let most = room.saturating_sub(HEADER_LEN);
        let small = most < 1024 && faults.has(Fault::VsockSmallBufferUnused);
        let (header, data) = match self.due.pop_front() {
            Some(header) => (header, Vec::new()),
            None if small => return None,
            None => self.flows.iter_mut().find_map(|flow| flow.give(most, faults))?,
        };
        let bytes = [header.as_bytes(), &data].concat();
        first.write(0, &bytes);
        Some(vec![(0, bytes.len().min(room) as u32)])
    }

    fn pushes(&self) -> bool {
        true
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
    }

    fn reset(&mut self) {
        self.flows.clear();
        self.due.clear();
        self.used.clear();
    }

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        if state.is_empty() { Ok(()) } else { Err("not the state of a socket device".to_owned()) }
    }
}
