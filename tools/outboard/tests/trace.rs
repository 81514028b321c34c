//! `outboard trace` between our front end and our back ends, and between two that say whatever they like: what comes
//! out is what went in, and what is shown is what was said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::fs::File;
use std::io::{BufWriter, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Format, Frontend};
use outboard_vhost_user::observe::{Channel, Seen, Side};
use outboard_vhost_user::recording::Recorder;
use rig::{Daemon, LONG, blk_options, eventually, file_of, patient, pattern};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program in the middle. Killed when dropped.
struct Tracer {
    child: Child,
    dir: tempfile::TempDir,
}

impl Tracer {
    /// Starts it in front of `back`; what it prints goes to a file, as JSON.
    fn spawn(back: &Path) -> Self {
        Self::with(back, &["--json"], None)
    }

    fn with(back: &Path, options: &[&str], stdout: Option<Stdio>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
        command.arg("trace").arg(dir.path().join("listen")).arg(back).args(options);
        command.arg("--record").arg(dir.path().join("recording"));
        let stdout = stdout.unwrap_or_else(|| File::create(dir.path().join("out")).unwrap().into());
        let child = command.stdin(Stdio::null()).stdout(stdout).spawn().unwrap();
        let this = Self { child, dir };
        eventually("the tracer listens", || this.socket().exists());
        this
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("listen")
    }

    fn recording(&self) -> PathBuf {
        self.dir.path().join("recording")
    }

    fn frontend(&self) -> Frontend {
        Frontend::connect(self.socket(), patient()).unwrap()
    }

    fn blk(&self) -> Blk {
        Blk::open(self.frontend(), &BlkOptions::default()).unwrap()
    }

    fn raw(&self) -> UnixStream {
        // Between bind and listen it is there, but nobody can connect.
        let mut socket = UnixStream::connect(self.socket());
        eventually("the tracer listens", || {
            if socket.is_err() {
                socket = UnixStream::connect(self.socket());
            }
            socket.is_ok()
        });
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }

    /// Asks it to end, and waits until it has.
    fn stop(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the tracer does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("out")).unwrap()
    }

    /// Ends it once the end of its only connection has been told: what it has printed, by line.
    fn told(&mut self) -> Vec<Value> {
        self.told_of(1)
    }

    /// The same for so many connections.
    fn told_of(&mut self, connections: usize) -> Vec<Value> {
        eventually("the end of every connection is told", || {
            self.printed().matches(r#""type":"closed""#).count() == connections
        });
        assert!(self.stop().success());
        assert!(!self.socket().exists(), "the socket stays behind");
        self.printed().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn messages(told: &[Value]) -> Vec<&Value> {
    told.iter().filter(|line| line["type"] == "message").collect()
}

/// The first message of a name and a kind.
fn the<'a>(told: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = told.iter().find(|line| line["kind"] == kind && line["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn use_disk(blk: &mut Blk) {
    let data = pattern(1, 64 << 10);
    blk.write_at(8, &data).unwrap();
    let mut back = vec![0; data.len()];
    blk.read_at(8, &mut back).unwrap();
    assert!(back == data);
}

#[test]
fn disk_behind_the_tracer_works_and_its_whole_dialogue_shows() {
    for format in rig::FORMATS {
        let daemon = Daemon::spawn("blk", &["--ram=1M"]);
        let mut tracer = Tracer::with(&daemon.socket(), &["--json", "--device", "blk"], None);
        let mut blk = Blk::open(tracer.frontend(), &blk_options(format, 2, 64)).unwrap();
        use_disk(&mut blk);
        drop(blk.close().unwrap());
        let told = tracer.told();
        for message in messages(&told) {
            assert_eq!(message["warnings"], Value::Array(vec![]), "{message}");
            if message["kind"] == "reply" {
                assert!(
                    message["answers"].as_u64().unwrap() > 0 && message["latency"].as_f64().unwrap() > 0.0
                );
            }
        }
        let features = &the(&told, "request", "SET_FEATURES")["fields"]["features"]["names"];
        let names: Vec<&str> =
            features.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(names.contains(&"VERSION_1") && names.contains(&"FLUSH"), "{names:?}");
        assert_eq!(names.contains(&"RING_PACKED"), format == Format::Packed);
        let memory =
            told.iter().find(|line| line["name"] == "ADD_MEM_REG" || line["name"] == "SET_MEM_TABLE");
        let memory = &memory.expect("memory is handed over")["fds"][0];
        assert_eq!(memory["kind"], "file");
        assert!(
            memory["name"].as_str().unwrap().starts_with("memfd:") && memory["size"].as_u64().unwrap() > 0
        );
        assert_eq!(the(&told, "request", "SET_VRING_KICK")["fds"][0]["kind"], "eventfd");
        assert_eq!(the(&told, "request", "SET_BACKEND_REQ_FD")["fds"][0]["kind"], "socket");
        assert_eq!(the(&told, "request", "SET_VRING_NUM")["fields"]["num"], 64);
        assert_eq!(the(&told, "reply", "GET_INFLIGHT_FD")["fds"][0]["kind"], "file");
        assert_eq!(the(&told, "reply", "GET_VRING_BASE")["fields"]["index"], 0);
        let closed = told.iter().find(|line| line["type"] == "closed").unwrap();
        assert_eq!((&closed["by"], &closed["unanswered"]), (&"front-end".into(), &Value::Array(vec![])));
    }
}

#[test]
fn change_of_the_configuration_is_passed_on_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), 1 << 20);
    let daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
    let mut tracer = Tracer::spawn(&daemon.socket());
    let mut blk = tracer.blk();
    File::options().write(true).open(path).unwrap().set_len(2 << 20).unwrap();
    daemon.signal(Signal::HUP);
    eventually("the change is told", || {
        blk.frontend().wait(Duration::from_millis(100)).unwrap();
        blk.frontend().heard().config_changes == 1
    });
    blk.refresh_config().unwrap();
    assert_eq!(blk.capacity(), 4096);
    drop(blk);
    let told = tracer.told();
    let change = the(&told, "request", "CONFIG_CHANGE_MSG");
    assert_eq!((&change["channel"], &change["from"]), (&"back-1".into(), &"back-end".into()));
    assert_eq!(change["warnings"], Value::Array(vec![]));
}

#[test]
fn back_end_that_is_killed_ends_the_connection_and_the_next_finds_its_successor() {
    let mut daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let mut tracer = Tracer::spawn(&daemon.socket());
    let mut first = tracer.raw();
    first.write_all(&message(1, 1, &[])).unwrap();
    let mut answer = [0; 20];
    first.read_exact(&mut answer).unwrap();
    daemon.kill();
    assert_eq!(first.read(&mut answer).unwrap(), 0, "the end is passed on");
    // Nobody is there: closed at once, so that whoever reconnects knows.
    let mut second = tracer.raw();
    assert!(matches!(second.read(&mut answer), Ok(0) | Err(_)));
    daemon.restart();
    use_disk(&mut tracer.blk());
    let told = tracer.told_of(2);
    let closed = told.iter().find(|line| line["type"] == "closed").unwrap();
    assert_eq!((&closed["connection"], &closed["by"]), (&1.into(), &"back-end".into()));
    let note = told.iter().find(|line| line["type"] == "note" && line["connection"] == 2).unwrap();
    assert!(note["text"].as_str().unwrap().contains("no back end at"), "{note}");
    assert!(told.iter().any(|line| line["type"] == "opened" && line["connection"] == 3));
}

#[test]
fn front_end_that_comes_before_the_back_end_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let back = dir.path().join("back");
    let tracer = Tracer::with(&back, &["--wait", "60"], None);
    let mut front = tracer.raw();
    front.write_all(&message(1, 1, &[])).unwrap();
    let listener = UnixListener::bind(&back).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut header = [0; 12];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header, message(1, 1, &[]).as_slice());
}

