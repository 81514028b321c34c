//! The device behind a real socket, driven by the front end's driver, on both ring formats and both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{Args, FromArgMatches};
use outboard_backend::{Backend, EngineChoice, Options as BackendOptions, Polling, Stop};
use outboard_device::Device;
use outboard_frontend::drivers::{Vsock, VsockOptions as DriverOptions};
use outboard_frontend::{Format, Frontend, Options, Waiting, Wishes};
use outboard_vsock::{Registry, Vsock as VsockDevice, VsockOptions};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);

fn ways() -> impl Iterator<Item = (EngineChoice, Polling, Waiting, Format)> {
    let hosts = [
        (EngineChoice::Epoll, Polling::Off, Waiting::Interrupt),
        (EngineChoice::IoUring, Polling::Off, Waiting::Interrupt),
        (EngineChoice::Epoll, Polling::Always, Waiting::Polling),
    ];
    hosts.into_iter().flat_map(|(engine, polling, waiting)| {
        [Format::Split, Format::Packed].map(|format| (engine, polling, waiting, format))
    })
}

/// A driver before a device with these options. The thread ends with the connection.
fn driven(
    registry: &Arc<Registry>,
    args: &[&str],
    (engine, polling, waiting, format): (EngineChoice, Polling, Waiting, Format),
) -> (Vsock, JoinHandle<()>) {
    let command = VsockOptions::augment_args(clap::Command::new("vsock").no_binary_name(true));
    let options = VsockOptions::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap();
    let device = VsockDevice::open(&options, registry).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let options = BackendOptions { engine, polling, ..BackendOptions::default() };
    let thread = thread::spawn(move || {
        Backend::new(device, options).unwrap().serve(theirs, &Stop::new().unwrap()).unwrap();
    });
    let frontend = Frontend::from_stream(ours, Options { timeout: LONG, ..Options::default() }).unwrap();
    let driver = DriverOptions::default();
    let wishes = Wishes { format, ..driver.wishes };
    let mut vsock = Vsock::open(frontend, &DriverOptions { wishes, ..driver }).unwrap();
    vsock.set_waiting(waiting);
    (vsock, thread)
}

fn text(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn program_of_the_host_and_guest_exchange_every_byte_both_ways() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        let option = format!("--uds-path={}", path.display());
        let (mut vsock, thread) = driven(&Arc::default(), &["--guest-cid=3", &option], way);
        assert_eq!(vsock.cid(), 3);
        let sample = text(1_000_000);

        // The guest connects; the program reads everything and then says it.
        let listener = UnixListener::bind(dir.path().join("vm_80")).unwrap();
        let len = sample.len();
        let program = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = vec![0; len];
            stream.read_exact(&mut all).unwrap();
            stream.write_all(&all).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        });
        let mut connection = vsock.connect(80, false).unwrap().unwrap();
        vsock.send(&mut connection, &sample).unwrap();
        let mut got = Vec::new();
        while got.len() < len {
            got.extend(vsock.receive(&mut connection).unwrap());
        }
        assert!(got == sample, "{way:?}");
        vsock.close_connection(connection).unwrap();
        program.join().unwrap();

        // The program connects.
        let program = thread::spawn(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"CONNECT 5000\n").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            assert!(line.starts_with("OK 1073741824"), "{line}");
            stream.write_all(b"hello").unwrap();
            let mut all = Vec::new();
            lines.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"welcome");
        });
        let mut connection = vsock.accept().unwrap();
        assert_eq!(vsock.receive(&mut connection).unwrap(), b"hello");
        vsock.send(&mut connection, b"welcome").unwrap();
        vsock.close_connection(connection).unwrap();
        program.join().unwrap();
        assert!(vsock.connect(81, false).unwrap().is_none());
        drop(vsock.close().unwrap());
        thread.join().unwrap();
    }
}

#[test]
fn siblings_exchange_bytes_and_messages_in_both_formats() {
    for format in [Format::Split, Format::Packed] {
        let way = (EngineChoice::IoUring, Polling::Off, Waiting::Interrupt, format);
        let registry = Arc::default();
        let (mut one, first) = driven(&registry, &["--guest-cid=3", "--group=a", "--group=b"], way);
        let (mut two, second) = driven(&registry, &["--guest-cid=4", "--group=b"], way);
        let (mut far, third) = driven(&registry, &["--guest-cid=5", "--group=c"], way);
        assert!(far.connect_to(4, 22, false).unwrap().is_none(), "no group in common");
        let sample = text(700_000);
        let expected = sample.clone();
        let messages: Vec<Vec<u8>> = (0..50).map(|at| text(at * at * 7)).collect();
        let expected_messages = messages.clone();
        let guest = thread::spawn(move || {
            let mut connection = two.accept().unwrap();
            let mut got = Vec::new();
            while got.len() < expected.len() {
                got.extend(two.receive(&mut connection).unwrap());
            }
            assert!(got == expected);
            two.send(&mut connection, b"thanks").unwrap();
            assert_eq!(two.receive(&mut connection).unwrap(), b"", "the end");
            let mut connection = two.accept().unwrap();
            for message in &expected_messages {
                assert_eq!(two.receive(&mut connection).unwrap().len(), message.len());
            }
            two.send(&mut connection, b"").unwrap();
            two.send(&mut connection, b"done").unwrap();
            assert_eq!(two.receive(&mut connection).unwrap(), b"", "the end");
            two
        });
        let mut connection = one.connect_to(4, 22, false).unwrap().unwrap();
        one.send(&mut connection, &sample).unwrap();
        let mut got = Vec::new();
        while got.len() < 6 {
            got.extend(one.receive(&mut connection).unwrap());
        }
        assert_eq!(got, b"thanks");
        one.close_connection(connection).unwrap();
        let mut connection = one.connect_to(4, 22, true).unwrap().unwrap();
        for message in &messages {
            one.send(&mut connection, message).unwrap();
        }
        assert_eq!(one.receive(&mut connection).unwrap(), b"");
        assert_eq!(one.receive(&mut connection).unwrap(), b"done");
        one.close_connection(connection).unwrap();
        for (vsock, thread) in [(one, first), (guest.join().unwrap(), second), (far, third)] {
            drop(vsock.close().unwrap());
            thread.join().unwrap();
        }
    }
}

#[test]
fn status_tells_what_went_over_connections() {
    let registry = Arc::default();
    let command = VsockOptions::augment_args(clap::Command::new("vsock").no_binary_name(true));
    let args = ["--guest-cid=9", "--deny=1-5", "--group=x"];
    let options = VsockOptions::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap();
    let device = VsockDevice::open(&options, &registry).unwrap();
    let status = device.status();
    assert_eq!(
        (&status["cid"], &status["deny"], &status["connections"]),
        (&9.into(), &"1-5".into(), &0.into())
    );
    assert_eq!(status["groups"][0], "x");
    assert_eq!(status["refused"]["rules"], 0);
}
