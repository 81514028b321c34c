//! Limits on what a disk does per second, over all its queues.
//!
//! The options and the commands that set them are trusted; what is limited is the guest's.
//!
//! Theory of operation. A request takes its tokens from every bucket that it is about, at once, and is told how long to
//! wait ([`SharedBucket`]). Until then it is back in its ring, and its queue waits: a stop finds nothing under way. The
//! queue remembers the reservation ([`Gate`]), so that each queue has one turn at a time, in the order in which they
//! asked: no queue starves another. Buckets are never changed: a change of the limits makes new ones, in a new [`Set`]
//! with a new version, which queues look at with each request. A queue that waits looks again after [`gate::LOOK`] at the
//! latest; its reservation in the old set is given back.

mod gate;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outboard_device::serde_json::{Map, Value};
use outboard_device::{DeviceError, Limit, LimitSet, SharedBucket};

use crate::options::parse_bytes;
use crate::request::Request;
pub(crate) use gate::Gate;

/// Limits per second; what is not given is not limited.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitOptions {
    /// Serve at most RATE requests per second, of which BURST at once after a pause [default BURST: a tenth of RATE]
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_requests, help_heading = "Limits")]
    pub iops: Option<Limit>,

    /// The same for reads
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_requests, help_heading = "Limits")]
    pub iops_read: Option<Limit>,

    /// The same for writes
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_requests, help_heading = "Limits")]
    pub iops_write: Option<Limit>,

    /// Move at most RATE bytes per second (suffixes K, M, G, T), of which BURST at once after a pause
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_rate, help_heading = "Limits")]
    pub bandwidth: Option<Limit>,

    /// The same for reads
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_rate, help_heading = "Limits")]
    pub bandwidth_read: Option<Limit>,

    /// The same for writes
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_rate, help_heading = "Limits")]
    pub bandwidth_write: Option<Limit>,
}

fn parse_requests(text: &str) -> Result<Limit, String> {
    Limit::parse(text, |text| text.parse().map_err(|_| "a number of requests is needed".to_owned()))
}

fn parse_rate(text: &str) -> Result<Limit, String> {
    Limit::parse(text, parse_bytes)
}

/// The names of the limits, as options and arguments have them, in the order of [`Set`].
const NAMES: [&str; 6] =
    ["iops", "iops-read", "iops-write", "bandwidth", "bandwidth-read", "bandwidth-write"];

/// The limits in force.
#[derive(Debug, Default)]
struct Set(LimitSet<6>);

impl Set {
    fn new(options: &LimitOptions) -> Self {
        let LimitOptions { iops, iops_read, iops_write, bandwidth, bandwidth_read, bandwidth_write } =
            *options;
        Self(LimitSet::new([iops, iops_read, iops_write, bandwidth, bandwidth_read, bandwidth_write]))
    }

    fn is_empty(&self) -> bool {
        self.0.buckets().iter().all(Option::is_none)
    }

    /// The buckets that a request is about, with what it takes of each.
    fn of(&self, price: Price) -> impl Iterator<Item = (&SharedBucket, u64)> {
        let [iops, iops_read, iops_write, bandwidth, bandwidth_read, bandwidth_write] = self.0.buckets();
        let (one, all) = match price.side {
            Side::Read => (iops_read, bandwidth_read),
            Side::Write => (iops_write, bandwidth_write),
        };
        [(iops, price.requests), (one, price.requests), (bandwidth, price.bytes), (all, price.bytes)]
            .into_iter()
            .filter(|(_, tokens)| *tokens > 0)
            .filter_map(|(bucket, tokens)| Some((bucket.as_deref()?, tokens)))
    }

    fn reserve(&self, price: Price, now: Instant) -> Duration {
        self.of(price).map(|(bucket, tokens)| bucket.reserve(tokens, now)).max().unwrap_or_default()
    }

    fn give_back(&self, price: Price) {
        self.of(price).for_each(|(bucket, tokens)| bucket.give_back(tokens));
    }
}

/// What a request takes from the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Price {
    pub(crate) side: Side,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

impl Price {
    /// What a request takes whose chain has so many bytes left: nothing if it moves no data and changes none. Zeroes are
    /// paid for when their ranges are known.
    pub(crate) fn of(request: &Request, readable: usize, writable: usize) -> Option<Self> {
        let (side, bytes) = match request {
            Request::Read { .. } => (Side::Read, writable),
            Request::Write { .. } | Request::Append { .. } => (Side::Write, readable),
            Request::Ranges(_) | Request::Zone { .. } | Request::ZoneResetAll => (Side::Write, 0),
            Request::Flush | Request::Identify | Request::Lifetime | Request::ZoneReport { .. } => {
                return None;
            }
        };
        Some(Self { side, requests: 1, bytes: bytes as u64 })
    }

    /// What zeroes take beside what their request took.
    pub(crate) const fn of_zeroes(bytes: u64) -> Self {
        Self { side: Side::Write, requests: 0, bytes }
    }
}

/// Which limits a request is about beside the total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Read,
    Write,
}

/// The limits of a disk.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// Of the set.
    version: AtomicU64,
    set: Mutex<Arc<Set>>,
}

impl Throttle {
    pub(crate) fn new(options: &LimitOptions) -> Self {
        Self { version: AtomicU64::new(0), set: Mutex::new(Arc::new(Set::new(options))) }
    }

    /// Sets the limits that `arguments` name, and leaves the others; nothing at all if one of them is wrong.
    pub(crate) fn change(&self, arguments: &Value) -> Result<(), DeviceError> {
        if arguments.as_object().is_none_or(Map::is_empty) {
            return Ok(());
        }
        let mut set = self.set();
        let changed =
            set.0.changed(
                &NAMES,
                arguments,
                |at, text| {
                    if at < 3 { parse_requests(text) } else { parse_rate(text) }
                },
            )?;
        *set = Arc::new(Set(changed));
        // Within the lock: whoever sees the version waits for the set.
        self.version.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The limits, as [`Throttle::change`] would take them.
    pub(crate) fn show(&self) -> Value {
        self.set().0.show(&NAMES)
    }

    fn set(&self) -> MutexGuard<'_, Arc<Set>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
