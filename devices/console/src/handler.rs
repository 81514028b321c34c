//! The data half: what wakes the ports, and whose turn it is. The guest is not trusted: it may give no buffers, and send
//! anything.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, Inbox, QueueId, Reach, SourceId, Taken, Visit};

use crate::console::{Console, Role, SharedSize, queue_to};
use crate::port::HELD_UP;

/// What all far ends are watched as.
const POLLER: SourceId = SourceId(0);
/// What time is watched as.
const TICK: SourceId = SourceId(1);
/// How often far ends are looked at that do not say by themselves what has become of them.
const PAUSE: Duration = Duration::from_millis(250);
/// Chains that a port is given in a pass.
const BATCH: usize = 16;

/// Serves the queues of a console device.
pub struct ConsoleHandler {
    reach: Arc<Reach<Console>>,
    console: Taken<Console>,
    size: Arc<SharedSize>,
    inbox: Option<Inbox<Visit<Console>>>,
    visits: Vec<Visit<Console>>,
    /// Queues to the guest that run, and the last look into which found something: by port.
    filled: Vec<bool>,
    ticks: bool,
}

impl ConsoleHandler {
    pub(crate) fn new(
        reach: &Arc<Reach<Console>>,
        size: &Arc<SharedSize>,
        multiport: bool,
    ) -> Result<Self, DeviceError> {
        let mut console = reach.take()?;
        console.begin(multiport);
        let filled = vec![false; console.ports.len()];
        let (reach, size) = (Arc::clone(reach), Arc::clone(size));
        Ok(Self { reach, console, size, inbox: None, visits: Vec::new(), filled, ticks: false })
    }

    /// Gives the guest what a port has.
    fn pump(&mut self, id: usize, cx: &mut Cx<'_, ()>) -> bool {
        let (Some(Some(port)), Some(filled)) = (self.console.ports.get_mut(id), self.filled.get_mut(id))
        else {
            return false;
        };
        let mut busy = false;
        for _ in 0..BATCH {
            if !port.readable {
                break;
            }
            let chain = cx.pop(queue_to(id));
            *filled = chain.is_some();
            let Some(mut chain) = chain else { break };
            let empty = chain.writable_len() == 0;
            if !port.give(&mut chain) && !empty {
                cx.put_back(chain);
                break;
            }
            busy = true;
            let _: Flow = cx.done(chain);
        }
        busy
    }
}

impl Handler for ConsoleHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        self.inbox = Some(self.reach.open(cx));
        let watched = cx.watch(self.console.poller.as_fd(), POLLER);
        watched.map_err(|error| DeviceError::host("cannot watch far ends", error))
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        self.console.outbox.turned(queue, on, cx);
        if let Role::ToGuest(id) = Role::of(queue)
            && let Some(filled) = self.filled.get_mut(id)
        {
            *filled = on;
            if on {
                cx.keep(queue);
            }
        }
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        match Role::of(chain.queue()) {
            Role::Orders if self.console.multiport => self.console.order(&mut chain),
            Role::FromGuest(id) if id == 0 || self.console.multiport => {
                if let Some(port) = self.console.port(id)
                    && !port.take(&mut chain, cx.now())
                {
                    // Only a console's is given up after a time.
                    return if port.spec.console { cx.wait_for(chain, HELD_UP) } else { cx.wait(chain) };
                }
            }
            _ => {}
        }
        cx.done(chain)
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        match source {
            POLLER => {
                if let Err(error) = self.console.collect() {
                    cx.warn("far ends", error);
                }
            }
            _ => {
                self.ticks = false;
                let polled = self.console.each().filter(|(_, port)| port.far.is_polled());
                polled.for_each(|(_, port)| port.stir(false));
            }
        }
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        if let Some(inbox) = &mut self.inbox {
            inbox.take(&mut self.visits);
        }
        let mut busy = !self.visits.is_empty();
        for visit in self.visits.drain(..) {
            visit(&mut self.console);
        }
        for id in 0..self.filled.len() {
            busy |= self.console.takes(id) && self.pump(id, cx);
        }
        let now = cx.now();
        let (mut room, mut polled) = (false, false);
        for (_, port) in self.console.each() {
            room |= port.look(now);
            polled |= port.far.is_polled();
        }
        self.console.tell();
        busy |= self.console.outbox.work(cx);
        if self.console.port(0).is_some_and(|port| self.size.set(port.size)) {
            cx.config_changed();
        }
        if room {
            // Chains that wait are looked at again after an event.
            cx.after(Duration::ZERO, TICK);
        } else if polled && !std::mem::replace(&mut self.ticks, true) {
            cx.after(PAUSE, TICK);
        }
        busy
    }

    fn is_ready(&self) -> bool {
        let filled = |(id, filled): (usize, &bool)| {
            let readable =
                self.console.ports.get(id).and_then(Option::as_ref).is_some_and(|port| port.readable);
            *filled && readable && self.console.takes(id)
        };
        self.inbox.as_ref().is_some_and(Inbox::is_ready)
            || self.console.outbox.is_ready()
            || self.filled.iter().enumerate().any(filled)
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.turned(queue, false, cx);
    }
}
