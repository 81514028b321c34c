//! Limits on what an interface sends and receives per second, over all its pairs.
//!
//! The options and the commands that set them are trusted; what is limited is the guest's and the network's.
//!
//! Theory of operation. Who passes a packet pays for it from each bucket that it is about, and is told how long that takes
//! ([`SharedBucket`]); until then the pair's gate is closed for those behind it. So a pair is one packet ahead at most, and
//! nothing has to be given back. Buckets are never changed: a change of the limits makes new ones, in new settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_device::serde_json::Value;
use outboard_device::{DeviceError, Limit, LimitSet, SharedBucket};

/// Limits per second; what is not given is not limited.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LimitOptions {
    /// Let the guest receive at most RATE bits per second (suffixes K, M, G), of which BURST at once after a pause [default
    /// BURST: a tenth of RATE]
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse, help_heading = "Limits")]
    pub rx_rate: Option<Limit>,

    /// The same in packets
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse, help_heading = "Limits")]
    pub rx_pps: Option<Limit>,

    /// Let the guest send at most RATE bits per second, of which BURST at once after a pause
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse, help_heading = "Limits")]
    pub tx_rate: Option<Limit>,

    /// The same in packets
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse, help_heading = "Limits")]
    pub tx_pps: Option<Limit>,
}

fn parse(text: &str) -> Result<Limit, String> {
    Limit::parse(text, number)
}

/// With suffixes as networks have them.
fn number(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.bytes().last() {
        Some(b'k' | b'K') => (text.len() - 1, 1_000),
        Some(b'm' | b'M') => (text.len() - 1, 1_000_000),
        Some(b'g' | b'G') => (text.len() - 1, 1_000_000_000),
        _ => (text.len(), 1),
    };
    let digits = text.get(..digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
    number.ok_or_else(|| "a number is needed, with suffix K, M or G if need be".to_owned())
}

/// The names of the limits, as options and arguments have them, in the order of [`Limits`].
const NAMES: [&str; 4] = ["rx-rate", "rx-pps", "tx-rate", "tx-pps"];

/// The limits in force.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(LimitSet<4>);

impl Limits {
    pub(crate) fn new(options: &LimitOptions) -> Self {
        let LimitOptions { rx_rate, rx_pps, tx_rate, tx_pps } = *options;
        Self(LimitSet::new([rx_rate, rx_pps, tx_rate, tx_pps]))
    }

    /// These limits with those that `arguments` name changed.
    ///
    /// # Errors
    /// A limit that there is none of, or a value that is none.
    pub(crate) fn changed(&self, arguments: &Value) -> Result<Self, DeviceError> {
        self.0.changed(&NAMES, arguments, |_, text| parse(text)).map(Self)
    }

    /// The limits, as [`Limits::changed`] would take them.
    pub(crate) fn show(&self) -> Value {
        self.0.show(&NAMES)
    }

    fn way(&self, way: Way) -> [Option<Arc<SharedBucket>>; 2] {
        let [rx_rate, rx_pps, tx_rate, tx_pps] = self.0.buckets().clone();
        match way {
            Way::Rx => [rx_rate, rx_pps],
            Way::Tx => [tx_rate, tx_pps],
        }
    }
}

/// Towards the guest, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Rx,
    Tx,
}

/// What lets one pair's packets through, one way.
#[derive(Debug)]
pub(crate) struct Gate {
    way: Way,
    /// Of bits, and of packets.
    buckets: [Option<Arc<SharedBucket>>; 2],
    /// It is closed until then.
    until: Option<Instant>,
}

impl Gate {
    pub(crate) const fn new(way: Way) -> Self {
        Self { way, buckets: [None, None], until: None }
    }

    /// Takes over limits. Who waits by others waits no longer.
    pub(crate) fn renew(&mut self, limits: &Limits) {
        let buckets = limits.way(self.way);
        let place = |bucket: &Option<Arc<SharedBucket>>| bucket.as_ref().map(Arc::as_ptr);
        if buckets.each_ref().map(place) != self.buckets.each_ref().map(place) {
            (self.buckets, self.until) = (buckets, None);
        }
    }

    /// Whether nothing is limited.
    pub(crate) fn is_open_always(&self) -> bool {
        self.buckets.iter().all(Option::is_none)
    }

    /// How long nothing passes. No clock is looked at where nothing is limited.
    pub(crate) fn closed(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now());
        (!left.is_zero()).then_some(left)
    }

    /// A packet of so many bytes has passed.
    pub(crate) fn pass(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if self.is_open_always() {
            return;
        }
        let now = now();
        let prices = [(bytes as u64).saturating_mul(8), 1];
        let paid = self.buckets.iter().zip(prices);
        let waits = paid.filter_map(|(bucket, price)| Some(bucket.as_ref()?.reserve(price, now)));
        self.until = waits.max().map(|wait| now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_device::serde_json::json;

    #[test]
    fn limits_are_read_with_and_without_a_burst() {
        for (text, rate, burst) in [
            ("1000", 1000, 100),
            ("5", 5, 1),
            ("10M:1500", 10_000_000, 1500),
            ("2g:3k", 2_000_000_000, 3000),
            ("0", 0, 1),
        ] {
            assert_eq!(parse(text), Ok(Limit { rate, burst }), "{text}");
        }
        for text in ["", "M", "1T", "-1", "+1", "1.5M", "1:0", "1:", ":1", "1:2:3", "99999999999G"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn gate_closes_as_long_as_packets_take_to_be_paid_for() {
        let limits =
            Limits::default().changed(&json!({ "tx-rate": "8000:8000", "tx-pps": "100:1" })).unwrap();
        let (mut gate, mut other) = (Gate::new(Way::Tx), Gate::new(Way::Rx));
        gate.renew(&limits);
        other.renew(&limits);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // A new limit begins without a burst.
        assert_eq!(gate.closed(|| at(0)), None);
        gate.pass(100, || at(0));
        assert_eq!(gate.closed(|| at(0)), Some(Duration::from_millis(100)), "100 bytes of 1000 a second");
        assert_eq!(gate.closed(|| at(100)), None);
        // One was saved up meanwhile.
        (0..2).for_each(|_| gate.pass(1, || at(100)));
        assert_eq!(gate.closed(|| at(100)), Some(Duration::from_millis(10)), "one packet of 100 a second");
        other.pass(1000, || at(0));
        assert_eq!(other.closed(|| at(0)), None, "the other way is not limited");
        gate.renew(&limits);
        assert!(gate.closed(|| at(100)).is_some(), "the same limits");
        gate.renew(&limits.changed(&json!({ "tx-pps": null, "tx-rate": 0 })).unwrap());
        assert_eq!(gate.closed(|| at(100)), None);
    }

    #[test]
    fn limits_are_changed_by_name_and_all_or_none() {
        let options = LimitOptions { rx_pps: parse("7:2").ok(), ..LimitOptions::default() };
        let limits = Limits::new(&options);
        let changed = limits.changed(&json!({ "tx-rate": "1M", "rx-pps": 9 })).unwrap();
        let shown = json!({ "rx-rate": null, "rx-pps": "9:1", "tx-rate": "1000000:100000", "tx-pps": null });
        assert_eq!(changed.show(), shown);
        for wrong in [json!({ "rate": 1 }), json!({ "tx-rate": 1, "rx-pps": true }), json!({ "rx-pps": "x" })]
        {
            assert!(changed.changed(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(changed.show(), shown);
    }
}
