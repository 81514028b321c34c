//! One pair of queues, with what is behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::net::{F_CTRL_VQ, F_RSS, HEADER_LEN};
use outboard_device::{
    Chain, Cx, DeviceError, Features, Flow, Handler, Inbox, MOST_GLANCED, QueueId, SourceId,
};

use crate::coalescing::{Coalescing, calm};
use crate::config::taken_over;
use crate::counters::PairCounters;
use crate::filter;
use crate::host::{Glance, Sent, Side, Terms};
use crate::limits::{Gate, Way};
use crate::rx::{Dropped, Rx};
use crate::shared::{Shared, View};
use crate::steer::Crossing;
use crate::tx::Tx;

/// After how long a packet that waits looks whether the limits have changed.
const LOOK: Duration = Duration::from_millis(250);

/// So many packets of other pairs at a time.
const AT_ONCE: usize = 128;

/// The queue of a pair that receives (VIRTIO 1.3, 5.1.2).
pub(crate) const fn receiveq(pair: u16) -> QueueId {
    QueueId(2 * pair)
}

/// The queue of a pair that sends.
const fn transmitq(pair: u16) -> QueueId {
    QueueId(2 * pair + 1)
}

/// Serves a pair of queues.
pub struct PairHandler {
    pair: u16,
    agreed: Features,
    side: Box<dyn Side>,
    rx: Rx,
    tx: Tx,
    /// Of what the guest sends.
    gate: Gate,
    /// A packet of the guest is kept from passing.
    waits: bool,
    shared: Arc<Shared>,
    counters: Arc<PairCounters>,
    view: View,
    coalescing: Coalescing,
    /// The driver uses the pair, and its receive queue is on: the guest receives with both.
    in_use: bool,
    is_on: bool,
    /// What other pairs have for this one.
    inbox: Option<Inbox<Crossing>>,
    /// Taken from there, still to be delivered.
    arrived: VecDeque<Crossing>,
    /// Between the two; empty.
    taken: Vec<Crossing>,
}

impl PairHandler {
    pub(crate) fn new(pair: u16, side: Box<dyn Side>, terms: &Terms, shared: &Arc<Shared>) -> Self {
        let agreed = terms.agreed;
        // What the driver may filter by.
        let filtered = if agreed.has(F_CTRL_VQ) { filter::LOOKED_AT } else { 0 };
        Self {
            pair,
            agreed,
            tx: Tx::new(agreed, side.front().max(filtered)),
            side,
            rx: Rx::new(pair, agreed, shared),
            gate: Gate::new(Way::Tx),
            waits: false,
            shared: Arc::clone(shared),
            counters: shared.counters(pair),
            view: View::new(shared, pair),
            coalescing: Coalescing::default(),
            in_use: false,
            is_on: false,
            inbox: None,
            arrived: VecDeque::new(),
            taken: Vec::new(),
        }
    }

    /// Takes over what was set.
    fn renew(&mut self, cx: &mut Cx<'_, ()>) {
        let Some(settings) = self.view.renew() else { return };
        self.in_use = settings.pairs.is_none_or(|pairs| self.pair < pairs);
        self.tx.renew(&settings);
        self.gate.renew(&settings.limits);
        let takes = taken_over(self.agreed, &settings);
        self.side.takes(takes, cx);
        self.side.set_mtu(settings.mtu);
        self.coalescing = settings.coalescing.clone();
        for queue in [receiveq(self.pair), transmitq(self.pair)] {
            calm(queue, self.coalescing.of(queue), cx);
        }
        self.rx.renew(takes, settings);
        self.settle(cx);
    }

    fn has_arrivals(&self) -> bool {
        !self.arrived.is_empty() || self.inbox.as_ref().is_some_and(Inbox::is_ready)
    }

    /// Gives the guest what other pairs had for this one. True if there was something.
    fn receive(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let Some(inbox) = &mut self.inbox else { return false };
        inbox.take(&mut self.taken);
        self.arrived.extend(self.taken.drain(..));
        let busy = !self.arrived.is_empty();
        let now = self.arrived.len().min(AT_ONCE);
        for Crossing { offload, bytes, .. } in self.arrived.drain(..now) {
            if self.rx.deliver_here(&offload, &bytes, cx) == Err(Dropped::NoBuffer) {
                self.rx.count(Err(Dropped::NoBuffer));
            }
        }
        busy
    }

