//! What a measurement counted, and what follows from it per request and per second.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};

use super::process::Usage;

/// The longest latency that is told from longer ones, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;
/// What is shown of a distribution of latencies.
pub(super) const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// Which way a request's data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// From the device to the driver.
    In,
    /// From the driver to the device.
    Out,
}

/// Requests of one way.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) bytes: u64,
    /// From before a request is put on the ring until it was seen to be done, in nanoseconds.
    pub(super) latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        // With fixed bounds nothing is allocated later on, and what is beyond them counts as the longest.
        let latency = Histogram::new_with_bounds(1, LONGEST, 3);
        #[expect(clippy::expect_used, reason = "constant bounds, and right")]
        let latency = latency.expect("1 < 60 s, 3 digits");
        Self { requests: 0, bytes: 0, latency }
    }

    pub(super) fn clear(&mut self) {
        (self.requests, self.bytes) = (0, 0);
        self.latency.reset();
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        // Of the same bounds.
        let _ = self.latency.add(&other.latency);
    }
}

/// A moment of the measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Moment {
    /// Seconds from the start.
    pub(super) at: f64,
    /// Requests per second since the moment before.
    pub(super) rate: f64,
}

/// A finished measurement.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) elapsed: Duration,
    pub(super) ways: [Tally; 2],
    pub(super) flushes: u64,
    /// Requests that never came back.
    pub(super) lost: u64,
    /// One in so many requests was timed.
    pub(super) timed_every: u64,
    pub(super) kicks: u64,
    pub(super) calls: u64,
    /// CPU time of our threads that drive queues.
    pub(super) front: Duration,
    /// The back end's process and what it took; `None` where it is not known.
    pub(super) back: Option<(i32, Usage)>,
    pub(super) moments: Vec<Moment>,
}

impl Figures {
    pub(super) fn requests(&self) -> u64 {
        self.ways.iter().map(|way| way.requests).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.ways.iter().map(|way| way.bytes).sum()
    }

    /// Of both ways together.
    pub(super) fn latency(&self) -> Histogram<u64> {
        let mut all = Tally::new();
        self.ways.iter().for_each(|way| all.add(way));
        all.latency
    }

    /// So much per second.
    pub(super) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// So much per request.
    pub(super) fn per_request(&self, amount: f64) -> f64 {
        amount / self.requests().max(1) as f64
    }

    /// The figures by which two back ends are compared, with their names. What is not known is left out.
    pub(super) fn comparable(&self) -> Vec<(&'static str, f64)> {
        let latency = self.latency();
        let micro = |percentile| latency.value_at_quantile(percentile / 100.0) as f64 / 1e3;
        let mut all = vec![
            ("requests_per_second", self.per_second(self.requests())),
            ("bytes_per_second", self.per_second(self.bytes())),
        ];
        if !latency.is_empty() {
            all.push(("latency_mean_us", latency.mean() / 1e3));
            all.push(("latency_p50_us", micro(50.0)));
            all.push(("latency_p99_us", micro(99.0)));
            all.push(("latency_p99.9_us", micro(99.9)));
        }
        if let Some((_, usage)) = self.back {
            all.push(("back_end_cpu_us", self.per_request(usage.cpu.as_secs_f64() * 1e6)));
            all.push(("back_end_switches", self.per_request(usage.switches as f64)));
        }
        all.push(("front_end_cpu_us", self.per_request(self.front.as_secs_f64() * 1e6)));
        all.push(("kicks", self.per_request(self.kicks as f64)));
        all.push(("calls", self.per_request(self.calls as f64)));
        all
    }

    pub(super) fn json(&self) -> Value {
        let per_request = |amount: f64| self.per_request(amount);
        let back = self.back.map(|(pid, usage)| {
            json!({
                "pid": pid,
                "cpu_us_per_request": per_request(usage.cpu.as_secs_f64() * 1e6),
                "cpu_percent": 100.0 * usage.cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9),
                "switches_per_request": per_request(usage.switches as f64),
            })
        });
        json!({
            "seconds": self.elapsed.as_secs_f64(),
            "requests": self.requests(),
            "bytes": self.bytes(),
            "flushes": self.flushes,
            "lost": self.lost,
            "requests_per_second": self.per_second(self.requests()),
            "bytes_per_second": self.per_second(self.bytes()),
            "latency_us": latency_json(&self.latency()),
            "timed_every": self.timed_every,
            "in": self.way_json(Way::In),
            "out": self.way_json(Way::Out),
            "back_end": back,
            "front_end": {
                "cpu_us_per_request": per_request(self.front.as_secs_f64() * 1e6),
                "cpu_percent": 100.0 * self.front.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9),
            },
            "kicks_per_request": per_request(self.kicks as f64),
            "calls_per_request": per_request(self.calls as f64),
            "moments": self.moments,
        })
    }

    fn way_json(&self, way: Way) -> Value {
        let Some(tally) = self.ways.get(way as usize).filter(|tally| tally.requests > 0) else {
            return Value::Null;
        };
        json!({
            "requests": tally.requests,
            "bytes": tally.bytes,
            "requests_per_second": self.per_second(tally.requests),
            "bytes_per_second": self.per_second(tally.bytes),
            "latency_us": latency_json(&tally.latency),
        })
    }
}

fn latency_json(latency: &Histogram<u64>) -> Value {
    if latency.is_empty() {
        return Value::Null;
    }
    let mut all: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|&(name, at)| (name.to_owned(), (latency.value_at_quantile(at / 100.0) as f64 / 1e3).into()))
        .collect();
    all.insert("max".to_owned(), (latency.max() as f64 / 1e3).into());
    all.insert("mean".to_owned(), (latency.mean() / 1e3).into());
    all.insert("timed".to_owned(), latency.len().into());
    all.into()
}
