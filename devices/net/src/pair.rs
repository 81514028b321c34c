//! The data half: one pair of queues, with what is behind it.

use std::sync::Arc;

use outboard_device::defs::net::F_MRG_RXBUF;
use outboard_device::{Chain, Cx, DeviceError, Features, Flow, Handler, QueueId, SourceId};
use outboard_frames::{Limits, Takes};

use crate::device::Shared;
use crate::host::Side;
use crate::rx::Rx;
use crate::tx::Tx;

const RECEIVEQ: QueueId = QueueId(0);

/// The data half of the network device.
pub struct PairHandler {
    side: Box<dyn Side>,
    rx: Rx,
    tx: Tx,
    shared: Arc<Shared>,
}

impl PairHandler {
    /// `longest` is that of frames that are not to be segmented, in bytes.
    pub(crate) fn new(side: Box<dyn Side>, agreed: Features, longest: u32, shared: &Arc<Shared>) -> Self {
        let limits = Limits { takes: Takes::by_device(agreed.0), longest };
        Self {
            side,
            rx: Rx::new(RECEIVEQ, agreed.has(F_MRG_RXBUF), Takes::by_driver(agreed.0), shared),
            tx: Tx::new(limits),
            shared: Arc::clone(shared),
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
        if queue == RECEIVEQ && on {
            cx.keep(queue);
        }
    }

    /// Nothing is ever written to what the guest sends: it comes back with length 0, dropped or not.
    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let counters = &self.shared.counters;
        match self.tx.judge(&mut chain) {
            Err(why) => {
                counters.refused(why);
                cx.warn("a packet of the guest was dropped", why);
            }
            Ok(_) if !self.shared.has_link() => counters.unlinked(),
            Ok(mut packet) => {
                let len = packet.len() as u64;
                match self.side.send(&mut packet, &mut self.rx, cx) {
                    Ok(()) => counters.sent(len),
                    Err(error) => {
                        counters.host_refused();
                        cx.warn("the host did not take a packet", error);
                    }
                }
            }
        }
        cx.done(chain)
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.side.pump(&mut self.rx, cx)
    }

    fn is_ready(&self) -> bool {
        self.side.is_ready()
    }

    fn event(&mut self, source: SourceId, _: &mut Cx<'_, ()>) {
        self.side.event(source);
    }
}
