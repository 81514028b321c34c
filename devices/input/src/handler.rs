//! The data half: events to the guest, and what it switches on and off. The guest is not trusted: it may give no buffers, and send
//! anything.

use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::input::Event;
use outboard_device::{
    Chain, Counter, Cx, DeviceError, Flow, Handler, Inbox, Outbox, QueueId, SourceId, Taken,
};
use zerocopy::IntoBytes;

use crate::device::{Kept, Shared};
use crate::frame::{Change, EV_LED, EV_REP, EV_SND, EVENT_LEN, Frame};

pub(crate) const EVENTS: QueueId = QueueId(0);

/// Events that wait for the guest; when there are more, what the guest misses is told as the state that it leaves.
const ROOM: usize = 16 << 10;
/// Events in one chain of the status queue that are looked at.
const STATUS_MAX: usize = 64;
/// How long an input device that is gone is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// What has happened, for `status`.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) frames: Counter,
    pub(crate) overruns: Counter,
    pub(crate) caught_up: Counter,
    pub(crate) dropped: Counter,
    pub(crate) refused: Counter,
}

/// The handler.
pub struct InputHandler {
    shared: Arc<Shared>,
    kept: Taken<Kept>,
    outbox: Outbox,
    inbox: Option<Inbox<Vec<Frame>>>,
    commands: Vec<Vec<Frame>>,
    /// The guest does not know all that is.
    behind: bool,
    bytes: Vec<u8>,
}

impl InputHandler {
    pub(crate) fn new(shared: Arc<Shared>, kept: Taken<Kept>) -> Self {
        Self {
            shared,
            kept,
            outbox: Outbox::new(EVENTS, ROOM),
            inbox: None,
            commands: Vec::new(),
            // What was pressed before, or released since.
            behind: true,
            bytes: Vec::new(),
        }
    }

    /// Puts a frame into the outbox, whole or not at all.
    fn put(&mut self, changes: &[Change]) -> bool {
        self.bytes.clear();
        for change in changes.iter().chain([&Change::SYN]) {
            self.bytes.extend_from_slice(Event::from(*change).as_bytes());
        }
        self.outbox.put(self.bytes.chunks_exact(EVENT_LEN))
    }

    fn deliver(&mut self, frame: &Frame) {
        if !self.behind && !frame.as_state && self.put(&frame.changes) {
            self.kept.state.told(&frame.changes);
            self.shared.counters.frames.add(1);
            return;
        }
        self.kept.state.missed(&frame.changes);
        if !std::mem::replace(&mut self.behind, true) {
            self.shared.counters.overruns.add(1);
        }
        self.shared.counters.dropped.add(1);
    }

    /// Tells the guest what it has missed, once there is room for it.
    fn catch_up(&mut self) {
        if !self.behind || self.outbox.len() > ROOM / 2 {
            return;
        }
        let changes = self.kept.state.behind();
        if changes.is_empty() || self.put(&changes) {
            self.behind = false;
            self.kept.state.caught_up();
            self.shared.counters.caught_up.add(u64::from(!changes.is_empty()));
        }
    }

    /// Takes what the host's devices have.
    fn read_sources(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let mut busy = false;
        let repeats = self.shared.abilities.codes.contains_key(&EV_REP);
        for at in 0..self.kept.sources.len() {
            let Some(source) = self.kept.sources.get_mut(at).filter(|source| source.is_readable()) else {
                continue;
            };
            let read = source.read(repeats);
            busy |= !read.frames.is_empty();
            if read.lost {
                cx.unwatch(SourceId(at as u32));
                if self.shared.waits {
                    cx.after(PAUSE, SourceId(at as u32));
                }
            }
            read.frames.iter().for_each(|frame| self.deliver(frame));
        }
        busy
    }

    /// Carries out what the guest says.
    fn feedback(&mut self, event: Event) {
        let change = Change::from(event);
        let known = self.shared.abilities.has(change.kind, change.code);
        if !known || !matches!(change.kind, EV_LED | EV_SND | EV_REP) {
            self.shared.counters.refused.add(1);
            return;
        }
        if let Some(synthetic) = &self.shared.synthetic {
            synthetic.feedback(change);
        }
        self.kept.sources.iter_mut().for_each(|source| source.feedback(change));
    }
}

impl Handler for InputHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        if let Some(synthetic) = &self.shared.synthetic {
            self.inbox = Some(synthetic.hotline().open(cx));
            synthetic.begin();
        }
        for (id, source) in (0..).zip(&mut self.kept.sources) {
            if !source.begin(cx, SourceId(id))? && self.shared.waits {
                cx.after(PAUSE, SourceId(id));
            }
        }
        Ok(())
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if chain.readable_len() < EVENT_LEN {
            self.shared.counters.refused.add(1);
        }
        for _ in 0..STATUS_MAX {
            let Ok(event) = chain.read_obj::<Event>() else { break };
            self.feedback(event);
        }
        cx.done(chain)
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        self.outbox.turned(queue, on, cx);
    }

    fn event(&mut self, SourceId(id): SourceId, cx: &mut Cx<'_, ()>) {
        let waits = self.shared.waits;
        if let Some(source) = self.kept.sources.get_mut(id as usize) {
            match source.is_lost() {
                false => source.found_readable(),
                // Its timer ran out.
                true => match source.begin(cx, SourceId(id)) {
                    Ok(true) => {
                        tracing::info!("{} is back", source.path().display());
                        self.behind = true;
                    }
                    _ if waits => cx.after(PAUSE, SourceId(id)),
                    _ => {}
                },
            }
        }
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.catch_up();
        let mut commands = std::mem::take(&mut self.commands);
        if let Some(inbox) = &mut self.inbox {
            inbox.take(&mut commands);
        }
        let mut busy = !commands.is_empty();
        for frame in commands.drain(..).flatten() {
            self.deliver(&frame);
        }
        self.commands = commands;
        busy |= self.read_sources(cx);
        busy |= self.outbox.work(cx);
        self.catch_up();
        busy
    }

    fn is_ready(&self) -> bool {
        self.inbox.as_ref().is_some_and(Inbox::is_ready)
            || self.outbox.is_ready()
            || self.kept.sources.iter().any(crate::host::evdev::Source::is_readable)
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        for (id, source) in (0..).zip(&mut self.kept.sources) {
            source.rest(cx, SourceId(id));
        }
        !self.is_ready()
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.outbox.turned(queue, false, cx);
    }
}
