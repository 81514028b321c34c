//! The connections of a guest: a table of them, what wakes each, and those on the host who are not connected yet. It
//! outlives handlers, as a guest that pauses does not end its connections by that.
//!
//! Theory of operation. Each connection with a descriptor is in one edge-triggered set, which the worker watches. What the
//! set tells becomes a note in the connection; a connection that has something for the guest stands in a queue, the turn,
//! once. A connection of which much comes is left alone for a moment when it has nothing more, so that its program gets on
//! and whole packets come of it. What comes from the guest is in `outbound`, what goes to it in `inbound`, and how connections come to be in
//! `opening`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outboard_device::defs::vsock::Header;
use outboard_device::serde_json::{Value, json};
use outboard_device::{Chain, Cx, DeviceError, Outlet, SourceId};
use outboard_streams::{Form, Poller, Readiness};

use crate::command::{Entrance, Job};
use crate::counters::{Counters, Refused};
use crate::flow::{End, Flow, State};
use crate::opening::Caller;
use crate::packet::Key;
use crate::rules::Rules;
use crate::sibling::{Registry, Visit};

/// What the set of descriptors is watched as.
pub(crate) const POLLER: SourceId = SourceId(0);
/// What time is watched as.
pub(crate) const TIME: SourceId = SourceId(1);
/// And what is waited for, that the host has descriptors again.
pub(crate) const AGAIN: SourceId = SourceId(2);
/// And when those of whom much comes are looked at again.
pub(crate) const PACED: SourceId = SourceId(3);

/// How long a guest may take to end a connection that the host has ended, and how long a connection may take to be made.
pub(crate) const CLOSING: Duration = Duration::from_secs(8);
pub(crate) const MAKING: Duration = Duration::from_secs(2);
/// How long a program may take for what it has not got when the guest is through with a connection, if another is to have
/// its place.
const DRAINING: Duration = Duration::from_secs(30);
/// How long an end of which much comes is left alone when it has nothing more: its program fills the socket meanwhile, and
/// wakes nobody up by that.
const PACE: Duration = Duration::from_micros(32);
/// Passes without a look at the set, at most.
const PATIENCE: u32 = 8;
/// What connections are listed at most.
const LISTED: usize = 1000;

/// What a guest may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) connections: usize,
    /// Room of a connection for what the guest sends, in bytes: at first, and at most.
    pub(crate) room: u32,
    pub(crate) most_room: u32,
    /// Room of all connections, in bytes.
    pub(crate) memory: u64,
    /// Answers that wait for a buffer of the guest.
    pub(crate) answers: usize,
}

/// What the connections have to do with.
pub(crate) struct Setting {
    pub(crate) cid: u32,
    pub(crate) bounds: Bounds,
    pub(crate) rules: Mutex<Rules>,
    pub(crate) counters: Counters,
    /// Connections that there are, and the room of all of them: the worker's own counts, for others to look at.
    pub(crate) connections: AtomicU64,
    pub(crate) announced: AtomicU64,
    pub(crate) registry: Arc<Registry>,
}

