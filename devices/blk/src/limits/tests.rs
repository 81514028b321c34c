//! The rates that come out, on a clock of our own.

use outboard_device::QueueId;
use outboard_device::serde_json::json;

use super::gate::LOOK;
use super::*;
use crate::counters::QueueCounters;

fn throttle(limits: &Value) -> Arc<Throttle> {
    let throttle = Throttle::new(&LimitOptions::default());
    throttle.change(limits).unwrap();
    Arc::new(throttle)
}

const READ: Price = Price { side: Side::Read, requests: 1, bytes: 4096 };
const WRITE: Price = Price { side: Side::Write, requests: 1, bytes: 4096 };

fn admit(gate: &mut Gate, price: Price, now: Instant) -> Option<Duration> {
    gate.admit(QueueId(0), price, || now, &QueueCounters::default())
}

/// Lets requests through one after the other, and says how many came in `time`.
fn count(gates: &mut [Gate], price: Price, start: Instant, time: Duration) -> Vec<usize> {
    let mut counts = vec![0; gates.len()];
    let mut next = vec![start; gates.len()];
    loop {
        let at = (0..gates.len()).min_by_key(|at| next[*at]).unwrap();
        if next[at] >= start + time {
            return counts;
        }
        match admit(&mut gates[at], price, next[at]) {
            None => counts[at] += 1,
            Some(delay) => next[at] += delay,
        }
    }
}

