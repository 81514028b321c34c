//! Messages for the driver, each in a chain of a queue that its handler [keeps](crate::Cx::keep): what comes from the
//! host's side and has to wait for the driver's buffers.
//!
//! The handler trusts it. The driver is not trusted: it may give no buffers, or such as are too small.

use std::collections::VecDeque;

use outboard_virtqueue::QueueId;

use crate::{Cx, Flow};

/// How many chains are filled in one pass.
const BATCH: usize = 64;

/// The messages that wait, oldest first. No allocation once it has grown.
#[derive(Debug)]
pub struct Outbox {
    queue: QueueId,
    most: usize,
    /// The queue runs and is enabled.
    on: bool,
    /// The last look for a chain found none.
    starved: bool,
    bytes: VecDeque<u8>,
    lengths: VecDeque<usize>,
    too_small: u64,
}

impl Outbox {
    /// For at most `most` messages at a time, into the chains of `queue`.
    #[must_use]
    pub const fn new(queue: QueueId, most: usize) -> Self {
        Self {
            queue,
            most,
            on: false,
            starved: false,
            bytes: VecDeque::new(),
            lengths: VecDeque::new(),
            too_small: 0,
        }
    }

    /// To be called from [`crate::Handler::turned`] for every queue, and from [`crate::Handler::stop`] as for one that
    /// rests.
    pub fn turned<Op>(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, Op>) {
        if queue == self.queue {
            self.on = on;
            self.starved = false;
            if on {
                cx.keep(queue);
            }
        }
    }

    /// Adds all of `messages`, which the driver is to see one right after the other, or none of them. False: there is no room,
    /// or the queue does not run.
    pub fn put<M: AsRef<[u8]>>(
        &mut self,
        messages: impl IntoIterator<Item = M, IntoIter: ExactSizeIterator>,
    ) -> bool {
        let messages = messages.into_iter();
        let fits = self.has_room(messages.len());
        if fits {
            for message in messages {
                self.bytes.extend(message.as_ref());
                self.lengths.push_back(message.as_ref().len());
            }
        }
        fits
    }

    /// Gives the driver what there are chains for, up to some dozens at a time. A chain that is too short for its message is
    /// returned empty, and the message waits for the next. True if there was something to do: for
    /// [`crate::Handler::work`].
    pub fn work<Op>(&mut self, cx: &mut Cx<'_, Op>) -> bool {
        let mut busy = false;
        for _ in 0..BATCH {
            let Some(&len) = self.lengths.front().filter(|_| self.on) else { break };
            let chain = cx.pop(self.queue);
            self.starved = chain.is_none();
            let Some(mut chain) = chain else { break };
            busy = true;
            if chain.writable_len() < len {
                self.too_small += 1;
            } else {
                let (front, back) = self.bytes.as_slices();
                let from_front = front.len().min(len);
                let parts = [front.get(..from_front), back.get(..len - from_front)];
                for part in parts.into_iter().flatten() {
                    // There is room for both: the length was looked at, and the chain is ours.
                    let _ = chain.write_all(part);
                }
                self.bytes.drain(..len);
                self.lengths.pop_front();
            }
            let _: Flow = cx.done(chain);
        }
        busy
    }

    /// Whether [`Outbox::work`] would find something to do: for [`crate::Handler::is_ready`].
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.on && !self.starved && !self.lengths.is_empty()
    }

    /// Whether so many messages more would be taken.
    #[must_use]
    pub fn has_room(&self, count: usize) -> bool {
        self.on && count <= self.most.saturating_sub(self.lengths.len())
    }

    /// How many messages wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Drops all that wait.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    /// How many chains were too short.
    #[must_use]
    pub const fn too_small(&self) -> u64 {
        self.too_small
    }
}
