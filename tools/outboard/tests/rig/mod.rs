//! What the tests of this directory share: back ends as processes of their own, and a look at them from outside.
#![allow(dead_code, reason = "each test file is a program of its own and uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

pub(crate) mod control;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Format, Frontend, Options, Wishes};

/// Longer than anything takes, on a machine that does a dozen other things.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Both ring formats.
pub(crate) const FORMATS: [Format; 2] = [Format::Split, Format::Packed];

/// A back end as a process. Killed when dropped.
pub(crate) struct Daemon {
    device: &'static str,
    args: Vec<String>,
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    /// Starts `outboard run DEVICE ARGS` with a socket in a directory of its own.
    pub(crate) fn spawn(device: &'static str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = start(device, &args, &dir.path().join("socket"));
        Self { device, args, child, dir }
    }

    /// Starts `outboard run DEVICE ARGS` with sockets that the arguments name, of which `socket` is one.
    pub(crate) fn spawn_devices(device: &'static str, args: &[&str], socket: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = start_at(device, &args, socket, &log_of(&dir.path().join("socket")));
        Self { device, args, child, dir }
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// A directory that goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as abruptly as a process can end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it anew, at the same socket. It must have ended.
    pub(crate) fn restart(&mut self) {
        self.child = start(self.device, &self.args, &self.socket());
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the back end does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Connects to it.
    pub(crate) fn connect(&self, options: Options) -> Frontend {
        Frontend::connect(self.socket(), options).unwrap()
    }

    /// A connection with the default options and long time limits.
    pub(crate) fn frontend(&self) -> Frontend {
        self.connect(patient())
    }

    /// A disk with the given queues.
    pub(crate) fn blk(&self, format: Format, queues: u16, queue_size: u16) -> Blk {
        Blk::open(self.frontend(), &blk_options(format, queues, queue_size)).unwrap()
    }

    /// What it has open and mapped, and how many threads run.
    pub(crate) fn resources(&self) -> Resources {
        Resources::of(self.pid())
    }

    /// The same when nobody is connected: it may still be busy with the end of the last connection, until it serves
    /// the next one.
    pub(crate) fn settled(&self) -> Resources {
        drop(self.frontend());
        let mut last = self.resources();
        eventually("the back end comes to rest", || {
            std::thread::sleep(Duration::from_millis(20));
            let before = std::mem::replace(&mut last, self.resources());
            before == last
        });
        last
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(log_of(&self.socket())).unwrap_or_default();
            eprintln!("the back end's log:\n{log}");
        }
    }
}

fn log_of(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

fn start(device: &str, args: &[String], socket: &Path) -> Child {
    let mut all = vec!["--socket-path".to_owned(), socket.to_str().unwrap().to_owned()];
    all.extend_from_slice(args);
    start_at(device, &all, socket, &log_of(socket))
}

fn start_at(device: &str, args: &[String], socket: &Path, log: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    command.args(["run", device, "--log-level=warn"]).args(args);
    let log = fs::File::options().create(true).append(true).open(log).unwrap();
    let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    // After a kill the old socket is still there, without anybody behind it.
    eventually("the back end listens", || std::os::unix::net::UnixStream::connect(socket).is_ok());
    child
}

/// Options whose time limits are beyond what any test needs.
pub(crate) fn patient() -> Options {
    Options { timeout: LONG, connect_timeout: LONG, ..Options::default() }
}

pub(crate) fn wishes(format: Format) -> Wishes {
    Wishes { format, ..Wishes::default() }
}

pub(crate) fn blk_options(format: Format, queues: u16, queue_size: u16) -> BlkOptions {
    let defaults = BlkOptions::default();
    BlkOptions { wishes: Wishes { format, ..defaults.wishes }, queues, queue_size, ..defaults }
}

/// Did it end by itself, with this status?
pub(crate) fn exited_with(status: ExitStatus, code: i32) -> bool {
    status.code() == Some(code) && status.signal().is_none()
}

/// What a process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) descriptors: usize,
    pub(crate) mappings: usize,
    pub(crate) threads: usize,
}

impl Resources {
    pub(crate) fn of(pid: u32) -> Self {
        let entries = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        Self { descriptors: entries("fd"), mappings: maps.lines().count(), threads: entries("task") }
    }
}

/// Waits for something to become true.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes that depend on a seed: no two sectors alike.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    });
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// Makes a file of zeroes.
pub(crate) fn file_of(path: impl AsRef<OsStr>, len: u64) -> PathBuf {
    let path = PathBuf::from(path.as_ref());
    fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}
