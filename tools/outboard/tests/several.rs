//! Several disks in one process, and the control socket beside them, as `outboard control` uses it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outboard_frontend::Frontend;
use outboard_frontend::drivers::{Blk, BlkOptions};
use rig::{Daemon, eventually, file_of, patient, pattern};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A process that was started as usual and has two more disks, and a control socket.
struct Disks {
    daemon: Daemon,
    dir: tempfile::TempDir,
}

impl Disks {
    fn start(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let device = |name: &str| {
            let image = file_of(path(&format!("{name}.img")), MIB);
            let (image, socket) = (image.display(), path(name).display().to_string());
            format!("--device=name={name},blk-file={image},socket-path={socket}{options}")
        };
        let control = format!("--control={}", path("control").display());
        let daemon =
            Daemon::spawn_devices("blk", &[&device("first"), &device("second"), &control], &path("first"));
        Self { daemon, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, name: &str) -> File {
        File::options().write(true).open(self.path(&format!("{name}.img"))).unwrap()
    }

    fn disk(&self, name: &str) -> Blk {
        let frontend = Frontend::connect(self.path(name), patient()).unwrap();
        Blk::open(frontend, &BlkOptions { queues: 2, ..BlkOptions::default() }).unwrap()
    }

    /// `outboard control` with these arguments behind the socket.
    fn control(&self, args: &[&str]) -> Output {
        control(&self.path("control"), args)
    }

    fn asked(&self, args: &[&str]) -> Value {
        let output = self.control(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.control(args);
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stderr).unwrap()
    }
}

fn control(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outboard")).arg("control").arg(socket).args(args).output().unwrap()
}

/// Writes everywhere and reads it back, until it is told to stop.
fn drive(blk: &mut Blk, seed: u64, over: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) || rounds < 3 {
        let data = pattern(seed + rounds, 64 << 10);
        for sector in (0..2048).step_by(128) {
            blk.write_at(sector, &data).unwrap();
        }
        blk.flush().unwrap();
        for sector in (0..2048).step_by(128) {
            let mut back = vec![0; data.len()];
            blk.read_at(sector, &mut back).unwrap();
            assert!(back == data, "sector {sector} of round {rounds}");
        }
        rounds += 1;
    }
    rounds
}

#[test]
fn disks_of_one_process_are_driven_at_the_same_time_whatever_one_connection_does() {
    let mut disks = Disks::start("");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| drive(&mut disks.disk("second"), 1 << 32, &over));
        // Meanwhile the first is used, dropped in mid-flight, and used again.
        for round in 0..5 {
            let mut first = disks.disk("first");
            first.write_at(0, &pattern(round, 4096)).unwrap();
            let buffer = first.frontend().allocate(4096).unwrap();
            let queue = &mut first.queues()[0];
            for token in 0..16 {
                queue.write(8 * (1 + token), std::slice::from_ref(&buffer), token).unwrap();
            }
            queue.publish().unwrap();
            drop(first);
        }
        let mut first = disks.disk("first");
        assert!(drive(&mut first, 7, &AtomicBool::new(true)) > 0);
        over.store(true, Ordering::Relaxed);
        assert!(second.join().unwrap() > 0);
    });
    assert!(disks.daemon.terminate().success());
    assert!(!disks.path("first").exists() && !disks.path("second").exists());
}

