//! How connections come to be: the guest asks for a port of the host or of a sibling, or somebody on the host for one of
//! the guest's.
//!
//! Whoever connects to a listener with no port of its own says `CONNECT PORT` in his first line (of messages: in his first
//! message), and hears `OK PORT` with the host's port when the guest has accepted. He is not trusted: his line is looked at
//! before it is taken, and nothing behind it is.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_device::defs::vsock::{CID_HOST, Header, OP_RST};
use outboard_device::{Cx, DeviceError};
use outboard_streams::{Dial, Door, Form, Stream, Verdict, pair};

use crate::command::Entrance;
use crate::counters::Refused;
use crate::credit::Ours;
use crate::flow::{End, Flow, State, due};
use crate::flows::{AGAIN, Flows, MAKING, Name};
use crate::packet::{Key, Packet};
use crate::rules::Route;
use crate::sibling::{Ask, Reply, Visit};

/// How long somebody may take to say where he wants to go.
const HELLO: Duration = Duration::from_secs(5);
/// The longest first line, in bytes.
const LINE: usize = 32;
/// Connections that are being made at a time, and callers of an entrance, at most.
const MOST_DIALING: usize = 64;
const MOST_CALLERS: usize = 64;
/// A connection's room when there is little, in bytes.
const LITTLE_ROOM: u32 = 64 << 10;
/// How long an entrance rests whose host has no descriptors left.
const REST: Duration = Duration::from_secs(1);
/// What the host keeps of what is on its way to a program, in bytes: as much as one send has, and more.
const SEND_ROOM: usize = 1 << 20;

/// Somebody on the host who has not said yet where he wants to go.
pub(crate) struct Caller {
    stream: Stream,
    door: Option<Door>,
    port: Option<u32>,
    entrance: usize,
    pub(crate) deadline: Instant,
}

impl Flows {
    /// The guest asks for a connection.
    pub(crate) fn requested(&mut self, packet: &Packet, cx: &mut Cx<'_, ()>) {
        if let Err(why) = self.open(packet, cx) {
            self.setting.counters.refuse(why);
            self.reset(packet);
        }
    }

    /// Answers a packet with RST.
    pub(crate) fn reset(&mut self, packet: &Packet) {
        let header = packet.key.header(self.setting.cid, OP_RST);
        self.answer(Header { dst_cid: u64::from(self.setting.cid).into(), ..header });
    }

    /// Room for one more connection.
    fn room(&mut self, now: Instant) -> Result<Ours, Refused> {
        if self.free_room().is_none() {
            self.give_up_one(now);
        }
        let room = self.free_room().ok_or(Refused::Room)?;
        Ok(Ours::new(room, self.setting.bounds.most_room))
    }

    /// What a connection would have for its room, in bytes.
    fn free_room(&self) -> Option<u32> {
        let bounds = &self.setting.bounds;
        let left = bounds.memory.saturating_sub(self.announced);
        let first = [bounds.room, LITTLE_ROOM.min(bounds.room)];
        let room = first.into_iter().find(|room| u64::from(*room) <= left);
        room.filter(|_| self.len() < bounds.connections)
    }

    fn open(&mut self, packet: &Packet, cx: &mut Cx<'_, ()>) -> Result<(), Refused> {
        let ours = self.room(cx.now())?;
        let key = packet.key;
        let mut flow = Flow::new(key, State::Dialing, End::None, ours);
        // What it has done away with is nothing.
        if !flow.theirs.update(packet.alloc, packet.forwarded) {
            return Err(Refused::Credit);
        }
        if u64::from(key.cid) != CID_HOST {
            return self.open_sibling(flow, cx);
        }
        let route = self.setting.rules().route(key.port, key.form)?;
        let (address, other) = match route {
            Route::Service(service) => {
                flow.end = End::Service(service);
                flow.state = State::Open;
                flow.due |= due::RESPONSE;
                let index = self.insert(flow);
                self.settle(index, cx);
                return Ok(());
            }
            Route::Dial(address, other) => (address, other),
        };
        if self.count(State::Dialing) >= MOST_DIALING {
            return Err(Refused::Room);
        }
        let dialled = match (Stream::dial(&address, key.form), other) {
            (Err(error), Some(other)) if error.kind() == io::ErrorKind::NotFound => {
                Stream::dial(&other, key.form)
            }
            (dialled, _) => dialled,
        };
        match dialled {
            Ok(Dial::Open(stream)) => {
                stream.send_room(SEND_ROOM);
                flow.end = End::Stream { stream, flagged: false };
                flow.state = State::Open;
                flow.due |= due::RESPONSE;
            }
            Ok(Dial::Coming(stream)) => {
                stream.send_room(SEND_ROOM);
                flow.end = End::Stream { stream, flagged: false };
                flow.writes = true;
                flow.deadline = Some(cx.now() + MAKING);
            }
            Err(error) => {
                if matches!(error.raw_os_error(), Some(code) if is_exhausted(code)) {
                    cx.warn("a connection of the guest cannot be made", error);
                }
                return Err(Refused::Nobody);
            }
        }
        self.add(flow, cx)
    }

