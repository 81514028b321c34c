//! Several devices in one process.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::program::{FrontEnd, Start};

fn device(start: &mut Start, name: &str, options: &str) -> PathBuf {
    let path = start.path(name);
    start.command.arg(format!("--device=name={name},socket-path={}{options}", path.display()));
    path
}

#[test]
fn devices_are_served_at_the_same_time_and_end_together() {
    let mut start = Start::new();
    let paths = ["a", "b", "c"].map(|name| device(&mut start, name, ""));
    let mut running = start.spawn();
    let mut front_ends = paths.each_ref().map(|path| FrontEnd::at(path));
    for _ in 0..3 {
        front_ends.iter_mut().for_each(FrontEnd::ask_features);
    }
    let tasks = fs::read_dir(running.proc("task")).unwrap();
    let names: Vec<_> =
        tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap()).collect();
    assert!(["a\n", "b\n", "c\n"].iter().all(|name| names.iter().any(|other| other == name)), "{names:?}");
    let (code, time) = running.stop(Signal::TERM);
    println!("SIGTERM with three devices: stopped after {time:?}");
    assert_eq!(code, Some(0));
    assert!(paths.iter().all(|path| !path.exists()));
    assert!(front_ends.iter_mut().all(FrontEnd::is_closed));
    assert!(running.stderr().contains("device{name=\"b\"}"), "{}", running.stderr());
}

#[test]
fn devices_share_threads_if_they_are_told_to() {
    let mut start = Start::with(&["--shared-threads=2"]);
    let paths = ["a", "b", "c"].map(|name| device(&mut start, name, ""));
    let mut running = start.spawn();
    paths.iter().for_each(|path| FrontEnd::at(path).ask_features());
    let tasks = fs::read_dir(running.proc("task")).unwrap();
    let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    let names: Vec<_> = names.filter(|name| name.starts_with("test-device-")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    let (code, _, err) = Start::with(&["--shared-threads=0", "--device=fd=3"]).run();
    assert!(code == Some(2) && err.contains("--shared-threads"), "{err}");
}

#[test]
fn devices_of_a_file_are_served() {
    let mut start = Start::new();
    let paths = ["a", "b"].map(|name| start.path(name));
    let tables: String = paths.iter().map(|path| format!("[[device]]\nsocket-path = {path:?}\n")).collect();
    fs::write(start.path("devices.toml"), format!("log-level = 'error'\n{tables}")).unwrap();
    let file = start.path("devices.toml");
    start.command.arg("--config").arg(file);
    let mut running = start.spawn();
    paths.iter().for_each(|path| FrontEnd::at(path).ask_features());
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert_eq!(running.stderr(), "");
}

#[test]
fn device_that_does_not_open_ends_the_program_before_anything_listens() {
    let mut start = Start::with(&["--log-level=error"]);
    let first = device(&mut start, "a", "");
    let second = device(&mut start, "b", ",open=/nonexistent/disk.img");
    let mut running = start.spawn();
    assert_eq!(running.end().code(), Some(1));
    assert_eq!(
        running.stderr(),
        "test-device: b: cannot open /nonexistent/disk.img: No such file or directory\n"
    );
    assert!(!first.exists() && !second.exists());
}

#[test]
fn device_whose_socket_cannot_be_made_leaves_no_socket_behind() {
    let mut start = Start::with(&["--log-level=error"]);
    let first = device(&mut start, "a", "");
    let second = device(&mut start, "b", "");
    fs::write(&second, "precious").unwrap();
    let control = start.path("control");
    start.command.arg("--control").arg(&control);
    let mut running = start.spawn();
    assert_eq!(running.end().code(), Some(1));
    let expected =
        format!("test-device: b: cannot listen on {}: a regular file is in the way\n", second.display());
    assert_eq!(running.stderr(), expected);
    assert!(!first.exists() && !control.exists());
    assert_eq!(fs::read_to_string(second).unwrap(), "precious");
}

#[test]
fn device_option_that_is_wrong_is_status_2_with_its_place() {
    let (code, out, err) = Start::with(&["--device=fd=3", "--device=fd=4,hang=maybe"]).run();
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.starts_with("error: --device 2: hang: on or off"), "{err}");
}

#[test]
fn device_that_hangs_in_a_request_leaves_the_others_and_the_end_alone() {
    let mut start = Start::new();
    let hanging = device(&mut start, "a", ",hang");
    let other = device(&mut start, "b", "");
    let mut running = start.spawn();
    let mut front_end = FrontEnd::at(&hanging);
    front_end.ask_features();
    front_end.send_get_config();
    running.wait_for_line("hanging");
    for _ in 0..3 {
        FrontEnd::at(&other).ask_features();
    }
    running.signal(Signal::TERM);
    crate::program::wait_until("the end of the other device", || !other.exists());
    assert_eq!(running.end().code(), Some(1), "after the period of grace");
}

#[test]
fn device_that_panics_loses_its_connection_and_nothing_else() {
    let mut start = Start::new();
    let panicking = device(&mut start, "a", ",panic");
    let other = device(&mut start, "b", "");
    let mut running = start.spawn();
    let mut undisturbed = FrontEnd::at(&other);
    undisturbed.ask_features();
    for _ in 0..2 {
        let mut front_end = FrontEnd::at(&panicking);
        front_end.ask_features();
        front_end.send_get_config();
        assert!(front_end.is_closed());
    }
    FrontEnd::at(&panicking).ask_features();
    undisturbed.ask_features();
    let log = running.stderr();
    for part in ["thread a panicked at", "asked to", "connection ended: the device panicked"] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn device_with_a_connected_socket_ends_alone_and_the_last_one_ends_the_program() {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut start = Start::new();
    let other = device(&mut start, "b", "");
    let (also_ours, also_theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let numbers = [&theirs, &also_theirs].map(std::os::fd::AsRawFd::as_raw_fd);
    let mut start = start.inherit(&numbers);
    for number in numbers {
        start.command.arg(format!("--device=fd={number}"));
    }
    let mut running = start.spawn();
    drop((theirs, also_theirs));
    let (mut first, mut second) = (FrontEnd::new(ours), FrontEnd::new(also_ours));
    first.ask_features();
    drop(first);
    running.wait_for_line("front end disconnected");
    second.ask_features();
    FrontEnd::at(&other).ask_features();
    drop(second);
    FrontEnd::at(&other).ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn hangup_refreshes_every_device_also_without_a_front_end() {
    let mut start = Start::new();
    let first = device(&mut start, "a", "");
    device(&mut start, "b", "");
    let mut running = start.spawn();
    let mut front_end = FrontEnd::at(&first);
    front_end.ask_features();
    running.signal(Signal::HUP);
    crate::program::wait_until("two refreshes", || running.stderr().matches("refreshed").count() == 2);
    front_end.ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn capabilities_are_printed_whatever_the_devices_are() {
    let (code, out, _) = Start::with(&["--device=nonsense", "--print-capabilities"]).run();
    assert_eq!(code, Some(0));
    assert_eq!(out, "{\"features\":[],\"type\":\"rng\"}\n");
}
