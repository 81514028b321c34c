//! Devices that come and go while the program runs: by commands, and by files.

use std::fs;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::control::Client;
use crate::program::{FrontEnd, Running, Start, wait_until};

/// A program with one device and a control socket.
fn one() -> Running {
    let mut start = Start::new();
    let (path, control) = (start.path("a"), start.path("control"));
    start
        .command
        .arg(format!("--device=name=a,socket-path={}", path.display()))
        .arg("--control")
        .arg(control);
    start.spawn()
}

fn add(client: &mut Client, running: &Running, name: &str, more: &Value) -> Value {
    let mut keys = json!({ "name": name, "socket-path": running.path(name) });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.ask(&json!({ "command": "add", "arguments": keys }))
}

fn remove(client: &mut Client, name: &str) -> Value {
    client.ask(&json!({ "command": "remove", "device": name }))
}

fn names(client: &mut Client) -> Vec<String> {
    let devices = client.ask(&json!({ "command": "devices" }));
    let devices = devices["return"].as_array().unwrap();
    devices.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn device_added_is_served_and_gone_when_it_is_removed() {
    let mut running = one();
    let mut client = Client::of(&running);
    let mut undisturbed = FrontEnd::at(&running.path("a"));
    undisturbed.ask_features();
    for _ in 0..3 {
        let added = add(&mut client, &running, "b", &json!({ "poll": "off" }));
        assert_eq!(added["return"], json!({ "name": "b", "socket": running.path("b") }));
        let mut front_end = FrontEnd::at(&running.path("b"));
        front_end.ask_features();
        let echo = json!({ "command": "echo", "device": "b", "arguments": { "x": 1 } });
        assert_eq!(client.ask(&echo)["return"]["x"], 1);
        assert_eq!(names(&mut client), ["a", "b"]);
        assert_eq!(remove(&mut client, "b")["return"], json!({ "name": "b" }));
        assert!(front_end.is_closed() && !running.path("b").exists());
        assert_eq!(names(&mut client), ["a"]);
    }
    undisturbed.ask_features();
    // Nobody is left, and somebody may come.
    remove(&mut client, "a");
    assert!(names(&mut client).is_empty());
    assert!(client.error(b"{\"command\":\"echo\"}\n").contains("there is none"));
    add(&mut client, &running, "a", &json!({}));
    FrontEnd::at(&running.path("a")).ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(!running.path("a").exists() && !running.path("control").exists());
}

#[test]
fn device_that_cannot_be_added_leaves_everything_as_it_was() {
    let mut running = one();
    let mut client = Client::of(&running);
    for (name, keys, reason) in [
        ("a", json!({}), "there is a device \"a\" already"),
        ("b", json!({ "fd": 7 }), "inherits nothing"),
        ("b", json!({ "nonsense": 7 }), "nonsense"),
        ("b", json!({ "hang": {} }), "hang: a text"),
        ("b", json!({ "poll": "sometimes" }), "sometimes"),
        ("b", json!({ "open": "/nonexistent/disk.img" }), "b: cannot open /nonexistent/disk.img"),
        ("b", json!({ "socket-path": running.path("a") }), "already in use"),
        ("-", json!({}), "name"),
    ] {
        let answer = add(&mut client, &running, name, &keys);
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(reason), "{error}");
    }
    for (line, reason) in [
        (&b"{\"command\":\"add\"}\n"[..], "keys of a device"),
        (b"{\"command\":\"add\",\"device\":\"a\",\"arguments\":{\"x\":1}}\n", "keys of a device"),
        (b"{\"command\":\"add\",\"arguments\":{\"name\":\"b\"}}\n", "--socket-path"),
        (b"{\"command\":\"remove\"}\n", "remove takes a device"),
        (b"{\"command\":\"remove\",\"device\":\"b\"}\n", "no device \"b\"; there is a"),
    ] {
        let error = client.error(line);
        assert!(error.contains(reason), "{error}");
    }
    // A name that was in vain is free.
    add(&mut client, &running, "b", &json!({}));
    assert_eq!(names(&mut client), ["a", "b"]);
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn device_added_without_a_name_gets_one() {
    let running = one();
    let mut client = Client::of(&running);
    for expected in ["device1", "device2"] {
        let keys = json!({ "socket-path": running.path(expected) });
        let added = client.ask(&json!({ "command": "add", "arguments": keys }));
        assert!(added["return"]["name"].as_str().unwrap().ends_with(&expected[6..]), "{added}");
    }
}

#[test]
fn client_connects_to_a_front_end_that_listens_again_and_again() {
    let start = Start::new();
    let path = start.path("socket");
    let mut start = start.socket();
    start.command.arg("--client");
    let mut running = start.spawn();
    running.wait_for_line("will go on trying");
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..3 {
        let mut front_end = FrontEnd::new(listener.accept().unwrap().0);
        front_end.ask_features();
    }
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(path.exists(), "it is the front end's");
}

/// A program that serves the files of a directory, which is there.
fn directory() -> Running {
    let mut start = Start::new();
    let (path, control) = (start.path("devices"), start.path("control"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("early.toml"), "").unwrap();
    start.command.arg("--device-dir").arg(path).arg("--control").arg(control);
    start.spawn()
}

#[test]
fn devices_come_and_go_with_their_files() {
    let mut running = directory();
    let devices = running.path("devices");
    let file = |name: &str| devices.join(name);
    FrontEnd::at(&file("early.sock")).ask_features();
    let mut client = Client::of(&running);
    fs::write(file("late.toml"), "poll = 'off'\n").unwrap();
    fs::write(file("note.txt"), "nothing\n").unwrap();
    let mut front_end = FrontEnd::at(&file("late.sock"));
    front_end.ask_features();
    // Written anew with the same words: it stays. With others: it is another.
    fs::write(file("late.toml"), "poll = 'off'\n").unwrap();
    let elsewhere = running.path("elsewhere");
    fs::write(file("early.toml"), format!("socket-path = {elsewhere:?}\n")).unwrap();
    FrontEnd::at(&elsewhere).ask_features();
    assert!(!file("early.sock").exists());
    front_end.ask_features();
    fs::remove_file(file("late.toml")).unwrap();
    wait_until("the end of a device", || !file("late.sock").exists());
    assert!(front_end.is_closed());
    fs::remove_file(file("early.toml")).unwrap();
    wait_until("the end of the last device", || names(&mut client).is_empty());
    fs::write(file("new.toml"), "").unwrap();
    FrontEnd::at(&file("new.sock")).ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(!file("new.sock").exists());
}

#[test]
fn file_that_is_wrong_is_told_once_and_changes_nothing() {
    let mut running = directory();
    let devices = running.path("devices");
    let file = |name: &str| devices.join(name);
    let mut front_end = FrontEnd::at(&file("early.sock"));
    front_end.ask_features();
    fs::write(file("early.toml"), "nonsense = 1\n").unwrap();
    running.wait_for_line("nonsense");
    fs::write(file("wrong.toml"), "name = 'x'\n").unwrap();
    running.wait_for_line("wrong.toml: name");
    fs::write(file("missing.toml"), "open = '/nonexistent'\n").unwrap();
    running.wait_for_line("cannot open /nonexistent");
    running.signal(Signal::HUP);
    running.wait_for_line("refreshed");
    fs::write(file("good.toml"), "").unwrap();
    FrontEnd::at(&file("good.sock")).ask_features();
    front_end.ask_features();
    let log = running.stderr();
    for part in ["nonsense", "wrong.toml", "cannot open /nonexistent"] {
        assert_eq!(log.matches(part).count(), 1, "{part}: {log}");
    }
    // When it is right, it comes.
    fs::write(file("missing.toml"), "").unwrap();
    FrontEnd::at(&file("missing.sock")).ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn directory_that_is_not_there_ends_the_program() {
    let (code, _, err) = Start::with(&["--device-dir=/nonexistent/devices"]).run();
    assert_eq!(code, Some(1));
    assert_eq!(err, "test-device: cannot watch /nonexistent/devices: No such file or directory\n");
}