    /// Takes a connection with a descriptor in.
    fn add(&mut self, flow: Flow, cx: &mut Cx<'_, ()>) -> Result<(), Refused> {
        let index = self.insert(flow);
        if !self.watch(index) {
            self.remove(index);
            return Err(Refused::Room);
        }
        self.settle(index, cx);
        Ok(())
    }

    /// What a dial has come to.
    pub(crate) fn dialled(&mut self, index: u32, cx: &mut Cx<'_, ()>) {
        let Some(flow) = self.flow(index) else { return };
        let End::Stream { stream, .. } = &flow.end else { return };
        match stream.outcome() {
            Ok(()) => {
                flow.state = State::Open;
                flow.deadline = None;
                flow.gone = false;
                flow.due |= due::RESPONSE;
                self.settle(index, cx);
            }
            Err(_) => self.refuse(index, Refused::Nobody, cx),
        }
    }

    /// The guest has accepted what somebody on the host, or a sibling, asked for.
    pub(crate) fn accepted(&mut self, index: u32, cx: &mut Cx<'_, ()>) {
        let Some(flow) = self.flow(index) else { return };
        flow.state = State::Open;
        flow.deadline = None;
        let port = flow.key.port;
        if let Some(reply) = flow.reply.take() {
            reply.accept();
        }
        if flow.greeted
            && let End::Stream { stream, .. } = &flow.end
        {
            let line = format!("OK {port}\n");
            // Nothing is on the way to him yet: what has no room for this has for nothing.
            if stream.send(line.as_bytes()).ok() != Some(line.len()) {
                flow.die();
            }
        }
        self.settle(index, cx);
    }

    /// The guest asks for a sibling.
    fn open_sibling(&mut self, mut flow: Flow, cx: &mut Cx<'_, ()>) -> Result<(), Refused> {
        let setting = Arc::clone(&self.setting);
        let (key, cid) = (flow.key, setting.cid);
        let outlet = setting.registry.sibling(cid, key.cid).ok_or(Refused::Destination)?;
        let own = self.outlet.clone().ok_or(Refused::Destination)?;
        let (one, other) = pair(key.form).map_err(|_| Refused::Room)?;
        [&one, &other].into_iter().for_each(|stream| stream.send_room(SEND_ROOM));
        flow.end = End::Stream { stream: one, flagged: key.form == Form::Messages };
        flow.readable = false;
        flow.writes = true;
        flow.deadline = Some(cx.now() + MAKING);
        let index = self.insert(flow);
        let id = self.flow(index).map_or(0, |flow| flow.id);
        let key = key.of_other(cid);
        outlet.post(&mut vec![Visit::Ask(Ask { key, stream: other, reply: Reply::new(own, id) })]);
        self.settle(index, cx);
        Ok(())
    }

    /// A sibling asks for the guest. Dropped, the ask is refused.
    pub(crate) fn asked(&mut self, ask: Ask, cx: &mut Cx<'_, ()>) {
        let Ask { key, stream, reply } = ask;
        let refused = match self.room(cx.now()) {
            _ if !self.setting.rules().admits(key.guest_port) => Refused::Rules,
            _ if key.form == Form::Messages && !self.messages => Refused::Type,
            _ if self.find(&key).is_some() => Refused::State,
            Err(why) => why,
            Ok(ours) => {
                let end = End::Stream { stream, flagged: key.form == Form::Messages };
                let mut flow = Flow::new(key, State::Asked, end, ours);
                flow.due = due::REQUEST;
                flow.reply = Some(reply);
                flow.deadline = Some(cx.now() + MAKING);
                // Of that, the sibling hears by its reply.
                let _ = self.add(flow, cx);
                return;
            }
        };
        self.setting.counters.refuse(refused);
    }

