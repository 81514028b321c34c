//! The benchmark of file systems, and the driver under it, against a small file system that can be told to lie.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(dead_code, reason = "the networks and disks are for other tests")]
mod bench_devices;

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use outboard_device::defs::DeviceId;
use outboard_device::defs::fs::{
    Attr, AttrOut, EntryOut, FORGET, ForgetIn, GETATTR, INIT, INIT_MAX_PAGES, InHeader, InitIn, InitOut,
    IoIn, LOOKUP, OPEN, OpenIn, OpenOut, OutHeader, READ, RELEASE, ROOT, WRITE, WriteOut,
};
use outboard_device::{Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Profile};
use outboard_frontend::drivers::{Fs, FsFailure, FsOptions};
use outboard_frontend::{Error, Frontend, Options};
use serde_json::Value;
use zerocopy::{FromBytes, IntoBytes};

use bench_devices::Serving;

const OUTBOARD: &str = env!("CARGO_BIN_EXE_outboard");
/// Its only file.
const NAME: &str = "file";
const NODE: u64 = 77;
const HANDLE: u64 = 5;
const SIZE: usize = 100_000;

/// How an answer is spoiled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    /// Not at all.
    None,
    /// It has 15 bytes.
    Cut,
    /// Its header says less than itself.
    Short,
    /// Its header says more than was written.
    Long,
    /// It is to another request.
    Unique,
    /// It has this error.
    Error(i32),
    /// What follows the header has 4 bytes less.
    Body,
    /// It is about another file, or says that one byte less was moved.
    Other,
}

/// A file system with one file, which answers requests of one kind with a lie.
struct SmallFs {
    profile: Profile,
    state: Requests,
}

#[derive(Clone)]
struct Requests {
    data: Arc<Mutex<Vec<u8>>>,
    /// How often each kind of request came; FORGET counts what is given back.
    seen: Arc<Mutex<BTreeMap<u32, u64>>>,
    opcode: u32,
    lie: Lie,
}

impl SmallFs {
    fn new(opcode: u32, lie: Lie) -> Self {
        let profile = Profile::new(DeviceId::FS, "fs").parallel_queues("requests", 256, 3);
        let data = (0..SIZE).map(|at| (at % 251) as u8).collect();
        let state = Requests { data: Arc::new(Mutex::new(data)), seen: Arc::default(), opcode, lie };
        Self { profile, state }
    }
}

impl Device for SmallFs {
    type Handler = Requests;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<Requests, DeviceError> {
        Ok(self.state.clone())
    }
}

impl Requests {
    /// What stands behind the header of the answer, or the error.
    fn answer(&self, header: &InHeader, body: &[u8]) -> Result<Vec<u8>, i32> {
        let other = u64::from(self.lie == Lie::Other && self.opcode == header.opcode.get());
        let attr = |node: u64| Attr {
            ino: (node + other).into(),
            size: (SIZE as u64).into(),
            mode: if node == ROOT { 0o040_755 } else { 0o100_644 }.into(),
            ..Attr::default()
        };
        let node = header.nodeid.get();
        let answer = match header.opcode.get() {
            INIT => {
                let asked = InitIn::read_from_bytes(body).unwrap();
                let major = (asked.major.get() - other as u32).into();
                let flags = (asked.flags.get() & INIT_MAX_PAGES).into();
                let limits = InitOut { max_write: 8192.into(), max_pages: 4.into(), ..InitOut::default() };
                InitOut { major, minor: 40.into(), flags, ..limits }.as_bytes().to_vec()
            }
            LOOKUP if node == ROOT && body == b"file\0" => {
                // Another one each time.
                let nodeid = (NODE + other * self.seen.lock().unwrap()[&LOOKUP]).into();
                EntryOut { nodeid, attr: attr(NODE), ..EntryOut::default() }.as_bytes().to_vec()
            }
            LOOKUP if node == ROOT && body == b"negative\0" => EntryOut::default().as_bytes().to_vec(),
            LOOKUP => return Err(libc::ENOENT),
            GETATTR if [ROOT, NODE].contains(&node) => {
                AttrOut { attr: attr(node), ..AttrOut::default() }.as_bytes().to_vec()
            }
            OPEN if node == NODE => {
                OpenIn::read_from_bytes(body).unwrap();
                OpenOut { fh: HANDLE.into(), ..OpenOut::default() }.as_bytes().to_vec()
            }
            READ | WRITE if node == NODE => {
                let (asked, sent) = IoIn::read_from_prefix(body).unwrap();
                assert_eq!(asked.fh.get(), HANDLE);
                let mut data = self.data.lock().unwrap();
                let start = (asked.offset.get() as usize).min(SIZE);
                let end = (start + asked.size.get() as usize).min(SIZE) - other as usize;
                if header.opcode.get() == READ {
                    data[start..end].to_vec()
                } else {
                    data[start..end].copy_from_slice(&sent[..end - start]);
                    let size = ((end - start) as u32).into();
                    WriteOut { size, ..WriteOut::default() }.as_bytes().to_vec()
                }
            }
            RELEASE if node == NODE => Vec::new(),
            _ => return Err(libc::EINVAL),
        };
        Ok(answer)
    }
}

