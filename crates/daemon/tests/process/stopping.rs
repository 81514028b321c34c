//! Signals.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::program::{GET_FEATURES, Start, wait_until};

#[test]
fn stop_while_listening_exits_0_and_removes_the_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut running = Start::new().listen();
        let (code, time) = running.stop(signal);
        println!("{signal:?} while listening: stopped after {time:?}");
        assert_eq!(code, Some(0));
        assert!(!running.socket_path().exists());
    }
}

#[test]
fn stop_while_connected_exits_0_and_closes_the_connection() {
    let mut running = Start::new().listen();
    let mut front_end = running.connect();
    front_end.ask_features();
    let (code, time) = running.stop(Signal::TERM);
    println!("SIGTERM while connected: stopped after {time:?}");
    assert_eq!(code, Some(0));
    assert!(!running.socket_path().exists());
    assert!(front_end.is_closed());
}

#[test]
fn stop_under_a_flood_of_messages_exits_0() {
    let mut running = Start::new().listen();
    let mut front_end = running.connect();
    front_end.ask_features();
    let mut replies = front_end.0.try_clone().unwrap();
    let reader = thread::spawn(move || while replies.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
    let writer = thread::spawn(move || while front_end.0.write_all(&GET_FEATURES.repeat(64)).is_ok() {});
    thread::sleep(Duration::from_millis(100));
    let (code, time) = running.stop(Signal::TERM);
    println!("SIGTERM under a flood of messages: stopped after {time:?}");
    assert_eq!(code, Some(0));
    assert!(!running.socket_path().exists());
    reader.join().unwrap();
    writer.join().unwrap();
}

#[test]
fn stop_with_the_socket_replaced_by_another_leaves_that() {
    let mut running = Start::new().listen();
    // By then it knows its own socket.
    running.wait_for_line("waiting for a front end");
    let path = running.socket_path();
    std::fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(path.exists());
}

#[test]
fn stop_with_the_signal_blocked_by_the_parent_works() {
    let mut running = Start::new().block_signals().listen();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

/// A device that hangs in a request, and the signal handled.
fn stop_hanging() -> (crate::program::Running, crate::program::FrontEnd) {
    let running = Start::with(&["--hang"]).listen();
    let mut front_end = running.connect();
    front_end.ask_features();
    front_end.send_get_config();
    running.wait_for_line("hanging");
    running.signal(Signal::TERM);
    wait_until("the signal to arrive", || running.signal_set("ShdPnd") == 0);
    (running, front_end)
}

#[test]
fn stop_twice_ends_a_hanging_device_at_once() {
    let (mut running, _front_end) = stop_hanging();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(running.child.try_wait().unwrap(), None);
    let (code, time) = running.stop(Signal::TERM);
    println!("second SIGTERM with a hanging device: ended after {time:?}");
    assert_eq!(code, Some(128 + 15));
}

#[test]
fn stop_once_ends_a_hanging_device_after_the_period_of_grace() {
    let (mut running, _front_end) = stop_hanging();
    assert_eq!(running.end().code(), Some(1));
    assert!(running.stderr().contains("not stopped within 5 seconds"));
}

#[test]
fn hangup_makes_the_device_look_at_the_host_and_stops_nothing() {
    let mut running = Start::new().listen();
    let mut front_end = running.connect();
    front_end.ask_features();
    running.signal(Signal::HUP);
    running.wait_for_line("refreshed");
    front_end.ask_features();
    drop(front_end);
    running.signal(Signal::HUP);
    running.connect().ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}