    fn settle(&mut self, cx: &mut Cx<'_, ()>) {
        let receives = self.in_use && self.is_on;
        if receives != self.rx.is_on() {
            self.rx.turn(receives);
            self.view.set_receives(receives);
            self.side.turned(receives, cx);
        }
    }
}

impl Handler for PairHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        self.view.sit(cx.waker());
        if self.agreed.has(F_RSS) {
            self.inbox = Some(self.shared.crossings.open(self.pair, cx.waker()));
        }
        self.side.start(cx)?;
        self.renew(cx);
        Ok(())
    }

    /// Buffers are taken when there is a packet for them.
    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        self.view.set_enabled(queue, on);
        if on {
            calm(queue, self.coalescing.of(queue), cx);
        }
        if queue == receiveq(self.pair) {
            if on {
                cx.keep(queue);
            }
            self.is_on = on;
            self.settle(cx);
        } else if !on {
            self.side.stop(cx);
        }
    }

    /// Nothing is ever written to what the guest sends: it comes back with length 0, dropped or not. More than may pass
    /// stays in the ring.
    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        if let Some(left) = self.gate.closed(|| cx.now()) {
            if !self.waits {
                self.waits = true;
                self.counters.limited();
            }
            return cx.wait_for(chain, left.min(LOOK));
        }
        self.waits = false;
        let packet = match self.tx.judge(chain) {
            Ok(packet) => packet,
            Err((chain, why)) => {
                self.counters.refused(why);
                cx.warn("a packet of the guest was dropped", why);
                return cx.done(chain);
            }
        };
        if !self.shared.has_link() {
            self.counters.unlinked();
            return cx.done(packet.rest);
        }
        let len = packet.len() as u64;
        self.gate.pass(packet.len(), || cx.now());
        match self.side.send(packet, &mut self.rx, cx) {
            Sent::Done(chain) => {
                self.counters.sent(len);
                cx.done(chain)
            }
            Sent::Kept => {
                self.counters.sent(len);
                Flow::Next
            }
            Sent::Refused(chain, error) => {
                self.counters.host_refused();
                cx.warn("the host did not take a packet", error);
                cx.done(chain)
            }
        }
    }

    /// The header, and what the host's side wants to see.
    fn glanced_at(&self) -> usize {
        match (self.tx.header_len(), self.side.glanced_at()) {
            (Some(header), Some(front)) => (header + front).min(MOST_GLANCED),
            _ => 0,
        }
    }

    /// What is neither limited, nor refused, nor of interest to the host as a chain.
    #[inline]
    fn glance(&mut self, _: QueueId, front: &[u8], len: usize, cx: &mut Cx<'_, ()>) -> bool {
        if !self.gate.is_open_always() || !self.shared.has_link() {
            return false;
        }
        let Some((offload, front)) = self.tx.judge_at_a_glance(front, len) else { return false };
        let len = len - HEADER_LEN;
        let done = self.side.glance(&Glance { offload, front, len }, &mut self.rx, cx);
        if done {
            self.counters.sent(len as u64);
        }
        done
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.renew(cx);
        let arrived = self.receive(cx);
        let pumped = self.side.pump(&mut self.rx, cx);
        self.rx.flush();
        arrived || pumped
    }

    fn is_ready(&self) -> bool {
        self.view.is_old() || self.has_arrivals() || self.side.is_ready()
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        !self.view.is_old() && !self.has_arrivals() && self.side.rest(cx)
    }

    fn returned(&mut self, chains: &mut Vec<Chain>, cx: &mut Cx<'_, ()>) {
        self.side.returned(chains, cx);
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        // That a queue need not wait any more is all that there is to that.
        if source != SourceId::delay(transmitq(self.pair)) {
            self.side.event(source, cx);
        }
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.turned(queue, false, cx);
    }
}
