//! Limits on what the guest asks for, and what is counted of it.

use std::time::Duration;

use outboard_device::QueueId;
use outboard_device::defs::blk::{S_IOERR, S_OK, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::Fault;

use super::*;

const QUEUE: QueueId = QueueId(0);

/// A disk on a clock of its own, limited from the beginning.
fn limited(format: Format, limits: &Value) -> Disk {
    let mut disk = Disk::file(format);
    disk.device.control("limits", limits).unwrap();
    disk
}

impl Disk {
    fn send_read(&mut self, sector: u64, bytes: usize) -> u64 {
        self.bench.send(QUEUE, &[&header(T_IN, sector)], &[bytes, 1])
    }

    /// The tokens that have come back by now.
    fn received(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.bench.receive(QUEUE)).map(|answer| answer.token).collect()
    }

    fn counted(&self, of: &str, what: &str) -> u64 {
        self.device.status()[of][what].as_u64().unwrap()
    }
}

#[test]
fn requests_over_the_limit_come_back_at_its_rate_and_in_order() {
    for format in FORMATS {
        let mut disk = limited(format, &json!({ "iops": "10:1" }));
        let sent: Vec<_> = (0..5).map(|sector| disk.send_read(sector, 512)).collect();
        disk.bench.run();
        for token in &sent {
            assert!(disk.received().is_empty());
            disk.bench.pass(Duration::from_millis(99));
            assert!(disk.received().is_empty(), "{token} is early");
            disk.bench.pass(Duration::from_millis(1));
            assert_eq!(disk.received(), [*token]);
        }
        assert_eq!(
            (disk.counted("throttled", "requests"), disk.counted("throttled", "microseconds")),
            (5, 500_000)
        );
        assert_eq!(disk.counted("requests", "reads"), 5, "each once, however often it was looked at");
    }
}

#[test]
fn limit_on_bytes_takes_all_of_a_request_that_is_larger_than_its_burst() {
    for format in FORMATS {
        let mut disk = limited(format, &json!({ "bandwidth": "4K:512" }));
        let large = disk.send_read(0, 8192);
        let small = disk.send_read(0, 512);
        // The bucket is empty at first, and full after 125 milliseconds.
        disk.bench.run();
        assert!(disk.received().is_empty());
        disk.bench.pass(Duration::from_millis(125));
        assert_eq!(disk.received(), [large], "it passes");
        disk.bench.pass(Duration::from_millis(1900));
        assert!(disk.received().is_empty(), "and the next one pays");
        disk.bench.pass(Duration::from_millis(100));
        assert_eq!(disk.received(), [small]);
    }
}

#[test]
fn limits_leave_alone_what_moves_no_data() {
    for format in FORMATS {
        let limits = json!({ "iops": "1:1", "bandwidth": "512:512", "iops-read": 1, "iops-write": 1 });
        let mut disk = limited(format, &limits);
        for kind in [T_FLUSH, T_GET_ID, T_FLUSH] {
            disk.bench.send(QUEUE, &[&header(kind, 0)], &[20, 1]);
        }
        disk.bench.run();
        assert_eq!(disk.received().len(), 3);
    }
}

#[test]
fn limit_on_writes_is_for_discards_and_zeroes_too_and_not_for_reads() {
    for format in FORMATS {
        for kind in [T_OUT, T_DISCARD, T_WRITE_ZEROES] {
            let mut disk = limited(format, &json!({ "iops-write": "1:1" }));
            let data = if kind == T_OUT { vec![1; 512] } else { ranges(&[(0, 8, 0)]) };
            let read = disk.send_read(0, 512);
            let change = disk.bench.send(QUEUE, &[&header(kind, 0), &data], &[1]);
            disk.bench.run();
            assert_eq!(disk.received(), [read]);
            disk.bench.pass(Duration::from_secs(1));
            assert_eq!(disk.received(), [change]);
        }
    }
}

#[test]
fn zeroes_are_paid_for_by_what_comes_next() {
    for format in FORMATS {
        let mut disk = limited(format, &json!({ "bandwidth-write": "4K:4K" }));
        disk.bench.run();
        let zeroes = ranges(&[(0, 8, 0), (8, 8, 0)]);
        disk.bench.send(QUEUE, &[&header(T_WRITE_ZEROES, 0), &zeroes], &[1]);
        disk.bench.run();
        assert_eq!(disk.received().len(), 1, "its length is not known before");
        disk.bench.send(QUEUE, &[&header(T_OUT, 0), &[1; 512]], &[1]);
        disk.bench.pass(Duration::from_millis(2100));
        assert!(disk.received().is_empty());
        disk.bench.pass(Duration::from_millis(100));
        assert_eq!(disk.received().len(), 1);
    }
}

