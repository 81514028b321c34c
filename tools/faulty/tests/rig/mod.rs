//! What the tests of this directory share: the program as a process.
#![allow(dead_code, reason = "each test file is a program of its own and uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use outboard_frontend::drivers::BlkOptions;
use outboard_frontend::{Format, Frontend, Options, Wishes};

/// Longer than anything takes, on a machine that does a dozen other things.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Both ring formats.
pub(crate) const FORMATS: [Format; 2] = [Format::Split, Format::Packed];

/// The program as a process. Killed when dropped.
pub(crate) struct Program {
    args: Vec<String>,
    child: Child,
    dir: tempfile::TempDir,
}

impl Program {
    /// Starts it with these arguments and a socket in a directory of its own.
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = spawn(&args, &dir.path().join("socket"));
        Self { args, child, dir }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it anew, at the same socket. It must have ended.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.args, &self.socket());
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its status once it has ended, and what it printed.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + LONG;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        (status, printed)
    }

    /// A connection with long time limits.
    pub(crate) fn frontend(&self) -> Frontend {
        let options = Options { timeout: LONG, connect_timeout: LONG, ..Options::default() };
        Frontend::connect(self.socket(), options).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(args: &[String], socket: &std::path::Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vhost-user-faulty"));
    command.arg("--socket-path").arg(socket).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let deadline = Instant::now() + LONG;
    // After a kill the old socket is still there, without anybody behind it.
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// A disk with one queue in this ring format.
pub(crate) fn options(format: Format) -> BlkOptions {
    let defaults = BlkOptions::default();
    BlkOptions { wishes: Wishes { format, ..defaults.wishes }, queue_size: 64, ..defaults }
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
