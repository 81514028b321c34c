//! The device before passt, of which a program in its place knows the protocol: it is started with a socket, and frames go
//! both ways behind their lengths.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unsafe_code, reason = "the program in passt's place takes a descriptor that it is given by number")]

mod rig;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

use outboard_device::defs::net::F_MRG_RXBUF;
use outboard_frontend::Format;
use outboard_frontend::drivers::Net;
use outboard_net::Switches;
use rig::{LONG, driven, driver};

/// Says to the program in passt's place what it was started with.
const ARGUMENTS: &str = "OUTBOARD_TEST_PASST";
/// A frame that makes it send nonsense, and one that ends it.
const NONSENSE: [u8; 60] = [1; 60];
const END: [u8; 60] = [2; 60];

/// Not a test, unless it is started in passt's place: sends frames back, turned round.
#[test]
fn in_passts_place() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let number = arguments.split(' ').find_map(|argument| argument.strip_prefix("--fd=")).unwrap();
    assert!(
        arguments.starts_with("--foreground --quiet --tcp-ports=127.0.0.1/2222:22 --mtu=1500"),
        "{arguments}"
    );
    // SAFETY: whoever started this program has left the descriptor open for it, and nobody else here uses it.
    let socket = unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) };
    let mut socket = UnixStream::from(socket);
    let mut length = [0; 4];
    while socket.read_exact(&mut length).is_ok() {
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        socket.read_exact(&mut frame).unwrap();
        match frame {
            frame if frame == NONSENSE => socket.write_all(&[0xff; 8]).unwrap(),
            frame if frame == END => std::process::exit(0),
            mut frame => {
                frame.reverse();
                // In pieces, as a stream may come.
                let bytes = [&length[..], &frame].concat();
                let (front, rest) = bytes.split_at(bytes.len() / 3);
                socket.write_all(front).unwrap();
                socket.write_all(rest).unwrap();
            }
        }
    }
}

/// A program that starts this one in passt's place.
fn program(directory: &Path) -> String {
    let path = directory.join("passt");
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{ARGUMENTS}=\"$*\" exec '{}' --exact in_passts_place --nocapture >/dev/null\n",
        this.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn start(passt: &str, format: Format) -> (Net, JoinHandle<()>) {
    let args = ["--backend=user", "--mtu=1500", "--host-forward=tcp:127.0.0.1:2222-:22", "--passt", passt];
    driven(&args, &driver(format, F_MRG_RXBUF))
}

#[test]
fn frames_go_through_passt_until_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let passt = program(directory.path());
    for (format, end) in [(Format::Split, END), (Format::Packed, NONSENSE)] {
        let (mut net, back_end) = start(&passt, format);
        let mut received = [0; 2048];
        for number in 0..200_usize {
            let frame: Vec<_> = (0..60 + 7 * number).map(|at| (at * 3 + number) as u8).collect();
            net.send(&frame).unwrap();
            let len = net.receive(&mut received, LONG).unwrap().expect("a frame");
            assert!(received[..len].iter().eq(frame.iter().rev()), "frame {number}");
        }
        // The guest goes on, with nobody there.
        net.send(&end).unwrap();
        for _ in 0..100 {
            net.send(&[7; 60]).unwrap();
        }
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}

#[test]
fn passt_that_is_not_there_is_refused_at_once() {
    let args = ["--backend=user", "--passt=/nonexistent/passt"];
    let error = rig::open(&Switches::default(), &args).err().unwrap();
    assert!(error.to_string().contains("cannot start /nonexistent/passt"), "{error}");
}
