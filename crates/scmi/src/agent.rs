//! One agent: its commands, and what it is told unasked.

use std::time::Duration;

use crate::call::{Call, State, tell};
use crate::protocols::{self, Protocol, SENSOR, SYSTEM};
use crate::wire::{Header, Params, Reply};
use crate::{FORCED, Notice, Platform, Point, Status, View, What, watch};

/// The agent's number.
pub const AGENT: u32 = 1;
/// The platform's number.
pub const PLATFORM: u32 = 0;

/// The messages that every protocol has (DEN0056, 4.1.5).
const PROTOCOL_VERSION: u8 = 0;
const PROTOCOL_ATTRIBUTES: u8 = 1;
const PROTOCOL_MESSAGE_ATTRIBUTES: u8 = 2;

/// An agent and what it has set.
pub struct Agent {
    view: View,
    state: State,
    /// Whether there is a way to tell it of anything.
    listens: bool,
}

impl Agent {
    /// An agent that sees `view`.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { state: State::new(&view), view, listens: false }
    }

    /// What it sees.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// It starts anew: what it has asked for before is void.
    pub fn forget(&mut self) {
        self.state = State::new(&self.view);
    }

    /// Whether notifications reach it; if not, commands that ask for them are not supported (VIRTIO 1.3, 5.17.4).
    pub fn listen(&mut self, listens: bool) {
        self.listens = listens;
    }

    /// Carries out a command. `reply` becomes the answer, which is at most `room` bytes; empty if `request` has no header, or
    /// if there is no room for the least of answers. `notices` gets what is to be told because of it.
    pub fn command(
        &mut self,
        request: &[u8],
        room: usize,
        platform: &mut dyn Platform,
        (reply, notices): (&mut Vec<u8>, &mut Vec<Notice>),
    ) {
        reply.clear();
        let Some((header, params)) = request.split_first_chunk() else { return };
        if room < 8 {
            return;
        }
        reply.extend_from_slice(header);
        reply.extend_from_slice(&0u32.to_le_bytes());
        let header = Header(u32::from_le_bytes(*header));
        if let Err(status) = self.carry_out(header, params, platform, (Reply::new(reply, room), notices)) {
            reply.truncate(4);
            reply.extend_from_slice(&status.code().to_le_bytes());
        }
    }

    fn carry_out<'a>(
        &'a mut self,
        header: Header,
        params: &'a [u8],
        platform: &'a mut dyn Platform,
        (mut reply, notices): (Reply<'a>, &'a mut Vec<Notice>),
    ) -> Result<(), Status> {
        if !header.is_command() {
            return Err(Status::ProtocolError);
        }
        let protocol = protocols::find(&self.view, header.protocol()).ok_or(Status::NotSupported)?;
        match header.message() {
            PROTOCOL_VERSION => {
                Params::of(params, 0)?;
                reply.word(protocol.version)
            }
            PROTOCOL_MESSAGE_ATTRIBUTES => {
                let message = Params::of(params, 1)?.word()?;
                let message = u8::try_from(message).map_err(|_| Status::NotFound)?;
                if message > PROTOCOL_MESSAGE_ATTRIBUTES {
                    self.words_of(protocol, message).ok_or(Status::NotFound)?;
                }
                reply.word(protocols::message_attributes(&self.view, protocol.id, message))
            }
            message => {
                let words = match message {
                    PROTOCOL_ATTRIBUTES => 0,
                    other => self.words_of(protocol, other).ok_or(Status::NotSupported)?,
                };
                let params = Params::of(params, words)?;
                let (view, state) = (&self.view, &mut self.state);
                let mut call = Call { view, state, platform, params, reply, notices };
                (protocol.run)(&mut call, message)
            }
        }
    }

    /// How many words of parameters a message has; `None` if there is no such message for this agent.
    fn words_of(&self, protocol: &Protocol, message: u8) -> Option<u8> {
        let found = protocol.messages.iter().find(|known| known.id == message)?;
        (self.listens || !found.subscribes).then_some(found.words)
    }

    /// Somebody else has changed `point`, which is `value` now.
    pub fn changed(
        &mut self,
        point: Point,
        value: i64,
        platform: &mut dyn Platform,
        notices: &mut Vec<Notice>,
    ) {
        match point.what {
            What::Reading(0) => {
                let trips = self.state.hears(SENSOR, 0, point.id);
                if let Some(watch) = self.state.sensors.get_mut(point.id)
                    && watch.config & watch::ENABLED != 0
                    && trips
                {
                    watch.trip(point.id, value, notices);
                }
            }
            _ => tell(&mut self.state, platform, (PLATFORM, point, value), notices),
        }
    }

    /// The platform asks the agent for a state of the system (4.4.3.1): an orderly one, or at once with [`FORCED`]. False if
    /// the agent does not listen to such things.
    pub fn request(&mut self, state: i64, notices: &mut Vec<Notice>) -> bool {
        let Some(system) = self.view.system.filter(|_| self.state.hears(SYSTEM, 0, 0)) else { return false };
        let graceful = u32::from(state & FORCED == 0);
        let words = [PLATFORM, graceful, state as u32, system.timeout_ms * graceful];
        notices.push(Notice::new(SYSTEM, 0, 0, &words));
        true
    }

    /// What [`Agent::look`] would read at the platform's time `now`: where that takes its time, it can be read before.
    pub fn due(&mut self, now: Duration) -> Vec<Point> {
        let mut points = Vec::new();
        for (id, sensor) in self.view.sensors.iter().enumerate() {
            let (updates, trips) = (self.state.hears(SENSOR, 1, id), self.state.hears(SENSOR, 0, id));
            let watch = self.state.sensors.get_mut(id);
            let due = watch.and_then(|watch| watch.plan(updates, trips, now));
            if due.is_some_and(|due| due <= now) {
                points.extend((0..sensor.dimensions()).map(|axis| Point { what: What::Reading(axis), id }));
            }
        }
        points
    }

    /// Looks at the sensors whose time has come, and says when to call again.
    pub fn look(&mut self, platform: &mut dyn Platform, notices: &mut Vec<Notice>) -> Option<Duration> {
        let now = platform.now();
        let mut next = None;
        for (id, sensor) in self.view.sensors.iter().enumerate() {
            let (updates, trips) = (self.state.hears(SENSOR, 1, id), self.state.hears(SENSOR, 0, id));
            let Some(watch) = self.state.sensors.get_mut(id) else { continue };
            if watch.plan(updates, trips, now).is_some() && watch.is_due(now) {
                let mut payload = Vec::new();
                let mut reply = Reply::new(&mut payload, usize::MAX);
                if let Ok(value) = watch::readings(sensor, id, watch.config, platform, &mut reply) {
                    if trips && sensor.axes.is_empty() {
                        watch.trip(id, value, notices);
                    }
                    if updates {
                        let mut notice = Notice::new(SENSOR, 1, id, &[PLATFORM, id as u32]);
                        notice.bytes.append(&mut payload);
                        notices.push(notice);
                    }
                }
            }
            next = [next, watch.plan(updates, trips, now)].into_iter().flatten().min();
        }
        next
    }
}
