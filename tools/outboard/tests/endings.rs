//! How the tools end: nothing is left behind, nobody is waited for in vain, and nothing is said that nobody asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use outboard_frontend::dial;
use outboard_vhost_user::FrontendRequest;
use outboard_vhost_user::observe::{Channel, Seen, Side};
use outboard_vhost_user::recording::Recorder;
use rustix::process::{Pid, Signal, kill_process};

use rig::{LONG, eventually};

const OUTBOARD: &str = env!("CARGO_BIN_EXE_outboard");
const RNG: [&str; 4] = ["--", OUTBOARD, "run", "rng"];

/// A recording of one SET_OWNER.
fn recording(dir: &Path) -> String {
    let path = dir.join("recording");
    let mut bytes = vec![0; 12];
    (bytes[0], bytes[4]) = (FrontendRequest::SET_OWNER.0 as u8, 1);
    let (connection, channel, from, time) = (1, Channel::MAIN, Side::FrontEnd, Duration::ZERO);
    let seen = Seen { connection, channel, from, time, len: 12, bytes, fds: Vec::new() };
    Recorder::new(File::create(&path).unwrap()).unwrap().add(&seen).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The command lines of tools that print, each with a back end where it takes one.
fn printing(dir: &Path) -> Vec<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let out = dir.join("out");
    let out = out.to_str().unwrap();
    vec![
        [words(&["probe"]), words(&RNG)].concat(),
        [words(&["probe", "--json"]), words(&RNG)].concat(),
        [words(&["replay", &recording(dir)]), words(&RNG)].concat(),
        [words(&["bench", "rng", "--requests", "1"]), words(&RNG)].concat(),
        words(&["check", "--list"]),
        words(&["completions", "bash"]),
        words(&["man", "--out", out]),
        words(&["discovery", "--bindir", "/usr/bin", "--out", out]),
    ]
}

fn run(args: &[String], stdout: impl Into<Stdio>) -> Output {
    let child = Command::new(OUTBOARD).args(args).stdout(stdout).stderr(Stdio::piped()).spawn();
    child.unwrap().wait_with_output().unwrap()
}

/// Has the process ended? What nobody has waited for yet has.
fn is_gone(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn signal_ends_the_back_end_too_and_leaves_no_directory() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::KILL] {
        let dir = tempfile::tempdir().unwrap();
        let (temporary, pid) = (dir.path().join("tmp"), dir.path().join("pid"));
        fs::create_dir(&temporary).unwrap();
        let back_end = format!(
            "echo $$ > {0}.new; mv {0}.new {0}; exec {OUTBOARD} run rng --socket-path $1",
            pid.display()
        );
        let mut bench = Command::new(OUTBOARD)
            .args(["bench", "rng", "--time", "600", "--", "sh", "-c", &back_end, "sh", "{socket}"])
            .env("TMPDIR", &temporary)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("it has started", || pid.exists());
        let back_end: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        assert!(!is_gone(back_end));
        kill_process(Pid::from_child(&bench), signal).unwrap();
        let status = bench.wait().unwrap();
        assert_eq!(status.signal(), Some(signal.as_raw()), "{status}");
        eventually("it has ended", || is_gone(back_end));
        let left = fs::read_dir(&temporary).unwrap().count();
        assert_eq!(left, usize::from(signal == Signal::KILL), "{signal:?}");
    }
}

#[test]
fn reader_that_is_gone_ends_a_tool_quietly() {
    let dir = tempfile::tempdir().unwrap();
    for args in printing(dir.path()) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(read);
        let output = run(&args, write);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(141), "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for args in printing(dir.path()) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run(&args, full);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        assert!(said.contains("cannot write to standard output: No space left"), "{args:?}: {said}");
        assert_eq!(output.status.code(), Some(1), "{args:?}");
    }
}

#[test]
fn back_end_that_takes_no_connection_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let waiting: Vec<_> = std::iter::from_fn(|| dial(&socket).ok()).collect();
    assert!(!waiting.is_empty());
    let (socket, recording) = (socket.to_str().unwrap(), recording(dir.path()));
    let tools: [&[&str]; 4] = [
        &["probe", "--timeout", "0.1"],
        &["check", "--timeout", "0.1"],
        &["bench", "rng", "--timeout", "0.1"],
        &["replay", "--timeout", "1", &recording],
    ];
    for args in tools {
        let mut command = Command::new(OUTBOARD);
        let command = command.args(args).arg(socket).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = std::time::Instant::now() + LONG;
        while child.try_wait().unwrap().is_none() {
            if std::time::Instant::now() > deadline {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = child.wait().unwrap();
        assert!(status.code().is_some_and(|code| code != 0), "{args:?}: {status}");
    }
}

#[test]
fn back_end_is_heard_only_if_asked_for_or_if_it_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let replay = ["replay", &recording(dir.path())];
    for args in [&["probe"][..], &["bench", "rng", "--requests", "1"], &replay] {
        let said = |verbose: &[&str], back_end: &[&str]| {
            let output = Command::new(OUTBOARD).args(args).args(verbose).args(back_end).output().unwrap();
            String::from_utf8(output.stderr).unwrap()
        };
        assert_eq!(said(&[], &RNG), "", "{args:?}");
        assert!(said(&["--verbose"], &RNG).contains("waiting for a front end"), "{args:?}");
        let fails = ["--", OUTBOARD, "run", "blk", "--blk-file", "/there/is/none"];
        assert!(said(&[], &fails).contains("/there/is/none"), "{args:?}");
    }
}
