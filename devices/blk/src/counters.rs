//! What a disk has done, per queue: for `status` on the control socket, and for the log at the end.
//!
//! The guest decides how much there is to count; each number is written by the one thread that serves the queue.

use std::io;
use std::sync::Arc;

use outboard_device::Counter;
use outboard_device::serde_json::{Value, json};

use crate::request::{Ranges, Request};

/// The counters of one queue, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct QueueCounters {
    reads: Counter,
    writes: Counter,
    flushes: Counter,
    discards: Counter,
    zeroes: Counter,
    erases: Counter,
    others: Counter,
    read_bytes: Counter,
    written_bytes: Counter,
    /// Requests that the guest should not have sent.
    refused: Counter,
    /// Requests that failed because the host has no space left.
    no_space: Counter,
    /// Requests that reached beyond the end of what the host has.
    short: Counter,
    /// Requests that failed on the host in any other way.
    failed: Counter,
    /// Requests that had to wait for a limit.
    pub(crate) throttled: Counter,
    /// For how long they did, in microseconds.
    pub(crate) waited: Counter,
    /// Transfers that the host cut short, and that went on.
    pub(crate) continued: Counter,
    /// Ranges that were zeroed in another way, since the host did not know the one that was tried.
    pub(crate) fallbacks: Counter,
}

impl QueueCounters {
    /// A request was begun that carries so many bytes of data.
    pub(crate) fn begun(&self, request: &Request, bytes: u64) {
        match request {
            Request::Read { .. } => {
                self.reads.add(1);
                self.read_bytes.add(bytes);
            }
            Request::Write { .. } | Request::Append { .. } => {
                self.writes.add(1);
                self.written_bytes.add(bytes);
            }
            Request::Flush => self.flushes.add(1),
            Request::Ranges(Ranges::Discard) => self.discards.add(1),
            Request::Ranges(Ranges::Zero) => self.zeroes.add(1),
            Request::Ranges(Ranges::Erase { .. }) => self.erases.add(1),
            _ => self.others.add(1),
        }
    }

    /// A request could not be begun, by fault of the guest.
    pub(crate) fn refused(&self) {
        self.refused.add(1);
    }

    /// A request failed on the host.
    pub(crate) fn failed(&self, error: &io::Error) {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull, UnexpectedEof};
        match error.kind() {
            // The quota, and the longest file that the process may write, are space as well.
            StorageFull | QuotaExceeded | FileTooLarge => self.no_space.add(1),
            UnexpectedEof => self.short.add(1),
            _ => self.failed.add(1),
        }
    }
}

/// The sums over the queues of a disk.
pub(crate) struct Totals<'a>(pub(crate) &'a [Arc<QueueCounters>]);

impl Totals<'_> {
    fn of(&self, counter: impl Fn(&QueueCounters) -> &Counter) -> u64 {
        self.0.iter().fold(0, |sum, queue| sum.wrapping_add(counter(queue).value()))
    }

    pub(crate) fn requests(&self) -> Value {
        json!({
            "reads": self.of(|queue| &queue.reads),
            "writes": self.of(|queue| &queue.writes),
            "flushes": self.of(|queue| &queue.flushes),
            "discards": self.of(|queue| &queue.discards),
            "zeroes": self.of(|queue| &queue.zeroes),
            "erases": self.of(|queue| &queue.erases),
            "others": self.of(|queue| &queue.others),
            "read_bytes": self.of(|queue| &queue.read_bytes),
            "written_bytes": self.of(|queue| &queue.written_bytes),
            "continued": self.of(|queue| &queue.continued),
            "fallbacks": self.of(|queue| &queue.fallbacks),
        })
    }

    pub(crate) fn errors(&self) -> Value {
        json!({
            "refused": self.of(|queue| &queue.refused),
            "no_space": self.of(|queue| &queue.no_space),
            "short": self.of(|queue| &queue.short),
            "failed": self.of(|queue| &queue.failed),
        })
    }

    pub(crate) fn throttled(&self) -> Value {
        json!({
            "requests": self.of(|queue| &queue.throttled),
            "microseconds": self.of(|queue| &queue.waited),
        })
    }

    /// Writes what there is to the log, if there is anything.
    pub(crate) fn log(&self) {
        let (requests, errors, throttled) = (self.requests(), self.errors(), self.throttled());
        let is_zero = |value: &Value| {
            value.as_object().is_none_or(|object| object.values().all(|number| number.as_u64() == Some(0)))
        };
        if !is_zero(&requests) || !is_zero(&errors) {
            tracing::info!("the disk has served {requests}, with errors {errors}, throttled {throttled}");
        }
    }
}