/// A front end and a back end that have nothing but the tracer in common.
struct Ends {
    tracer: Tracer,
    front: UnixStream,
    back: UnixStream,
    _dir: tempfile::TempDir,
}

fn ends() -> Ends {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("back")).unwrap();
    let tracer = Tracer::spawn(&dir.path().join("back"));
    let front = tracer.raw();
    let (back, _) = listener.accept().unwrap();
    back.set_read_timeout(Some(LONG)).unwrap();
    Ends { tracer, front, back, _dir: dir }
}

fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = [code, flags, body.len() as u32].map(u32::to_ne_bytes).concat();
    bytes.extend_from_slice(body);
    bytes
}

fn send(to: &UnixStream, bytes: &[u8], fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    assert_eq!(sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()), Ok(bytes.len()));
}

/// One read of at most so many bytes, as it comes.
fn receive(from: &UnixStream, most: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; most];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().flat_map(|ancillary| match ancillary {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    bytes.truncate(received.bytes);
    (bytes, fds)
}

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
}

#[test]
fn bytes_of_every_kind_arrive_as_they_were_sent() {
    let Ends { mut tracer, mut front, mut back, .. } = ends();
    let mut sent = Vec::new();
    sent.extend(message(99, 0xffff_ffff, b"unknown"));
    sent.extend(message(2, 1, &[1; 3]));
    sent.extend(message(5, 9, &pattern(3, 300 << 10)));
    sent.extend(message(1, 0, &[]));
    sent.extend(&[7; 5]);
    for piece in sent.chunks(70_001) {
        let mut front = front.try_clone().unwrap();
        let piece = piece.to_vec();
        let writer = std::thread::spawn(move || front.write_all(&piece).unwrap());
        writer.join().unwrap();
    }
    front.shutdown(std::net::Shutdown::Write).unwrap();
    let mut arrived = Vec::new();
    back.read_to_end(&mut arrived).unwrap();
    assert!(arrived == sent);
    // The other direction is still open, and as transparent.
    back.write_all(&sent).unwrap();
    drop(back);
    let mut arrived = Vec::new();
    front.read_to_end(&mut arrived).unwrap();
    assert!(arrived == sent);
    drop(front);
    let told = tracer.told();
    let found: Vec<_> = messages(&told).iter().map(|message| message["length"].as_u64().unwrap()).collect();
    let lengths = [19, 15, (300 << 10) + 12, 12, 5];
    assert_eq!(found, [lengths, lengths].concat());
    assert!(messages(&told).iter().all(|message| message["warnings"] != Value::Array(vec![])));
}

#[test]
fn message_announced_longer_than_any_memory_passes_piece_by_piece() {
    let Ends { tracer, mut front, back, .. } = ends();
    let mut header = message(2, 1, &[]);
    header[8..].copy_from_slice(&u32::MAX.to_ne_bytes());
    front.write_all(&header).unwrap();
    assert_eq!(receive(&back, 100).0, header);
    for nth in 0..100_u8 {
        front.write_all(&[nth; 1000]).unwrap();
        let mut arrived = [0; 1000];
        (&back).read_exact(&mut arrived).unwrap();
        assert_eq!(arrived, [nth; 1000]);
    }
    drop(tracer);
}

#[test]
fn header_and_payload_arrive_with_one_read() {
    let Ends { tracer: _tracer, front, back, .. } = ends();
    for size in [8, 256, 2056] {
        send(&front, &message(1, 5, &vec![1; size]), &[]);
        eventually("all of it is there", || {
            let mut bytes = [0; 4096];
            let (_, count) = rustix::net::recv(&back, &mut bytes[..], RecvFlags::PEEK).unwrap();
            // Never the header alone: it came with its payload, and so it goes.
            assert_eq!(count, 12 + size);
            true
        });
        receive(&back, 4096);
    }
}

