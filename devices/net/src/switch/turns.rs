//! What has arrived for a port, by who has sent it: they take turns, so that one that sends much costs the others no more
//! than its turn. What one has sent stays in order.

use std::collections::VecDeque;

use outboard_switch::PortId;

use super::delivery::Delivery;

/// The most packets of a turn, but that a batch is not divided.
const TURN: usize = 32;
/// The most senders whose queues are kept for others.
const SPARES: usize = 16;

/// Deliveries in the order in which they are to be made.
#[derive(Default)]
pub(super) struct Turns {
    /// Who has something, the one whose turn it is first. No queue is empty.
    senders: VecDeque<(PortId, VecDeque<Delivery>)>,
    /// Packets of this turn.
    taken: usize,
    /// Empty queues: nothing is allocated for one that comes and goes.
    spares: Vec<VecDeque<Delivery>>,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    pub(super) fn put(&mut self, delivery: Delivery) {
        let from = delivery.from();
        if let Some((_, queue)) = self.senders.iter_mut().find(|(sender, _)| *sender == from) {
            return queue.push_back(delivery);
        }
        let mut queue = self.spares.pop().unwrap_or_default();
        queue.push_back(delivery);
        self.senders.push_back((from, queue));
    }

    pub(super) fn next(&mut self) -> Option<Delivery> {
        let (sender, mut queue) = self.senders.pop_front()?;
        let delivery = queue.pop_front();
        self.taken += delivery.as_ref().map_or(0, Delivery::len);
        let is_over = self.taken >= TURN || queue.is_empty();
        if is_over {
            self.taken = 0;
        }
        match (queue.is_empty(), is_over) {
            (true, _) if self.spares.len() < SPARES => self.spares.push(queue),
            (true, _) => {}
            (false, true) => self.senders.push_back((sender, queue)),
            (false, false) => self.senders.push_front((sender, queue)),
        }
        delivery
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backlog::Backlog;
    use crate::switch::delivery::Frame;

    fn frame(from: u16, number: u8) -> Delivery {
        let frame = Frame { bytes: vec![number], ..Frame::default() };
        let places = [(); 2].map(|()| Backlog::default().enter(1));
        Delivery::Frame { from: PortId(from), frame: Arc::new(frame), _places: places }
    }

    #[test]
    fn senders_take_turns_and_each_keeps_its_order() {
        let mut turns = Turns::default();
        (0..100).for_each(|number| turns.put(frame(1, number)));
        (0..3).for_each(|number| turns.put(frame(2, number)));
        let mut order = Vec::new();
        while let Some(Delivery::Frame { from, frame, .. }) = turns.next() {
            order.push((from.0, frame.bytes[0]));
        }
        assert!(turns.is_empty());
        let of = |sender| order.iter().filter(move |(from, _)| *from == sender).map(|(_, number)| *number);
        assert!(of(1).eq(0..100) && of(2).eq(0..3));
        assert_eq!(order.iter().position(|(from, _)| *from == 2), Some(TURN));
    }
}
