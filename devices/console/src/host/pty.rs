//! A pseudo terminal of the host: any program for terminals can be at it.
//!
//! Theory of operation. A master tells by a hang-up that nobody has the other side open, but not when somebody opens it: it is
//! looked at a few times a second. The other side is opened once at first, for otherwise there would be no hang-up before
//! the first user.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use outboard_device::DeviceError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use super::{Far, Watch};
use crate::Size;

pub(super) struct Pty {
    master: OwnedFd,
    path: PathBuf,
    link: Option<PathBuf>,
    is_open: bool,
}

impl Pty {
    pub(super) fn open(link: Option<&Path>, watch: &Watch) -> Result<Self, DeviceError> {
        let made = || -> io::Result<(OwnedFd, PathBuf)> {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
            grantpt(&master)?;
            unlockpt(&master)?;
            let path = ptsname(&master, Vec::new())?;
            let path = PathBuf::from(String::from_utf8_lossy(path.as_bytes()).into_owned());
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let other = rustix::fs::open(&path, flags, Mode::empty())?;
            // The guest's terminal does what there is to do to characters.
            let mut settings = tcgetattr(&other)?;
            settings.make_raw();
            tcsetattr(&other, OptionalActions::Now, &settings)?;
            drop(other);
            watch.add(&master, true)?;
            Ok((master, path))
        };
        let (master, path) =
            made().map_err(|error| DeviceError::host("cannot make a pseudo terminal", error))?;
        if let Some(link) = link {
            // A link of a program that was killed leads nowhere, or to somebody else's terminal.
            let is_old = std::fs::read_link(link).is_ok_and(|old| old.starts_with("/dev/pts"));
            let removed = if is_old { std::fs::remove_file(link) } else { Ok(()) };
            removed.and_then(|()| std::os::unix::fs::symlink(&path, link)).map_err(|error| {
                DeviceError::host(format!("cannot make the link {}", link.display()), error)
            })?;
        }
        tracing::info!("a port is at {}", path.display());
        Ok(Self { master, path, link: link.map(Path::to_path_buf), is_open: false })
    }
}

impl Far for Pty {
    fn look(&mut self, _: Instant) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut polled = [PollFd::new(&self.master, PollFlags::empty())];
        let count = poll(&mut polled, Some(&now));
        self.is_open =
            count.is_ok() && !polled.iter().any(|polled| polled.revents().contains(PollFlags::HUP));
        false
    }

    fn is_open(&self) -> bool {
        self.is_open
    }

    fn is_polled(&self) -> bool {
        true
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.master, into)?)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.master, bytes)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            len => Ok(len),
        }
    }

    fn size(&self) -> Option<Size> {
        let size = tcgetwinsize(self.master.as_fd()).ok().filter(|_| self.is_open)?;
        Some(Size { cols: size.ws_col, rows: size.ws_row }).filter(|size| size.cols > 0 && size.rows > 0)
    }

    fn address(&self) -> Option<String> {
        Some(format!("pty:{}", self.path.display()))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && std::fs::read_link(link).is_ok_and(|to| to == self.path)
        {
            // Somebody else has taken it away.
            let _ = std::fs::remove_file(link);
        }
    }
}