#[test]
fn descriptors_stay_with_the_bytes_they_came_with() {
    let Ends { mut tracer, front, back, .. } = ends();
    // Back to back, so that one read could take several of them.
    let fds = files(253);
    let all: Vec<&OwnedFd> = fds.iter().collect();
    send(&front, &message(3, 1, &[]), &[]);
    send(&front, &message(12, 1, &[0; 8]), &all[..1]);
    send(&front, &message(3, 1, &[]), &[]);
    send(&front, &message(5, 1, &[2; 20]), &all);
    let odd = message(9, 1, &[3; 40]);
    send(&front, &odd[..30], &[]);
    send(&front, &odd[30..], &all[..2]);
    // As receivers read: the header, then the payload.
    let mut arrived = Vec::new();
    for body in [0, 8, 0, 20, 40] {
        let (header, with_header) = receive(&back, 12);
        assert_eq!(header.len(), 12);
        let (payload, with_payload) = if body > 0 { receive(&back, body) } else { Default::default() };
        assert_eq!(payload.len(), body);
        arrived.push((with_header.len(), with_payload.len()));
    }
    assert_eq!(arrived, [(0, 0), (1, 0), (0, 0), (253, 0), (0, 2)]);
    drop((front, back));
    let told = tracer.told();
    let counts: Vec<_> =
        messages(&told).iter().map(|message| message["fds"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [0, 1, 0, 253, 2]);
}

#[test]
fn descriptors_are_not_kept() {
    let Ends { tracer, front, back, .. } = ends();
    let (read, write) = rustix::pipe::pipe().unwrap();
    send(&front, &message(42, 1, &[0; 8]), &[&write]);
    drop(write);
    let (_, fds) = receive(&back, 100);
    assert_eq!(fds.len(), 1);
    drop(fds);
    // Hung up once nobody, the tracer included, holds the other end any more.
    let limit = Timespec::try_from(LONG).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&limit)), Ok(1));
    drop(tracer);
}

#[test]
fn back_channel_that_is_no_socket_is_passed_on_as_it_is() {
    let Ends { tracer: _tracer, front, back, .. } = ends();
    let fds = files(1);
    send(&front, &message(21, 1, &[]), &[&fds[0]]);
    let (_, fds) = receive(&back, 100);
    assert_eq!(
        std::fs::read_link(format!("/proc/self/fd/{}", raw(&fds[0]))).unwrap(),
        Path::new("/dev/null")
    );
}

fn raw(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

#[test]
fn back_channel_sent_again_is_followed_as_well() {
    let Ends { mut tracer, front, back, .. } = ends();
    for nth in [1_u32, 2] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LONG)).unwrap();
        send(&front, &message(21, 1, &[]), &[&OwnedFd::from(theirs)]);
        let (_, fds) = receive(&back, 100);
        let channel = UnixStream::from(fds.into_iter().next().unwrap());
        let change = message(2, nth, &[]);
        (&channel).write_all(&change).unwrap();
        assert_eq!(receive(&ours, 100).0, change);
        (&ours).write_all(&message(2, 5, &[0; 8])).unwrap();
        assert_eq!(receive(&channel, 100).0, message(2, 5, &[0; 8]));
        drop(channel);
        assert_eq!((&ours).read(&mut [0; 8]).unwrap(), 0, "the end of a back channel is passed on");
    }
    drop((front, back));
    let told = tracer.told();
    let channels: Vec<_> =
        messages(&told).iter().map(|message| message["channel"].as_str().unwrap()).collect();
    assert_eq!(channels, ["main", "back-1", "back-1", "main", "back-2", "back-2"]);
}

