//! The control socket, and clients that behave and that do not.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{FrontEnd, LIMIT, Running, Start, wait_until};

/// A client, with what it reads.
pub(crate) struct Client(BufReader<UnixStream>);

impl Client {
    pub(crate) fn of(running: &Running) -> Self {
        let mut stream = None;
        wait_until("the control socket", || {
            stream = UnixStream::connect(running.path("control")).ok();
            stream.is_some()
        });
        let stream = stream.unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, text: &[u8]) {
        self.0.get_mut().write_all(text).unwrap();
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.say(format!("{request}\n").as_bytes());
        self.hear()
    }

    pub(crate) fn error(&mut self, line: &[u8]) -> String {
        self.say(line);
        self.hear()["error"].as_str().unwrap().to_owned()
    }

    fn is_served(&mut self) {
        assert_eq!(self.ask(&json!({ "command": "devices" }))["return"][0]["name"], "a");
    }
}

/// Two devices, a with these options and b, and the control socket.
fn two(options: &str) -> Running {
    let mut start = Start::new();
    for (name, options) in [("a", options), ("b", "")] {
        let path = start.path(name);
        start.command.arg(format!("--device=name={name},socket-path={}{options}", path.display()));
    }
    let control = start.path("control");
    start.command.arg("--control").arg(control);
    start.spawn()
}

