//! What a queue has done so far, readable while it runs.
//!
//! They count for as long as the device is there, whatever front ends come and go. Only the worker that serves the queue
//! writes.

use outboard_device::Counter;

/// The counters of one queue. On cache lines of their own: workers do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// Requests taken from the ring.
    pub(crate) requests: Counter,
    /// Kicks that arrived.
    pub(crate) kicks: Counter,
    /// Calls that were sent.
    pub(crate) calls: Counter,
    /// Requests that the handler warned about, and faults of the ring.
    pub(crate) errors: Counter,
}