impl Handler for Requests {
    type Op = ();

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        let header: InHeader = chain.read_obj().unwrap();
        let mut body = vec![0; chain.readable_len()];
        chain.read_exact(&mut body).unwrap();
        assert_eq!(header.len.get() as usize, size_of::<InHeader>() + body.len());
        let opcode = header.opcode.get();
        let count = if opcode == FORGET {
            assert_eq!((chain.queue().0, chain.writable_len(), header.nodeid.get()), (0, 0, NODE));
            ForgetIn::read_from_bytes(&body).unwrap().nlookup.get()
        } else {
            1
        };
        *self.seen.lock().unwrap().entry(opcode).or_default() += count;
        if opcode == FORGET {
            return cx.done(chain);
        }
        let lie = if opcode == self.opcode { self.lie } else { Lie::None };
        let mut answer = self.answer(&header, &body);
        match (&mut answer, lie) {
            (answer, Lie::Error(error)) => *answer = Err(error),
            (Ok(bytes), Lie::Body) => bytes.truncate(bytes.len().saturating_sub(4)),
            _ => {}
        }
        let (bytes, error) = match answer {
            Ok(bytes) => (bytes, 0),
            Err(error) => (Vec::new(), -error),
        };
        let len = size_of::<OutHeader>() + bytes.len();
        let len = match lie {
            Lie::Short => 15,
            Lie::Long => len + 1,
            _ => len,
        };
        let unique = header.unique.get() + u64::from(lie == Lie::Unique);
        let head = OutHeader { len: (len as u32).into(), error: error.into(), unique: unique.into() };
        let mut all = head.as_bytes().to_vec();
        all.extend(bytes);
        if lie == Lie::Cut {
            all.truncate(15);
        }
        chain.write_all(&all).unwrap();
        cx.done(chain)
    }
}

