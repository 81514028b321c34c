//! The data half: events to the guest, and what it switches on and off. The guest is not trusted: it may give no buffers, and send
//! anything.

use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::input::Event;
use outboard_device::{Chain, Counter, Cx, DeviceError, Flow, Handler, Inbox, QueueId, SourceId, Taken};

use crate::device::Shared;
use crate::frame::{Change, EV_LED, EV_REP, EV_SND, EVENT_LEN, Frame};
use crate::kept::Kept;

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
    inbox: Option<Inbox<Vec<Frame>>>,
    commands: Vec<Vec<Frame>>,
}

impl InputHandler {
    pub(crate) fn new(shared: Arc<Shared>, kept: Taken<Kept>) -> Self {
        Self { shared, kept, inbox: None, commands: Vec::new() }
    }

    fn deliver(&mut self, frame: &Frame) {
        let (counters, was_behind) = (&self.shared.counters, self.kept.state.behind);
        if self.kept.deliver(frame) {
            counters.frames.add(1);
        } else {
            counters.overruns.add(u64::from(!was_behind));
            counters.dropped.add(1);
        }
    }

    fn catch_up(&mut self) {
        self.shared.counters.caught_up.add(u64::from(self.kept.catch_up()));
    }

    /// Takes commands as long as there is room for what they do: the others wait where they are, until no more are accepted.
    fn take_commands(&mut self) -> bool {
        if self.kept.has_room()
            && let Some(inbox) = &mut self.inbox
        {
            inbox.take(&mut self.commands);
            self.kept.accept(self.commands.drain(..).flatten());
        }
        let frames = self.kept.move_on();
        self.shared.counters.frames.add(frames);
        frames > 0
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
        let kept = &mut *self.kept;
        for (id, source) in (0..).zip(&mut kept.sources) {
            if source.begin(cx, SourceId(id))? {
                kept.state.behind = true;
            } else if self.shared.waits {
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
        self.kept.outbox.turned(queue, on, cx);
    }

    fn event(&mut self, SourceId(id): SourceId, cx: &mut Cx<'_, ()>) {
        let waits = self.shared.waits;
        let kept = &mut *self.kept;
        if let Some(source) = kept.sources.get_mut(id as usize) {
            match source.is_lost() {
                false => source.found_readable(),
                // Its timer ran out.
                true => match source.begin(cx, SourceId(id)) {
                    Ok(true) => {
                        tracing::info!("{} is back", source.path().display());
                        kept.state.behind = true;
                    }
                    _ if waits => cx.after(PAUSE, SourceId(id)),
                    _ => {}
                },
            }
        }
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.catch_up();
        let mut busy = self.take_commands();
        busy |= self.read_sources(cx);
        busy |= self.kept.outbox.work(cx);
        self.catch_up();
        busy
    }

    fn is_ready(&self) -> bool {
        self.kept.has_turn()
            || self.kept.has_room() && self.inbox.as_ref().is_some_and(Inbox::is_ready)
            || self.kept.outbox.is_ready()
            || self.kept.sources.iter().any(crate::host::evdev::Source::is_readable)
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        for (id, source) in (0..).zip(&mut self.kept.sources) {
            source.rest(cx, SourceId(id));
        }
        !self.is_ready()
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.kept.outbox.turned(queue, false, cx);
    }
}

impl Drop for InputHandler {
    /// Commands that were accepted are carried out for whoever goes on.
    fn drop(&mut self) {
        if let Some(inbox) = &mut self.inbox {
            self.kept.accept_last(inbox.close().into_iter().flatten());
        }
    }
}
