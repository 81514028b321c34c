//! The data half: one pair of queues, with what is behind it.

use std::sync::Arc;

use outboard_device::defs::net::F_MRG_RXBUF;
use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, QueueId, SourceId};
use outboard_frames::{Limits, Takes};

use crate::counters::PairCounters;
use crate::device::Shared;
use crate::host::{Sent, Side, Terms};
use crate::rx::Rx;
use crate::tx::Tx;

/// The queue of a pair that receives (VIRTIO 1.3, 5.1.2).
pub(crate) const fn receiveq(pair: u16) -> QueueId {
    QueueId(2 * pair)
}

/// The data half of the network device.
pub struct PairHandler {
    receiveq: QueueId,
    side: Box<dyn Side>,
    rx: Rx,
    tx: Tx,
    shared: Arc<Shared>,
    counters: Arc<PairCounters>,
}

impl PairHandler {
    pub(crate) fn new(pair: u16, side: Box<dyn Side>, terms: &Terms, shared: &Arc<Shared>) -> Self {
        let agreed = terms.agreed;
        let limits = Limits { takes: Takes::by_device(agreed.0), longest: terms.longest };
        let counters = shared.counters(pair);
        Self {
            receiveq: receiveq(pair),
            tx: Tx::new(limits, side.front()),
            side,
            rx: Rx::new(pair, agreed.has(F_MRG_RXBUF), Takes::by_driver(agreed.0), shared),
            shared: Arc::clone(shared),
            counters,
        }
    }
}

impl Handler for PairHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        self.side.start(cx)
    }

    /// Buffers are taken when there is a packet for them.
    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if queue == self.receiveq {
            if on {
                cx.keep(queue);
            }
            self.side.turned(on, cx);
        } else if !on {
            self.side.stop(cx);
        }
    }

    /// Nothing is ever written to what the guest sends: it comes back with length 0, dropped or not.
    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
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

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.side.pump(&mut self.rx, cx)
    }

    fn is_ready(&self) -> bool {
        self.side.is_ready()
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.side.rest(cx)
    }

    fn returned(&mut self, chains: &mut Vec<Chain>, cx: &mut Cx<'_, ()>) {
        self.side.returned(chains, cx);
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        self.side.event(source, cx);
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.turned(queue, false, cx);
    }
}
