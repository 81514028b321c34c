//! What the guest receives. A connection that has its turn gives a few packets, straight from the host into the guest's
//! buffers, as far as the guest has room for that connection.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use outboard_device::defs::vsock::{
    EVENT_TRANSPORT_RESET, Event, HEADER_LEN, Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST,
    OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN, SEQ_EOM, SEQ_EOR,
};
use outboard_device::{Chain, Cx, QueueId, host_io};
use outboard_streams::Stream;
use zerocopy::IntoBytes;

use crate::counters::Refused;
use crate::flow::{End, Flow, Held, State, due};
use crate::flows::Flows;
use crate::rules::Service;

/// The queue of packets to the guest (VIRTIO 1.3, 5.10.2).
pub(crate) const RX: QueueId = QueueId(0);
/// The queue of events.
pub(crate) const EVENTS: QueueId = QueueId(2);

/// Buffers that are filled in a pass, at most: what the guest sends has its turn.
const MOST: usize = 64;
/// Buffers that a connection fills in its turn, at most, and bytes.
const MOST_OF_ONE: usize = 64;
const MOST_BYTES: usize = 256 << 10;
/// Bytes without a pause in between by which an end is known of which much comes.
const BULK: usize = 16 << 10;
/// Buffers of no use in a pass, at most.
const MOST_USELESS: u32 = 64;
/// Where in a header its length is, and its flags.
const LEN_AT: usize = 24;
const FLAGS_AT: usize = 32;
/// What an endless text repeats.
const TEXT: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789\r\n";

impl Flows {
    /// Gives the guest what there is. True if there was something.
    pub(crate) fn serve(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.starved = false;
        let mut left = MOST;
        while left > 0
            && let Some(header) = self.strays.front().copied()
        {
            if !self.give_header(&header, cx) {
                return left < MOST;
            }
            self.strays.pop_front();
            self.setting.counters.resets_sent.add(1);
            left -= 1;
        }
        for _ in 0..self.turn.len() {
            let Some(index) = self.turn.pop_front() else { break };
            let Some(flow) = self.flow(index).filter(|flow| flow.queued) else { continue };
            flow.queued = false;
            let given = self.serve_one(index, cx);
            left = left.saturating_sub(given);
            if self.starved {
                // One that got nothing is the next when there are buffers.
                let is_next = |flow: &&mut Flow| given == 0 && flow.has_turn() && !flow.queued;
                if let Some(flow) = self.flow(index).filter(is_next) {
                    flow.queued = true;
                    self.turn.push_front(index);
                }
                self.settle(index, cx);
                break;
            }
            self.settle(index, cx);
            if left == 0 {
                break;
            }
        }
        left < MOST
    }

    /// Gives the guest what one connection has for it. Says how many buffers that took.
    fn serve_one(&mut self, index: u32, cx: &mut Cx<'_, ()>) -> usize {
        let mut given = 0;
        while let Some(flow) = self.flow(index).filter(|flow| flow.due != 0) {
            let (bit, op, flags) = flow.next_due();
            let header = flow.header(op, flags);
            if !self.give(index, header, cx) {
                return given;
            }
            given += 1;
            let Some(flow) = self.flow(index) else { return given };
            // A header has told of credit in any case.
            flow.due &= !(bit | due::UPDATE);
            if bit == due::RST {
                self.setting.counters.resets_sent.add(1);
                self.rst_given(index, cx.now());
                return given;
            }
        }
        let Some(flow) = self.flow(index).filter(|flow| flow.can_give()) else { return given };
        given + if flow.is_messages() { self.give_message(index, cx) } else { self.give_bytes(index, cx) }
    }

    /// The guest knows that a connection is over.
    fn rst_given(&mut self, index: u32, now: Instant) {
        let Some(flow) = self.flow(index) else { return };
        if matches!(flow.end, End::None) || flow.is_sent() {
            return self.remove(index);
        }
        flow.state = State::Draining;
        flow.drains = Some(now);
        let key = flow.key;
        self.forget_key(&key);
    }