impl Setting {
    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections of a guest.
pub(crate) struct Flows {
    pub(crate) setting: Arc<Setting>,
    /// The driver's connections are these: it has begun here, or was told that it has none.
    pub(crate) is_known: bool,
    /// The driver may use messages.
    pub(crate) messages: bool,
    flows: Vec<Option<Flow>>,
    /// How often each place was taken, so that late news of one connection is not taken for another's.
    taken: Vec<u32>,
    free: Vec<u32>,
    by_key: HashMap<Key, u32>,
    /// The connection of the last packet.
    last: Option<(Key, u32)>,
    pub(crate) turn: VecDeque<u32>,
    /// Answers to packets of no connection.
    pub(crate) strays: VecDeque<Header>,
    /// The guest has no buffer left.
    pub(crate) starved: bool,
    pub(crate) poller: Poller,
    news: Vec<(u64, Readiness)>,
    armed: bool,
    unlooked: u32,
    /// Connections that are left alone for a moment.
    paced: Vec<u64>,
    pub(crate) entrances: Vec<Option<Entrance>>,
    /// Those who have not said yet where they want to go.
    pub(crate) callers: Vec<Option<Caller>>,
    /// Somebody has to wait at an entrance until one of its callers is gone.
    pub(crate) crowded: bool,
    /// A caller is gone.
    pub(crate) vacated: bool,
    /// Entrances rest.
    pub(crate) rests: bool,
    /// All of the connections' room.
    pub(crate) announced: u64,
    pub(crate) next_port: u32,
    /// When time is watched for.
    alarm: Option<Instant>,
    /// Events that the guest is to get: that connections are gone.
    pub(crate) resets: u32,
    /// The queue of events runs: the guest hears of them.
    pub(crate) tells: bool,
    /// The way here for siblings.
    pub(crate) outlet: Option<Outlet<Visit>>,
    /// Packets of one connection, on their way to the host.
    pub(crate) batch: Vec<Chain>,
    pub(crate) batch_of: u32,
    pub(crate) batch_len: usize,
    /// Buffers of the guest that are being filled.
    pub(crate) chains: Vec<Chain>,
}

/// What a number of the set stands for: kinds in the upper bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Flow(u64),
    Caller(usize),
    Entrance(usize),
}

const CALLER: u64 = 1 << 62;
const ENTRANCE: u64 = 1 << 63;

impl Name {
    pub(crate) fn id(self) -> u64 {
        match self {
            Self::Flow(id) => id,
            Self::Caller(at) => CALLER | at as u64,
            Self::Entrance(at) => ENTRANCE | at as u64,
        }
    }

    fn of(id: u64) -> Self {
        let at = (id & u64::from(u32::MAX)) as usize;
        if id & ENTRANCE != 0 {
            Self::Entrance(at)
        } else if id & CALLER != 0 {
            Self::Caller(at)
        } else {
            Self::Flow(id)
        }
    }
}

impl Flows {
    /// None.
    ///
    /// # Errors
    /// Too many descriptors.
    pub(crate) fn new(setting: Arc<Setting>) -> Result<Self, DeviceError> {
        let poller = Poller::new().map_err(|error| DeviceError::host("cannot watch sockets", error))?;
        Ok(Self {
            setting,
            is_known: false,
            messages: false,
            flows: Vec::new(),
            taken: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            last: None,
            turn: VecDeque::new(),
            strays: VecDeque::new(),
            starved: false,
            poller,
            news: Vec::new(),
            armed: false,
            unlooked: 0,
            paced: Vec::new(),
            entrances: Vec::new(),
            callers: Vec::new(),
            crowded: false,
            vacated: false,
            rests: false,
            announced: 0,
            next_port: 1 << 30,
            alarm: None,
            resets: 0,
            tells: false,
            outlet: None,
            batch: Vec::with_capacity(64),
            batch_of: 0,
            batch_len: 0,
            chains: Vec::with_capacity(64),
        })
    }

    /// A handler begins: what was known of its worker is void.
    ///
    /// # Errors
    /// The set of descriptors cannot be watched.
    pub(crate) fn begin(
        &mut self,
        messages: bool,
        outlet: Outlet<Visit>,
        cx: &mut Cx<'_, ()>,
    ) -> Result<(), DeviceError> {
        self.messages = messages;
        self.outlet = Some(outlet.clone());
        self.setting.registry.sit(self.setting.cid, outlet);
        let watched = cx.watch_once(self.poller_fd(), POLLER);
        watched.map_err(|error| DeviceError::host("cannot watch sockets", error))?;
        self.armed = true;
        self.starved = false;
        self.alarm = None;
        self.alarm_at(cx.now(), cx);
        self.resume();
        self.rested(cx);
        Ok(())
    }

