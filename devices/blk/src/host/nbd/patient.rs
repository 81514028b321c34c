//! A socket that does not block, made to wait until a deadline: for the handshake, which is a dialogue.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The socket, until the deadline.
pub(super) struct Patient<F> {
    pub(super) socket: F,
    pub(super) deadline: Instant,
}

impl<F: AsFd> Patient<F> {
    /// Waits for `flags`.
    pub(super) fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.socket, flags)], Some(&left)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                other => return other.map(|_| ()).map_err(Into::into),
            }
        }
    }
}

impl<F: AsFd> Read for Patient<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((count, _)) => return Ok(count),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<F: AsFd> Write for Patient<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            match send(&self.socket, buffer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => return Ok(count),
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same socket for those that come back later.
pub(super) struct Hasty<F>(pub(super) F);

impl<F: AsFd> Read for Hasty<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let received = rustix::io::retry_on_intr(|| recv(&self.0, &mut *buffer, RecvFlags::DONTWAIT));
        Ok(received.map(|(count, _)| count)?)
    }
}

impl<F: AsFd> Write for Hasty<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::io::retry_on_intr(|| send(&self.0, buffer, flags))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
