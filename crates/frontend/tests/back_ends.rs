//! The front end against back ends that do not do what they should: each fault is an error, and comes in time.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_frontend::{Error, Format, Frontend, Options, PROTOCOL_FEATURES, Waiting, Wishes};
use outboard_vhost_user::back_channel::{self, Message};
use outboard_vhost_user::message::flags;
use outboard_vhost_user::transport::Transport;
use outboard_vhost_user::{Answer, Frame, FrontendRequest, ProtocolFeatures, Reply, Request};
use outboard_virtio_defs::features as bits;

mod rig;

use rig::{
    FEATURES, Fake, LONG, Own, Says, before, before_one_that, before_one_with, brief, changed, good, options,
    patient, twisted,
};

#[test]
fn back_end_that_never_answers_is_given_up_in_time() {
    for code in
        [FrontendRequest::GET_FEATURES, FrontendRequest::GET_QUEUE_NUM, FrontendRequest::SET_BACKEND_REQ_FD]
    {
        let start = Instant::now();
        let (result, back_end) = before(brief(), FEATURES, twisted(code, |_| Some(Answer::Nothing)));
        assert!(matches!(result, Err(Error::Timeout { .. })), "{code}: {result:?}");
        assert!(start.elapsed() < LONG);
        drop(result);
        back_end.join().unwrap();
    }
}

#[test]
fn back_end_that_does_not_even_read_is_given_up_in_time() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    assert!(matches!(Frontend::from_stream(ours, brief()), Err(Error::Timeout { .. })));
}

#[test]
fn timeout_that_no_clock_can_hold_has_no_end() {
    let (result, back_end) = before(options(Duration::MAX), FEATURES, good());
    drop(result.unwrap());
    back_end.join().unwrap();
}

#[test]
fn back_end_that_goes_away_is_a_disconnect() {
    let code = FrontendRequest::GET_PROTOCOL_FEATURES;
    let (result, back_end) = before(patient(), FEATURES, twisted(code, |_| None));
    assert!(result.unwrap_err().is_disconnect());
    back_end.join().unwrap();
}

#[test]
fn answer_with_wrong_code_flags_or_size_is_refused() {
    let code = FrontendRequest::GET_PROTOCOL_FEATURES;
    let changes: [fn(&mut Frame); 5] = [
        |frame| frame.request += 1,
        |frame| frame.flags |= flags::NEED_REPLY,
        |frame| frame.flags = flags::VERSION,
        |frame| frame.body.truncate(4),
        |frame| frame.body.push(0),
    ];
    for change in changes {
        let twist = twisted(code, move |answer| changed(answer, change));
        let (result, back_end) = before(patient(), FEATURES, twist);
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
        drop(result);
        back_end.join().unwrap();
    }
}

#[test]
fn answer_cut_short_is_given_up_in_time() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let back_end = thread::spawn(move || {
        use std::io::{Read, Write};
        let mut theirs = theirs;
        // SET_OWNER has no answer yet; then GET_FEATURES.
        theirs.read_exact(&mut [0; 24]).unwrap();
        theirs.write_all(&[1, 0, 0, 0, 5]).unwrap();
        let _ = theirs.read(&mut [0; 1]);
    });
    let error = Frontend::from_stream(ours, brief()).unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error:?}");
    back_end.join().unwrap();
}

#[test]
fn nack_is_an_error_and_the_connection_goes_on() {
    let code = FrontendRequest::ADD_MEM_REG;
    let twist = twisted(code, |answer| changed(answer, |frame| frame.body[0] = 1));
    let (frontend, back_end) = before(patient(), FEATURES, twist);
    let mut frontend = frontend.unwrap();
    let error = frontend.agree(&Wishes::default()).unwrap_err();
    assert!(error.is_nack() && !error.is_disconnect(), "{error}");
    assert_eq!(frontend.device_status().unwrap() & 8, 8);
    drop(frontend);
    back_end.join().unwrap();
}