#[test]
fn back_channel_that_outlives_its_connection_is_shown_as_part_of_it() {
    let Ends { mut tracer, front, back, .. } = ends();
    let (ours, theirs) = UnixStream::pair().unwrap();
    send(&front, &message(21, 1, &[]), &[&OwnedFd::from(theirs)]);
    let (_, fds) = receive(&back, 100);
    drop((front, back));
    eventually("the end of the main channel is told", || tracer.printed().contains("closed"));
    let channel = UnixStream::from(fds.into_iter().next().unwrap());
    (&channel).write_all(&message(2, 1, &[])).unwrap();
    assert_eq!(receive(&ours, 100).0, message(2, 1, &[]));
    let told = tracer.told();
    assert_eq!(the(&told, "request", "CONFIG_CHANGE_MSG")["number"], 2);
}

#[test]
fn end_of_one_half_leaves_the_other_open() {
    let Ends { tracer, front, back, .. } = ends();
    send(&front, &message(1, 1, &[]), &[]);
    rustix::net::shutdown(&front, Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    (&back).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, message(1, 1, &[]));
    for nth in 0..10 {
        send(&back, &message(nth, 5, &[]), &[]);
        assert_eq!(receive(&front, 100).0, message(nth, 5, &[]));
    }
    drop(front);
    // Now that nobody reads any more, writing fails, as it would without anybody between.
    eventually("the end is passed on", || (&back).write_all(&message(1, 5, &[])).is_err());
    drop(tracer);
}

#[test]
fn output_that_nobody_reads_changes_nothing() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    // Closed before anything is printed; and open, but never read, so that the pipe is full soon.
    for closed in [true, false] {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut read = Some(read);
        if closed {
            read = None;
        }
        let mut tracer = Tracer::with(&daemon.socket(), &["--json"], Some(write.into()));
        for _ in 0..8 {
            use_disk(&mut tracer.blk());
        }
        assert!(tracer.stop().success());
        assert!(!tracer.socket().exists());
        drop(read);
    }
}

/// A pipe with no room left, and its other end.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    while rustix::io::write(&write, &[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&write, rustix::fs::OFlags::empty()).unwrap();
    (read, write)
}

/// A tracer that cannot print, and the two that it is between.
fn ends_of_a_mute() -> (Ends, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("back")).unwrap();
    let (read, write) = full_pipe();
    let tracer = Tracer::with(&dir.path().join("back"), &[], Some(write.into()));
    let front = tracer.raw();
    let (back, _) = listener.accept().unwrap();
    (Ends { tracer, front, back, _dir: dir }, read)
}

/// The most memory that a process has used so far, in KiB.
fn memory_at_most(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    most.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn messages_that_nobody_reads_are_not_held_without_bounds() {
    let (Ends { tracer, mut front, mut back, .. }, _unread) = ends_of_a_mute();
    let message = message(99, 1, &[7; 60_000]);
    let drain = std::thread::spawn(move || std::io::copy(&mut back, &mut std::io::sink()));
    for _ in 0..3000 {
        front.write_all(&message).unwrap();
    }
    let most = memory_at_most(tracer.child.id());
    assert!(most < 120 << 10, "{most} KiB at the most");
    drop(front);
    drop(tracer);
    drain.join().unwrap().unwrap();
}

#[test]
fn descriptors_of_one_message_are_remembered_up_to_a_limit() {
    let Ends { mut tracer, front, back, .. } = ends();
    let bytes = message(1, 1, &[0; 300]);
    let file = files(1);
    let mut passed = 0;
    for byte in &bytes {
        send(&front, std::slice::from_ref(byte), &[&file[0]]);
    }
    while passed < bytes.len() {
        passed += receive(&back, 400).1.len();
    }
    drop((front, back));
    let told = tracer.told();
    let message = told.iter().find(|line| line["type"] == "message").unwrap();
    assert_eq!(message["fds"].as_array().unwrap().len(), 253);
}

#[test]
fn requests_without_an_answer_are_told_at_the_end() {
    let Ends { mut tracer, front, back, .. } = ends();
    send(&front, &message(1, 1, &[]), &[]);
    receive(&back, 100);
    drop((front, back));
    let told = tracer.told();
    let closed = told.iter().find(|line| line["type"] == "closed").unwrap();
    assert_eq!(closed["unanswered"], serde_json::json!([{ "number": 1, "name": "GET_FEATURES" }]));
}

#[test]
fn recording_shows_again_what_was_shown() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut tracer = Tracer::with(&daemon.socket(), &[], None);
    drop(outboard_frontend::drivers::Rng::open(tracer.frontend(), &rig::wishes(Format::Split)).unwrap());
    eventually("the end is shown", || tracer.printed().contains("closed by the front end"));
    assert!(tracer.stop().success());
    let printed = tracer.printed();
    let of_messages: Vec<&str> = printed.lines().filter(|line| !line.contains("connection 1")).collect();
    let again = outboard(&["trace", "--read", tracer.recording().to_str().unwrap()]);
    let shown = String::from_utf8(again.stdout).unwrap();
    assert!(of_messages.len() > 20);
    assert_eq!(shown.lines().collect::<Vec<_>>(), of_messages);
    assert!(!printed.contains('\x1b'), "colour where there is no terminal");
}

