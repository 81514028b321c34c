//! The device with capture files: what the guest sends is written, and what was captured is received.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::fs;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use outboard_device::defs::net::F_MRG_RXBUF;
use outboard_frames::pcap::{Reader, file_header, frame_header};
use outboard_frontend::Format;
use outboard_frontend::drivers::Net;
use outboard_net::Switches;
use rig::{LONG, driven, driver};

const BACKEND: [&str; 1] = ["--backend=pcap"];

fn start(args: &[&str], format: Format) -> (Net, JoinHandle<()>) {
    driven(&[&BACKEND, args].concat(), &driver(format, F_MRG_RXBUF))
}

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at * 7) as u8).collect()
}

/// The frames of a file.
fn read(file: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(file).unwrap();
    let (mut rest, mut reader, mut frames) = (bytes.as_slice(), Reader::new(), Vec::new());
    while !rest.is_empty() {
        let piece = rest.split_off(..reader.wanted()).unwrap();
        frames.extend(reader.take(piece).unwrap().map(|frame| frame.bytes.to_vec()));
    }
    frames
}

fn path_of(directory: &Path, name: &str) -> String {
    directory.join(name).display().to_string()
}

#[test]
fn frames_of_the_guest_are_written_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = path_of(directory.path(), "out.pcap");
    let (mut net, back_end) = start(&[&format!("--write={file}")], Format::Split);
    for number in 0..50 {
        net.send(&frame(number, 60 + 29 * number)).unwrap();
    }
    drop(net.close().unwrap());
    back_end.join().unwrap();
    let expected: Vec<_> = (0..50).map(|number| frame(number, 60 + 29 * number)).collect();
    assert_eq!(read(Path::new(&file)), expected);
}

#[test]
fn capture_is_replayed_in_order_once_or_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let file = path_of(directory.path(), "in.pcap");
    let mut bytes = file_header().to_vec();
    for number in 0..10 {
        let frame = frame(number, 60 + number);
        let len = frame.len() as u32;
        // Milliseconds between them; of the one in the middle, only a part was captured.
        let at = Duration::from_millis(1_700_000_000_000 + number as u64);
        let captured = if number == 5 { 20 } else { len };
        bytes.extend(frame_header(at, captured, len));
        bytes.extend_from_slice(&frame[..captured as usize]);
    }
    // And a record that was cut off.
    bytes.extend_from_slice(&frame_header(Duration::ZERO, 60, 60)[..9]);
    fs::write(&file, bytes).unwrap();
    let once: Vec<_> =
        (0..10).filter(|number| *number != 5).map(|number| frame(number, 60 + number)).collect();
    for (format, args) in [
        (Format::Split, &[][..]),
        (Format::Packed, &["--replay-speed=max"]),
        (Format::Packed, &["--loop-replay", "--replay-speed=max"]),
        (Format::Split, &["--loop-replay"]),
    ] {
        let (mut net, back_end) = start(&[args, &[&format!("--replay={file}")]].concat(), format);
        let rounds = if args.contains(&"--loop-replay") { 100 } else { 1 };
        let mut received = vec![0; 2048];
        for expected in (0..rounds).flat_map(|_| &once) {
            let len = net.receive(&mut received, LONG).unwrap().expect("a frame");
            assert_eq!(&received[..len], expected, "{args:?}");
        }
        if rounds == 1 {
            assert_eq!(net.receive(&mut received, Duration::from_millis(20)).unwrap(), None);
        }
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}

#[test]
fn files_that_do_not_do_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = path_of(directory.path(), "no.pcap");
    fs::write(&file, b"no capture, but as long as the header of one").unwrap();
    let empty = path_of(directory.path(), "empty.pcap");
    fs::write(&empty, b"").unwrap();
    let missing = path_of(directory.path(), "missing.pcap");
    let directory = directory.path().display();
    for (args, reason) in [
        (&[][..], "needs --write or --replay".to_owned()),
        (&[format!("--replay={file}")], "this is no capture file".to_owned()),
        (&[format!("--replay={empty}")], "unexpected end of file".to_owned()),
        (&[format!("--replay={missing}")], format!("cannot read {missing}")),
        (&[format!("--replay={directory}")], "is no file".to_owned()),
        (&[format!("--write={directory}")], format!("cannot write {directory}")),
        (&["--loop-replay".to_owned(), format!("--write={file}")], "--replay".to_owned()),
    ] {
        let args = [&BACKEND.map(str::to_owned), args].concat();
        let error = rig::open(&Switches::default(), &args).err().unwrap().to_string();
        assert!(error.contains(&reason), "{args:?}: {error}");
    }
}

#[test]
fn capture_whose_times_are_absurd_ends_and_harms_nobody() {
    let block = |kind: u32, body: &[u8]| {
        let len = (12 + body.len() as u32).to_le_bytes();
        [&kind.to_le_bytes(), &len, body, &len].concat()
    };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let packet = |at: u64, frame: &[u8]| {
        let len = frame.len() as u32;
        block(6, &[words(&[0, (at >> 32) as u32, at as u32, len, len]), frame.to_vec()].concat())
    };
    // Ethernet, in whole seconds.
    let interface = words(&[1, 0, 1 << 16 | 9, 0, 0]);
    let section = words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]);
    let (first, second) = (frame(1, 60), frame(2, 60));
    let directory = tempfile::tempdir().unwrap();
    let file = path_of(directory.path(), "absurd.pcapng");
    let blocks =
        [block(0x0a0d_0d0a, &section), block(1, &interface), packet(0, &first), packet(u64::MAX, &second)];
    fs::write(&file, blocks.concat()).unwrap();
    let (mut net, back_end) = start(&[&format!("--replay={file}")], Format::Split);
    let mut received = vec![0; 2048];
    assert_eq!(net.receive(&mut received, LONG).unwrap(), Some(60));
    assert_eq!(received[..60], first);
    assert_eq!(net.receive(&mut received, Duration::from_millis(20)).unwrap(), None);
    net.send(&second).unwrap();
    drop(net.close().unwrap());
    back_end.join().unwrap();
}
