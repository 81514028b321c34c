//! What outlives handlers: what the guest knows and what waits for it, so that one that is paused misses nothing; and the host's
//! devices.
//!
//! Theory of operation. What commands do, and what the host's devices say, goes to the outbox as frames, and from there into
//! the guest's buffers. A frame that is in the outbox is told: it reaches the guest, unless another driver begins. A command can
//! wait: it is taken only while half of the outbox is free, and its frames stay in order behind those that wait already. A
//! device of the host does not wait: what there is no room for becomes part of what is, and the guest is told the difference
//! once it has caught up.

use std::collections::VecDeque;

use outboard_device::defs::input::Event;
use outboard_device::{Outbox, QueueId};
use zerocopy::IntoBytes;

use crate::frame::{Change, EVENT_LEN, Frame};
use crate::host::evdev::Source;
use crate::state::State;

pub(crate) const EVENTS: QueueId = QueueId(0);

/// Events that wait for the guest; when there are more, what the guest misses is told as the state that it leaves.
const ROOM: usize = 16 << 10;
/// What has to be free for a frame that can wait. None of them is longer.
pub(crate) const HALF: usize = ROOM / 2;

/// What outlives handlers: a guest that is paused keeps its keys pressed.
pub(crate) struct Kept {
    pub(crate) state: State,
    pub(crate) outbox: Outbox,
    pub(crate) sources: Vec<Source>,
    /// What commands have done, and there was no room for.
    waiting: VecDeque<Frame>,
    bytes: Vec<u8>,
}

impl Kept {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        Self {
            state: State::default(),
            outbox: Outbox::new(EVENTS, ROOM),
            sources,
            waiting: VecDeque::new(),
            bytes: Vec::new(),
        }
    }

    /// Puts a frame into the outbox, whole or not at all.
    fn put(&mut self, changes: &[Change]) -> bool {
        self.bytes.clear();
        for change in changes.iter().chain([&Change::SYN]) {
            self.bytes.extend_from_slice(Event::from(*change).as_bytes());
        }
        let taken = self.outbox.put(self.bytes.chunks_exact(EVENT_LEN));
        if taken {
            self.state.told(changes);
        }
        taken
    }

    /// A device of the host says so. False: the guest misses the frame, and learns what it leaves.
    pub(crate) fn deliver(&mut self, frame: &Frame) -> bool {
        let taken = !self.state.behind && !frame.as_state && self.put(&frame.changes);
        match taken {
            true => self.state.happened(&frame.changes),
            false => self.state.missed(&frame.changes),
        }
        taken
    }

    /// Commands were carried out: what they did is told in its turn.
    pub(crate) fn accept(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            self.state.happened(&frame.changes);
            self.waiting.push_back(frame);
        }
    }

    /// The same when a handler ends. A guest that takes nothing for long learns what is, however often it is paused.
    pub(crate) fn accept_last(&mut self, frames: impl IntoIterator<Item = Frame>) {
        if self.waiting.iter().map(events).sum::<usize>() <= ROOM {
            self.accept(frames);
        } else {
            frames.into_iter().for_each(|frame| self.state.missed(&frame.changes));
        }
    }

    /// The same while nobody uses the device. What is too much becomes part of what is.
    pub(crate) fn accept_unattended(&mut self, frames: Vec<Frame>) {
        let all: usize = self.waiting.iter().chain(&frames).map(events).sum();
        if self.state.behind || all > ROOM {
            frames.iter().for_each(|frame| self.state.missed(&frame.changes));
        } else {
            self.accept(frames);
        }
    }

    /// Whether what waits can go on.
    pub(crate) fn has_turn(&self) -> bool {
        !self.waiting.is_empty() && self.outbox.has_room(HALF)
    }

    /// Whether a command can be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.is_empty() && !self.state.behind && self.outbox.has_room(HALF)
    }

    /// Moves on what waits. Says how many frames.
    pub(crate) fn move_on(&mut self) -> u64 {
        let mut count = 0;
        while self.has_turn()
            && let Some(frame) = self.waiting.pop_front()
        {
            // There is room.
            let _ = self.put(&frame.changes);
            count += 1;
        }
        count
    }

    /// Tells the guest what it has missed, once there is room for it and what waits has gone. True if there was something.
    pub(crate) fn catch_up(&mut self) -> bool {
        if !self.state.behind || !self.waiting.is_empty() || !self.outbox.has_room(HALF) {
            return false;
        }
        let changes = self.state.gap();
        let told = changes.is_empty() || self.put(&changes);
        if told {
            self.state.caught_up();
        }
        told && !changes.is_empty()
    }

    /// Another driver begins: nothing waits for it, and it learns what is.
    pub(crate) fn forget(&mut self) {
        self.outbox.clear();
        self.waiting.clear();
        self.state.begin();
    }
}

/// The events of a frame, with its end.
fn events(frame: &Frame) -> usize {
    frame.changes.len() + 1
}
