//! One connection after the other.

use std::fs;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::program::{FrontEnd, GET_FEATURES, Start, wait_until};

#[test]
fn connections_one_hundred_later_descriptors_and_threads_are_as_before() {
    let mut running = Start::new().listen();
    let mut front_end = running.connect();
    front_end.ask_features();
    let before = (running.entries("fd"), running.entries("task"));
    for _ in 0..100 {
        drop(front_end);
        front_end = running.connect();
        front_end.ask_features();
    }
    assert_eq!((running.entries("fd"), running.entries("task")), before);
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn connection_while_another_is_served_waits_and_is_served_next() {
    let running = Start::new().listen();
    let mut first = running.connect();
    first.ask_features();
    let mut second = running.connect();
    second.send(&GET_FEATURES);
    first.ask_features();
    let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    assert_eq!(poll(&mut [PollFd::from_borrowed_fd(second.0.as_fd(), PollFlags::IN)], Some(&moment)), Ok(0));
    first.ask_features();
    drop(first);
    second.expect_features();
}

#[test]
fn connection_of_garbage_ends_alone() {
    let mut running = Start::new().listen();
    let mut front_end = running.connect();
    front_end.send(&[0xff; 64]);
    assert!(front_end.is_closed());
    running.connect().ask_features();
    let mut silent = running.connect();
    silent.send(&GET_FEATURES[..5]);
    drop(silent);
    running.connect().ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn connection_without_a_free_descriptor_waits_without_spinning_until_there_is_one() {
    let mut running = Start::new().listen();
    running.connect().ask_features();
    running.wait_for_line("front end disconnected");
    let lowest_free = (0..).find(|number: &u64| !running.proc(&format!("fd/{number}")).is_symlink());
    let maximum = getrlimit(Resource::Nofile).maximum;
    let old =
        prlimit(Some(running.pid()), Resource::Nofile, Rlimit { current: lowest_free, maximum }).unwrap();
    let ticks = cpu_ticks(&running.proc("stat"));
    let mut front_end =
        FrontEnd::new(std::os::unix::net::UnixStream::connect(running.socket_path()).unwrap());
    front_end.send(&GET_FEATURES);
    running.wait_for_line("cannot accept a connection");
    sleep(Duration::from_millis(500));
    assert!(cpu_ticks(&running.proc("stat")) - ticks < 20, "it spins");
    prlimit(Some(running.pid()), Resource::Nofile, old).unwrap();
    front_end.expect_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(stat: &std::path::Path) -> u64 {
    let stat = fs::read_to_string(stat).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn connection_with_nobody_reading_the_log_is_served() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut start = Start::with(&["--log-level=trace"]);
    start.command.stderr(writer);
    let mut running = start.listen();
    for _ in 0..3 {
        running.connect().ask_features();
    }
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn connection_with_a_log_pipe_that_is_full_is_served() {
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let mut start = Start::with(&["--log-level=trace"]);
    start.command.stderr(writer);
    let mut running = start.listen();
    for _ in 0..3 {
        running.connect().ask_features();
    }
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn connection_in_the_json_log_is_one_object_a_line() {
    let mut running = Start::with(&["--log-format=json"]).listen();
    running.connect().ask_features();
    wait_until("the log", || running.stderr().contains("front end disconnected"));
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    for line in running.stderr().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn connection_at_log_level_error_leaves_standard_error_empty() {
    let mut running = Start::with(&["--log-level=error"]).listen();
    running.connect().ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert_eq!(running.stderr(), "");
}
