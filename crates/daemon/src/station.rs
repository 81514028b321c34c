//! A device with its front ends, one after the other, on a thread of its own: its control thread.
//!
//! The front end is not trusted: a connection that fails ends itself and nothing else. Nor is the device trusted to be
//! free of bugs: if one of its methods panics, the connection ends, and what goes on is the next connection and every
//! other device.

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use outboard_backend::{Backend, Served, Stop};
use outboard_device::Device;

use crate::accept::{Service, accept_each};
use crate::client::connect_each;
use crate::inherited::Inherited;
use crate::listen::SocketFile;
use crate::logging;

/// Where the front ends come from.
#[derive(Debug)]
pub(crate) enum Door {
    /// The socket of `--socket-path`.
    Path(SocketFile),
    /// The socket of `--socket-path`, where the front end listens (`--client`).
    Client(PathBuf),
    /// The socket of `--fd`.
    Inherited(Inherited),
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(socket) => write!(f, "{}", socket.path().display()),
            Self::Client(path) => write!(f, "{}", path.display()),
            Self::Inherited(Inherited::Listening(_)) => f.write_str("inherited, listening"),
            Self::Inherited(Inherited::Connected(_)) => f.write_str("inherited, connected"),
        }
    }
}

/// A device at work.
pub(crate) struct Station<D> {
    pub(crate) backend: Backend<D>,
    pub(crate) door: Door,
    pub(crate) stop: Stop,
}

/// A device's panic. What it was has been logged.
#[derive(Debug, thiserror::Error)]
#[error("the device panicked")]
struct Panicked;

impl<D: Device> Station<D> {
    /// Serves until the program is to stop, or the only connection is over.
    ///
    /// # Errors
    /// The socket cannot be used, or the only connection failed.
    pub(crate) fn run(self) -> Result<(), Box<dyn Error>> {
        let Self { backend, door, stop } = self;
        let mut desk = Desk { backend, stop };
        match door {
            Door::Inherited(Inherited::Connected(stream)) => desk.serve_one(stream),
            Door::Inherited(Inherited::Listening(listener)) => {
                tracing::info!("waiting for a front end on an inherited socket");
                desk.accept(&listener)
            }
            Door::Client(path) => {
                tracing::info!("connecting to a front end at {}", path.display());
                let stop = desk.stop.clone();
                connect_each(&path, &stop, &mut desk);
                Ok(())
            }
            Door::Path(socket) => {
                tracing::info!("waiting for a front end at {}", socket.path().display());
                desk.accept(socket.listener())
            }
        }
    }
}

struct Desk<D> {
    backend: Backend<D>,
    stop: Stop,
}

impl<D: Device> Desk<D> {
    fn accept(&mut self, listener: &UnixListener) -> Result<(), Box<dyn Error>> {
        let stop = self.stop.clone();
        Ok(accept_each(listener, &stop, self)?)
    }

    fn serve_one(&mut self, stream: UnixStream) -> Result<(), Box<dyn Error>> {
        // An inherited socket may be in either mode; an accepted one blocks.
        stream.set_nonblocking(false)?;
        tracing::info!("front end connected");
        // What a panic leaves behind in the device is the device's, and is reset with the next connection.
        match catch_unwind(AssertUnwindSafe(|| self.backend.serve(stream, &self.stop))) {
            Ok(Ok(Served::Closed)) => tracing::info!("front end disconnected"),
            Ok(Ok(Served::Stopped)) => tracing::info!("stopped"),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Panicked.into()),
        }
        Ok(())
    }
}

impl<D: Device> Service for Desk<D> {
    /// The connection's failure is its own.
    fn serve(&mut self, stream: UnixStream) {
        if let Err(error) = self.serve_one(stream) {
            tracing::error!("connection ended: {}", logging::one_line(error.as_ref()));
        }
    }

    /// What others ask for meanwhile may fail, and is then no reason to end.
    fn wait(&mut self, listener: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<bool> {
        catch_unwind(AssertUnwindSafe(|| self.backend.wait(listener, &self.stop, limit))).unwrap_or(Ok(false))
    }
}