#[test]
fn back_channel_is_served_while_an_answer_is_waited_for() {
    let (frontend, back_end) = before(patient(), FEATURES, good());
    let mut frontend = frontend.unwrap();
    let mut config = [0; 60];
    frontend.read_config(0, &mut config).unwrap();
    assert_eq!(config, [7; 60]);
    assert_eq!((frontend.heard().config_changes, frontend.heard().refused), (2, 1));
    assert!(matches!(frontend.read_config(4, &mut config), Err(Error::ConfigRefused { offset: 4, len: 60 })));
    drop(frontend);
    back_end.join().unwrap();
}

#[test]
fn features_that_are_missing_or_not_accepted_are_errors() {
    let (frontend, _) = before(patient(), FEATURES, good());
    let packed = Wishes { format: Format::Packed, ..Wishes::default() };
    let error = frontend.unwrap().agree(&packed).unwrap_err();
    assert!(matches!(error, Error::FeaturesMissing(bits::VIRTIO_F_RING_PACKED)), "{error}");

    let twist = twisted(FrontendRequest::GET_STATUS, |answer| changed(answer, |frame| frame.body[0] &= !8));
    let (frontend, _) = before(patient(), FEATURES, twist);
    let error = frontend.unwrap().agree(&Wishes::default()).unwrap_err();
    assert!(matches!(error, Error::FeaturesRefused(_)), "{error}");
}

#[test]
fn agreement_is_what_is_both_wished_for_and_offered() {
    let (frontend, _) = before(patient(), FEATURES, good());
    let mut frontend = frontend.unwrap();
    assert_eq!(frontend.offer().queues, Some(2));
    assert_eq!(frontend.offer().memory_slots, Some(8));
    let agreed = frontend.agree(&Wishes::default()).unwrap();
    assert_eq!(agreed, bits::VIRTIO_F_VERSION_1 | bits::VIRTIO_F_EVENT_IDX);
    assert_eq!(frontend.features(), agreed | bits::VHOST_USER_F_PROTOCOL_FEATURES);
    assert!(!frontend.has_inflight());
}

#[test]
fn queue_that_nobody_serves_is_waited_for_in_vain_but_not_for_ever() {
    use outboard_frontend::Waiting::{Interrupt, Polling};
    let (frontend, back_end) = before(patient(), FEATURES, good());
    let mut frontend = frontend.unwrap();
    frontend.agree(&Wishes::default()).unwrap();
    let mut queue = frontend.start(1, 16).unwrap();
    assert!(matches!(frontend.start(1, 16), Err(Error::QueueState { index: 1, .. })));
    assert!(matches!(frontend.start(2, 16), Err(Error::NoSuchQueue { index: 2, queues: 2 })));
    let buffer = frontend.allocate(8).unwrap();
    queue.add::<(u64, u32), _>(&[], &[&buffer], 1).unwrap();
    queue.publish().unwrap();
    for how in [Interrupt, Polling] {
        assert!(!queue.wait(how, Duration::from_millis(20)).unwrap());
    }
    assert!(!frontend.wait(Duration::from_millis(20)).unwrap());
    drop(frontend);
    back_end.join().unwrap();
    for how in [Interrupt, Polling] {
        assert!(matches!(queue.wait(how, LONG), Err(Error::Disconnected)));
    }
}

#[test]
fn memory_of_a_stopped_queue_is_free_again() {
    let (frontend, _) = before(patient(), FEATURES, good());
    let mut frontend = frontend.unwrap();
    frontend.agree(&Wishes::default()).unwrap();
    for _ in 0..1000 {
        let queues = [frontend.start(0, 256).unwrap(), frontend.start(1, 256).unwrap()];
        frontend.reset(queues).unwrap();
        frontend.agree(&Wishes::default()).unwrap();
    }
    frontend.remove_region(0x1_0000).unwrap();
}

#[test]
fn path_without_a_listener_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let error = Frontend::connect(dir.path().join("none"), brief()).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[test]
fn path_whose_listener_never_accepts_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("busy");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let waiting: Vec<_> = (0..100).map_while(|_| connect_at_once(&path)).collect();
    assert!(waiting.len() < 100);
    let error = Frontend::connect(&path, brief()).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

