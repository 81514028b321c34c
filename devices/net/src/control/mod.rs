//! The driver's commands, where the front end passes them on (VIRTIO 1.3, 5.1.6.5): carried out one by one, and completed
//! when they are in force. Where it keeps them, the queue never runs.

mod decode;

use std::sync::Arc;

use outboard_device::defs::net::{F_CTRL_RX, F_CTRL_VLAN, F_CTRL_VQ, F_GUEST_ANNOUNCE, F_MQ, F_RSS};
use outboard_device::defs::net_control::{ERR, OK};
use outboard_device::{Chain, Cx, DeviceError, Features, Flow, Handler, QueueId};
use zerocopy::IntoBytes;

use crate::coalescing::Which;
use crate::filter::Filter;
use crate::pair::receiveq;
use crate::shared::{Settings, Shared};
use decode::{Order, Wrong, decode};

/// So many commands at a time: who refuses them all the time carries out none, but keeps a thread busy.
const AT_ONCE: usize = 16;
/// The longest command, in bytes.
const MAX_COMMAND: usize = 64 << 10;

/// Serves the control queue.
pub struct ControlHandler {
    queue: QueueId,
    agreed: Features,
    /// Of queues.
    pairs: u16,
    /// The driver has set nothing yet.
    begins: bool,
    shared: Arc<Shared>,
    /// A command that is carried out, and the version of the settings that it made.
    pending: Option<(Chain, u64)>,
    command: Vec<u8>,
    /// There may be more of them than were looked at.
    more: bool,
}

impl ControlHandler {
    /// For the first queue of a group: nothing is obeyed without [`F_CTRL_VQ`]. The driver `begins`, or goes on.
    pub(crate) fn new(group: u16, agreed: Features, pairs: u16, begins: bool, shared: &Arc<Shared>) -> Self {
        let agreed = if agreed.has(F_CTRL_VQ) { agreed } else { Features::default() };
        let (queue, shared) = (receiveq(group), Arc::clone(shared));
        Self { queue, agreed, pairs, begins, shared, pending: None, command: Vec::new(), more: false }
    }

    fn is_obeyed(&self) -> bool {
        self.agreed.has(F_CTRL_VQ)
    }

    /// Carries a command out, or refuses it.
    fn obey(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) {
        let len = chain.readable_len();
        // Without room for an answer nothing is done (VIRTIO 1.3, 5.1.6.5).
        if chain.writable_len() == 0 || len > MAX_COMMAND {
            let _ = chain.write_all(&[ERR]);
            let _ = cx.done(chain);
            return;
        }
        self.command.resize(len, 0);
        // As many as there are.
        let _ = chain.read_exact(&mut self.command);
        match decode(&self.command, self.agreed, self.pairs).and_then(|order| self.admit(order)) {
            Ok(Order::CallsOf(queue)) => {
                let calls = self.shared.settings().coalescing.of(queue);
                let answer = [&[OK], calls.as_bytes()].concat();
                // The driver has room for all of it, or is told nothing.
                let _ = chain.write_all(if answer.len() <= chain.writable_len() { &answer } else { &[ERR] });
                let _ = cx.done(chain);
            }
            Ok(order) => {
                // There is room for it.
                let _ = chain.write_all(&[OK]);
                let version = self.shared.change(|settings| carry_out(order, settings));
                self.pending = Some((chain, version));
            }
            Err(why) => {
                let _ = chain.write_all(&[ERR]);
                cx.warn("a command of the driver was refused", why);
                let _ = cx.done(chain);
            }
        }
    }

    /// Refuses what is about a queue that does not run (VIRTIO 1.3, 5.1.6.5.9.3).
    fn admit(&self, order: Order) -> Result<Order, Wrong> {
        match order {
            Order::Calls(Which::One(queue), _) | Order::CallsOf(queue) if !self.shared.is_enabled(queue) => {
                Err(Wrong::NotEnabled)
            }
            order => Ok(order),
        }
    }

    /// Completes the command that is carried out. False if it is not in force yet.
    fn settle(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        if let Some((chain, _)) = self.pending.take_if(|(_, version)| self.shared.is_in_force(*version)) {
            let _ = cx.done(chain);
        }
        self.pending.is_none()
    }
}

fn carry_out(order: Order, settings: &mut Settings) {
    let filter = &mut settings.filter;
    match order {
        Order::Mode(mode, on) => filter.iter_mut().for_each(|filter| filter.set(mode, on)),
        Order::Tables { unicasts, multicasts } => {
            if let Some(filter) = filter {
                filter.set_tables(unicasts, multicasts);
            }
        }
        Order::Vlan { id, passes } => filter.iter_mut().for_each(|filter| filter.set_vlan(id, passes)),
        Order::Address(address) => settings.mac = Some(address),
        Order::Announced => settings.announcing = false,
        Order::Pairs(pairs) => (settings.pairs, settings.spread) = (Some(pairs), None),
        // Packets go to those pairs that the table has (VIRTIO 1.3, 5.1.6.5.7).
        Order::Spread(hashing, spread) => {
            (settings.hashing, settings.spread, settings.pairs) = (Some(hashing), Some(spread), None);
        }
        Order::Hashing(hashing) => settings.hashing = Some(hashing),
        Order::Offloads(offloads) => settings.offloads = Some(offloads),
        Order::Calls(which, calls) => settings.coalescing.set(which, calls),
        // Nothing changes.
        Order::CallsOf(_) => {}
    }
}

impl Handler for ControlHandler {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        if self.is_obeyed() {
            self.shared.set_control(Some(cx.waker()));
        }
        Ok(())
    }

    /// The first time, everything passes. A driver that begins uses one pair (VIRTIO 1.3, 5.1.6.5.5). Of one that goes on
    /// nothing is known, since it was moved here, or this program is another: it is to tell the network where it is.
    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if queue != self.queue {
            return;
        }
        if !on {
            // It is carried out, and comes into force with the next packet.
            if let Some((chain, _)) = self.pending.take() {
                let _ = cx.done(chain);
            }
            return;
        }
        cx.keep(queue);
        let (agreed, begins) = (self.agreed, self.begins);
        if self.is_obeyed() && !self.shared.settings().passed_on {
            self.shared.change(|settings| {
                settings.passed_on = true;
                settings.pairs = (begins && (agreed.has(F_MQ) || agreed.has(F_RSS))).then_some(1);
                settings.filter = agreed.has(F_CTRL_RX).then(|| Filter::new(agreed.has(F_CTRL_VLAN)));
                settings.announcing = !begins && agreed.has(F_GUEST_ANNOUNCE);
            });
        }
        // It may have been asked for while nobody heard.
        if self.shared.settings().announcing {
            cx.config_changed();
        }
    }

    /// Of a queue that is none for this driver.
    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        cx.done(chain)
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let mut obeyed = 0;
        while obeyed < AT_ONCE
            && self.settle(cx)
            && let Some(chain) = cx.pop(self.queue)
        {
            obeyed += 1;
            self.obey(chain, cx);
        }
        self.more = obeyed == AT_ONCE;
        obeyed > 0
    }

    fn is_ready(&self) -> bool {
        self.more || self.pending.as_ref().is_some_and(|(_, version)| self.shared.is_in_force(*version))
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.turned(queue, false, cx);
    }
}

impl Drop for ControlHandler {
    fn drop(&mut self) {
        if self.is_obeyed() {
            self.shared.set_control(None);
        }
    }
}