    /// A sibling has answered.
    pub(crate) fn answered(&mut self, id: u64, accepted: bool, cx: &mut Cx<'_, ()>) {
        let Some(index) = self.of_id(id) else { return };
        let Some(flow) = self.flow(index).filter(|flow| flow.state == State::Dialing) else { return };
        if !accepted {
            return self.refuse(index, Refused::Nobody, cx);
        }
        flow.state = State::Open;
        flow.deadline = None;
        flow.readable = true;
        flow.writes = false;
        flow.due |= due::RESPONSE;
        if !self.watch(index) {
            return self.refuse(index, Refused::Room, cx);
        }
        self.settle(index, cx);
    }

    /// A sibling takes no more.
    fn deafened(&mut self, key: &Key, cx: &mut Cx<'_, ()>) {
        let Some(index) = self.find(key) else { return };
        // What it says of a connection comes behind its answer, and before it asks for another.
        if let Some(flow) = self.flow(index).filter(|flow| flow.state == State::Open) {
            flow.sink_ended();
            self.settle(index, cx);
        }
    }

    /// Connections come in there from now on.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub(crate) fn enter(&mut self, entrance: Entrance) -> Result<(), DeviceError> {
        let at = match self.entrances.iter().position(Option::is_none) {
            Some(at) => at,
            None => {
                self.entrances.push(None);
                self.entrances.len() - 1
            }
        };
        let watched = self.poller.add(&entrance.listener, Name::Entrance(at).id(), false);
        watched.map_err(|error| DeviceError::host("cannot watch a listener", error))?;
        if let Some(place) = self.entrances.get_mut(at) {
            *place = Some(entrance);
        }
        Ok(())
    }

    /// Takes in those who wait at an entrance.
    pub(crate) fn admit(&mut self, at: usize, cx: &mut Cx<'_, ()>) {
        loop {
            let Some(Some(entrance)) = self.entrances.get(at) else { return };
            let callers = self.callers.iter().flatten().filter(|caller| caller.entrance == at);
            if callers.count() >= MOST_CALLERS {
                self.crowded = true;
                return;
            }
            let stream = match entrance.listener.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(error) => {
                    cx.warn("nobody can be let in", error);
                    // However many more come, it does not rest for longer.
                    if !std::mem::replace(&mut self.rests, true) {
                        cx.after(REST, AGAIN);
                    }
                    return;
                }
            };
            let (door, port) = (Some(entrance.door.clone()), entrance.port);
            let caller = Caller { stream, door, port, entrance: at, deadline: cx.now() + HELLO };
            self.call(caller, cx);
        }
    }

    /// Entrances have rested.
    pub(crate) fn rested(&mut self, cx: &mut Cx<'_, ()>) {
        self.rests = false;
        self.retry_entrances(cx);
    }

    /// Lets others in for callers who are gone.
    pub(crate) fn fill_places(&mut self, cx: &mut Cx<'_, ()>) {
        if std::mem::take(&mut self.vacated) && std::mem::take(&mut self.crowded) {
            self.retry_entrances(cx);
        }
    }

    /// Looks again at those who could not be let in.
    fn retry_entrances(&mut self, cx: &mut Cx<'_, ()>) {
        for at in 0..self.entrances.len() {
            self.admit(at, cx);
        }
    }

    fn call(&mut self, caller: Caller, cx: &mut Cx<'_, ()>) {
        let place = self.callers.iter().position(Option::is_none);
        let at = place.unwrap_or_else(|| {
            self.callers.push(None);
            self.callers.len() - 1
        });
        if self.poller.add(&caller.stream, Name::Caller(at).id(), false).is_err() {
            return;
        }
        let deadline = caller.deadline;
        if let Some(place) = self.callers.get_mut(at) {
            *place = Some(caller);
        }
        self.watch_time(deadline, cx);
        self.hear(at, cx);
    }

    /// Somebody took too long.
    pub(crate) fn dismiss(&mut self, at: usize) {
        if let Some(place) = self.callers.get_mut(at) {
            *place = None;
            self.vacated = true;
        }
    }

    /// So did all.
    pub(crate) fn dismiss_all(&mut self) {
        self.callers.clear();
        self.vacated = true;
    }

    /// Somebody has said something.
    pub(crate) fn hear(&mut self, at: usize, cx: &mut Cx<'_, ()>) {
        let Some(Some(caller)) = self.callers.get_mut(at) else { return };
        let heard = caller.hear();
        let is_greeted = caller.port.is_none();
        match heard {
            Ok(None) => {}
            Err(()) => self.dismiss(at),
            Ok(Some(port)) => {
                let caller = self.callers.get_mut(at).and_then(Option::take);
                self.vacated = true;
                if let Some(Caller { stream, .. }) = caller {
                    self.poller.remove(&stream);
                    self.ask(stream, port, is_greeted, cx);
                }
            }
        }
    }

    /// Asks the guest whether it accepts somebody of the host.
    fn ask(&mut self, stream: Stream, guest_port: u32, is_greeted: bool, cx: &mut Cx<'_, ()>) {
        let form = stream.form();
        let cid = CID_HOST as u32;
        let refused = match self.room(cx.now()) {
            _ if !self.setting.rules().admits(guest_port) => Refused::Rules,
            _ if form == Form::Messages && !self.messages => Refused::Type,
            Err(why) => why,
            Ok(ours) => {
                stream.send_room(SEND_ROOM);
                let key = self.new_key(Key { form, cid, port: 0, guest_port });
                let mut flow = Flow::new(key, State::Asked, End::Stream { stream, flagged: false }, ours);
                flow.due = due::REQUEST;
                flow.greeted = is_greeted;
                flow.deadline = Some(cx.now() + MAKING);
                match self.add(flow, cx) {
                    Ok(()) => return,
                    Err(why) => why,
                }
            }
        };
        self.setting.counters.refuse(refused);
    }

    /// A key with a port of the host that no other has.
    fn new_key(&mut self, mut key: Key) -> Key {
        loop {
            key.port = self.next_port;
            self.next_port = if self.next_port >= u32::MAX - 1 { 1 << 30 } else { self.next_port + 1 };
            // There are fewer connections than ports.
            if self.find(&key).is_none() {
                return key;
            }
        }
    }

    /// Takes what came from other threads.
    pub(crate) fn visit(&mut self, visit: Visit, cx: &mut Cx<'_, ()>) {
        match visit {
            Visit::Ask(ask) => self.asked(ask, cx),
            Visit::Answer { id, accepted } => self.answered(id, accepted, cx),
            Visit::Deaf(key) => self.deafened(&key, cx),
            Visit::Errand(errand) => {
                // Nobody waits for it any more: it is done all the same.
                let _ = errand.answer.try_send(self.obey(errand.job));
                self.fill_places(cx);
            }
        }
    }
}

