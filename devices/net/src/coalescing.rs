//! How a driver wants its calls to wait for each other (VIRTIO 1.3, 5.1.6.5.9).

use std::collections::BTreeMap;
use std::time::Duration;

use outboard_device::defs::net_control::Coalescing as Calls;
use outboard_device::{Cx, QueueId};

/// Which queues a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Receiving,
    Sending,
    One(QueueId),
}

/// What the driver has set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coalescing {
    receiving: Calls,
    sending: Calls,
    /// Of single queues: set after what holds for all.
    own: BTreeMap<u16, Calls>,
}

const fn is_receiving(queue: u16) -> bool {
    queue.is_multiple_of(2)
}

impl Coalescing {
    /// What was set last for a queue, holds.
    pub(crate) fn set(&mut self, which: Which, calls: Calls) {
        match which {
            Which::One(QueueId(queue)) => {
                self.own.insert(queue, calls);
            }
            Which::Receiving => {
                self.receiving = calls;
                self.own.retain(|queue, _| !is_receiving(*queue));
            }
            Which::Sending => {
                self.sending = calls;
                self.own.retain(|queue, _| is_receiving(*queue));
            }
        }
    }

    /// What holds for a queue.
    pub(crate) fn of(&self, QueueId(queue): QueueId) -> Calls {
        let all = if is_receiving(queue) { self.receiving } else { self.sending };
        self.own.get(&queue).copied().unwrap_or(all)
    }

    /// Whether a queue has its own.
    pub(crate) fn has_own(&self, QueueId(queue): QueueId) -> bool {
        self.own.contains_key(&queue)
    }

    /// A queue is enabled again: it has what was set for all.
    pub(crate) fn forget(&mut self, QueueId(queue): QueueId) {
        self.own.remove(&queue);
    }
}

/// Has calls of a running queue go by these rules.
pub(crate) fn calm(queue: QueueId, calls: Calls, cx: &mut Cx<'_, ()>) {
    cx.calm(queue, calls.max_packets.get(), Duration::from_micros(calls.max_usecs.get().into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_last_holds() {
        let calls = |packets: u32| Calls { max_packets: packets.into(), max_usecs: 9.into() };
        let mut coalescing = Coalescing::default();
        let [rx, tx] = [QueueId(2), QueueId(3)];
        coalescing.set(Which::One(rx), calls(1));
        coalescing.set(Which::Sending, calls(2));
        assert_eq!(
            [rx, tx, QueueId(0)].map(|queue| coalescing.of(queue)),
            [calls(1), calls(2), Calls::default()]
        );
        coalescing.set(Which::Receiving, calls(3));
        assert_eq!([rx, QueueId(0)].map(|queue| coalescing.of(queue)), [calls(3); 2]);
        coalescing.set(Which::One(tx), calls(4));
        coalescing.set(Which::Receiving, calls(5));
        assert_eq!(coalescing.of(tx), calls(4));
        assert!(coalescing.has_own(tx) && !coalescing.has_own(rx));
        coalescing.forget(tx);
        assert_eq!(coalescing.of(tx), calls(2));
    }
}
