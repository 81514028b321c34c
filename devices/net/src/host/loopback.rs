//! The guest receives what it sends, on the same pair. What it has no buffers for is dropped, as by a switch.

use outboard_device::{Cx, DeviceError};

use super::{Backing, Glance, SHORT, Sent, Side, Terms};
use crate::rx::Rx;
use crate::tx::Outgoing;

/// The guest itself.
pub(super) struct Guest;

impl Backing for Guest {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn side(&mut self, _: u16, _: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        Ok(Box::new(Loop))
    }
}

struct Loop;

impl Side for Loop {
    /// Short packets as a whole.
    fn glanced_at(&self) -> Option<usize> {
        Some(SHORT)
    }

    fn glance(&mut self, packet: &Glance<'_>, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        let whole = packet.is_whole();
        if whole {
            rx.pass(&packet.offload, packet.front, None, cx);
        }
        whole
    }

    fn send(&mut self, mut packet: Outgoing<'_>, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent {
        rx.forward(&mut packet, cx);
        Sent::Done(packet.rest)
    }
}
