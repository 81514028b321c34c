//! The driving socket and the script of what is simulated: keys that are typed, lines that change, temperatures that rise.
//!
//! Who can connect may drive (the socket is the user's own), and is not trusted beyond that: what is kept for a client is
//! bounded, and one that does not read is let go. The script is the command line's.
//!
//! Theory of operation. One thread per device that has either. It carries out commands itself, one at a time, in the order in
//! which they come, and blocks on nobody: what is driven is state under a lock that everybody holds for a moment. What the
//! guest does reaches the clients that watch through a queue and a [`Notice`], so that a worker never waits for a client.

mod script;
mod server;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use outboard_backend::{Notice, Stop};
use outboard_device::DeviceError;
use outboard_device::serde_json::Value;

use crate::listen::SocketFile;
use script::Script;
use server::Server;

/// How many events wait for the thread; the oldest goes when there are more.
const EVENTS: usize = 4096;

/// The options of what is simulated.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DriveArgs {
    /// Create this UNIX socket, of mode 0600, to drive what is simulated: a JSON object a line, an answer to each
    #[arg(long, value_name = "PATH", help_heading = "Simulation")]
    pub drive: Option<PathBuf>,

    /// Drive what is simulated by the lines of this file, from when the guest first uses the device
    ///
    /// A line is {"command": .., "arguments": {..}} with "after": N, milliseconds since the line before, or "at": N, since the
    /// beginning.
    #[arg(long, value_name = "FILE", help_heading = "Simulation")]
    pub script: Option<PathBuf>,

    /// Begin the script anew at its end
    #[arg(long, requires = "script", help_heading = "Simulation")]
    pub script_repeat: bool,
}

/// What is driven.
pub trait Driven: Send + Sync + 'static {
    /// Carries out a command, of the driving socket, the script or the control socket
    /// ([`Device::control`](outboard_device::Device::control) forwards to it). It must not block.
    ///
    /// # Errors
    /// [`DeviceError::UnknownCommand`], or what is wrong with the command, for whoever sent it.
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError>;
}

/// Tells those who drive what the guest does. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Teller(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: Mutex<Events>,
    /// There are events, or the script begins.
    bell: Notice,
    /// Clients that watch.
    watchers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Events {
    waiting: Vec<Value>,
    /// When the script's clock began.
    begun: Option<Instant>,
}

impl Shared {
    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Teller {
    /// For a [`Driver`] that is started next.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new() -> Result<Self, DeviceError> {
        let bell = Notice::new().map_err(|error| DeviceError::host("cannot make an event", error))?;
        Ok(Self(Arc::new(Shared { events: Mutex::default(), bell, watchers: AtomicUsize::new(0) })))
    }

    /// Tells `event`, an object such as `{"event": "led", ..}`, to clients that have sent `{"command": "watch"}`. Costs nothing if
    /// there are none.
    pub fn tell(&self, event: impl FnOnce() -> Value) {
        if self.0.watchers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut events = self.0.events();
        if events.waiting.len() >= EVENTS {
            events.waiting.remove(0);
        }
        events.waiting.push(event());
        drop(events);
        self.0.bell.give();
    }

    /// The guest uses the device: the script's clock begins, if it has not.
    pub fn begin(&self) {
        let mut events = self.0.events();
        if events.begun.is_none() {
            events.begun = Some(Instant::now());
            drop(events);
            self.0.bell.give();
        }
    }
}

/// The thread that drives. Dropped, it ends, and the socket goes.
#[derive(Debug)]
pub struct Driver {
    end: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts driving `driven` as the options say: without any, there is no thread.
    ///
    /// # Errors
    /// The socket cannot be made; the script cannot be read, or makes no sense.
    pub fn start(args: &DriveArgs, teller: &Teller, driven: Arc<dyn Driven>) -> Result<Self, DeviceError> {
        let end = Stop::new().map_err(|error| DeviceError::host("cannot make an event", error))?;
        let script = args.script.as_deref().map(|path| Script::read(path, args.script_repeat)).transpose()?;
        let socket = args.drive.as_deref().map(SocketFile::listen_private).transpose().map_err(|error| {
            let reason = crate::logging::one_line(&error);
            DeviceError::Invalid(format!("the driving socket: {reason}"))
        })?;
        if script.is_none() && socket.is_none() {
            return Ok(Self { end, thread: None });
        }
        let server = Server::new(socket, script, Arc::clone(&teller.0), driven)?;
        let (device, stop) = (tracing::Span::current(), end.clone());
        let run = move || {
            let _device = device.enter();
            server.run(&stop);
        };
        let thread = thread::Builder::new().name("drive".to_owned()).spawn(run);
        let thread = thread.map_err(|error| DeviceError::host("cannot start a thread", error))?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end.trigger();
        if let Some(thread) = self.thread.take() {
            // It has panicked at worst, and said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
