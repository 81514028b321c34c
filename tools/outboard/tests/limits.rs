//! Requests of a disk that wait for its limits: they stand in nobody's way, and are served once, whatever happens.
//!
//! The limit here is one byte a second: what waits would wait for an hour. So nothing depends on time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::path::PathBuf;
use std::slice;

use outboard_frontend::drivers::Blk;
use outboard_frontend::{Format, Waiting};
use rig::control::ask;
use rig::{Daemon, FORMATS, LONG, eventually, exited_with, file_of, pattern};
use serde_json::{Value, json};

const REQUESTS: u64 = 8;
const LEN: usize = 4096;

/// A disk with one request done and others that wait.
struct Limited {
    dir: tempfile::TempDir,
    daemon: Daemon,
    blk: Blk,
    /// Tokens that came back.
    done: Vec<u64>,
}

impl Limited {
    fn new(format: Format) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path().join("disk"), 1 << 20);
        let blk_file = format!("--blk-file={}", path.display());
        let control = format!("--control={}", dir.path().join("control").display());
        let daemon = Daemon::spawn("blk", &[&blk_file, &control, "--bandwidth=1:1"]);
        let blk = daemon.blk(format, 1, 64);
        let mut limited = Self { dir, daemon, blk, done: Vec::new() };
        for token in 0..REQUESTS {
            let data = limited.blk.frontend().allocate(LEN).unwrap();
            data.write_from(0, &pattern(token, LEN)).unwrap();
            limited.blk.queues()[0].write(token * 8, slice::from_ref(&data), token).unwrap();
        }
        limited.blk.queues()[0].publish().unwrap();
        limited.wait_until_throttled();
        limited
    }

    fn control(&self, command: &str, arguments: &Value) -> Value {
        ask(&self.control_path(), command, arguments)
    }

    fn control_path(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Waits until one has passed, since the bucket was full, and the next has not.
    fn wait_until_throttled(&self) {
        eventually("a request waits", || {
            self.control("limits", &Value::Null)["throttled"]["requests"] != json!(0)
        });
    }

    fn reap(&mut self) {
        while let Some(completion) = self.blk.queues()[0].poll().unwrap() {
            assert_eq!(completion.result, Ok(()));
            self.done.push(completion.token);
        }
    }

    /// Takes the limit away: what waits passes, and everything was done once.
    fn finish(mut self) {
        self.control("limits", &json!({ "bandwidth": null }));
        while self.blk.queues()[0].outstanding() > 0 {
            assert!(self.blk.queues()[0].wait(Waiting::Interrupt, LONG).unwrap(), "a request is lost");
            self.reap();
        }
        self.done.sort_unstable();
        assert_eq!(self.done, (0..REQUESTS).collect::<Vec<_>>());
        let file = std::fs::read(self.dir.path().join("disk")).unwrap();
        for token in 0..REQUESTS {
            let at = token as usize * LEN;
            assert!(file[at..at + LEN] == pattern(token, LEN), "request {token}");
        }
    }
}

#[test]
fn requests_that_wait_for_a_limit_pass_when_it_is_taken_away() {
    for format in FORMATS {
        let limited = Limited::new(format);
        let status = limited.control("status", &Value::Null)[0].take();
        assert_eq!(status["device"]["limits"]["bandwidth"], "1:1", "{status}");
        assert_eq!(status["device"]["requests"]["writes"], 1, "{status}");
        limited.finish();
    }
}

#[test]
fn ring_whose_requests_wait_for_a_limit_stops_at_once_and_goes_on() {
    for format in FORMATS {
        let mut limited = Limited::new(format);
        for _ in 0..3 {
            let (frontend, queues) = limited.blk.parts();
            let base = frontend.stop(queues[0].queue()).unwrap();
            frontend.resume(queues[0].queue(), base).unwrap();
            frontend.enable(0, false).unwrap();
            frontend.enable(0, true).unwrap();
        }
        limited.finish();
    }
}

#[test]
fn program_whose_requests_wait_for_a_limit_ends_when_it_is_asked_to() {
    let mut limited = Limited::new(Format::Split);
    assert!(exited_with(limited.daemon.terminate(), 0));
}

#[test]
fn requests_that_wait_for_a_limit_when_the_program_is_killed_are_served_once() {
    for format in FORMATS {
        let mut limited = Limited::new(format);
        for _ in 0..3 {
            limited.reap();
            limited.daemon.kill();
            limited.reap();
            limited.daemon.restart();
            limited.blk.reconnect().unwrap();
            limited.wait_until_throttled();
        }
        limited.finish();
    }
}
