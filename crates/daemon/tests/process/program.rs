//! The program under test, as a process, and a front end of a few bytes.
#![allow(unsafe_code)] // What a child inherits is set up between fork and exec.

use std::fs;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing here takes this long, however busy the machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A command that starts the program, and a directory for its socket and output.
pub(crate) struct Start {
    pub(crate) command: Command,
    directory: TempDir,
}

impl Start {
    pub(crate) fn new() -> Self {
        let tests = std::env::current_exe().unwrap();
        let program = tests.ancestors().nth(2).unwrap().join("examples/test-device");
        assert!(program.exists(), "{program:?} is built by `cargo test -p outboard-daemon` without --test");
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        for (name, set) in
            [("out", Command::stdout as fn(&mut Command, fs::File) -> &mut Command), ("err", Command::stderr)]
        {
            set(&mut command, fs::File::create(directory.path().join(name)).unwrap());
        }
        // What this test process inherited is not for the program.
        Self { command, directory }.before_exec(|| {
            // SAFETY: this only marks descriptors as close-on-exec.
            let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
            assert_eq!(result, 0);
        })
    }

    pub(crate) fn with(args: &[&str]) -> Self {
        let mut start = Self::new();
        start.command.args(args);
        start
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `--socket-path` in the directory.
    pub(crate) fn socket(mut self) -> Self {
        let path = self.path("socket");
        self.command.arg("--socket-path").arg(path);
        self
    }

    /// `--fd` with the number that the socket has here.
    pub(crate) fn fd(self, socket: &impl AsRawFd) -> Self {
        let number = socket.as_raw_fd();
        let mut start = self.inherit(&[number]);
        start.command.arg(format!("--fd={number}"));
        start
    }

    /// The program gets these descriptors.
    pub(crate) fn inherit(self, numbers: &[i32]) -> Self {
        let numbers = numbers.to_vec();
        self.before_exec(move || {
            for number in &numbers {
                // SAFETY: the descriptor is open in the parent while it spawns, so also here.
                let socket = unsafe { BorrowedFd::borrow_raw(*number) };
                rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
            }
        })
    }

    /// Runs `prepare` in the child. It must be async-signal-safe.
    pub(crate) fn before_exec(mut self, prepare: impl Fn() + Send + Sync + 'static) -> Self {
        // SAFETY: every caller passes bare system calls.
        unsafe {
            self.command.pre_exec(move || {
                prepare();
                Ok(())
            });
        }
        self
    }

    pub(crate) fn close(self, descriptors: &'static [i32]) -> Self {
        self.before_exec(move || {
            for number in descriptors {
                // SAFETY: standard descriptors, and nobody in the child uses them before exec.
                unsafe { libc::close(*number) };
            }
        })
    }

    pub(crate) fn block_signals(self) -> Self {
        self.before_exec(|| {
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: sigfillset initialises the set; the old mask is not asked for.
            unsafe {
                libc::sigfillset(set.as_mut_ptr());
                libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
            }
        })
    }

    pub(crate) fn spawn(mut self) -> Running {
        let child = self.command.spawn().unwrap();
        Running { child, directory: self.directory }
    }

    /// Starts the program and waits until it listens.
    pub(crate) fn listen(self) -> Running {
        let mut running = self.socket().spawn();
        let path = running.socket_path();
        wait_until("the socket", || {
            assert_eq!(running.child.try_wait().unwrap(), None, "{}", running.stderr());
            path.exists()
        });
        running
    }

    /// Starts the program and waits until it ends: status, standard output, standard error.
    pub(crate) fn run(self) -> (Option<i32>, String, String) {
        let mut running = self.spawn();
        let status = running.end();
        (status.code(), running.stdout(), running.stderr())
    }
}

/// The running program. Killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    directory: TempDir,
}

impl Running {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn socket_path(&self) -> PathBuf {
        self.path("socket")
    }

    pub(crate) fn connect(&self) -> FrontEnd {
        FrontEnd::at(&self.socket_path())
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(self.directory.path().join("out")).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.directory.path().join("err")).unwrap()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the end, and checks that standard output stayed clean.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the end of the program", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Sends the signal and gives the exit status and the time until the end.
    pub(crate) fn stop(&mut self, signal: Signal) -> (Option<i32>, Duration) {
        let start = Instant::now();
        self.signal(signal);
        let status = self.end();
        assert_eq!(self.stdout(), "");
        (status.code(), start.elapsed())
    }

    /// A file below `/proc/PID`.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    pub(crate) fn entries(&self, name: &str) -> usize {
        fs::read_dir(self.proc(name)).unwrap().count()
    }

    /// A number in base 16 from `/proc/PID/status`.
    pub(crate) fn signal_set(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    pub(crate) fn wait_for_line(&self, part: &str) {
        wait_until(part, || self.stderr().contains(part));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "still waiting for {what}");
        sleep(Duration::from_millis(1));
    }
}

/// GET_FEATURES: header only.
pub(crate) const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// The other end of a connection.
pub(crate) struct FrontEnd(pub(crate) UnixStream);

impl FrontEnd {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    /// A socket may be there before it listens: by microseconds, but it may.
    pub(crate) fn at(path: &Path) -> Self {
        let mut stream = None;
        wait_until("a connection", || {
            stream = UnixStream::connect(path).ok();
            stream.is_some()
        });
        Self::new(stream.unwrap())
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        self.0.write_all(message).unwrap();
    }

    /// The reply to GET_FEATURES: header with reply flag, and a u64.
    pub(crate) fn expect_features(&mut self) {
        let mut reply = [0; 20];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..12], [1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
    }

    pub(crate) fn ask_features(&mut self) {
        self.send(&GET_FEATURES);
        self.expect_features();
    }

    /// SET_PROTOCOL_FEATURES with CONFIG (bit 9), then GET_CONFIG of 4 bytes.
    pub(crate) fn send_get_config(&mut self) {
        self.send(&[16, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
        self.send(&[24, 0, 0, 0, 1, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// Whether the other end closes.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0)) || self.0.write(&GET_FEATURES).is_err()
    }
}