impl Caller {
    /// Where he wants to go, if he has said so. `Err`: nowhere.
    fn hear(&mut self) -> Result<Option<u32>, ()> {
        if let Some(door) = &self.door {
            match door.judge(&self.stream).map_err(drop)? {
                Verdict::Waits => return Ok(None),
                Verdict::Refused => return Err(()),
                Verdict::Admitted => self.door = None,
            }
        }
        if self.port.is_some() {
            return Ok(self.port);
        }
        let mut line = [0; LINE];
        let len = match self.stream.receive(&mut line, true) {
            Ok(0) => return Err(()),
            Ok(len) => len.min(LINE),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(_) => return Err(()),
        };
        let said = line.get_mut(..len).unwrap_or_default();
        let end = said.iter().position(|&byte| byte == b'\n');
        let end = match (end, self.stream.form()) {
            (Some(end), _) => end + 1,
            (None, Form::Messages) => len,
            (None, Form::Bytes) if len == LINE => return Err(()),
            (None, Form::Bytes) => return Ok(None),
        };
        let said = said.get_mut(..end).unwrap_or_default();
        self.stream.receive(said, false).map_err(drop)?;
        port_of(said).map(Some).ok_or(())
    }
}

/// The port of a line `CONNECT PORT`.
fn port_of(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?.trim_end_matches(['\n', '\r']);
    let (word, port) = line.split_once(' ')?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|_| is_number && word.eq_ignore_ascii_case("connect"))
}

fn is_exhausted(code: i32) -> bool {
    // ENFILE and EMFILE.
    matches!(code, 23 | 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_that_connects_is_told_from_all_others() {
        for (line, port) in [
            ("CONNECT 52\n", Some(52)),
            ("connect 4294967295\r\n", Some(u32::MAX)),
            ("CONNECT 4294967296\n", None),
            ("CONNECT -1\n", None),
            ("CONNECT +1\n", None),
            ("CONNECT  1\n", None),
            ("CONNECT\n", None),
            ("GET / HTTP/1.1\r\n", None),
            ("", None),
        ] {
            assert_eq!(port_of(line.as_bytes()), port, "{line:?}");
        }
    }
}
