//! A host without space: requests fail one by one, are counted, and everything else goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use outboard_frontend::Format;
use rig::control::ask;
use rig::{Daemon, file_of};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;

/// How long a file of the program may be, in bytes. That needs no file system of its own to be full.
const LIMIT: u64 = 64 << 10;

#[test]
fn write_that_the_host_has_no_space_for_fails_alone_and_is_counted() {
    for engine in ["io_uring", "epoll"] {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path().join("disk"), 1 << 20);
        let control = dir.path().join("control");
        let mut daemon = Daemon::spawn(
            "blk",
            &[
                &format!("--blk-file={}", path.display()),
                &format!("--control={}", control.display()),
                &format!("--engine={engine}"),
            ],
        );
        let limit = Rlimit { current: Some(LIMIT), maximum: None };
        prlimit(Pid::from_raw(daemon.pid().cast_signed()), Resource::Fsize, limit).unwrap();
        let mut blk = daemon.blk(Format::Split, 1, 16);
        for round in 1..=3 {
            assert!(blk.write_at(LIMIT / 512, &[1; 512]).is_err());
            assert!(daemon.is_alive());
            blk.write_at(0, &[2; 512]).unwrap();
            blk.flush().unwrap();
            let status = ask(&control, "status", &Value::Null)[0].take();
            let device = &status["device"];
            assert_eq!(device["errors"]["no_space"], round, "{engine}: {status}");
            assert_eq!(device["errors"]["failed"], 0, "{engine}: {status}");
            assert_eq!(device["requests"]["writes"], round * 2, "{engine}: {status}");
            assert_eq!(device["lost"], false, "nothing that was acknowledged is gone: {status}");
        }
    }
}