    fn poller_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.poller.as_fd()
    }

    /// All connections end, and nobody is told but the hosts and siblings.
    pub(crate) fn clear(&mut self) {
        for index in 0..self.flows.len() {
            self.remove(index as u32);
        }
        self.dismiss_all();
        self.turn.clear();
        self.strays.clear();
    }

    /// Shows others how many there are.
    pub(crate) fn show(&self) {
        self.setting.connections.store(self.len() as u64, Ordering::Relaxed);
        self.setting.announced.store(self.announced, Ordering::Relaxed);
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    /// How many are in a state.
    pub(crate) fn count(&self, state: State) -> usize {
        self.flows.iter().flatten().filter(|flow| flow.state == state).count()
    }

    pub(crate) fn flow(&mut self, index: u32) -> Option<&mut Flow> {
        self.flows.get_mut(index as usize)?.as_mut()
    }

    /// The connection of a key.
    pub(crate) fn find(&mut self, key: &Key) -> Option<u32> {
        if let Some((last, index)) = &self.last
            && last == key
        {
            return Some(*index);
        }
        let index = *self.by_key.get(key)?;
        self.last = Some((*key, index));
        Some(index)
    }

    /// The connection that an id names, if it is still there.
    pub(crate) fn of_id(&self, id: u64) -> Option<u32> {
        let index = (id & u64::from(u32::MAX)) as u32;
        let flow = self.flows.get(index as usize)?.as_ref()?;
        (flow.id == id).then_some(index)
    }

    /// Gives a connection its place.
    pub(crate) fn insert(&mut self, mut flow: Flow) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.taken.push(0);
            // No more than connections are allowed.
            (self.flows.len() - 1) as u32
        });
        if let Some(taken) = self.taken.get_mut(index as usize) {
            *taken = (*taken + 1) & 0x3fff_ffff;
            flow.id = u64::from(*taken) << 32 | u64::from(index);
        }
        self.by_key.insert(flow.key, index);
        self.announced += u64::from(flow.ours.alloc());
        if let Some(place) = self.flows.get_mut(index as usize) {
            *place = Some(flow);
        }
        self.setting.counters.connections.add(1);
        self.show();
        index
    }

    /// Takes a connection out of the table: its key may come again.
    pub(crate) fn forget_key(&mut self, key: &Key) {
        self.last = None;
        self.by_key.remove(key);
    }

    /// A connection is over.
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(flow) = self.flows.get_mut(index as usize).and_then(Option::take) else { return };
        if flow.state != State::Draining {
            self.forget_key(&flow.key);
        }
        self.announced -= u64::from(flow.ours.alloc());
        self.free.push(index);
        self.show();
    }

    /// Has a connection watched; false if the host cannot.
    pub(crate) fn watch(&mut self, index: u32) -> bool {
        let Some(Some(flow)) = self.flows.get(index as usize) else { return false };
        let End::Stream { stream, .. } = &flow.end else { return true };
        self.poller.add(stream, flow.id, flow.writes).is_ok()
    }

    /// Follows up what has changed of a connection.
    pub(crate) fn settle(&mut self, index: u32, cx: &mut Cx<'_, ()>) {
        let Some(flow) = self.flows.get_mut(index as usize).and_then(Option::as_mut) else { return };
        flow.settle();
        if let End::Stream { stream, .. } = &flow.end {
            let writes = flow.state == State::Dialing || !flow.is_sent();
            if writes != flow.writes {
                flow.writes = writes;
                // It is in the set.
                let _ = self.poller.change(stream, flow.id, writes);
            }
        }
        if flow.state == State::Draining && matches!(flow.end, End::None) {
            return self.remove(index);
        }
        if flow.state == State::Closing && flow.deadline.is_none() {
            flow.deadline = Some(cx.now() + CLOSING);
        }
        if let Some(deadline) = flow.deadline.filter(|_| flow.state != State::Dead) {
            self.watch_time(deadline, cx);
        }
        self.queue(index);
    }

    /// Gives a connection its turn, if it has something for the guest.
    pub(crate) fn queue(&mut self, index: u32) {
        if let Some(flow) = self.flows.get_mut(index as usize).and_then(Option::as_mut)
            && !flow.queued
            && flow.has_turn()
        {
            flow.queued = true;
            self.turn.push_back(index);
        }
    }

    /// Counts a refusal, and ends the connection.
    pub(crate) fn refuse(&mut self, index: u32, why: Refused, cx: &mut Cx<'_, ()>) {
        self.setting.counters.refuse(why);
        if let Some(flow) = self.flow(index) {
            flow.die();
        }
        self.settle(index, cx);
    }

    /// Answers a packet of no connection.
    pub(crate) fn answer(&mut self, header: Header) {
        if self.strays.back() == Some(&header) {
            return;
        }
        if self.strays.len() < self.setting.bounds.answers {
            self.strays.push_back(header);
        } else {
            // VIRTIO 1.3, 5.10.6.3: more resources than these are not used.
            self.setting.counters.unanswered.add(1);
        }
    }

    /// The set of descriptors has news.
    pub(crate) fn look(&mut self, cx: &mut Cx<'_, ()>) {
        self.armed = false;
        self.hear_news(cx);
    }

    /// Leaves a connection alone for a moment. The others wait as long.
    pub(crate) fn pace(&mut self, index: u32, cx: &mut Cx<'_, ()>) {
        let Some(flow) = self.flow(index) else { return };
        flow.paced = true;
        let id = flow.id;
        if self.paced.is_empty() {
            cx.after(PACE, PACED);
        }
        self.paced.push(id);
    }

    /// The moment is over.
    pub(crate) fn go_on(&mut self, cx: &mut Cx<'_, ()>) {
        self.hear_news(cx);
        self.resume();
    }

    fn resume(&mut self) {
        let mut paced = std::mem::take(&mut self.paced);
        for id in paced.drain(..) {
            let Some(index) = self.of_id(id) else { continue };
            if let Some(flow) = self.flow(index) {
                flow.paced = false;
            }
            self.queue(index);
        }
        self.paced = paced;
    }

    fn hear_news(&mut self, cx: &mut Cx<'_, ()>) {
        self.unlooked = 0;
        let mut news = std::mem::take(&mut self.news);
        if let Err(error) = self.poller.collect(|id, readiness| news.push((id, readiness))) {
            cx.warn("sockets of the host", error);
        }
        for (id, readiness) in news.drain(..) {
            match Name::of(id) {
                Name::Entrance(at) => self.admit(at, cx),
                Name::Caller(at) => self.hear(at, cx),
                Name::Flow(id) => {
                    if let Some(index) = self.of_id(id) {
                        self.tell(index, readiness, cx);
                    }
                }
            }
        }
        self.news = news;
        self.fill_places(cx);
    }

    fn tell(&mut self, index: u32, readiness: Readiness, cx: &mut Cx<'_, ()>) {
        let Some(flow) = self.flow(index) else { return };
        let Readiness { readable, writable, gone, .. } = readiness;
        flow.readable |= readable || gone;
        flow.gone |= gone;
        if flow.state == State::Dialing && (writable || gone) && flow.reply.is_none() {
            return self.dialled(index, cx);
        }
        if writable || gone {
            self.flush_backlog(index);
        }
        self.settle(index, cx);
    }

    /// Asks for news of the set: when there is nothing else to do, and else now and then. Not while it is about to be looked
    /// at anyway: whoever writes would have to wake somebody.
    pub(crate) fn arm(&mut self, idle: bool, cx: &mut Cx<'_, ()>) {
        self.unlooked += 1;
        if !self.armed && self.paced.is_empty() && (idle || self.unlooked >= PATIENCE) {
            self.armed = true;
            cx.rearm(POLLER);
        }
    }

    /// Ends what takes too long.
    pub(crate) fn expire(&mut self, cx: &mut Cx<'_, ()>) {
        let now = cx.now();
        self.alarm = None;
        for at in 0..self.callers.len() {
            if self.callers.get(at).and_then(Option::as_ref).is_some_and(|caller| caller.deadline <= now) {
                self.dismiss(at);
            }
        }
        for index in 0..self.flows.len() as u32 {
            if let Some(flow) = self.flow(index)
                && flow.state != State::Dead
                && flow.deadline.is_some_and(|deadline| deadline <= now)
            {
                flow.deadline = None;
                flow.die();
                self.settle(index, cx);
            }
        }
        self.fill_places(cx);
        self.alarm_at(now, cx);
    }

    /// Has the next deadline watched.
    pub(crate) fn alarm_at(&mut self, now: Instant, cx: &mut Cx<'_, ()>) {
        let flows = self.flows.iter().flatten().filter(|flow| flow.state != State::Dead);
        let flows = flows.filter_map(|flow| flow.deadline);
        let next = flows.chain(self.callers.iter().flatten().map(|caller| caller.deadline)).min();
        if let Some(next) = next {
            self.alarm = Some(next);
            cx.after(next.saturating_duration_since(now), TIME);
        }
    }

    /// Has a deadline watched, if it is the next one.
    pub(crate) fn watch_time(&mut self, deadline: Instant, cx: &mut Cx<'_, ()>) {
        if self.alarm.is_none_or(|alarm| deadline < alarm) {
            self.alarm = Some(deadline);
            let now = cx.now();
            cx.after(deadline.saturating_duration_since(now), TIME);
        }
    }

    /// Carries out what the control half wants.
    ///
    /// # Errors
    /// There is nothing of that name.
    pub(crate) fn obey(&mut self, job: Job) -> Result<Value, DeviceError> {
        match job {
            Job::Connections => Ok(self.list()),
            Job::Close(id) => {
                let index = self
                    .of_id(id)
                    .ok_or_else(|| DeviceError::Invalid(format!("there is no connection {id}")))?;
                self.end(index);
                Ok(Value::Null)
            }
            Job::Listen(entrance) => {
                let name = entrance.name.clone();
                self.enter(*entrance)?;
                Ok(json!({ "listen": name }))
            }
            Job::Unlisten(name) => {
                let is_it = |place: &Option<Entrance>| place.as_ref().is_some_and(|one| one.name == name);
                let place = self.entrances.iter_mut().find(|place| is_it(place));
                let place =
                    place.ok_or_else(|| DeviceError::Invalid(format!("nothing listens at {name}")))?;
                *place = None;
                Ok(Value::Null)
            }
            Job::Reset => {
                let ended = self.len();
                if self.tells {
                    self.clear();
                    self.resets += 1;
                } else {
                    (0..self.flows.len()).for_each(|index| self.end(index as u32));
                    self.dismiss_all();
                }
                Ok(json!({ "ended": ended }))
            }
        }
    }

    /// Ends a connection, and tells the guest if it knows of it.
    fn end(&mut self, index: u32) {
        let Some(flow) = self.flow(index) else { return };
        flow.die();
        if flow.state == State::Draining {
            return self.remove(index);
        }
        flow.settle();
        self.queue(index);
    }

    /// Gives up the connection whose program has let what the guest sent wait for the longest time, if that is long enough.
    pub(crate) fn give_up_one(&mut self, now: Instant) {
        let places = self.flows.iter().enumerate();
        let waiting = places.filter_map(|(index, flow)| Some((flow.as_ref()?.drains?, index)));
        if let Some((since, index)) = waiting.min()
            && now.saturating_duration_since(since) >= DRAINING
        {
            self.end(index as u32);
        }
    }

    fn list(&self) -> Value {
        let show = |flow: &Flow| {
            json!({
                "id": flow.id,
                "type": match flow.key.form { Form::Bytes => "stream", Form::Messages => "seqpacket" },
                "state": format!("{:?}", flow.state).to_lowercase(),
                "cid": flow.key.cid,
                "port": flow.key.port,
                "guest_port": flow.key.guest_port,
                "room": flow.ours.alloc(),
                "held": flow.ours.held(),
                "credit": flow.theirs.credit(),
            })
        };
        self.flows.iter().flatten().take(LISTED).map(show).collect()
    }

    /// Whether there is anything to be done without news from elsewhere.
    pub(crate) fn is_ready(&self) -> bool {
        !self.starved && (!self.turn.is_empty() || !self.strays.is_empty())
    }
}
