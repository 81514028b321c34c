//! The conventions of back-end programs (vhost-user: Backend program conventions).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::process::{Command, Output};

use outboard_frontend::drivers::Blk;
use rig::{FORMATS, LONG, Program, options};
use rustix::process::Signal;
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vhost-user-faulty")).args(args).output().unwrap()
}

#[test]
fn term_ends_the_program_well_with_and_without_a_front_end() {
    for connected in [false, true] {
        let mut program = Program::start(&["--size=1M"]);
        let blk = connected.then(|| Blk::open(program.frontend(), &options(FORMATS[0])).unwrap());
        program.signal(Signal::TERM);
        let (status, printed) = program.end();
        assert_eq!((status.code(), printed.as_str()), (Some(0), ""));
        assert!(!program.socket().exists());
        drop(blk);
    }
}

#[test]
fn capabilities_are_printed_whatever_else_is_given() {
    for (args, kind) in [
        (&["--print-capabilities"][..], "block"),
        (&["--nonsense", "--print-capabilities", "--device", "rng"], "rng"),
        (&["--print-capabilities", "--fault=not-a-fault", "--fd=x"], "block"),
    ] {
        let output = run(args);
        assert!(output.status.success() && output.stderr.is_empty());
        let capabilities: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(capabilities["type"], kind);
        assert!(capabilities["features"].is_array());
    }
}

#[test]
fn faults_are_listed_with_what_they_do_and_can_all_be_asked_for() {
    let output = run(&["--list-faults"]);
    let faults: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(faults.len() >= 60);
    for fault in &faults {
        assert!(!fault["does"].as_str().unwrap().is_empty());
        assert!(fault["fails"].is_array());
    }
    // All that are listed are taken: what is wrong here is something else. One of them hides that.
    let names = faults.iter().filter_map(|fault| fault["name"].as_str());
    let all: Vec<String> =
        names.filter(|name| *name != "no-socket-accepted").map(|name| format!("--fault={name}")).collect();
    let args: Vec<&str> = all.iter().map(String::as_str).chain(["--size=lots"]).collect();
    let output = run(&args);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("lots"), "{output:?}");
}

#[test]
fn wrong_command_line_is_refused() {
    let path = "--socket-path=/there/is/none";
    for (args, code) in [
        (&[][..], 2),
        (&[path, "--fd=3"], 2),
        (&[path, "--fault=no-such-fault"], 2),
        (&[path, "--nonsense"], 2),
        (&[path, "--size=lots"], 2),
        (&["--fd=77"], 1),
        (&[path], 1),
        (&[path, "--blk-file=/there/is/none"], 1),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn disk_grows_on_hangup_and_the_driver_is_told() {
    let program = Program::start(&["--size=1M"]);
    let mut blk = Blk::open(program.frontend(), &options(FORMATS[0])).unwrap();
    blk.write_at(0, &[7; 512]).unwrap();
    assert!(blk.write_at(2048, &[1; 512]).is_err());
    program.signal(Signal::HUP);
    let deadline = std::time::Instant::now() + LONG;
    while blk.frontend().heard().config_changes == 0 {
        assert!(std::time::Instant::now() < deadline, "nothing was told");
        blk.frontend().wait(std::time::Duration::from_millis(100)).unwrap();
    }
    blk.refresh_config().unwrap();
    assert_eq!(blk.capacity(), 4096);
    blk.write_at(2048, &[1; 512]).unwrap();
    let mut back = [0; 512];
    blk.read_at(0, &mut back).unwrap();
    assert_eq!(back, [7; 512]);
}
