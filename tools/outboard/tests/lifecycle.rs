//! Connections come and go; the process stays what it was: descriptors, mappings and threads back to the start.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::os::fd::{AsFd, OwnedFd};

use outboard_frontend::drivers::{Blk, Rng};
use outboard_frontend::{Format, Frontend, Options, PROTOCOL_FEATURES};
use outboard_guest_memory::memfd;
use outboard_vhost_user::codec::write_request;
use outboard_vhost_user::payload::{Inflight, MemRegion, VringAddr};
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{Frame, Request};
use outboard_virtio_defs::features as bits;
use rig::{Daemon, FORMATS, Resources, blk_options, patient, wishes};
use rustix::event::{EventfdFlags, eventfd};

/// What the process holds when nobody is connected. The first connections make it load and allocate what it keeps.
fn at_rest(daemon: &Daemon, mut connect: impl FnMut()) -> Resources {
    for _ in 0..20 {
        connect();
    }
    daemon.settled()
}

fn assert_back_to(daemon: &Daemon, start: &Resources, what: &str) {
    // glibc keeps arenas (two mappings each, eight for each processor at most) and stacks of ended threads: on a busy
    // machine, where more threads live at once, mappings differ by these, but not by one for each connection.
    // Descriptors and threads are counted exactly.
    let slack = 32 * std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let now = daemon.settled();
    let counted = |of: &Resources| (of.descriptors, of.threads);
    assert_eq!(counted(&now), counted(start), "after {what}");
    let more = now.mappings.saturating_sub(start.mappings);
    assert!(more <= slack, "after {what}: {start:?} became {now:?}");
}

#[test]
fn rng_after_1000_connections_holds_what_it_held_before() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut connect = |nth: usize| {
        let mut rng = Rng::open(daemon.frontend(), &wishes(FORMATS[nth % 2])).unwrap();
        rng.fill(&mut [0; 16]).unwrap();
    };
    let start = at_rest(&daemon, || connect(0));
    (0..1000).for_each(&mut connect);
    assert_back_to(&daemon, &start, "1000 connections");
}

#[test]
fn blk_after_1000_connections_with_four_queues_holds_what_it_held_before() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let connect = |nth: usize| {
        let options = Options { memory: small_memory(), ..patient() };
        let mut blk = Blk::open(daemon.connect(options), &blk_options(FORMATS[nth % 2], 4, 16)).unwrap();
        blk.write_at(0, &[nth as u8; 512]).unwrap();
        if nth.is_multiple_of(3) {
            blk.close().unwrap();
        }
    };
    let start = at_rest(&daemon, || (0..2).for_each(connect));
    (0..1000).for_each(connect);
    assert_back_to(&daemon, &start, "1000 connections");
}

fn small_memory() -> outboard_frontend::Layout {
    outboard_frontend::Layout { regions: vec![outboard_frontend::RegionSpec::new(0x10_0000, 1 << 20)] }
}

#[test]
fn connections_closed_at_once_leave_nothing() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let connect = || drop(std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap());
    drop(daemon.frontend());
    let start = at_rest(&daemon, connect);
    (0..1000).for_each(|_| connect());
    assert_back_to(&daemon, &start, "1000 connections that said nothing");
}

