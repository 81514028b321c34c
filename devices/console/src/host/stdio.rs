//! The program's own standard input and output. A terminal is raw as long as the port is there; Ctrl-] ends the program.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use outboard_device::DeviceError;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::{Far, Watch};
use crate::Size;

/// Ctrl-], as of telnet.
const END: u8 = 0x1d;

/// A process has one of them.
static TAKEN: AtomicBool = AtomicBool::new(false);

pub(super) struct Stdio {
    input: OwnedFd,
    output: OwnedFd,
    /// How the terminal was, if it is one.
    before: Option<Termios>,
    /// The input is at its end.
    ended: bool,
    /// The input cannot be watched: it is a file.
    is_file: bool,
    _only: Only,
}

/// Gives it free.
struct Only;

impl Drop for Only {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Relaxed);
    }
}

impl Stdio {
    pub(super) fn open(watch: &Watch) -> Result<Self, DeviceError> {
        if TAKEN.swap(true, Ordering::Relaxed) {
            return Err(DeviceError::Invalid("two ports are to have stdio".to_owned()));
        }
        let only = Only;
        let failed = |error: io::Error| DeviceError::host("cannot use standard input and output", error);
        let input = unblocked(io::stdin().as_fd(), "/proc/self/fd/0", OFlags::RDONLY).map_err(failed)?;
        let output = unblocked(io::stdout().as_fd(), "/proc/self/fd/1", OFlags::WRONLY).map_err(failed)?;
        let is_file = match watch.add(&input, false) {
            Ok(()) => false,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => true,
            Err(error) => return Err(failed(error)),
        };
        // Likewise: a file always takes something.
        let _ = watch.add(&output, true);
        let before = match isatty(&input) {
            true => {
                let before = tcgetattr(&input).map_err(|error| failed(error.into()))?;
                let mut settings = before.clone();
                settings.make_raw();
                tcsetattr(&input, OptionalActions::Now, &settings).map_err(|error| failed(error.into()))?;
                Some(before)
            }
            false => None,
        };
        Ok(Self { input, output, before, ended: false, is_file, _only: only })
    }
}

/// The same file, opened anew so that it does not block us and still blocks others; a socket cannot be.
fn unblocked(fd: BorrowedFd<'_>, path: &str, way: OFlags) -> io::Result<OwnedFd> {
    let flags = way | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let is_file = File::from(fd.try_clone_to_owned()?).metadata()?.is_file();
    if !is_file && let Ok(opened) = rustix::fs::open(path, flags, Mode::empty()) {
        return Ok(opened);
    }
    let own = fd.try_clone_to_owned()?;
    if !is_file {
        rustix::fs::fcntl_setfl(&own, rustix::fs::fcntl_getfl(&own)? | OFlags::NONBLOCK)?;
    }
    Ok(own)
}

impl Far for Stdio {
    fn look(&mut self, _: Instant) -> bool {
        false
    }

    fn is_polled(&self) -> bool {
        self.before.is_some()
    }

    fn has_input(&self) -> bool {
        self.is_file && !self.ended
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = rustix::io::read(&self.input, &mut *into)?;
        self.ended = len == 0;
        if self.before.is_some() && into.get(..len).is_some_and(|bytes| bytes.contains(&END)) {
            kill_process(getpid(), Signal::TERM)?;
        }
        if len == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(len) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.output, bytes)?)
    }

    fn size(&self) -> Option<Size> {
        self.before.as_ref()?;
        let size = tcgetwinsize(self.input.as_fd()).ok()?;
        Some(Size { cols: size.ws_col, rows: size.ws_row }).filter(|size| size.cols > 0 && size.rows > 0)
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The terminal is gone.
            let _ = tcsetattr(&self.input, OptionalActions::Now, before);
        }
    }
}
