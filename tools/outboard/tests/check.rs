//! `outboard check` as a program: what it prints, which checks it takes, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use serde_json::Value;

const OUTBOARD: &str = env!("CARGO_BIN_EXE_outboard");

fn check(args: &[&str]) -> Output {
    Command::new(OUTBOARD).arg("check").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn list_names_each_check_with_its_section() {
    let output = check(&["--list", "--only", "framing"]);
    assert!(output.status.success());
    let list = text(&output.stdout);
    assert!(list.lines().count() >= 10, "{list}");
    assert!(list.lines().all(|line| line.starts_with("framing.") && line.ends_with(']')), "{list}");
}

#[test]
fn pattern_that_names_nothing_is_refused() {
    let output = check(&["--only", "framing.no-such-check", "--", OUTBOARD, "run", "rng"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("framing.no-such-check"));
}

#[test]
fn socket_nobody_listens_at_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody");
    let output = check(&["--timeout", "0.2", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("does not take connections"), "{}", text(&output.stderr));
}

#[test]
fn peer_that_is_silent_is_an_error_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("silent");
    let _listener = UnixListener::bind(&socket).unwrap();
    let output = check(&["--timeout", "0.2", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no reply to GET_FEATURES"), "{}", text(&output.stderr));
}

#[test]
fn command_that_fails_shows_what_it_said() {
    let output = check(&["--", OUTBOARD, "run", "blk", "--blk-file", "/there/is/none"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/there/is/none"), "{}", text(&output.stderr));
}

#[test]
fn back_end_at_a_socket_is_checked_without_being_started() {
    let daemon = rig::Daemon::spawn("rng", &[]);
    let socket = daemon.socket().to_str().unwrap().to_owned();
    let output = check(&["--timeout", "30", "--json", "--only", "framing,program", &socket]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["device"], "rng");
    let verdicts = |group: &str| -> Vec<String> {
        let checks = report["checks"].as_array().unwrap().iter();
        let own = checks.filter(|check| check["id"].as_str().unwrap().starts_with(group));
        own.map(|check| check["verdict"].as_str().unwrap().to_owned()).collect()
    };
    assert!(verdicts("framing.").iter().all(|verdict| verdict == "pass"));
    assert!(verdicts("program.").iter().all(|verdict| verdict == "skip"));
}

#[test]
fn junit_report_has_a_case_for_each_check() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.xml");
    let path = report.to_str().unwrap();
    let output =
        check(&["--timeout", "30", "--only", "framing", "--junit", path, "--", OUTBOARD, "run", "rng"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    let xml = std::fs::read_to_string(&report).unwrap();
    let cases = text(&check(&["--list", "--only", "framing"]).stdout).lines().count();
    assert_eq!(xml.matches("<testcase ").count(), cases, "{xml}");
}

#[test]
fn reader_that_goes_away_ends_it_quietly() {
    let mut check = Command::new(OUTBOARD);
    check.args(["check", "--only", "framing", "--", OUTBOARD, "run", "rng"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = check.stdout(writer).stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(text(&output.stderr), "");
}