/// The messages of a whole session with a disk: both memory messages, every ring message, everything optional.
fn dialogue(packed: bool) -> Vec<Request> {
    let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
    let memory = || memfd("lifecycle", 1 << 20).unwrap();
    let region = |at| MemRegion { guest_addr: at, size: 1 << 20, user_addr: at, mmap_offset: 0 };
    let socket = || OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0);
    let packed = if packed { bits::VIRTIO_F_RING_PACKED } else { 0 };
    let features = bits::VIRTIO_F_VERSION_1 | bits::VHOST_USER_F_PROTOCOL_FEATURES | packed;
    let base = if packed == 0 { 0 } else { 0x8000_8000 };
    let mut all = vec![
        Request::SetOwner,
        Request::GetFeatures,
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures((PROTOCOL_FEATURES & outboard_backend::PROTOCOL_FEATURES).0),
        Request::GetQueueNum,
        Request::GetMaxMemSlots,
        Request::SetBackendReqFd(socket()),
        Request::GetConfig { offset: 0, size: 60, flags: 0 },
        Request::SetStatus(3),
        Request::SetFeatures(features),
        Request::SetStatus(11),
        Request::GetStatus,
        Request::GetInflightFd(Inflight { num_queues: 2, queue_size: 64, ..Inflight::default() }),
        Request::SetMemTable(vec![(region(0), memory())]),
        Request::AddMemReg(region(1 << 30), memory()),
    ];
    for index in 0..2 {
        let at = u64::from(index) * 0x1_0000;
        all.extend([
            Request::SetVringErr { index, fd: Some(event()) },
            Request::SetVringNum { index, num: 64 },
            Request::SetVringBase { index, num: base },
            Request::SetVringAddr(VringAddr {
                index,
                flags: 0,
                descriptor: at,
                used: at + 0x2000,
                available: at + 0x1000,
                log: at + 0x2000,
            }),
            Request::SetVringCall { index, fd: Some(event()) },
            Request::SetVringKick { index, fd: Some(event()) },
            Request::SetVringEnable { index, enable: true },
        ]);
    }
    all.extend([
        Request::SetLogBase { size: 1 << 16, offset: 0, fd: Some(memory()) },
        Request::SetLogFd(event()),
        Request::SetFeatures(features | bits::VHOST_F_LOG_ALL),
        Request::SetStatus(15),
        Request::RemMemReg(region(1 << 30)),
        Request::GetVringBase { index: 0 },
        Request::ResetDevice,
    ]);
    all
}

/// Says the first `count` messages, waits for their answers, and hangs up.
fn say(daemon: &Daemon, count: usize, packed: bool, cut: bool) {
    let stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let limits = UnixOptions { idle_timeout: Some(rig::LONG), ..UnixOptions::default() };
    let mut transport = UnixTransport::with_options(stream, limits);
    let mut session = outboard_vhost_user::FrontendSession::new();
    for request in dialogue(packed).into_iter().take(count) {
        let code = request.code();
        let frame = session.encode(request).unwrap();
        transport.send(frame).unwrap();
        if session.expects_reply() {
            let frame = transport.receive().unwrap().unwrap_or_else(|| panic!("closed at {code}"));
            session.reply(frame).unwrap_or_else(|refusal| panic!("{refusal}"));
        }
    }
    if cut {
        cut_off(&transport, dialogue(packed).into_iter().nth(count));
    }
}

/// Sends a message's first bytes, with its descriptors, and not the rest.
fn cut_off(transport: &UnixTransport, request: Option<Request>) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let Some(frame) = request.and_then(|request| write_request(request, true).ok()) else { return };
    let bytes = frame.to_bytes();
    let Frame { fds, .. } = frame;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let message = SendAncillaryMessage::ScmRights(&fds);
    let mut space = vec![std::mem::MaybeUninit::uninit(); message.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(message));
    }
    let part = std::io::IoSlice::new(&bytes[..bytes.len() - 1]);
    sendmsg(transport.as_fd(), &[part], &mut control, SendFlags::NOSIGNAL).unwrap();
}

#[test]
fn disconnect_after_every_message_of_a_session_leaves_nothing() {
    for packed in [false, true] {
        let daemon = Daemon::spawn("blk", &["--ram=1M"]);
        let messages = dialogue(packed).len();
        let start = at_rest(&daemon, || say(&daemon, messages, packed, false));
        for cut in [false, true] {
            for count in 0..=messages {
                say(&daemon, count, packed, cut);
            }
        }
        assert_back_to(&daemon, &start, "disconnects everywhere");
    }
}

#[test]
fn second_connection_waits_until_the_first_is_over() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut first = Rng::open(daemon.frontend(), &wishes(Format::Split)).unwrap();
    let socket = daemon.socket();
    let second = std::thread::spawn(move || Frontend::connect(socket, patient()).map(drop));
    first.fill(&mut [0; 1000]).unwrap();
    assert!(!second.is_finished());
    drop(first);
    second.join().unwrap().unwrap();
}

#[test]
fn terminated_while_serving_ends_well_and_the_front_end_sees_it() {
    let mut daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let mut blk = daemon.blk(Format::Split, 1, 16);
    blk.write_at(0, &[1; 512]).unwrap();
    assert!(rig::exited_with(daemon.terminate(), 0));
    assert!(!daemon.socket().exists());
    let error = blk.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(error.is_disconnect(), "{error}");
}