fn connect_at_once(path: &std::path::Path) -> Option<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let flags = SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).ok().map(|()| socket)
}

#[test]
fn back_end_that_floods_the_back_channel_instead_of_answering_is_given_up_in_time() {
    let own: Own = Box::new(|fake, request| match request {
        Request::GetStatus => {
            let channel = fake.back_channel.as_mut().unwrap();
            let message = || back_channel::write_message(Message::ConfigChange, false).unwrap();
            // Until the front end gives up, and takes its end away.
            while channel.send(message()).is_ok() {}
            Ok(Ok(Reply::U64(0)))
        }
        other => Err(other),
    });
    let limit = options(Duration::from_secs(1));
    let (mut frontend, back_end) = before_one_with(limit, Says::new(FEATURES), own);
    assert!(matches!(frontend.device_status(), Err(Error::Timeout { .. })));
    assert!(frontend.listen().unwrap().config_changes > 0);
    assert!(frontend.wait(LONG).unwrap());
    drop(frontend);
    // It finds nobody to answer to.
    assert!(back_end.join().is_err());
}

#[test]
fn back_channel_requests_that_nothing_serves_are_refused_although_agreed_on() {
    let extra = ProtocolFeatures::SHARED_OBJECT | ProtocolFeatures::HOST_NOTIFIER;
    let own: Own = Box::new(|fake, request| match request {
        Request::GetStatus => {
            let page = || Some(outboard_guest_memory::memfd("page", 4096).unwrap());
            for message in [
                Message::SharedObjectAdd([1; 16]),
                Message::SharedObjectRemove([1; 16]),
                Message::SharedObjectLookup([1; 16]),
                Message::VringHostNotifier { index: 0, size: 4096, offset: 0, fd: page() },
                Message::VringHostNotifier { index: 0, size: 0, offset: 0, fd: None },
            ] {
                let channel = fake.back_channel.as_mut().unwrap();
                channel.send(back_channel::write_message(message, true).unwrap()).unwrap();
                let answer = channel.receive().unwrap().unwrap();
                assert_eq!((answer.body, answer.fds.len()), (1_u64.to_ne_bytes().to_vec(), 0));
            }
            Ok(Ok(Reply::U64(0)))
        }
        other => Err(other),
    });
    let protocol = PROTOCOL_FEATURES | extra;
    let options = Options { protocol, ..patient() };
    let (mut frontend, _) = before_one_with(options, Says { protocol, ..Says::new(FEATURES) }, own);
    assert!(frontend.protocol().contains(extra));
    frontend.device_status().unwrap();
    assert_eq!(frontend.heard().refused, 5);
}

#[test]
fn calls_without_end_for_nothing_do_not_keep_a_queue_waiting() {
    let (tell, told) = std::sync::mpsc::channel();
    let own: Own = Box::new(move |_, request| match request {
        Request::SetVringCall { fd: Some(fd), .. } => {
            tell.send(fd).unwrap();
            Ok(Ok(Reply::Ack))
        }
        other => Err(other),
    });
    let (mut frontend, _) = before_one_with(patient(), Says::new(FEATURES), own);
    frontend.agree(&Wishes::default()).unwrap();
    let mut queue = frontend.start(0, 16).unwrap();
    let call = told.recv_timeout(LONG).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = rustix::io::write(&call, &1_u64.to_ne_bytes());
            }
        });
        assert!(!queue.wait(Waiting::Interrupt, Duration::from_millis(100)).unwrap());
        done.store(true, Ordering::Relaxed);
    });
    assert!(queue.notifications().calls > 0);
}

#[test]
fn path_that_gets_its_listener_later_is_connected_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("late");
    let connecting = {
        let path = path.clone();
        thread::spawn(move || Frontend::connect(path, patient()).map(drop))
    };
    thread::sleep(Duration::from_millis(50));
    // A socket of the dead first.
    drop(UnixListener::bind(&path).unwrap());
    thread::sleep(Duration::from_millis(50));
    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let (stream, _) = listener.accept().unwrap();
    Fake::new(stream, Says::new(FEATURES)).serve(good());
    connecting.join().unwrap().unwrap();
}

