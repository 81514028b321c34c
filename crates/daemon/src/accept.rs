//! One front end after the other.
//!
//! Whoever can connect is not trusted: a connection that fails, in whatever way, ends itself and nothing else, and
//! a descriptor table that is full makes the loop wait, neither end nor spin.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use outboard_backend::Stop;

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who serves the front ends.
pub(crate) trait Service {
    /// Serves one, to its end.
    fn serve(&mut self, stream: UnixStream);

    /// Sleeps until `listener` is ready, the program is to stop, or `limit` is over; or for less. True if it is ready.
    ///
    /// # Errors
    /// The kernel does not let the thread sleep.
    fn wait(&mut self, listener: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<bool>;
}

/// Serves connections of `listener` until `stop`. The next one is accepted when the last has been served.
///
/// # Errors
/// When the listener cannot be made ready. Nothing later is an error.
pub(crate) fn accept_each(
    listener: &UnixListener,
    stop: &Stop,
    service: &mut impl Service,
) -> io::Result<()> {
    // A connection may be gone between poll and accept: accept must not wait for the next, or a signal would.
    listener.set_nonblocking(true)?;
    let mut pause = PAUSE_MIN;
    while let Some(ready) = wait(service, Some(listener), None, stop) {
        if !ready {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                pause = PAUSE_MIN;
                service.serve(stream);
            }
            // Also for one that is ready and has nobody: another process that listens here was faster, or it was shut
            // down, and then stays so.
            Err(error) => {
                // The first of a series is news.
                if pause > PAUSE_MIN || error.kind() == io::ErrorKind::WouldBlock {
                    tracing::debug!("cannot accept a connection: {error}");
                } else {
                    tracing::warn!("cannot accept a connection, will go on trying: {error}");
                }
                wait(service, None, Some(pause), stop);
                pause = PAUSE_MAX.min(pause * 2);
            }
        }
    }
    Ok(())
}

/// Whether `listener` is ready; `None`: stop.
pub(crate) fn wait(
    service: &mut impl Service,
    listener: Option<&UnixListener>,
    limit: Option<Duration>,
    stop: &Stop,
) -> Option<bool> {
    let ready = service.wait(listener.map(AsFd::as_fd), limit).unwrap_or_else(|_| {
        std::thread::sleep(PAUSE_MIN);
        false
    });
    (!stop.is_set()).then_some(ready)
}

#[cfg(test)]
mod tests;
