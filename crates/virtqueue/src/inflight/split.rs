//! In-flight records of a split ring.
//!
//! # Theory of operation
//! Entry `h` belongs to the descriptor chain with head `h`. A chain that is taken gets a counter, then its flag. A
//! batch that is returned is first linked: each head points to the one before, the header to the last. Then the
//! used index moves, which shows the batch to the driver; then the flags are cleared; then the header copies the
//! used index. A successor that finds both indexes different knows how many heads, from the header's on, were
//! returned without their flags having been cleared for certain. The flags that remain are the requests in flight,
//! and their counters the order in which they were taken.
//!
//! The stores need no more than the order of the program: who reads them does so after our death.

use std::sync::atomic::{
    Ordering::{Relaxed, SeqCst},
    compiler_fence,
};

use super::{AT_DESC_NUM, AT_VERSION, IndexSet, InflightQueue, VERSION};
use crate::area::Area;
use crate::error::InflightError;
use crate::ring::Format;

pub(crate) const HEADER: usize = 16;
pub(crate) const ENTRY: usize = 16;
const AT_LAST_BATCH_HEAD: usize = 12;
const AT_USED_INDEX: usize = 14;
/// Within an entry.
const AT_INFLIGHT: usize = 0;
const AT_NEXT: usize = 6;
const AT_COUNTER: usize = 8;

/// The records of a running ring.
#[derive(Debug)]
pub(crate) struct Records {
    area: Area,
    size: u16,
    counter: u64,
    last_batch_head: u16,
}

/// What the predecessor left behind.
pub(crate) enum Found {
    /// Nothing: the records were not in use.
    Fresh,
    /// These heads in flight, in the order in which they were taken.
    InFlight(Vec<u16>),
}

impl Records {
    /// Takes records over for a ring of `size` whose used index stands at `used`.
    pub(crate) fn open(queue: InflightQueue, size: u16, used: u16) -> Result<(Self, Found), InflightError> {
        let records = queue.records;
        let area = queue.into_area(Format::Split, size)?;
        let mut this = Self { area, size, counter: 0, last_batch_head: 0 };
        match this.area.load16(AT_VERSION, Relaxed) {
            0 => {}
            VERSION => {
                let recorded = this.area.load16(AT_DESC_NUM, Relaxed);
                if recorded == size {
                    let heads = this.recover(used)?;
                    return Ok((this, Found::InFlight(heads)));
                }
                // Another size is a ring set up anew. That is fine unless the old one left something behind.
                if (0..records).any(|head| this.flag(head)) {
                    return Err(InflightError::OtherSize { recorded, size });
                }
            }
            version => return Err(InflightError::Version(version)),
        }
        this.initialise(used);
        Ok((this, Found::Fresh))
    }

    fn initialise(&mut self, used: u16) {
        self.area.store16(AT_VERSION, 0, Relaxed);
        for head in 0..self.size {
            self.area.store8(entry(head) + AT_INFLIGHT, 0, Relaxed);
        }
        self.area.store64(0, 0, Relaxed); // features
        self.area.store16(AT_DESC_NUM, self.size, Relaxed);
        self.area.store16(AT_LAST_BATCH_HEAD, 0, Relaxed);
        self.area.store16(AT_USED_INDEX, used, Relaxed);
        compiler_fence(SeqCst);
        self.area.store16(AT_VERSION, VERSION, Relaxed);
    }

    fn recover(&mut self, used: u16) -> Result<Vec<u16>, InflightError> {
        let last = self.area.load16(AT_LAST_BATCH_HEAD, Relaxed);
        let returned = used.wrapping_sub(self.area.load16(AT_USED_INDEX, Relaxed));
        if returned != 0 && (0..self.size).any(|head| self.flag(head)) {
            // The last batch: visible to the driver, its flags perhaps not cleared.
            if returned > self.size {
                return Err(InflightError::Corrupt(last));
            }
            let mut batch = IndexSet::new(self.size);
            let mut heads = Vec::with_capacity(usize::from(returned));
            let mut head = last;
            for _ in 0..returned {
                if head >= self.size || !batch.insert(head) {
                    return Err(InflightError::Corrupt(head));
                }
                heads.push(head);
                head = self.area.load16(entry(head) + AT_NEXT, Relaxed);
            }
            for head in heads {
                self.area.store8(entry(head) + AT_INFLIGHT, 0, Relaxed);
            }
        }
        compiler_fence(SeqCst);
        self.area.store16(AT_USED_INDEX, used, Relaxed);
        self.last_batch_head = if last < self.size { last } else { 0 };

        let in_flight = (0..self.size).filter(|&head| self.flag(head));
        let mut taken: Vec<(u64, u16)> =
            in_flight.map(|head| (self.area.load64(entry(head) + AT_COUNTER, Relaxed), head)).collect();
        taken.sort_unstable();
        self.counter = taken.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        Ok(taken.into_iter().map(|(_, head)| head).collect())
    }

    /// Records that the chain with this head was taken. `head` is below the ring's size, here and below.
    #[inline]
    pub(crate) fn take(&mut self, head: u16) {
        self.area.store64(entry(head) + AT_COUNTER, self.counter, Relaxed);
        self.counter = self.counter.wrapping_add(1);
        compiler_fence(SeqCst);
        self.area.store8(entry(head) + AT_INFLIGHT, 1, Relaxed);
    }

    /// Records that the last chain taken goes back, unseen.
    pub(crate) fn untake(&mut self, head: u16) {
        self.area.store8(entry(head) + AT_INFLIGHT, 0, Relaxed);
    }

    /// Links a batch that is about to be returned: before the used index moves.
    #[inline]
    pub(crate) fn link(&mut self, batch: &[u16]) {
        for &head in batch {
            self.area.store16(entry(head) + AT_NEXT, self.last_batch_head, Relaxed);
            compiler_fence(SeqCst);
            self.area.store16(AT_LAST_BATCH_HEAD, head, Relaxed);
            self.last_batch_head = head;
        }
    }

    /// Closes a batch: after the used index has moved, to `used`.
    #[inline]
    pub(crate) fn close(&mut self, batch: &[u16], used: u16) {
        compiler_fence(SeqCst);
        for &head in batch {
            self.area.store8(entry(head) + AT_INFLIGHT, 0, Relaxed);
        }
        compiler_fence(SeqCst);
        self.area.store16(AT_USED_INDEX, used, Relaxed);
    }

    /// Nothing is in flight, and the ring stops: whoever starts one with these records starts afresh.
    pub(crate) fn retire(&self) {
        self.area.store16(AT_VERSION, 0, Relaxed);
    }

    fn flag(&self, head: u16) -> bool {
        self.area.load8(entry(head) + AT_INFLIGHT, Relaxed) != 0
    }
}

#[inline]
fn entry(head: u16) -> usize {
    HEADER + ENTRY * usize::from(head)
}