/// Serves one connection after the other, each with its features.
fn listen(offers: Vec<u64>) -> (tempfile::TempDir, std::path::PathBuf, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let serving = thread::spawn(move || {
        for features in offers {
            let (stream, _) = listener.accept().unwrap();
            // Each connection ends when the front end makes the next one.
            thread::spawn(move || Fake::new(stream, Says::new(features)).serve(good()));
        }
    });
    (dir, path, serving)
}

#[test]
fn reconnect_to_a_lesser_back_end_is_an_error_and_can_be_tried_again() {
    let (_dir, path, serving) = listen(vec![FEATURES, FEATURES & !bits::VIRTIO_F_EVENT_IDX, FEATURES]);
    let mut frontend = Frontend::connect(path, patient()).unwrap();
    frontend.agree(&Wishes::default()).unwrap();
    let mut queue = frontend.start(0, 16).unwrap();
    let none: [&mut outboard_frontend::Queue; 0] = [];
    assert!(matches!(frontend.reconnect(none), Err(Error::QueueState { index: 0, .. })));
    let error = frontend.reconnect([&mut queue]).unwrap_err();
    assert!(matches!(error, Error::FeaturesMissing(bits::VIRTIO_F_EVENT_IDX)), "{error}");
    frontend.reconnect([&mut queue]).unwrap();
    assert!(frontend.protocol().contains(ProtocolFeatures::REPLY_ACK));
    serving.join().unwrap();
}

#[test]
fn reconnect_without_a_path_is_an_error() {
    let (frontend, _) = before(patient(), FEATURES, good());
    let none: [&mut outboard_frontend::Queue; 0] = [];
    assert!(matches!(frontend.unwrap().reconnect(none), Err(Error::NoPath)));
}

#[test]
fn raw_frames_pass_the_session_by() {
    let (frontend, _) = before(patient(), FEATURES, good());
    let mut frontend = frontend.unwrap();
    let ask = flags::VERSION | flags::NEED_REPLY;
    frontend
        .send_frame(Frame { request: 99, flags: ask, body: vec![1, 2, 3], fds: Vec::<OwnedFd>::new() })
        .unwrap();
    let reply = frontend.receive_frame(LONG).unwrap().unwrap();
    assert_eq!((reply.request, reply.flags), (99, flags::OF_REPLY));
    assert_ne!(reply.body, [0; 8]);
    assert!(frontend.receive_frame(Duration::from_millis(1)).unwrap().is_none());
}

#[test]
fn reset_is_by_what_is_agreed_and_tells_the_memory_again_where_it_may_be_forgotten() {
    use FrontendRequest as Code;
    let (status, reset) = (ProtocolFeatures::STATUS, ProtocolFeatures::RESET_DEVICE);
    let cases: [(_, &[Code]); 3] = [
        (PROTOCOL_FEATURES, &[Code::SET_STATUS]),
        (PROTOCOL_FEATURES - status, &[Code::RESET_DEVICE]),
        (PROTOCOL_FEATURES - status - reset, &[Code::RESET_OWNER, Code::SET_OWNER, Code::SET_MEM_TABLE]),
    ];
    for (protocol, expected) in cases {
        let (tell, told) = std::sync::mpsc::channel();
        let twist = Box::new(move |code: &Code, answer| {
            tell.send(*code).unwrap();
            Some(answer)
        });
        let says = Says { protocol, ..Says::new(FEATURES) };
        let (frontend, back_end) = before_one_that(patient(), says, twist);
        let mut frontend = frontend.unwrap();
        frontend.agree(&Wishes::default()).unwrap();
        let queue = frontend.start(0, 16).unwrap();
        frontend.reset([queue]).unwrap();
        drop(frontend);
        back_end.join().unwrap();
        let codes: Vec<Code> = told.iter().collect();
        let at = codes.iter().position(|code| *code == Code::GET_VRING_BASE).unwrap();
        assert_eq!(codes[at + 1..], *expected);
    }
}