#[test]
fn limit_is_a_rate_with_a_burst_of_a_tenth_unless_one_is_given() {
    assert_eq!(parse_requests("1000"), Ok(Limit { rate: 1000, burst: 100 }));
    assert_eq!(parse_requests("5"), Ok(Limit { rate: 5, burst: 1 }));
    assert_eq!(parse_requests("5:7"), Ok(Limit { rate: 5, burst: 7 }));
    assert_eq!(parse_rate("10M:1G"), Ok(Limit { rate: 10 << 20, burst: 1 << 30 }));
    assert_eq!(parse_requests("0").unwrap().rate, 0);
    for wrong in ["", ":", "1:", ":1", "1:0", "1:2:3", "1K", "-1", "1.5", "unlimited"] {
        assert!(parse_requests(wrong).is_err(), "{wrong}");
    }
    for wrong in ["", "1K:0", "K", "1:K", "99999999999G"] {
        assert!(parse_rate(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn gate_without_limits_never_looks_at_the_clock() {
    let mut gate = Gate::new(&throttle(&Value::Null));
    let counters = QueueCounters::default();
    for _ in 0..1000 {
        assert_eq!(gate.admit(QueueId(0), READ, || panic!("the clock"), &counters), None);
    }
    gate.debit(READ, || panic!("the clock"));
}

#[test]
fn gate_keeps_each_limit_for_what_it_is_about() {
    let time = Duration::from_secs(10);
    for (limits, reads, writes) in [
        (json!({ "iops": "100:1" }), 1000, 1000),
        (json!({ "iops-read": "100:1" }), 1000, 0),
        (json!({ "iops-write": "100:1" }), 0, 1000),
        (json!({ "bandwidth": "400K:4K" }), 1000, 1000),
        (json!({ "bandwidth-read": "400K:4K" }), 1000, 0),
        (json!({ "bandwidth-write": "400K:4K" }), 0, 1000),
        (json!({ "bandwidth": "800K:4K", "iops": "100:1" }), 1000, 1000),
        (json!({ "bandwidth-write": "400K:4K", "iops": "300:1" }), 3000, 1000),
    ] {
        for (price, wanted) in [(READ, reads), (WRITE, writes)] {
            let mut gate = Gate::new(&throttle(&limits));
            let start = Instant::now();
            if wanted == 0 {
                assert!((0..1000).all(|_| admit(&mut gate, price, start).is_none()));
            } else {
                let done = count(&mut [gate], price, start, time)[0];
                assert!(wanted - 2 <= done && done <= wanted + 1, "{limits} {price:?}: {done}");
            }
        }
    }
}

#[test]
fn gates_of_one_disk_share_its_limits_evenly() {
    let throttle = throttle(&json!({ "iops": "1000:10" }));
    let mut gates: Vec<_> = (0..4).map(|_| Gate::new(&throttle)).collect();
    let counts = count(&mut gates, READ, Instant::now(), Duration::from_secs(4));
    assert!(counts.iter().all(|count| (990..=1020).contains(count)), "{counts:?}");
}

#[test]
fn gate_with_large_requests_is_not_starved_by_small_ones() {
    let throttle = throttle(&json!({ "bandwidth": "1M:64K" }));
    let [mut small, mut large] = [Gate::new(&throttle), Gate::new(&throttle)];
    let huge = Price { bytes: 1 << 20, ..WRITE };
    let start = Instant::now();
    let (mut next, mut done) = ([start, start], [0_u64, 0]);
    while next[0].min(next[1]) < start + Duration::from_secs(60) {
        let at = usize::from(next[1] < next[0]);
        let (gate, price) = if at == 0 { (&mut small, READ) } else { (&mut large, huge) };
        match admit(gate, price, next[at]) {
            None => done[at] += price.bytes,
            Some(delay) => next[at] += delay,
        }
    }
    assert!(done[1] > 50 << 20 && done[0] > 0, "{done:?}: turns, not bytes, are shared");
}

#[test]
fn change_is_in_force_for_what_waits_already() {
    let throttle = throttle(&json!({ "iops": "1:1" }));
    let mut gate = Gate::new(&throttle);
    let now = Instant::now();
    assert_eq!(admit(&mut gate, READ, now), Some(LOOK), "it looks again before its second is over");
    throttle.change(&json!({ "iops": "100:1" })).unwrap();
    assert_eq!(admit(&mut gate, READ, now), Some(Duration::from_millis(10)));
    throttle.change(&json!({ "iops": null })).unwrap();
    assert_eq!(admit(&mut gate, READ, now), None);
}

#[test]
fn change_leaves_other_limits_and_who_waits_for_them_alone() {
    let throttle = throttle(&json!({ "iops": "10:1" }));
    let mut gate = Gate::new(&throttle);
    let now = Instant::now();
    assert_eq!(admit(&mut gate, READ, now), Some(Duration::from_millis(100)));
    throttle.change(&json!({ "bandwidth": "1G", "iops": "10:1" })).unwrap();
    assert_eq!(admit(&mut gate, READ, now), Some(Duration::from_millis(100)), "not twice");
    assert_eq!(admit(&mut gate, READ, now + Duration::from_millis(100)), None);
}

#[test]
fn change_that_is_wrong_in_part_changes_nothing() {
    let throttle = throttle(&json!({ "iops": 10 }));
    let shown = throttle.show();
    for (wrong, reason) in [
        (json!({ "bandwidth": "1G", "iops": "x" }), "iops: a number"),
        (json!({ "bandwidth": "1G", "iop": 1 }), "no limit is named iop; there are iops, iops-read"),
        (json!({ "bandwidth": true }), "RATE or RATE:BURST"),
        (json!({ "bandwidth": -1 }), "bandwidth: a size"),
        (json!({ "iops": 1.5 }), "a number"),
    ] {
        let error = throttle.change(&wrong).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert_eq!(throttle.show(), shown);
    }
}

#[test]
fn show_is_what_change_takes() {
    let throttle = throttle(&json!({ "iops": 10, "bandwidth-read": "1M:2M" }));
    let shown = throttle.show();
    assert_eq!(shown["iops"], "10:1");
    assert_eq!(shown["bandwidth-read"], "1048576:2097152");
    assert_eq!(shown["iops-write"], Value::Null);
    let other = self::throttle(&shown);
    assert_eq!(other.show(), shown);
}

#[test]
fn turn_left_is_given_back() {
    let throttle = throttle(&json!({ "iops": "10:1" }));
    let [mut first, mut second] = [Gate::new(&throttle), Gate::new(&throttle)];
    let now = Instant::now();
    assert_eq!(admit(&mut first, READ, now), Some(Duration::from_millis(100)));
    first.leave();
    assert_eq!(admit(&mut second, READ, now), Some(Duration::from_millis(100)), "not the turn after it");
}

#[test]
fn request_that_waits_and_is_another_when_it_comes_again_is_priced_anew() {
    let throttle = throttle(&json!({ "bandwidth": "40960:4K" }));
    let mut gate = Gate::new(&throttle);
    let now = Instant::now();
    assert_eq!(admit(&mut gate, READ, now), Some(Duration::from_millis(100)));
    let small = Price { bytes: 512, ..READ };
    assert!(admit(&mut gate, small, now).unwrap() <= Duration::from_millis(13));
}
