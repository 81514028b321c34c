//! One front end after the other.
//!
//! Whoever can connect is not trusted: a connection that fails, in whatever way, ends itself and nothing else, and
//! a descriptor table that is full makes the loop wait, neither end nor spin.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use outboard_backend::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Serves connections of `listener` until `stop`. The next one is accepted when `serve` is done with the last.
///
/// # Errors
/// When the listener cannot be made ready. Nothing later is an error.
pub(crate) fn accept_each(
    listener: &UnixListener,
    stop: &Stop,
    mut serve: impl FnMut(UnixStream),
) -> io::Result<()> {
    // A connection may be gone between poll and accept: accept must not wait for the next, or a signal would.
    listener.set_nonblocking(true)?;
    let mut pause = PAUSE_MIN;
    while wait(Some(listener), stop, None) {
        match listener.accept() {
            Ok((stream, _)) => {
                pause = PAUSE_MIN;
                serve(stream);
            }
            Err(error) => {
                // The first of a series is news. A listener that others accept from, too, may come away empty.
                if pause > PAUSE_MIN || error.kind() == io::ErrorKind::WouldBlock {
                    tracing::debug!("cannot accept a connection: {error}");
                } else {
                    tracing::warn!("cannot accept a connection, will go on trying: {error}");
                }
                wait(None, stop, Some(pause));
                pause = PAUSE_MAX.min(pause * 2);
            }
        }
    }
    Ok(())
}

/// Waits for a connection, for `stop`, or for the end of `limit`. False: stop.
fn wait(listener: Option<&UnixListener>, stop: &Stop, limit: Option<Duration>) -> bool {
    let mut fds = vec![PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    fds.extend(listener.map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)));
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match poll(&mut fds, limit.as_ref()) {
        // A signal is like a connection that turns out to be gone.
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => std::thread::sleep(PAUSE_MIN),
    }
    !stop.is_set()
}

#[cfg(test)]
mod tests;
