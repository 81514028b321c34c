//! What the guest sends. Its packets to one connection go to the host by the batch, straight from guest memory; what the
//! host does not take at once is copied, and never more than the guest was told there is room for.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;

use outboard_device::defs::vsock::{Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use outboard_device::{Chain, Counter, Cx, host_io};
use outboard_streams::{Direction, Form};
use rustix::net::SendFlags;

use crate::borders::Border;
use crate::counters::Refused;
use crate::flow::{BOTH, End, Flow, State, due};
use crate::flows::Flows;
use crate::packet::{Data, Op, Packet, judge};
use crate::rules::Service;
use crate::sibling::Visit;

/// What is sent to the host at a time, at most.
const MOST_CHAINS: usize = 64;
const MOST_BYTES: usize = 1 << 20;

impl Flows {
    /// Takes a packet of the guest. Its chain is completed, here or with the batch.
    pub(crate) fn packet(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) {
        let judged = match chain.read_obj::<Header>() {
            Ok(header) => judge(&header, chain.readable_len(), self.setting.cid, self.messages),
            Err(_) => {
                self.setting.counters.refuse(Refused::Short);
                let _ = cx.done(chain);
                return;
            }
        };
        let packet = match judged {
            Ok(packet) => packet,
            Err(stray) => {
                self.setting.counters.refuse(stray.why);
                cx.warn("a packet of the guest was refused", format_args!("{:?}", stray.why));
                stray.answer.into_iter().for_each(|header| self.answer(header));
                let _ = cx.done(chain);
                return;
            }
        };
        let Some(index) = self.find(&packet.key) else {
            self.flush(cx);
            self.first(&packet, cx);
            let _ = cx.done(chain);
            return;
        };
        if !self.take_credit(index, &packet) {
            self.flush(cx);
            self.refuse(index, Refused::Credit, cx);
            let _ = cx.done(chain);
            return;
        }
        match packet.op {
            Op::Data(data) => {
                if let Some(chain) = self.data(index, data, chain, cx) {
                    let _ = cx.done(chain);
                }
            }
            op => {
                self.flush(cx);
                self.control(index, op, &packet, cx);
                self.settle(index, cx);
                let _ = cx.done(chain);
            }
        }
    }

    /// Notes what room the guest has; false if it says what cannot be.
    fn take_credit(&mut self, index: u32, packet: &Packet) -> bool {
        let Some(flow) = self.flow(index) else { return true };
        // Before it is accepted, nothing was sent that could be done away with.
        if matches!(flow.state, State::Dead | State::Closing) || packet.op == Op::Rst {
            return true;
        }
        let fits = flow.theirs.update(packet.alloc, packet.forwarded);
        if flow.theirs.credit() > 0 {
            flow.asked = false;
            flow.due &= !due::CREDIT_REQUEST;
        }
        if fits {
            self.queue(index);
        }
        fits
    }

    /// A packet of no connection that there is.
    fn first(&mut self, packet: &Packet, cx: &mut Cx<'_, ()>) {
        let counters = &self.setting.counters;
        match packet.op {
            Op::Request => return self.requested(packet, cx),
            Op::Rst => counters.resets_received.add(1),
            Op::Wrong(why) => counters.refuse(why),
            _ => counters.refuse(Refused::Unknown),
        }
        if packet.op != Op::Rst {
            self.reset(packet);
        }
    }

    /// Anything but data, of a connection.
    fn control(&mut self, index: u32, op: Op, packet: &Packet, cx: &mut Cx<'_, ()>) {
        let setting = Arc::clone(&self.setting);
        let Some(flow) = self.flow(index) else { return };
        let state = flow.state;
        match (op, state) {
            (Op::Rst, _) => {
                setting.counters.resets_received.add(1);
                flow.drop_end();
                self.remove(index);
            }
            (_, State::Dead | State::Draining) => {}
            (Op::Wrong(why), _) => self.refuse(index, why, cx),
            (Op::Response, State::Asked) => self.accepted(index, cx),
            (Op::Response, _) | (Op::CreditUpdate, State::Open | State::Closing) => {}
            (Op::CreditRequest, State::Open) => flow.due |= due::UPDATE,
            (Op::CreditRequest, State::Closing) => {}
            (Op::Shutdown(flags), State::Open | State::Closing) => {
                let before = flow.heard;
                flow.heard |= flags & BOTH;
                if (flow.heard & !before) & SHUTDOWN_RECEIVE != 0 {
                    flow.held = None;
                    if let End::Stream { stream, .. } = &flow.end {
                        stream.close(Direction::In);
                    }
                    // One that ends is seen by its end.
                    if flow.heard != BOTH
                        && let Some(outlet) = setting.registry.outlet(flow.key.cid)
                    {
                        // One whose room is full hears of it when it writes.
                        outlet.post(&mut vec![Visit::Deaf(flow.key.of_other(setting.cid))]);
                    }
                }
            }
            (Op::Shutdown(flags), _) if flags & BOTH == BOTH => flow.die(),
            (Op::Request | Op::CreditRequest | Op::CreditUpdate | Op::Shutdown(_) | Op::Data(_), _) => {
                let _ = packet;
                self.refuse(index, Refused::State, cx);
            }
        }
    }

    /// Data of a connection. Gives their chain back if it need not wait for the batch.
    fn data(&mut self, index: u32, data: Data, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Option<Chain> {
        let to_batch = self.batch_of == index || self.batch.is_empty();
        if !to_batch {
            self.flush(cx);
        }
        let Some(flow) = self.flow(index) else { return Some(chain) };
        let is_empty = data.len == 0 && data.ends_message;
        let refused = match flow.state {
            State::Open if flow.heard & SHUTDOWN_SEND != 0 => Some(Refused::State),
            // A message without bytes needs no credit, but is kept, too.
            State::Open if is_empty && flow.begun == 0 && flow.borders.is_full_of_empty() => {
                Some(Refused::Credit)
            }
            State::Open => (!flow.ours.receive(data.len)).then_some(Refused::Credit),
            State::Closing | State::Dead | State::Draining => return Some(chain),
            State::Dialing | State::Asked => Some(Refused::State),
        };
        if let Some(why) = refused {
            self.flush(cx);
            self.refuse(index, why, cx);
            return Some(chain);
        }
        chain.truncate_readable(data.len as usize);
        let direct = matches!(flow.end, End::Stream { .. })
            && flow.key.form == Form::Bytes
            && flow.backlog.is_empty()
            && flow.said & SHUTDOWN_RECEIVE == 0;
        if direct && data.len > 0 {
            self.batch_of = index;
            self.batch_len += data.len as usize;
            self.batch.push(chain);
            if self.batch.len() >= MOST_CHAINS || self.batch_len >= MOST_BYTES {
                self.flush(cx);
            }
            return None;
        }
        // The batch is of this connection, and before it.
        self.flush(cx);
        self.put_by(index, data, &mut chain);
        self.flush_backlog(index);
        let is_service = |flow: &&mut Flow| matches!(flow.end, End::Service(_)) && !flow.is_messages();
        if self.flow(index).filter(is_service).is_some() {
            self.grow(index);
        }
        self.settle(index, cx);
        Some(chain)
    }

    /// Keeps data until the other end takes them, or does away with them.
    fn put_by(&mut self, index: u32, data: Data, chain: &mut Chain) {
        let counters = &self.setting.counters;
        counters.to_host.count(1, data.len.into());
        let Some(flow) = self.flow(index) else { return };
        let drops = matches!(flow.end, End::Service(Service::Discard | Service::Chargen) | End::None)
            || flow.said & SHUTDOWN_RECEIVE != 0;
        if drops {
            return flow.ours.forward(data.len);
        }
        flow.backlog.take(chain);
        if flow.is_messages() {
            flow.begun += data.len as usize;
            if data.ends_message {
                let len = std::mem::take(&mut flow.begun);
                flow.borders.push(Border { len, ends_record: data.ends_record });
            }
        }
    }

    /// Gives the batch to the host.
    pub(crate) fn flush(&mut self, cx: &mut Cx<'_, ()>) {
        if self.batch.is_empty() {
            return;
        }
        let index = self.batch_of;
        let mut batch = std::mem::take(&mut self.batch);
        let packets = batch.len() as u64;
        let len = std::mem::take(&mut self.batch_len);
        let setting = Arc::clone(&self.setting);
        if let Some(flow) = self.flow(index) {
            send(flow, &mut batch, &setting.counters.to_host.calls);
            setting.counters.to_host.count(packets, len as u64);
        }
        cx.done_all(&mut batch);
        self.batch = batch;
        self.grow(index);
        self.settle(index, cx);
    }

    /// Gives a connection that is used well more room, if there is some. Of messages none does: what a guest may send as
    /// one is what it was told of at first, which its receiver can take.
    fn grow(&mut self, index: u32) {
        let left = self.setting.bounds.memory.saturating_sub(self.announced);
        let Some(flow) = self.flow(index) else { return };
        let more = flow.ours.wants();
        if more > 0 && u64::from(more) <= left {
            flow.ours.grow(more);
            flow.due |= due::UPDATE;
            self.announced += u64::from(more);
            self.show();
        }
    }

    /// Gives the host what it had no room for, as much as it takes now.
    pub(crate) fn flush_backlog(&mut self, index: u32) {
        let setting = Arc::clone(&self.setting);
        let Some(flow) = self.flow(index) else { return };
        if flow.backlog.is_empty() && flow.borders.is_empty() {
            return;
        }
        let result = match &flow.end {
            End::Stream { .. } if flow.is_messages() => flush_messages(flow, &setting.counters.to_host.calls),
            End::Stream { stream, .. } => {
                setting.counters.to_host.calls.add(1);
                flow.backlog.flush(stream).map(|sent| flow.ours.forward(sent as u32))
            }
            // It is the guest's to take back.
            End::Service(_) | End::None => return,
        };
        match result {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                setting.counters.refuse(Refused::Message);
                flow.die();
            }
            Err(_) => flow.sink_ended(),
        }
    }
}

/// Sends what is in `batch`, and copies what the host does not take.
fn send(flow: &mut Flow, batch: &mut [Chain], calls: &Counter) {
    let mut left: usize = batch.iter().map(Chain::readable_len).sum();
    let End::Stream { stream, .. } = &flow.end else { return flow.ours.forward(left as u32) };
    while left > 0 {
        calls.add(1);
        match host_io::send_all(batch, SendFlags::empty(), stream.as_fd()) {
            Ok(sent) => {
                left -= sent;
                flow.ours.forward(sent as u32);
                skip(batch, sent);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => {
                flow.ours.forward(left as u32);
                return flow.sink_ended();
            }
        }
    }
    for chain in &mut *batch {
        flow.backlog.take(chain);
    }
}

/// Consumes the first `len` bytes of all of `chains`.
fn skip(chains: &mut [Chain], mut len: usize) {
    for chain in chains {
        let count = chain.readable_len().min(len);
        chain.advance_readable(count);
        len -= count;
        if len == 0 {
            return;
        }
    }
}

/// Sends whole messages. [`io::ErrorKind::InvalidInput`]: one is longer than the host takes.
fn flush_messages(flow: &mut Flow, calls: &Counter) -> io::Result<()> {
    let End::Stream { stream, flagged } = &flow.end else { return Ok(()) };
    while let Some(Border { len, ends_record }) = flow.borders.front() {
        let (front, back) = flow.backlog.pieces();
        let front = front.get(..len).unwrap_or(front);
        let back = back.get(..len - front.len()).unwrap_or_default();
        let flags = [u8::from(ends_record)];
        let pieces = [IoSlice::new(front), IoSlice::new(back), IoSlice::new(&flags)];
        let pieces = if *flagged { &pieces } else { &pieces[..2] };
        calls.add(1);
        match stream.send_message(pieces, ends_record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        flow.borders.pop();
        flow.backlog.skip(len);
        // It was held.
        flow.ours.forward(len as u32);
    }
    Ok(())
}