    /// Gives the guest a packet of a connection that has no data.
    fn give(&mut self, index: u32, header: Header, cx: &mut Cx<'_, ()>) -> bool {
        let mut header = header;
        let cid = self.setting.cid;
        let Some(flow) = self.flow(index) else { return false };
        header.dst_cid = u64::from(cid).into();
        let is_rst = flow.due & due::RST != 0;
        let (alloc, forwarded) = flow.ours.word();
        if !is_rst {
            (header.buf_alloc, header.fwd_cnt) = (alloc.into(), forwarded.into());
        }
        if !self.give_header(&header, cx) {
            return false;
        }
        if let Some(flow) = self.flow(index).filter(|_| !is_rst) {
            flow.ours.tell(forwarded);
        }
        true
    }

    fn give_header(&mut self, header: &Header, cx: &mut Cx<'_, ()>) -> bool {
        let Some(mut chain) = self.buffer(HEADER_LEN, cx) else { return false };
        // There is room for it.
        let _ = chain.write_obj(header);
        self.setting.counters.to_guest.count(1, 0);
        let _ = cx.done(chain);
        true
    }

    /// A buffer of the guest with room for `len` bytes.
    fn buffer(&mut self, len: usize, cx: &mut Cx<'_, ()>) -> Option<Chain> {
        for _ in 0..MOST_USELESS {
            let Some(chain) = cx.pop(RX) else {
                self.starved = true;
                return None;
            };
            if chain.writable_len() >= len {
                return Some(chain);
            }
            let _ = cx.done(chain);
        }
        // The others in the next pass.
        self.starved = true;
        None
    }

    /// Takes buffers for up to `len` bytes into `chains`, each with a header in front. Returns the bytes that there is
    /// room for, and what the headers say is done away with.
    fn gather(&mut self, index: u32, len: usize, cx: &mut Cx<'_, ()>) -> (usize, u32) {
        let cid = self.setting.cid;
        let Some(flow) = self.flow(index) else { return (0, 0) };
        let mut header = flow.header(OP_RW, 0);
        let (alloc, forwarded) = flow.ours.word();
        (header.buf_alloc, header.fwd_cnt) = (alloc.into(), forwarded.into());
        header.dst_cid = u64::from(cid).into();
        let mut room = 0;
        while room < len && self.chains.len() < MOST_OF_ONE {
            let Some(mut chain) = self.buffer(HEADER_LEN + 1, cx) else { break };
            // There is room for it.
            let _ = chain.write_obj(&header);
            chain.truncate_writable(len - room);
            room += chain.writable_len();
            self.chains.push(chain);
        }
        (room, forwarded)
    }

    /// Gives the guest what was written into the buffers, and takes back those with nothing: their headers say that
    /// `forwarded` is done away with, and the last has the flags `last`. Says how many it got.
    fn deliver(&mut self, index: u32, total: usize, last: u32, forwarded: u32, cx: &mut Cx<'_, ()>) -> usize {
        let mut left = total;
        let mut used = 0;
        for chain in &mut self.chains {
            let len = (chain.written() as usize).saturating_sub(HEADER_LEN);
            if len == 0 && !(total == 0 && used == 0 && last != 0) {
                break;
            }
            left = left.saturating_sub(len);
            // They are written already.
            let _ = chain.rewrite(LEN_AT, &(len as u32).to_le_bytes());
            if left == 0 && last != 0 {
                let _ = chain.rewrite(FLAGS_AT, &last.to_le_bytes());
            }
            used += 1;
        }
        if self.chains.len() > used {
            // There is room for something else.
            self.starved = false;
        }
        while self.chains.len() > used {
            // The last first: they are popped again in the old order.
            self.chains.pop().into_iter().for_each(|chain| cx.put_back(chain));
        }
        cx.done_all(&mut self.chains);
        if used > 0 {
            self.setting.counters.to_guest.count(used as u64, total as u64);
            if let Some(flow) = self.flow(index) {
                flow.theirs.send(total as u32);
                flow.ours.tell(forwarded);
                flow.due &= !due::UPDATE;
            }
        }
        used
    }

