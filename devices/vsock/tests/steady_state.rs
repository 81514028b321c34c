//! Connections that go on allocate nothing for a packet, whichever way it goes, on both ring formats and both engines.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, FromArgMatches};
use outboard_backend::{Backend, EngineChoice, Options as BackendOptions, Stop};
use outboard_device::testing::Counting;
use outboard_frontend::drivers::{Vsock, VsockConnection, VsockOptions as DriverOptions};
use outboard_frontend::{Format, Frontend, Options, Wishes};
use outboard_vsock::{Vsock as VsockDevice, VsockOptions};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
/// Rounds before the count begins: rooms, tables and pools grow to what is needed.
const WARM_UP: usize = 30;
/// Rounds that are counted, each of some forty packets.
const COUNTED: usize = 60;
/// What grows to what is under way at once may do so late, which is the threads' affair: so often at most.
const LATE: u64 = 64;
/// What goes there and back in a round: more than a socket of the host holds, and more than a packet.
const ROUND: usize = 150_000;

/// Sends rounds to somebody who gives them back.
fn drive(vsock: &mut Vsock, connection: &mut VsockConnection, sample: &[u8], rounds: usize) {
    for _ in 0..rounds {
        vsock.send(connection, sample).unwrap();
        let mut got = 0;
        while got < sample.len() {
            let part = vsock.receive(connection).unwrap();
            assert!(!part.is_empty(), "the end came after {got} bytes");
            got += part.len();
        }
    }
}

/// Gives back each round when it is whole.
fn give_back(listener: &UnixListener) {
    Counting::spare_this_thread();
    let (mut stream, _) = listener.accept().unwrap();
    let mut round = vec![0; ROUND];
    while stream.read_exact(&mut round).is_ok() {
        stream.write_all(&round).unwrap();
    }
}

fn allocations(port: u32, engine: EngineChoice, format: Format) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("vm_80")).unwrap();
    let program = thread::spawn(move || give_back(&listener));
    let command = VsockOptions::augment_args(clap::Command::new("vsock").no_binary_name(true));
    let path = format!("--uds-path={}", dir.path().join("vm").display());
    let matches = command.try_get_matches_from(["--guest-cid=3", "--service=7=echo", &path]).unwrap();
    let options = VsockOptions::from_arg_matches(&matches).unwrap();
    let device = VsockDevice::open(&options, &Arc::default()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut backend = Backend::new(device, BackendOptions { engine, ..BackendOptions::default() }).unwrap();
    let server = thread::spawn(move || backend.serve(theirs, &Stop::new().unwrap()).map(drop));
    Counting::spare_this_thread();
    let frontend = Frontend::from_stream(ours, Options { timeout: LONG, ..Options::default() }).unwrap();
    let driver = DriverOptions::default();
    let wishes = Wishes { format, ..driver.wishes };
    let mut vsock = Vsock::open(frontend, &DriverOptions { wishes, ..driver }).unwrap();
    let sample = vec![7; ROUND];
    let mut connection = vsock.connect(port, false).unwrap().unwrap();
    drive(&mut vsock, &mut connection, &sample, WARM_UP);
    let before = Counting::allocations();
    drive(&mut vsock, &mut connection, &sample, COUNTED);
    let after = Counting::allocations();
    vsock.close_connection(connection).unwrap();
    drop(vsock.close().unwrap());
    server.join().unwrap().unwrap();
    // Nobody else comes: the one that is left waits for a connection.
    drop(UnixStream::connect(dir.path().join("vm_80")));
    program.join().unwrap();
    after - before
}

#[test]
fn packets_of_a_connection_allocate_nothing_each() {
    for port in [7, 80] {
        for engine in [EngineChoice::Epoll, EngineChoice::IoUring] {
            for format in [Format::Split, Format::Packed] {
                let count = allocations(port, engine, format);
                assert!(count <= LATE, "{count} at port {port}, {engine:?}, {format:?}");
            }
        }
    }
}
