//! `--fd`.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;

use crate::program::{FrontEnd, GET_FEATURES, Running, Start};

fn serve_pair(nonblocking: bool) -> (Running, FrontEnd) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(nonblocking).unwrap();
    let mut front_end = FrontEnd::new(ours);
    front_end.send(&GET_FEATURES);
    let running = Start::new().fd(&theirs).spawn();
    front_end.expect_features();
    (running, front_end)
}

#[test]
fn fd_connected_with_bytes_queued_is_served_until_the_peer_closes() {
    for nonblocking in [false, true] {
        let (mut running, mut front_end) = serve_pair(nonblocking);
        front_end.ask_features();
        drop(front_end);
        assert_eq!(running.end().code(), Some(0));
        assert_eq!(running.stdout(), "");
    }
}

#[test]
fn fd_connected_is_closed_on_exec() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut front_end = FrontEnd::new(ours);
    let number = theirs.as_raw_fd();
    let running = Start::new().fd(&theirs).spawn();
    drop(theirs);
    front_end.ask_features();
    let info = fs::read_to_string(running.proc(&format!("fdinfo/{number}"))).unwrap();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
    assert_ne!(i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_CLOEXEC, 0);
}

#[test]
fn fd_connected_to_a_peer_that_closed_already_exits_0() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    assert_eq!(Start::new().fd(&theirs).run().0, Some(0));
}

#[test]
fn fd_connected_to_a_peer_that_breaks_the_framing_exits_1() {
    let (mut running, mut front_end) = serve_pair(false);
    front_end.send(&[0xff; 64]);
    assert_eq!(running.end().code(), Some(1));
    let err = running.stderr();
    assert!(err.lines().last().unwrap().starts_with("test-device: "), "{err}");
}

#[test]
fn fd_connected_stops_at_a_signal() {
    let (mut running, mut front_end) = serve_pair(false);
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(front_end.is_closed());
}

#[test]
fn fd_listening_serves_one_connection_after_the_other_and_leaves_the_path() {
    for nonblocking in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(nonblocking).unwrap();
        let mut waiting = FrontEnd::at(&path);
        waiting.send(&GET_FEATURES);
        let mut running = Start::new().fd(&listener).spawn();
        drop(listener);
        waiting.expect_features();
        drop(waiting);
        for _ in 0..3 {
            FrontEnd::at(&path).ask_features();
        }
        assert_eq!(running.stop(Signal::TERM).0, Some(0));
        assert!(path.exists());
    }
}

#[test]
fn fd_that_is_not_a_usable_socket_is_refused_with_a_reason() {
    let stream: OwnedFd = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let junk: [(OwnedFd, &str); 7] = [
        (File::open("/dev/null").unwrap().into(), "not a socket"),
        (std::io::pipe().unwrap().0.into(), "not a socket"),
        (TcpListener::bind("127.0.0.1:0").unwrap().into(), "not a UNIX stream socket"),
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "not a UNIX stream socket"),
        (UnixDatagram::unbound().unwrap().into(), "not a UNIX stream socket"),
        (UnixDatagram::pair().unwrap().0.into(), "not a UNIX stream socket"),
        (stream, "the socket is neither connected nor listening"),
    ];
    for (socket, reason) in junk {
        let expected = format!("test-device: --fd {}: {reason}\n", socket.as_raw_fd());
        assert_eq!(Start::new().fd(&socket).run(), (Some(1), String::new(), expected));
    }
}

#[test]
fn fd_that_is_not_open_is_refused_even_if_the_device_would_open_that_number() {
    let (code, _, err) = Start::with(&["--fd=3", "--open=/dev/null"]).run();
    assert_eq!((code, err.as_str()), (Some(1), "test-device: --fd 3: no such descriptor is open\n"));
    let (code, _, err) = Start::with(&["--fd=2000000000"]).run();
    assert_eq!((code, err.as_str()), (Some(1), "test-device: --fd 2000000000: no such descriptor is open\n"));
}