    /// Gives the guest bytes of a connection.
    fn give_bytes(&mut self, index: u32, cx: &mut Cx<'_, ()>) -> usize {
        let Some(flow) = self.flow(index) else { return 0 };
        let most = flow.theirs.credit() as usize;
        let (room, forwarded) = self.gather(index, most.min(MOST_BYTES), cx);
        if room == 0 {
            return 0;
        }
        let mut chains = std::mem::take(&mut self.chains);
        let setting = Arc::clone(&self.setting);
        let filled = match self.flow(index) {
            Some(flow) => {
                setting.counters.to_guest.calls.add(1);
                flow.fill(&mut chains)
            }
            None => Ok(0),
        };
        self.chains = chains;
        match filled {
            Ok(0) => {
                self.deliver(index, 0, 0, forwarded, cx);
                if let Some(flow) = self.flow(index) {
                    flow.source_ended();
                }
                0
            }
            Ok(total) => {
                let used = self.deliver(index, total, 0, forwarded, cx);
                if let Some(flow) = self.flow(index).filter(|flow| matches!(flow.end, End::Stream { .. })) {
                    flow.burst += total;
                    if total < room && flow.burst >= BULK {
                        self.drained(index, cx);
                    }
                }
                used
            }
            Err(error) => {
                self.deliver(index, 0, 0, forwarded, cx);
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.drained(index, cx);
                } else if let Some(flow) = self.flow(index) {
                    flow.die();
                }
                0
            }
        }
    }

    /// The other end has nothing at the moment.
    fn drained(&mut self, index: u32, cx: &mut Cx<'_, ()>) {
        let Some(flow) = self.flow(index) else { return };
        flow.readable = std::mem::take(&mut flow.burst) >= BULK;
        if flow.readable {
            self.pace(index, cx);
        }
    }

    /// Gives the guest a message of a connection, or as much of it as there is room for.
    fn give_message(&mut self, index: u32, cx: &mut Cx<'_, ()>) -> usize {
        let setting = Arc::clone(&self.setting);
        let Some(flow) = self.flow(index) else { return 0 };
        if flow.held.is_none() {
            setting.counters.to_guest.calls.add(1);
            match flow.take_message() {
                Ok(true) => {}
                Ok(false) => {
                    flow.source_ended();
                    return 0;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    flow.readable = false;
                    return 0;
                }
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidInput {
                        setting.counters.refuse(Refused::Message);
                    }
                    flow.die();
                    return 0;
                }
            }
        }
        let Some(mut held) = flow.held.take() else { return 0 };
        let rest = held.bytes.len() - held.at;
        let most = rest.min(flow.theirs.credit() as usize).min(MOST_BYTES);
        if rest > 0 && most == 0 {
            flow.held = Some(held);
            return 0;
        }
        let (room, forwarded) = self.gather(index, most.max(1), cx);
        if room == 0 {
            if let Some(flow) = self.flow(index) {
                flow.held = Some(held);
            }
            return 0;
        }
        let mut total = 0;
        for chain in &mut self.chains {
            let len = chain.writable_len().min(most - total);
            let from = held.at + total;
            // There is room for it.
            let _ = chain.write_all(held.bytes.get(from..from + len).unwrap_or_default());
            total += len;
        }
        held.at += total;
        let is_whole = held.at == held.bytes.len();
        let end = if held.ends_record { SEQ_EOM | SEQ_EOR } else { SEQ_EOM };
        let used = self.deliver(index, total, if is_whole { end } else { 0 }, forwarded, cx);
        if !is_whole && let Some(flow) = self.flow(index) {
            flow.held = Some(held);
        }
        used
    }

    /// Tells the guest that its connections are gone.
    pub(crate) fn give_events(&mut self, cx: &mut Cx<'_, ()>) {
        while self.resets > 0
            && let Some(mut chain) = cx.pop(EVENTS)
        {
            let event = Event { id: EVENT_TRANSPORT_RESET.into() };
            if chain.write_all(event.as_bytes()).is_ok() {
                self.resets -= 1;
            }
            let _ = cx.done(chain);
        }
    }
}

