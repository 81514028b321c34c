//! Handlers that end, and others that go on for them: a VM that is paused, a guest that starts anew.

use std::ops::{Deref, DerefMut};

use outboard_virtqueue::QueueId;
use outboard_virtqueue::driver::DriverQueue;

use super::Bench;
use crate::{Cx, Handler};

/// The handler, which is missing only while one makes place for the next.
pub(super) struct Hands<H>(pub(super) Option<H>);

impl<H> Deref for Hands<H> {
    type Target = H;

    fn deref(&self) -> &H {
        self.0.as_ref().expect("there is a handler")
    }
}

impl<H> DerefMut for Hands<H> {
    fn deref_mut(&mut self) -> &mut H {
        self.0.as_mut().expect("there is a handler")
    }
}

impl<H: Handler> Bench<H> {
    /// Stops all queues, drops the handler, and has the queues served by what `make` makes: where they were or, if `anew`, as
    /// those of a driver that begins, with nothing in them.
    ///
    /// # Panics
    /// If the handler does not let go of its chains.
    pub fn restart(&mut self, anew: bool, make: impl FnOnce() -> H) {
        self.stop_all();
        self.rig.forget_handler();
        drop(self.handler.0.take());
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let slot = self.queues.remove(QueueId(index as u16)).expect("the bench has that queue");
            assert_eq!(slot.queue.in_flight(), 0, "the handler still has chains");
            ring.base = slot.queue.stop();
            if anew {
                ring.driver = DriverQueue::new(&ring.config, &self.memory).expect("the ring is in memory");
                ring.base = ring.driver.fresh_base();
                ring.writable.clear();
            }
        }
        (0..self.rings.len()).for_each(|index| self.activate(index));
        self.handler.0 = Some(make());
        self.begin_serving();
    }

    fn stop_all(&mut self) {
        for index in 0..self.rings.len() {
            let id = QueueId(index as u16);
            if let Some(slot) = self.queues.slot(id) {
                slot.paused = true;
            }
            let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
            self.handler.stop(id, &mut cx);
        }
        while self.finish_operations() || self.rig.await_ticket() || self.rig.await_parcel() {}
        self.publish();
    }

    pub(super) fn begin_serving(&mut self) {
        let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
        self.handler.start(&mut cx).expect("the handler starts");
        for index in 0..self.rings.len() {
            self.turned(QueueId(index as u16), true);
        }
    }
}
