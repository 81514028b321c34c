//! The request to stop, when the front end stands in its way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    io::Write,
    time::{Duration, Instant},
};

use outboard_backend::{Backend, Options, Served};
use outboard_vhost_user::{Request, codec::write_request};
use rig::{Script, Scripted, Server};

/// What a program gives itself to end after SIGTERM is 5 seconds.
const IN_TIME: Duration = Duration::from_millis(4500);

fn backend() -> Backend<Scripted> {
    let device = Scripted::new(1, |_, _| Script::new(|chain, cx| cx.done(chain)));
    Backend::new(device, Options::default()).unwrap()
}

#[test]
fn stop_within_half_a_message_ends_in_time() {
    let (server, mut stream) = Server::start(backend());
    let frame = write_request(Request::GetFeatures, false).unwrap().to_bytes();
    stream.write_all(&frame[..7]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let asked = Instant::now();
    server.stop.trigger();
    let _ = server.end();
    assert!(asked.elapsed() < IN_TIME, "{:?}", asked.elapsed());
}

#[test]
fn stop_while_answers_are_not_read_ends_in_time() {
    let (server, mut stream) = Server::start(backend());
    let frame = write_request(Request::GetFeatures, false).unwrap().to_bytes();
    // As long as the back end answers, it reads.
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while stream.write_all(&frame).is_ok() {}
    std::thread::sleep(Duration::from_millis(50));
    let asked = Instant::now();
    server.stop.trigger();
    let _ = server.end();
    assert!(asked.elapsed() < IN_TIME, "{:?}", asked.elapsed());
}

#[test]
fn stop_while_the_device_waits_for_something_ends_in_time() {
    let (server, mut frontend) = Server::with_frontend(backend());
    let waiting = std::thread::spawn(move || frontend.write_config(0, &[0]));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_finished());
    let asked = Instant::now();
    server.stop.trigger();
    assert_eq!(server.end().1.unwrap(), Served::Stopped);
    assert!(asked.elapsed() < IN_TIME, "{:?}", asked.elapsed());
    assert!(waiting.join().unwrap().is_err(), "it is told");
}