impl Flow {
    /// The packet without data that is due first.
    fn next_due(&self) -> (u8, u16, u32) {
        let all = [
            (due::RST, OP_RST, 0),
            (due::REQUEST, OP_REQUEST, 0),
            (due::RESPONSE, OP_RESPONSE, 0),
            (due::SHUTDOWN, OP_SHUTDOWN, self.said),
            (due::CREDIT_REQUEST, OP_CREDIT_REQUEST, 0),
        ];
        let first = all.into_iter().find(|(bit, ..)| self.due & bit != 0);
        first.unwrap_or((due::UPDATE, OP_CREDIT_UPDATE, 0))
    }

    fn header(&self, op: u16, flags: u32) -> Header {
        Header { flags: flags.into(), ..self.key.header(0, op) }
    }

    /// Fills the buffers with bytes of the other end. 0: there are no more to come.
    fn fill(&mut self, chains: &mut [Chain]) -> io::Result<usize> {
        match &self.end {
            End::Stream { stream, .. } => receive(stream, chains),
            End::Service(Service::Echo) => {
                let mut total = 0;
                for chain in chains {
                    let (front, _) = self.backlog.pieces();
                    let len = front.len().min(chain.writable_len());
                    // There is room for it.
                    let _ = chain.write_all(front.get(..len).unwrap_or_default());
                    self.backlog.skip(len);
                    total += len;
                }
                self.ours.forward(total as u32);
                Ok(total)
            }
            End::Service(Service::Chargen) => {
                let mut total = 0;
                for chain in chains {
                    while chain.writable_len() > 0 {
                        let rest = TEXT.get(self.place as usize..).unwrap_or_default();
                        let len = rest.len().min(chain.writable_len());
                        // There is room for it.
                        let _ = chain.write_all(rest.get(..len).unwrap_or_default());
                        self.place = (self.place + len as u32) % TEXT.len() as u32;
                        total += len;
                    }
                }
                Ok(total)
            }
            End::Service(Service::Discard) | End::None => Ok(0),
        }
    }

    /// Takes the next message of the other end. False: there are no more to come.
    pub(crate) fn take_message(&mut self) -> io::Result<bool> {
        let mut held = Held::default();
        match &self.end {
            End::Stream { stream, flagged } => {
                let extra = usize::from(*flagged);
                let most = (self.theirs.alloc() as usize).saturating_add(extra);
                held.ends_record = stream.receive_message(&mut held.bytes, most)?;
                // It ends as a message without bytes comes. What was heard of it may be older than that.
                if held.bytes.is_empty() && (*flagged || stream.is_ended()) {
                    return Ok(false);
                }
                if *flagged {
                    held.ends_record = held.bytes.pop() == Some(1);
                }
            }
            End::Service(Service::Echo) => {
                let Some(border) = self.borders.pop() else {
                    return Err(io::ErrorKind::WouldBlock.into());
                };
                let (front, back) = self.backlog.pieces();
                held.bytes.extend(front.iter().chain(back).take(border.len));
                held.ends_record = border.ends_record;
                self.backlog.skip(border.len);
                // It was held.
                self.ours.forward(border.len as u32);
            }
            End::Service(Service::Chargen) => held.bytes.extend(TEXT),
            End::Service(Service::Discard) | End::None => return Ok(false),
        }
        self.held = Some(held);
        Ok(true)
    }
}

/// Receives into all of the buffers, in order, by one call. 0: the end.
fn receive(stream: &Stream, chains: &mut [Chain]) -> io::Result<usize> {
    let total = host_io::receive_all(chains, usize::MAX, stream.as_fd())?;
    let mut left = total;
    for chain in chains {
        let count = chain.writable_len().min(left);
        chain.advance_writable(count);
        left -= count;
    }
    Ok(total)
}