#[test]
fn limit_taken_away_lets_what_waits_go_within_a_quarter_of_a_second() {
    for format in FORMATS {
        let mut disk = limited(format, &json!({ "bandwidth": "1:1" }));
        let sent: Vec<_> = (0..3).map(|sector| disk.send_read(sector, 512)).collect();
        disk.bench.run();
        disk.bench.pass(Duration::from_secs(2));
        assert_eq!(disk.received(), sent[..1], "the burst");
        let answer = disk.device.control("limits", &json!({ "bandwidth": 0 })).unwrap();
        assert_eq!(answer["limits"]["bandwidth"], Value::Null);
        disk.bench.pass(Duration::from_millis(250));
        assert_eq!(disk.received(), sent[1..]);
    }
}

#[test]
fn limits_that_are_wrong_are_told_and_change_nothing() {
    let mut disk = Disk::file(Format::Split);
    let error = disk.device.control("limits", &json!({ "iops": "fast" })).unwrap_err();
    assert!(error.to_string().starts_with("iops: "), "{error}");
    assert_eq!(disk.device.status()["limits"]["iops"], Value::Null);
}

#[test]
fn status_counts_requests_their_bytes_and_what_became_of_them() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.read(0, 4096);
        disk.write(0, &[1; 1024]);
        disk.write(0, &[1; 512]);
        disk.request(T_FLUSH, 0, &[], 0);
        disk.request(T_DISCARD, 0, &ranges(&[(0, 8, 0)]), 0);
        disk.request(T_WRITE_ZEROES, 0, &ranges(&[(0, 8, 0)]), 0);
        disk.request(T_GET_ID, 0, &[], 20);
        let status = disk.device.status();
        for (what, count) in
            [("reads", 1), ("writes", 2), ("flushes", 1), ("discards", 1), ("zeroes", 1), ("others", 1)]
        {
            assert_eq!(status["requests"][what], count, "{what}");
        }
        assert_eq!(status["requests"]["read_bytes"], 4096);
        assert_eq!(status["requests"]["written_bytes"], 1536);
        assert_eq!(status["errors"], json!({ "refused": 0, "no_space": 0, "short": 0, "failed": 0 }));

        disk.bench.inject(0, Fault::Short(512));
        disk.read(0, 1024);
        assert_eq!(disk.counted("requests", "continued"), 1);
        disk.bench.inject(0, Fault::Errno(libc::EOPNOTSUPP));
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(0, 8, 0)]), 0).1, S_OK);
        assert_eq!(disk.counted("requests", "fallbacks"), 1);
    }
}

#[test]
fn status_tells_the_errors_apart() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        for (errno, what) in [
            (libc::ENOSPC, "no_space"),
            (libc::EDQUOT, "no_space"),
            (libc::EFBIG, "no_space"),
            (libc::EIO, "failed"),
            (libc::ENOMEM, "failed"),
        ] {
            let before = disk.counted("errors", what);
            disk.bench.inject(0, Fault::Errno(errno));
            assert_eq!(disk.write(0, &[1; 512]), S_IOERR);
            assert_eq!(disk.counted("errors", what), before + 1, "{errno}");
            assert_eq!(disk.write(0, &[1; 512]), S_OK, "the next one is another matter");
        }
        assert_eq!(disk.request(T_IN, 1 << 40, &[], 512).1, S_IOERR);
        assert_eq!(disk.request(T_OUT, 0, &[1; 7], 0).1, S_IOERR);
        assert_eq!(disk.counted("errors", "refused"), 2);
        disk.image().set_len(4096).unwrap();
        assert_eq!(disk.request(T_IN, 8, &[], 512).1, S_IOERR);
        assert_eq!(disk.counted("errors", "short"), 1);
        disk.bench.inject(0, Fault::Errno(libc::EIO));
        disk.request(T_FLUSH, 0, &[], 0);
        assert_eq!(disk.device.status()["lost"], true);
    }
}
