//! Malformed messages: each is refused or ends its connection; the process, its next connection, and another process
//! beside it go on, and nothing stays behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Error, Format};
use outboard_guest_memory::memfd;
use outboard_vhost_user::message::{MAX_BODY, flags};
use outboard_vhost_user::payload::Inflight;
use outboard_vhost_user::{Frame, Header, ProtocolFeatures, Reply, Request};
use outboard_virtio_defs::features as bits;
use rig::{Daemon, LONG, Resources};
use zerocopy::IntoBytes;

/// Flags of a well-formed message that wants an answer.
const ASK: u32 = flags::VERSION | flags::NEED_REPLY;

fn frame(request: u32, flags: u32, body: Vec<u8>, fds: usize) -> Frame {
    let fds = (0..fds).map(|_| memfd("hostile", 8192).unwrap()).collect();
    Frame { request, flags, body, fds }
}

/// Frames that no sane front end sends.
fn malformed() -> Vec<Frame> {
    let mut all = Vec::new();
    // Codes that do not exist.
    for code in [0, 46, 47, 1000, 0x8000_0000, u32::MAX] {
        all.push(frame(code, ASK, Vec::new(), 0));
        all.push(frame(code, ASK, vec![0xff; 64], 2));
    }
    for code in 1..=45 {
        // Payloads of every size that no message has, and of all ones, with and without descriptors.
        for len in [0, 1, 7, 8, 9, 12, 23, 24, 39, 40, 41, 255, 272] {
            all.push(frame(code, ASK, vec![0xff; len], 0));
            all.push(frame(code, ASK, vec![0xff; len], 1));
        }
        all.push(frame(code, ASK, vec![0; 40], 33));
        // Versions and flags that do not exist.
        for flags in [0, 2, 3, flags::OF_REPLY, 0xffff_fff0 | ASK] {
            all.push(frame(code, flags, vec![0; 8], 0));
        }
    }
    // Tables whose count does not fit their payload.
    for count in [0_u32, 2, 9, 253, 254, u32::MAX] {
        let mut body = [count, 0].as_bytes().to_vec();
        body.resize(40, 1);
        all.push(frame(5, ASK, body, 1));
    }
    all
}

/// Sends a frame after the usual greeting. True if the connection is still there afterwards.
fn survives(daemon: &Daemon, frame: Frame) -> bool {
    let mut frontend = daemon.frontend();
    frontend.agree(&rig::wishes(Format::Split)).unwrap();
    let what = format!("message {} of {} bytes, flags {:#x}", frame.request, frame.body.len(), frame.flags);
    let wants_answer = frame.needs_reply();
    // GET_FEATURES is what follows; SET_PROTOCOL_FEATURES may have taken REPLY_ACK away.
    let excused = [1, 16].contains(&frame.request);
    if frontend.send_frame(frame).is_err() {
        return false;
    }
    // Something that is always answered: the answer to the message before comes first, if there is one.
    if frontend.send_frame(Frame { request: 1, flags: flags::VERSION, body: vec![], fds: vec![] }).is_err() {
        return false;
    }
    let mut answers = 0;
    loop {
        match frontend.receive_frame(LONG) {
            Ok(Some(reply)) if reply.request == 1 => break,
            Ok(Some(_)) => answers += 1,
            Ok(None) => panic!("{what}: neither answered nor closed"),
            Err(error) => {
                assert!(error.is_disconnect(), "{what}: {error}");
                return false;
            }
        }
    }
    assert!(answers <= 1, "{what}: {answers} answers");
    assert!(answers == 1 || !wants_answer || excused, "{what}: no answer");
    true
}

#[test]
fn malformed_message_is_refused_or_ends_the_connection() {
    let mut daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let neighbour = Daemon::spawn("blk", &["--ram=1M"]);
    let mut disk = neighbour.blk(Format::Packed, 1, 16);
    let (mut survived, mut closed) = (0, 0);
    for _ in 0..20 {
        survives(&daemon, frame(0, ASK, Vec::new(), 0));
    }
    let start = daemon.settled();
    for (nth, frame) in malformed().into_iter().enumerate() {
        if survives(&daemon, frame) {
            survived += 1;
        } else {
            closed += 1;
        }
        if nth % 50 == 0 {
            disk.write_at(0, &[nth as u8; 512]).unwrap();
        }
    }
    assert!(survived > 0 && closed > 0, "{survived} survived, {closed} were closed");
    assert!(daemon.is_alive());
    back_to(&daemon, &start);
    Blk::open(daemon.frontend(), &BlkOptions::default()).unwrap().write_at(0, &[1; 512]).unwrap();
}

