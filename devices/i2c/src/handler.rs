//! The data half: collects what belongs together, and has it carried out, here or on the bus's own thread.

use std::time::{Duration, Instant};

use outboard_device::{Chain, Cx, Errands, Flow, Handler, QueueId, Recall, SourceId};

use crate::executor::Executor;
use crate::host::errands::Errand;
use crate::request::Request;
use crate::transaction::MOST_MESSAGES;

/// When a group whose end has not come is carried out as far as it goes: a driver may wait for each request.
const PATIENCE: Duration = Duration::from_millis(20);
/// The timer for that.
const UNFINISHED: SourceId = SourceId(0);

/// Where requests are carried out.
pub(crate) enum Place {
    /// At once.
    Here(Executor),
    /// Where adapters of the host are waited for.
    There(Errands<Errand>, Recall),
}

/// The data half of an I2C adapter.
pub struct I2cHandler {
    place: Place,
    /// A group whose end has not come, and the headers of its chains.
    begun: Vec<Chain>,
    requests: Vec<Request>,
    /// How long the group was when its time was set.
    timed: usize,
    due: Instant,
}

impl I2cHandler {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, begun: Vec::new(), requests: Vec::new(), timed: 0, due: Instant::now() }
    }

    /// Carries out what there is of the group, or all of it; it is refused if it is too long to be one.
    fn carry_out(&mut self, is_too_long: bool, cx: &mut Cx<'_, ()>) {
        self.timed = 0;
        match &mut self.place {
            Place::Here(executor) => {
                if is_too_long {
                    executor.refuse(&mut self.begun);
                } else {
                    executor.run(&self.requests, &mut self.begun);
                }
                cx.done_all(&mut self.begun);
                self.requests.clear();
            }
            Place::There(errands, recall) => {
                let parcel = cx.lend(&mut self.begun);
                errands.run(Errand::Carry {
                    parcel,
                    mark: recall.mark(),
                    requests: std::mem::take(&mut self.requests),
                    is_too_long,
                });
            }
        }
    }

    /// The driver's requests will come again: a group whose end has not come, and what the thread has not begun. A bus that
    /// is held up would hold up whoever stops the queue, for each of them.
    fn give_back(&mut self, cx: &mut Cx<'_, ()>) {
        if let Place::There(_, recall) = &self.place {
            recall.recall();
        }
        while let Some(chain) = self.begun.pop() {
            cx.put_back(chain);
        }
        self.requests.clear();
        self.timed = 0;
    }
}

impl Handler for I2cHandler {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let request = Request::take(&mut chain);
        self.begun.push(chain);
        self.requests.push(request);
        if !request.is_tied() {
            self.carry_out(false, cx);
        } else if self.begun.len() == MOST_MESSAGES {
            self.carry_out(true, cx);
        }
        Flow::Next
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        if self.timed != self.begun.len() {
            self.timed = self.begun.len();
            self.due = cx.now() + PATIENCE;
            cx.after(PATIENCE, UNFINISHED);
        }
        false
    }

    fn event(&mut self, _: SourceId, cx: &mut Cx<'_, ()>) {
        // Of a group that came later than the timer was set, nothing is due.
        if self.timed > 0 && self.timed == self.begun.len() && cx.now() >= self.due {
            self.carry_out(false, cx);
        }
    }

    fn turned(&mut self, _: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if !on {
            self.give_back(cx);
        }
    }

    fn stop(&mut self, _: QueueId, cx: &mut Cx<'_, ()>) {
        self.give_back(cx);
    }
}
