//! The data half: what wakes the connections, and when.

use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, Inbox, QueueId, SourceId, Taken, inbox};

use crate::flows::{AGAIN, Flows, PACED, POLLER, TIME};
use crate::inbound::{EVENTS, RX};
use crate::sibling::Visit;

/// What may wait for the worker, from siblings and the control half.
const ROOM: usize = 1024;

/// Serves the queues of a socket device.
pub struct VsockHandler {
    flows: Taken<Flows>,
    /// The driver may use messages.
    messages: bool,
    inbox: Option<Inbox<Visit>>,
    visits: Vec<Visit>,
}

impl VsockHandler {
    pub(crate) fn new(flows: Taken<Flows>, messages: bool) -> Self {
        Self { flows, messages, inbox: None, visits: Vec::new() }
    }

    fn has_visits(&self) -> bool {
        self.inbox.as_ref().is_some_and(Inbox::is_ready)
    }
}

impl Handler for VsockHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let (inbox, outlet) = inbox(ROOM, cx.waker());
        self.inbox = Some(inbox);
        self.flows.begin(self.messages, outlet, cx)
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if on && (queue == RX || queue == EVENTS) {
            cx.keep(queue);
        }
        if queue == EVENTS {
            self.flows.tells = on;
        }
        self.flows.starved = false;
        self.flows.flush(cx);
    }

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if chain.queue() == RX || chain.queue() == EVENTS {
            // Kept: none comes here.
            return cx.done(chain);
        }
        self.flows.packet(chain, cx);
        Flow::Next
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        match source {
            POLLER => self.flows.look(cx),
            TIME => self.flows.expire(cx),
            AGAIN => self.flows.rested(cx),
            PACED => self.flows.go_on(cx),
            _ => {}
        }
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.flows.flush(cx);
        if let Some(inbox) = &mut self.inbox {
            inbox.take(&mut self.visits);
        }
        let visited = !self.visits.is_empty();
        for visit in self.visits.drain(..) {
            self.flows.visit(visit, cx);
        }
        self.flows.give_events(cx);
        let served = self.flows.serve(cx);
        self.flows.arm(false, cx);
        visited || served
    }

    fn is_ready(&self) -> bool {
        self.flows.is_ready() || self.has_visits()
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.flows.arm(true, cx);
        !self.is_ready()
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.turned(queue, false, cx);
    }
}