fn outboard(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_outboard")).args(args).output().unwrap()
}

fn replay(recording: &Path, back: &Path, options: &[&str]) -> (Option<i32>, String, String) {
    let done =
        outboard(&[&["replay", recording.to_str().unwrap(), back.to_str().unwrap()], options].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// A disk of so many bytes, in a file in `directory`.
fn disk(directory: &Path, bytes: u64) -> Daemon {
    let path = file_of(directory.join("disk"), bytes);
    Daemon::spawn("blk", &[&format!("--blk-file={}", path.display()), "--serial=x"])
}

/// A recording of a disk in use, with a change of its size.
fn recorded_disk(format: Format) -> Tracer {
    let dir = tempfile::tempdir().unwrap();
    let daemon = disk(dir.path(), 1 << 20);
    let mut tracer = Tracer::spawn(&daemon.socket());
    let mut blk = Blk::open(tracer.frontend(), &blk_options(format, 2, 64)).unwrap();
    use_disk(&mut blk);
    drop(blk.close().unwrap());
    assert!(tracer.stop().success());
    tracer
}

#[test]
fn replay_against_the_same_device_finds_no_difference() {
    for format in rig::FORMATS {
        let tracer = recorded_disk(format);
        let dir = tempfile::tempdir().unwrap();
        let daemon = disk(dir.path(), 1 << 20);
        for options in [&[][..], &["--paced"]] {
            let (status, out, err) = replay(&tracer.recording(), &daemon.socket(), options);
            assert_eq!(status, Some(0), "{out}{err}");
            assert!(out.contains("no difference"), "{out}");
        }
        // SET_OWNER, GET_FEATURES, the answer, GET_PROTOCOL_FEATURES.
        let (status, out, _) = replay(&tracer.recording(), &daemon.socket(), &["--until", "4", "--json"]);
        let summary: Value = serde_json::from_str(out.trim()).unwrap();
        assert_eq!((status, &summary["said"], &summary["compared"]), (Some(0), &3.into(), &1.into()));
    }
    let daemon = Daemon::spawn("rng", &[]);
    let mut tracer = Tracer::spawn(&daemon.socket());
    drop(outboard_frontend::drivers::Rng::open(tracer.frontend(), &rig::wishes(Format::Split)).unwrap());
    assert!(tracer.stop().success());
    let recording = tracer.recording();
    let again = [env!("CARGO_BIN_EXE_outboard"), "run", "rng", "--log-level=error"];
    let done = outboard(&[&["replay", recording.to_str().unwrap(), "--"][..], &again].concat());
    assert_eq!(done.status.code(), Some(0), "{done:?}");
}

#[test]
fn replay_against_a_disk_of_another_size_shows_it() {
    let tracer = recorded_disk(Format::Split);
    let dir = tempfile::tempdir().unwrap();
    let daemon = disk(dir.path(), 2 << 20);
    let (status, out, err) = replay(&tracer.recording(), &daemon.socket(), &[]);
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("GET_CONFIG: data from byte 1 of"), "{out}");
    let (status, out, _) = replay(&tracer.recording(), &daemon.socket(), &["--json"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (status, &lines[0]["name"], &lines[0]["what"]),
        (Some(1), &"GET_CONFIG".into(), &"data".into())
    );
}

#[test]
fn replay_against_another_device_ends_with_the_differences() {
    let tracer = recorded_disk(Format::Split);
    let daemon = Daemon::spawn("rng", &[]);
    let (status, out, err) = replay(&tracer.recording(), &daemon.socket(), &["--timeout", "60"]);
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("GET_FEATURES: features"), "{out}");
}

#[test]
fn replay_against_a_back_end_that_does_not_answer_ends() {
    let tracer = recorded_disk(Format::Split);
    let dir = tempfile::tempdir().unwrap();
    let _silent = UnixListener::bind(dir.path().join("back")).unwrap();
    let (status, out, err) = replay(&tracer.recording(), &dir.path().join("back"), &["--timeout", "1"]);
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(out.contains("no answer within 1 s, recorded an answer"), "{out}");
}

#[test]
fn replay_does_not_hold_the_whole_recording() {
    let dir = tempfile::tempdir().unwrap();
    let (recording, socket) = (dir.path().join("recording"), dir.path().join("socket"));
    let mut recorder = Recorder::new(BufWriter::new(File::create(&recording).unwrap())).unwrap();
    let seen = |from, bytes: Vec<u8>| {
        let (channel, time, len) = (Channel::MAIN, Duration::ZERO, bytes.len() as u64);
        Seen { connection: 1, channel, from, time, bytes, len, fds: Vec::new() }
    };
    recorder.add(&seen(Side::FrontEnd, message(1, 1, &[]))).unwrap();
    recorder.add(&seen(Side::BackEnd, message(1, 5, &[0; 8]))).unwrap();
    for _ in 0..2000 {
        recorder.add(&seen(Side::FrontEnd, message(99, 1, &[7; 60_000]))).unwrap();
    }
    drop(recorder);
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    command.arg("replay").args([&recording, &socket]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It waits for the first answer now.
    let (mut back, _) = listener.accept().unwrap();
    back.read_exact(&mut [0; 12]).unwrap();
    let most = memory_at_most(child.id());
    drop(back);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(most < 60 << 10, "{most} KiB at the most");
}

#[test]
fn replay_of_what_is_no_recording_says_so() {
    let tracer = recorded_disk(Format::Split);
    let good = std::fs::read(tracer.recording()).unwrap();
    let bad = tracer.dir.path().join("bad");
    let mut cases = vec![
        (b"something else altogether".to_vec(), "not a recording"),
        (Vec::new(), "not a recording"),
        (good[..good.len() - 1].to_vec(), "the recording ends within message"),
        (good[..16].to_vec(), "has no message of connection 1"),
    ];
    let mut newer = good.clone();
    newer[8] = 9;
    cases.push((newer, "a recording of version 9"));
    // A file that no host has room for.
    let mut huge = good.clone();
    let names = (0..huge.len()).filter(|&at| huge[at..].starts_with(b"memfd:"));
    for name in names.collect::<Vec<_>>() {
        huge[name - 9..name - 1].copy_from_slice(&u64::MAX.to_le_bytes());
    }
    cases.push((huge, "cannot make what it carries"));
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    for (bytes, complaint) in cases {
        std::fs::write(&bad, bytes).unwrap();
        let (status, out, err) = replay(&bad, &daemon.socket(), &[]);
        assert_eq!(status, Some(2), "{complaint}: {out}{err}");
        assert!(err.contains(complaint), "{complaint}: {err}");
    }
}