fn back_to(daemon: &Daemon, start: &Resources) {
    let now = daemon.settled();
    assert_eq!((now.descriptors, now.threads), (start.descriptors, start.threads));
}

#[test]
fn message_refused_while_a_ring_runs_leaves_the_ring_alone() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    for format in rig::FORMATS {
        let mut blk = daemon.blk(format, 2, 16);
        let fd = || memfd("hostile", 4096).unwrap();
        let region = |size, at| outboard_vhost_user::payload::MemRegion {
            guest_addr: at,
            size,
            user_addr: at,
            mmap_offset: 0,
        };
        let refused = |blk: &mut Blk, request: Request| {
            let code = request.code();
            match blk.frontend().ask(request) {
                Err(Error::Refused(_)) => {}
                other => panic!("{code}: {other:?}"),
            }
            blk.write_at(0, &[7; 512]).unwrap();
        };
        refused(&mut blk, Request::SetMemTable(vec![(region(1 << 20, 0), fd())]));
        refused(&mut blk, Request::SetMemTable(vec![(region(0, 0), fd())]));
        refused(&mut blk, Request::SetMemTable(vec![(region(4096, u64::MAX - 100), fd())]));
        refused(&mut blk, Request::SetMemTable(vec![(region(4096, 0), fd()), (region(4096, 0), fd())]));
        refused(&mut blk, Request::AddMemReg(region(1 << 40, 1 << 40), fd()));
        refused(&mut blk, Request::RemMemReg(region(4096, 0x5000)));
        refused(&mut blk, Request::SetVringNum { index: 99, num: 8 });
        refused(&mut blk, Request::SetVringEnable { index: 0x1_0000, enable: false });
        refused(&mut blk, Request::SetVringNum { index: 0, num: 0x1_0000 });
        let none = blk.frontend().ask(Request::GetInflightFd(Inflight::default())).unwrap();
        assert!(matches!(none, Reply::Inflight(Inflight { mmap_size: 0, .. }, None)), "{none:?}");
        refused(&mut blk, Request::SetConfig { offset: 0, flags: 0, data: vec![1; 8] });
        // Its answer has no form that says no.
        let log = Request::SetLogBase { size: 1 << 30, offset: 0, fd: Some(fd()) };
        let error = blk.frontend().ask(log).unwrap_err();
        assert!(error.is_disconnect(), "{error}");
    }
}

#[test]
fn header_that_announces_too_much_ends_the_connection_at_once() {
    let mut daemon = Daemon::spawn("rng", &[]);
    for size in [MAX_BODY + 1, 1 << 20, u32::MAX] {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(Header { request: 1, flags: flags::VERSION, size }.as_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0; 12]).unwrap(), 0);
    }
    assert!(daemon.is_alive());
    daemon.frontend();
}

#[test]
fn random_messages_harm_nobody() {
    let mut daemon = Daemon::spawn("blk", &["--ram=1M"]);
    (0..20).for_each(|_| drop(daemon.frontend()));
    let start = daemon.settled();
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..300 {
        let mut frontend = daemon.frontend();
        let features = bits::VIRTIO_F_VERSION_1 | bits::VHOST_USER_F_PROTOCOL_FEATURES;
        frontend.ask(Request::SetFeatures(features)).unwrap();
        for _ in 0..random(30) {
            let code = random(50) as u32;
            let len = [0, 8, 8, 8, 12, 16, 20, 24, 40, 40, 264][random(11) as usize];
            let body = (0..len).map(|_| if random(3) == 0 { random(256) as u8 } else { 0 }).collect();
            let fds = [0, 0, 1, 1, 2, 8][random(6) as usize];
            if frontend.send_frame(frame(code, flags::VERSION | (random(2) as u32) << 3, body, fds)).is_err()
            {
                break;
            }
            // Read what comes, so that the back end is not stopped by a full socket.
            while let Ok(Some(_)) = frontend.receive_frame(std::time::Duration::ZERO) {}
        }
    }
    assert!(daemon.is_alive());
    back_to(&daemon, &start);
    assert!(daemon.frontend().protocol().contains(ProtocolFeatures::CONFIG));
}