#[test]
fn status_counts_what_each_disk_does() {
    let disks = Disks::start("");
    let mut first = disks.disk("first");
    for sector in 0..10 {
        first.write_at(sector, &[1; 512]).unwrap();
    }
    let status = disks.asked(&[]);
    let [one, two] = [&status[0], &status[1]];
    assert_eq!((one["connected"].as_bool(), two["connected"].as_bool()), (Some(true), Some(false)));
    let queues = one["queues"].as_array().unwrap();
    let sum = |key: &str| queues.iter().map(|queue| queue[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("requests"), 10);
    // A queue is kicked when it starts, too.
    let kicks = 1..=10 + queues.len() as u64;
    assert!((1..=10).contains(&sum("calls")) && kicks.contains(&sum("kicks")), "{queues:?}");
    assert_eq!(sum("errors"), 0);
    assert!(queues.iter().all(|queue| queue["running"] == true));
    assert_eq!(one["device"]["size"], MIB);
    drop(first);
    eventually("the front end to be gone", || disks.asked(&["--device=first"])["connected"] == false);
    let after = disks.asked(&["status", "--device=first"]);
    assert_eq!(after["queues"][0]["requests"].as_u64(), queues[0]["requests"].as_u64(), "they are kept");
    assert_eq!(after["queues"][0]["running"], false);
    let text = String::from_utf8(disks.control(&["status"]).stdout).unwrap();
    assert!(text.contains("first: block, no front end, at ") && text.contains("requests"), "{text}");
}

/// Waits until the driver was told for the `nth` time.
fn told(blk: &mut Blk, nth: u64) {
    eventually("the change is told", || {
        blk.frontend().wait(Duration::from_millis(100)).unwrap();
        blk.frontend().heard().config_changes >= nth
    });
    blk.refresh_config().unwrap();
}

#[test]
fn resize_by_command_is_told_to_its_disk_only_and_can_be_used() {
    let disks = Disks::start(",watch-size=off");
    let (mut first, mut second) = (disks.disk("first"), disks.disk("second"));
    assert!(first.write_at(4095, &[7; 512]).is_err());
    let answer = disks.asked(&["resize", "size=2M", "--device=first"]);
    assert_eq!((&answer["size"], &answer["before"]), (&(2 * MIB).into(), &MIB.into()));
    told(&mut first, 1);
    assert_eq!(first.capacity(), 4096);
    first.write_at(4095, &[7; 512]).unwrap();
    // To what the file has.
    disks.image("first").set_len(3 * MIB).unwrap();
    disks.asked(&["resize", "--device", "first"]);
    told(&mut first, 2);
    assert_eq!(first.capacity(), 6144);
    assert!(disks.refused(&["resize", "size=1048576", "--device=first"]).contains("shrink=true"));
    disks.asked(&["resize", "size=1048576", "shrink=true", "--device=first"]);
    told(&mut first, 3);
    assert_eq!((first.capacity(), first.frontend().heard().refused), (2048, 0));
    assert!(first.write_at(2048, &[7; 512]).is_err());
    second.write_at(0, &[1; 512]).unwrap();
    assert_eq!(second.frontend().listen().unwrap().config_changes, 0);
    assert_eq!(disks.image("first").metadata().unwrap().len(), MIB);
}

#[test]
fn resize_without_a_front_end_shows_to_the_next() {
    let disks = Disks::start(",watch-size=off");
    disks.asked(&["resize", "size=4M", "--device=second"]);
    assert_eq!(disks.disk("second").capacity(), 8192);
}

#[test]
fn image_that_grows_is_told_without_anybody_asking() {
    let disks = Disks::start("");
    let (mut first, mut second) = (disks.disk("first"), disks.disk("second"));
    disks.image("first").set_len(2 * MIB).unwrap();
    told(&mut first, 1);
    assert_eq!(first.capacity(), 4096);
    first.write_at(4095, &[7; 512]).unwrap();
    second.write_at(0, &[1; 512]).unwrap();
    assert_eq!(second.frontend().listen().unwrap().config_changes, 0);
}

#[test]
fn control_that_cannot_be_done_says_why() {
    let disks = Disks::start("");
    assert!(disks.refused(&["resize"]).contains("there is first, second"));
    assert!(disks.refused(&["resize", "--device=third"]).contains("no device \"third\""));
    assert!(disks.refused(&["explode", "--device=first"]).contains("no command \"explode\""));
    assert!(disks.refused(&["resize", "size=1", "size=2"]).contains("twice"));
    let nowhere = control(&disks.path("nowhere"), &[]);
    assert_eq!(nowhere.status.code(), Some(1));
    let error = String::from_utf8(nowhere.stderr).unwrap();
    assert!(error.contains("cannot connect to") && error.contains("nowhere: No such file"), "{error}");
    // A socket of another kind: the front end's.
    let other = control(&disks.path("first"), &["--timeout=1"]);
    assert_eq!(other.status.code(), Some(1));
    let usage = control(&disks.path("control"), &["resize", "size"]);
    assert_eq!(usage.status.code(), Some(2));
}