#[test]
fn control_lists_the_devices_and_tells_what_they_do() {
    let mut running = two("");
    let mut client = Client::of(&running);
    let devices = client.ask(&json!({ "command": "devices" }));
    let expected = json!({ "name": "b", "type": "rng", "device_id": 4, "socket": running.path("b") });
    assert_eq!(devices["return"][1], expected);
    let mut front_end = FrontEnd::at(&running.path("a"));
    front_end.ask_features();
    let status = client.ask(&json!({ "command": "status" }));
    let [a, b] = [&status["return"][0], &status["return"][1]];
    assert_eq!((&a["connected"], &a["features"]), (&json!(true), &json!("0x0")));
    assert_eq!((&b["connected"], &b["queues"]), (&json!(false), &json!([])));
    let one = client.ask(&json!({ "command": "status", "device": "b" }));
    assert_eq!(&one["return"], b);
    assert_eq!(fs::metadata(running.path("control")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(!running.path("control").exists());
}

#[test]
fn control_command_reaches_its_device_with_and_without_a_front_end() {
    let running = two("");
    let mut client = Client::of(&running);
    let echo = json!({ "command": "echo", "device": "a", "arguments": { "x": [1] } });
    assert_eq!(client.ask(&echo), json!({ "return": { "x": [1] } }));
    let mut front_end = FrontEnd::at(&running.path("a"));
    front_end.ask_features();
    assert_eq!(client.ask(&echo), json!({ "return": { "x": [1] } }));
    front_end.ask_features();
    let refreshed = client.ask(&json!({ "command": "refresh" }));
    assert_eq!(refreshed["return"][1], json!({ "name": "b", "changed": false }));
    assert_eq!(running.stderr().matches("refreshed").count(), 2);
}

#[test]
fn control_request_that_makes_no_sense_is_answered_with_the_reason() {
    let running = two("");
    let mut client = Client::of(&running);
    for (line, reason) in [
        (&b"garbage\n"[..], "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[]\n", "a request is an object"),
        (b"{}\n", "has a command"),
        (b"{\"command\":1}\n", "command: a text"),
        (b"{\"command\":\"status\",\"device\":7}\n", "device: a text"),
        (b"{\"command\":\"status\",\"arguments\":[]}\n", "arguments: an object"),
        (b"{\"command\":\"status\",\"more\":[]}\n", "\"more\" is not part"),
        (b"{\"command\":\"status\",\"device\":\"c\"}\n", "no device \"c\"; there is a, b"),
        (b"{\"command\":\"echo\"}\n", "echo needs a device: there is a, b"),
        (b"{\"command\":\"explode\",\"device\":\"a\"}\n", "no command \"explode\""),
        ([&[b'['; 4096], &b"\n"[..]].concat().as_slice(), "not JSON"),
    ] {
        let error = client.error(line);
        assert!(error.contains(reason), "{error}");
    }
    client.is_served();
}

#[test]
fn control_lines_in_pieces_and_many_at_once_are_all_answered_in_order() {
    let running = two("");
    let mut client = Client::of(&running);
    let ask = |n: u32| format!("{{\"command\":\"echo\",\"device\":\"b\",\"arguments\":{{\"n\":{n}}}}}\n");
    for piece in ask(0).as_bytes().chunks(7) {
        client.say(piece);
    }
    client.say(b"\n  \r\n");
    client.say((1..100).map(ask).collect::<String>().as_bytes());
    // The last line has no end but that of the connection.
    client.say(ask(100).trim_end().as_bytes());
    client.0.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    for n in 0..=100 {
        assert_eq!(client.hear()["return"]["n"], n);
    }
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
}

#[test]
fn control_line_that_is_too_long_ends_its_client_only() {
    let running = two("");
    let mut other = Client::of(&running);
    other.is_served();
    let mut client = Client::of(&running);
    let fits = format!("{}{}", " ".repeat(65000), json!({ "command": "devices" }));
    client.say(format!("{fits}\n").as_bytes());
    assert!(client.hear()["return"].is_array());
    // As much as it takes, or until nobody reads it any more.
    let _ = client.0.get_mut().write_all(&vec![b'x'; 1 << 20]);
    let mut answer = String::new();
    client.0.read_line(&mut answer).unwrap();
    assert!(answer.contains("at most 65536 bytes"), "{answer}");
    let gone = client.0.read(&mut [0]);
    assert!(matches!(&gone, Ok(0)) || gone.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    other.is_served();
}

#[test]
fn control_client_that_does_not_read_or_goes_away_holds_nobody_up() {
    let running = two("");
    let mut other = Client::of(&running);
    let slow = Client::of(&running);
    slow.0.get_ref().set_nonblocking(true).unwrap();
    let mut written = 0;
    // Asks until nobody listens: its answers have filled the socket.
    let mut full = false;
    wait_until("the client to be stopped", || {
        let status = b"{\"command\":\"status\"}\n".repeat(100);
        match slow.0.get_ref().write(&status) {
            Ok(count) => written += count,
            Err(error) => full = error.kind() == ErrorKind::WouldBlock && written > 0,
        }
        full
    });
    for _ in 0..20 {
        let mut gone = Client::of(&running);
        gone.say(b"{\"command\":\"status\"}\n{\"comm");
        drop(gone);
        other.is_served();
    }
    other.is_served();
}

#[test]
fn control_more_clients_than_there_is_room_for_lets_the_silent_ones_go() {
    let running = two("");
    Client::of(&running).is_served();
    let before = running.entries("fd");
    let idle: Vec<Client> = (0..100).map(|_| Client::of(&running)).collect();
    let mut last = Client::of(&running);
    last.is_served();
    assert!(running.entries("fd") < before + 60);
    drop(idle);
    last.is_served();
    wait_until("the descriptors of those that went", || running.entries("fd") <= before + 2);
}

#[test]
fn control_of_a_device_that_hangs_is_a_time_out_and_the_others_answer() {
    let running = two(",hang");
    let mut client = Client::of(&running);
    let mut front_end = FrontEnd::at(&running.path("a"));
    front_end.send_get_config();
    running.wait_for_line("hanging");
    let mut other = Client::of(&running);
    client.say(b"{\"command\":\"echo\",\"device\":\"a\"}\n");
    other.is_served();
    assert!(other.ask(&json!({ "command": "status", "device": "b" }))["return"].is_object());
    client.0.get_ref().set_nonblocking(true).unwrap();
    let answer = client.0.fill_buf().map(<[u8]>::len);
    assert_eq!(answer.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "others do not wait for it");
    client.0.get_ref().set_nonblocking(false).unwrap();
    let error = client.hear()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("does not answer; nothing was done"), "{error}");
    let status = other.ask(&json!({ "command": "status" }));
    assert!(status["return"][0]["error"].is_string() && status["return"][1]["connected"].is_boolean());
}

#[test]
fn control_command_at_which_a_device_panics_is_an_error_and_the_device_goes_on() {
    // Its configuration space is looked at before and after a command.
    let running = two(",panic");
    let mut client = Client::of(&running);
    for _ in 0..2 {
        let error = client.error(b"{\"command\":\"echo\",\"device\":\"a\"}\n");
        assert!(error.contains("the device failed at it"), "{error}");
    }
    assert!(client.ask(&json!({ "command": "status", "device": "a" }))["return"].is_object());
    FrontEnd::at(&running.path("a")).ask_features();
    client.is_served();
}

#[test]
fn control_at_a_path_in_use_or_occupied_is_an_error_and_a_stale_socket_is_replaced() {
    let start = || {
        let start = Start::with(&["--log-level=error"]).socket();
        let control = start.path("control");
        (start, control)
    };
    let (mut occupied, path) = start();
    fs::write(&path, "precious").unwrap();
    occupied.command.arg("--control").arg(&path);
    let (code, _, err) = occupied.run();
    assert_eq!(code, Some(1));
    assert!(err.contains("a regular file is in the way"), "{err}");

    let (mut in_use, path) = start();
    let _listener = UnixListener::bind(&path).unwrap();
    in_use.command.arg("--control").arg(&path);
    let (code, _, err) = in_use.run();
    assert_eq!(code, Some(1));
    assert!(err.contains("already in use"), "{err}");

    let (mut stale, path) = start();
    drop(UnixListener::bind(&path).unwrap());
    stale.command.arg("--control").arg(&path);
    let mut running = stale.spawn();
    let devices = Client::of(&running).ask(&json!({ "command": "devices" }));
    assert_eq!(devices["return"][0]["name"], "test-device0");
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
}

#[test]
fn control_ends_with_the_last_device() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut start = Start::new().fd(&theirs);
    let control = start.path("control");
    start.command.arg("--control").arg(control);
    let mut running = start.spawn();
    drop(theirs);
    let mut client = Client::of(&running);
    let mut front_end = FrontEnd::new(ours);
    front_end.ask_features();
    assert_eq!(client.ask(&json!({ "command": "status" }))["return"][0]["socket"], "inherited, connected");
    drop(front_end);
    assert_eq!(running.end().code(), Some(0));
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
}
