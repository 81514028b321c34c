//! A command while it is carried out, and what an agent has set.

use std::collections::BTreeSet;

use crate::agent::AGENT;
use crate::watch::Watch;
use crate::wire::{Params, Reply};
use crate::{Notice, Platform, Point, Status, View, What, protocols};

/// What an agent has set: nothing of it outlives the agent's next start.
#[derive(Default)]
pub(crate) struct State {
    /// The events that it wants to hear of: protocol, event, id.
    pub(crate) subscribed: BTreeSet<(u8, u8, usize)>,
    /// Of each sensor.
    pub(crate) sensors: Vec<Watch>,
}

impl State {
    /// The state of an agent that starts.
    pub(crate) fn new(view: &View) -> Self {
        Self { subscribed: BTreeSet::new(), sensors: view.sensors.iter().map(Watch::new).collect() }
    }

    pub(crate) fn hears(&self, protocol: u8, event: u8, id: usize) -> bool {
        self.subscribed.contains(&(protocol, event, id))
    }
}

/// A command while it is carried out.
pub(crate) struct Call<'a> {
    pub(crate) view: &'a View,
    pub(crate) state: &'a mut State,
    pub(crate) platform: &'a mut dyn Platform,
    pub(crate) params: Params<'a>,
    pub(crate) reply: Reply<'a>,
    pub(crate) notices: &'a mut Vec<Notice>,
}

impl Call<'_> {
    /// The next parameter is an id of one of `things`.
    pub(crate) fn id<T>(&mut self, things: &[T]) -> Result<usize, Status> {
        let id = self.params.word()? as usize;
        if id < things.len() { Ok(id) } else { Err(Status::NotFound) }
    }

    /// The next parameter says whether the agent wants to hear of `event`, of which bit 0 counts and others are reserved.
    pub(crate) fn subscribe(&mut self, protocol: u8, event: u8, id: usize) -> Result<(), Status> {
        match self.params.word()? {
            0 => self.state.subscribed.remove(&(protocol, event, id)),
            1 => self.state.subscribed.insert((protocol, event, id)),
            _ => return Err(Status::InvalidParameters),
        };
        Ok(())
    }

    pub(crate) fn read(&mut self, what: What, id: usize) -> Result<i64, Status> {
        self.platform.read(Point { what, id })
    }

    /// Sets `what`, and tells of it whoever wants to hear.
    pub(crate) fn set(&mut self, what: What, id: usize, value: i64) -> Result<(), Status> {
        let point = Point { what, id };
        self.platform.write(point, value)?;
        tell(self.state, self.platform, (AGENT, point, value), self.notices);
        Ok(())
    }
}

/// Makes the notice of a change that `by` has caused, if the agent wants to hear of it.
pub(crate) fn tell(
    state: &mut State,
    platform: &mut dyn Platform,
    (by, Point { what, id }, value): (u32, Point, i64),
    notices: &mut Vec<Notice>,
) {
    use protocols::{CLOCK, PERFORMANCE, POWER, RESET};
    let number = id as u32;
    let (protocol, event) = match what {
        What::Power => (POWER, 0),
        What::MaxLevel | What::MinLevel => (PERFORMANCE, 0),
        What::Level => (PERFORMANCE, 1),
        What::Rate => (CLOCK, 0),
        What::Reset => (RESET, 0),
        // What the agent has asked of the system itself, it need not be told.
        What::System | What::Running | What::Reading(_) | What::Microvolts | What::Mode => return,
    };
    if !state.hears(protocol, event, id) {
        return;
    }
    let words: &[u32] = match what {
        What::MaxLevel | What::MinLevel => {
            let mut read = |what| platform.read(Point { what, id }).unwrap_or(value) as u32;
            &[by, number, read(What::MaxLevel), read(What::MinLevel)]
        }
        What::Rate => &[by, number, value as u32, (value >> 32) as u32],
        // The state that the domain was reset to; there is none but the architecture's cold one.
        What::Reset => &[by, number, 0],
        _ => &[by, number, value as u32],
    };
    notices.push(Notice::new(protocol, event, id, words));
}
