//! A disk grows while a driver uses it: told by SIGHUP, the back end looks again, and tells the driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::fs::File;
use std::time::Duration;

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Options, PROTOCOL_FEATURES};
use outboard_vhost_user::ProtocolFeatures;
use rig::control::ask;
use rig::{Daemon, eventually, file_of, patient};
use rustix::process::Signal;
use serde_json::json;

fn disk() -> (tempfile::TempDir, File, Daemon) {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), 1 << 20);
    let daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
    let file = File::options().write(true).open(path).unwrap();
    (dir, file, daemon)
}

#[test]
fn disk_that_grew_is_told_on_the_back_channel_and_can_be_used() {
    let (_dir, file, daemon) = disk();
    let mut blk = Blk::open(daemon.frontend(), &BlkOptions::default()).unwrap();
    for (nth, sectors) in [4096, 6144, 8192].into_iter().enumerate() {
        assert!(blk.write_at(sectors - 1, &[7; 512]).is_err());
        file.set_len(sectors * 512).unwrap();
        daemon.signal(Signal::HUP);
        eventually("the change is told", || {
            blk.frontend().wait(Duration::from_millis(100)).unwrap();
            blk.frontend().heard().config_changes == nth as u64 + 1
        });
        blk.refresh_config().unwrap();
        assert_eq!(blk.capacity(), sectors);
        blk.write_at(sectors - 1, &[7; 512]).unwrap();
        assert_eq!(blk.frontend().heard().refused, 0);
    }
}

#[test]
fn disk_that_did_not_change_is_not_told() {
    let (_dir, _file, daemon) = disk();
    let mut blk = Blk::open(daemon.frontend(), &BlkOptions::default()).unwrap();
    for _ in 0..5 {
        daemon.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(10));
        blk.write_at(0, &[1; 512]).unwrap();
    }
    assert_eq!(blk.frontend().listen().unwrap().config_changes, 0);
}

#[test]
fn disk_that_grew_without_a_back_channel_shows_when_it_is_read() {
    let (_dir, file, daemon) = disk();
    let protocol = PROTOCOL_FEATURES - ProtocolFeatures::BACKEND_REQ;
    let frontend = daemon.connect(Options { protocol, ..patient() });
    let mut blk = Blk::open(frontend, &BlkOptions::default()).unwrap();
    file.set_len(2 << 20).unwrap();
    daemon.signal(Signal::HUP);
    eventually("the capacity is the new one", || {
        blk.refresh_config().unwrap();
        blk.capacity() == 4096
    });
}

#[test]
fn disk_that_grew_while_nobody_was_connected_shows_to_the_next() {
    let (_dir, file, daemon) = disk();
    drop(Blk::open(daemon.frontend(), &BlkOptions::default()).unwrap());
    file.set_len(2 << 20).unwrap();
    daemon.signal(Signal::HUP);
    eventually("the capacity is the new one", || {
        Blk::open(daemon.frontend(), &BlkOptions::default()).unwrap().capacity() == 4096
    });
}

/// Both bytes differ between the two sizes: half of one and half of the other would be a third.
#[test]
fn capacity_read_while_it_changes_is_that_of_before_or_after() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), 0xff * 512);
    let control = dir.path().join("control");
    let args = [format!("--blk-file={}", path.display()), format!("--control={}", control.display())];
    let daemon = Daemon::spawn("blk", &args.each_ref().map(String::as_str));
    let mut blk = Blk::open(daemon.frontend(), &BlkOptions::default()).unwrap();
    std::thread::scope(|scope| {
        let resizing = scope.spawn(|| {
            for sectors in [0x100, 0xff].into_iter().cycle().take(200) {
                let arguments = json!({ "size": sectors * 512, "shrink": true });
                ask(&control, "resize", &arguments);
            }
        });
        while !resizing.is_finished() {
            let capacity = blk.refresh_config().unwrap().capacity.get();
            assert!([0xff, 0x100].contains(&capacity), "{capacity:#x}");
        }
    });
}