fn bench(args: &[&str], socket: &str) -> Output {
    let mut command = Command::new(OUTBOARD);
    command.args(["bench", "fs"]).args(args).arg(socket);
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs with --json; it must succeed.
fn measured(args: &[&str], socket: &str) -> Value {
    let output = bench(args, socket);
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs; it must fail with status 1. What it says about it.
fn failure(args: &[&str], socket: &str) -> String {
    let output = bench(args, socket);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn bench_of_every_operation_counts_exactly_what_was_asked_for() {
    for (op, opcode, bytes) in
        [("getattr", GETATTR, 0), ("lookup", LOOKUP, 0), ("read", READ, 3000), ("write", WRITE, 3000)]
    {
        for format in ["split", "packed"] {
            let device = SmallFs::new(0, Lie::None);
            let seen = Arc::clone(&device.state.seen);
            let serving = Serving::start(device);
            let args = ["--op", op, "--path", NAME, "--requests=500", "--queues=2", "--bs=3000", "--depth=7"];
            let more = ["--destroy-data", "--json", "--format", format];
            let json = measured(&[&args[..], &more[..]].concat(), &serving.socket());
            assert_eq!(json["job"]["op"], op);
            let round = &json["targets"][0]["rounds"][0];
            assert_eq!((&round["requests"], &round["bytes"]), (&500.into(), &(500 * bytes).into()));
            let way = if op == "write" { "out" } else { "in" };
            assert_eq!(round[way]["requests"], 500);
            let seen = seen.lock().unwrap();
            let found = |opcode| seen.get(&opcode).copied().unwrap_or(0);
            assert_eq!(found(opcode), 500 + u64::from(op == "lookup"), "{seen:?}");
            assert_eq!((found(INIT), found(FORGET)), (1, found(LOOKUP)), "all lookups are given back");
            let opened = u64::from(["read", "write"].contains(&op));
            assert_eq!((found(OPEN), found(RELEASE)), (opened, opened));
        }
    }
}

#[test]
fn bench_without_a_path_asks_for_the_root() {
    let serving = Serving::start(SmallFs::new(0, Lie::None));
    let json = measured(&["--requests=100", "--json"], &serving.socket());
    assert_eq!((&json["device"], &json["job"]["path"]), (&"fs".into(), &Value::Null));
}

#[test]
fn bench_of_two_measures_either_in_a_session_of_its_own() {
    let device = SmallFs::new(0, Lie::None);
    let seen = Arc::clone(&device.state.seen);
    let (one, other) = (Serving::start(device), Serving::start(SmallFs::new(0, Lie::None)));
    let args =
        ["--op=read", "--path=file", "--requests=64", "--rounds=2", "--json", "--inflight", "--batch=4"];
    let more = ["--wait=poll", "--no-indirect", "--no-event-idx", "--vs", &other.socket()];
    let json = measured(&[&args[..], &more[..]].concat(), &one.socket());
    assert_eq!(json["targets"].as_array().unwrap().len(), 2);
    assert!(json["ratios"][0]["figures"]["requests_per_second"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!(seen.lock().unwrap()[&INIT], 2, "one in each round");
}

#[test]
fn bench_of_what_cannot_be_done_says_why() {
    let serving = Serving::start(SmallFs::new(0, Lie::None));
    let socket = serving.socket();
    for (args, said) in [
        (&["--op=write", "--path=file"][..], "it needs --destroy-data"),
        (&["--op=lookup"], "--op lookup needs --path"),
        (&["--op=read"], "--op read needs --path"),
        (&["--path=other"], "cannot find other: the device failed a request: No such file"),
        (&["--path=negative"], "No such file"),
        (&["--path=a/b"], "a name with a NUL or a slash"),
        (&["--path="], "a name of 0"),
        (&["--op=read", "--path=file", "--bs=1M"], "there is not one block of 1 MiB"),
        (&["--op=read", "--path=file", "--bs=17K"], "at most 16 KiB at once"),
        (&["--op=write", "--path=file", "--bs=16K", "--destroy-data"], "at most 8 KiB at once"),
        (&["--queues=3"], "queue 3, the device has 3"),
    ] {
        let text = failure(&[args, &["--requests=10"]].concat(), &socket);
        assert!(text.contains(said) && text.lines().count() == 1, "{args:?}: {text}");
    }
}

#[test]
fn bench_ends_at_each_answer_that_is_none() {
    let loaded = [(GETATTR, "getattr"), (LOOKUP, "lookup"), (READ, "read"), (WRITE, "write")];
    for (lie, said) in [
        (Lie::Cut, "is shorter than its header"),
        (Lie::Short, "is shorter than its header"),
        (Lie::Long, "says to be longer than what was written"),
        (Lie::Unique, "is to another request"),
        (Lie::Error(libc::EIO), "Input/output error"),
        (Lie::Error(-1), "has an error that does not exist"),
        (Lie::Error(512), "has an error that does not exist"),
    ] {
        for (opcode, op) in loaded.into_iter().chain([(INIT, "getattr"), (OPEN, "read"), (RELEASE, "read")]) {
            let serving = Serving::start(SmallFs::new(opcode, lie));
            let args = ["--op", op, "--path", NAME, "--requests=10", "--destroy-data"];
            let text = failure(&args, &serving.socket());
            assert!(text.contains(said), "{lie:?} {op}: {text}");
        }
    }
}

#[test]
fn bench_ends_at_each_answer_that_is_not_right() {
    for (opcode, op, lie, said) in [
        (GETATTR, "getattr", Lie::Body, "has another length"),
        (LOOKUP, "lookup", Lie::Body, "has another length"),
        (OPEN, "read", Lie::Body, "has another length"),
        (INIT, "read", Lie::Body, "has another length"),
        (READ, "read", Lie::Body, "a read of 4096 bytes within the file brought 4092"),
        (WRITE, "write", Lie::Body, "has another length"),
        (INIT, "getattr", Lie::Other, "another version of FUSE"),
        (LOOKUP, "lookup", Lie::Other, "file is found as node 79, before as 78"),
        (GETATTR, "getattr", Lie::Other, "the attributes are those of inode 78, not 77"),
        (READ, "read", Lie::Other, "a read of 4096 bytes within the file brought 4095"),
        (WRITE, "write", Lie::Other, "of 4096 bytes 4095 were written"),
    ] {
        let serving = Serving::start(SmallFs::new(opcode, lie));
        let args = ["--op", op, "--path", NAME, "--requests=10", "--destroy-data"];
        let text = failure(&args, &serving.socket());
        assert!(text.contains(said), "{lie:?} {op}: {text}");
    }
}

#[test]
fn driver_reads_a_file_to_its_end() {
    let device = SmallFs::new(0, Lie::None);
    let data = device.state.data.lock().unwrap().clone();
    let serving = Serving::start(device);
    let frontend = Frontend::connect(serving.socket(), Options::default()).unwrap();
    let mut fs = Fs::open(frontend, &FsOptions::default()).unwrap();
    assert_eq!((fs.read_max(), fs.write_max(), fs.session().minor.get()), (16384, 8192, 40));
    let node = fs.lookup(ROOT, NAME).unwrap().nodeid.get();
    assert_eq!(fs.getattr(node).unwrap().size.get(), SIZE as u64);
    let fh = fs.open_file(node, 0).unwrap();
    let mut out = vec![0; SIZE + 5000];
    assert_eq!(fs.read_at(node, fh, 10, &mut out).unwrap(), SIZE - 10);
    assert_eq!(out[..SIZE - 10], data[10..]);
    assert_eq!(fs.read_at(node, fh, SIZE as u64 + 1, &mut out).unwrap(), 0);
    let error = fs.lookup(ROOT, "other").unwrap_err();
    assert!(matches!(error, Error::Fs(FsFailure::Errno(libc::ENOENT))), "{error}");
    let error = fs.lookup(ROOT, &"n".repeat(256)).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert!(fs.lookup(ROOT, &"n".repeat(255)).is_err());
    fs.release(node, fh).unwrap();
    fs.forget(node, 1).unwrap();
    fs.close().unwrap();
}
