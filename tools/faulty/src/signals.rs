//! SIGTERM and SIGINT end the program, SIGHUP has the device look at its host side again. Each becomes a byte in a
//! socket that the loop polls.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

pub(crate) struct Signals {
    stop: UnixStream,
    refresh: UnixStream,
}

impl Signals {
    pub(crate) fn catch() -> io::Result<Self> {
        let stop = Self::on(&[SIGTERM, SIGINT])?;
        let refresh = Self::on(&[SIGHUP])?;
        refresh.set_nonblocking(true)?;
        Ok(Self { stop, refresh })
    }

    fn on(signals: &[i32]) -> io::Result<UnixStream> {
        let (read, write) = UnixStream::pair()?;
        for &signal in signals {
            pipe::register(signal, write.try_clone()?)?;
        }
        Ok(read)
    }

    /// Readable once the program is to end.
    pub(crate) fn stop(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Readable after a SIGHUP.
    pub(crate) fn refresh(&self) -> BorrowedFd<'_> {
        self.refresh.as_fd()
    }

    pub(crate) fn take_refresh(&self) {
        let mut bytes = [0; 64];
        let _ = rustix::io::read(&self.refresh, &mut bytes);
    }
}
