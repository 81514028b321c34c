//! The data half: what serves a group of queues, a pair of them or the one for commands.

use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, QueueId, SourceId};

use crate::control::ControlHandler;
use crate::pair::PairHandler;

/// The data half of the network device.
#[allow(clippy::large_enum_variant, reason = "there is one for each thread")]
pub enum NetHandler {
    /// Packets.
    Pair(PairHandler),
    /// The driver's commands.
    Control(ControlHandler),
}

macro_rules! either {
    ($self:ident, $handler:ident => $call:expr) => {
        match $self {
            Self::Pair($handler) => $call,
            Self::Control($handler) => $call,
        }
    };
}

impl Handler for NetHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        either!(self, handler => handler.start(cx))
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        either!(self, handler => handler.turned(queue, on, cx));
    }

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        either!(self, handler => handler.request(chain, cx))
    }

    fn glanced_at(&self) -> usize {
        either!(self, handler => handler.glanced_at())
    }

    #[inline]
    fn glance(&mut self, queue: QueueId, front: &[u8], len: usize, cx: &mut Cx<'_, ()>) -> bool {
        either!(self, handler => handler.glance(queue, front, len, cx))
    }

    fn foresee(&self, chain: &Chain) {
        either!(self, handler => handler.foresee(chain));
    }

    fn returned(&mut self, chains: &mut Vec<Chain>, cx: &mut Cx<'_, ()>) {
        either!(self, handler => handler.returned(chains, cx));
    }

    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        either!(self, handler => handler.event(source, cx));
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        either!(self, handler => handler.work(cx))
    }

    fn is_ready(&self) -> bool {
        either!(self, handler => handler.is_ready())
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        either!(self, handler => handler.rest(cx))
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        either!(self, handler => handler.stop(queue, cx));
    }
}
