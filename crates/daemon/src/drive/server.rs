//! The thread that serves the driving socket and the script.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outboard_backend::Stop;
use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Driven, Script, Shared};
use crate::lines::Lines;
use crate::listen::SocketFile;
use crate::request::Request;

/// How many clients there may be; with more, the one that has been silent for longest goes.
const CLIENTS: usize = 32;
/// What may wait for a client, in bytes, before it is let go.
const UNREAD_MAX: usize = 256 << 10;
/// How many commands of one client, and of the script, are carried out before the others have their turn.
const TURN: usize = 64;
/// How long no connection is accepted after one could not be.
const PAUSE: Duration = Duration::from_secs(1);
/// The command that this thread knows itself.
const WATCH: &str = "watch";

pub(super) struct Server {
    socket: Option<SocketFile>,
    script: Option<Script>,
    shared: Arc<Shared>,
    driven: Arc<dyn Driven>,
    clients: Vec<Client>,
    /// No connection is accepted before this.
    paused: Option<Instant>,
    /// The script has more to be done than fits one turn.
    hurried: bool,
}

struct Client {
    lines: Lines,
    watches: bool,
}

impl Server {
    pub(super) fn new(
        socket: Option<SocketFile>,
        script: Option<Script>,
        shared: Arc<Shared>,
        driven: Arc<dyn Driven>,
    ) -> Result<Self, DeviceError> {
        if let Some(socket) = &socket {
            let prepared = socket.listener().set_nonblocking(true);
            prepared.map_err(|error| DeviceError::host("cannot prepare the driving socket", error))?;
        }
        Ok(Self { socket, script, shared, driven, clients: Vec::new(), paused: None, hurried: false })
    }

    pub(super) fn run(mut self, end: &Stop) {
        while !end.is_set() {
            let ready = self.wait(end);
            self.hurried = self.play();
            for (client, ready) in self.clients.iter_mut().zip(ready) {
                client.serve(ready, &*self.driven, &self.shared.watchers);
            }
            self.clients.retain(|client| !client.lines.is_over());
            let watchers = self.clients.iter().filter(|client| client.watches).count();
            self.shared.watchers.store(watchers, Ordering::Relaxed);
            self.tell();
            self.clients.retain(|client| !client.lines.is_over());
            self.accept();
        }
    }

    /// When the script goes on.
    fn due(&self) -> Option<Instant> {
        let begun = self.shared.events().begun?;
        Some(begun + self.script.as_ref()?.due()?)
    }

    /// Sleeps until there is something to do. For each client, whether its socket is ready.
    fn wait(&mut self, end: &Stop) -> Vec<bool> {
        let now = Instant::now();
        self.paused = self.paused.filter(|until| *until > now);
        let mut polled = vec![PollFd::new(end, PollFlags::IN), PollFd::new(&self.shared.bell, PollFlags::IN)];
        polled.extend(self.clients.iter().map(|client| client.lines.interest(true)));
        if let Some(socket) = self.socket.as_ref().filter(|_| self.paused.is_none()) {
            polled.push(PollFd::from_borrowed_fd(socket.listener().as_fd(), PollFlags::IN));
        }
        let behind = self.clients.iter().any(|client| client.lines.is_behind());
        let due =
            if self.hurried || behind { Some(now) } else { self.due().into_iter().chain(self.paused).min() };
        let longest = due.and_then(|due| Timespec::try_from(due.saturating_duration_since(now)).ok());
        match poll(&mut polled, longest.as_ref()) {
            Ok(_) => {
                let ready: Vec<_> = polled.iter().map(|polled| !polled.revents().is_empty()).collect();
                if ready.get(1) == Some(&true) {
                    // Before what it is about is looked at.
                    self.shared.bell.take_rung();
                }
                ready.into_iter().skip(2).take(self.clients.len()).collect()
            }
            Err(error) => {
                if error != rustix::io::Errno::INTR {
                    tracing::debug!("driving socket: {error}");
                    std::thread::sleep(PAUSE);
                }
                vec![false; self.clients.len()]
            }
        }
    }

    /// Carries out what is due of the script. True if there is more.
    fn play(&mut self) -> bool {
        let (Some(begun), Some(script)) = (self.shared.events().begun, &mut self.script) else {
            return false;
        };
        for _ in 0..TURN {
            let Some((command, arguments)) = script.take(begun.elapsed()) else { return false };
            if let Err(error) = self.driven.command(command, arguments) {
                tracing::warn!("script: {command}: {}", crate::logging::one_line(&error));
            }
        }
        true
    }

    /// Tells those who watch what the guest has done.
    fn tell(&mut self) {
        let events = std::mem::take(&mut self.shared.events().waiting);
        for client in &mut self.clients {
            if client.watches {
                events.iter().for_each(|event| client.lines.say(event));
            }
            if client.lines.unread() > UNREAD_MAX {
                tracing::info!("driving socket: a client that does not read is let go");
                client.lines.end();
            } else {
                client.lines.flush(false);
            }
        }
    }

    fn accept(&mut self) {
        let Some(socket) = &self.socket else { return };
        while self.paused.is_none() {
            match socket.listener().accept().and_then(|(stream, _)| Lines::new(stream)) {
                Ok(lines) => self.clients.push(Client { lines, watches: false }),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!("driving socket: cannot accept a connection: {error}");
                    self.paused = Some(Instant::now() + PAUSE);
                }
            }
            if self.clients.len() > CLIENTS
                && let Some((at, _)) =
                    self.clients.iter().enumerate().min_by_key(|(_, client)| client.lines.heard())
            {
                self.clients.swap_remove(at);
            }
        }
    }
}

impl Client {
    /// Carries out what the client wants, or the first of it.
    fn serve(&mut self, ready: bool, driven: &dyn Driven, watchers: &AtomicUsize) {
        if ready {
            self.lines.take_turn(true);
        }
        for _ in 0..TURN {
            if self.lines.unread() > 0 {
                self.lines.flush(true);
            }
            if self.lines.is_over() || self.lines.unread() > 0 {
                return;
            }
            let Some(line) = self.lines.next_line() else { return };
            let answer = match self.answer(&line, driven, watchers) {
                Ok(value) => json!({ "return": value }),
                Err(reason) => json!({ "error": reason }),
            };
            self.lines.say(&answer);
        }
    }

    fn answer(&mut self, line: &[u8], driven: &dyn Driven, watchers: &AtomicUsize) -> Result<Value, String> {
        let Request { command, device, arguments } = Request::parse(line)?;
        if device.is_some() {
            return Err("this socket drives one device".to_owned());
        }
        if command == WATCH {
            self.watches = true;
            // Before the client learns that it watches; they are counted anew after everybody's turn.
            watchers.fetch_add(1, Ordering::Relaxed);
            return Ok(Value::Null);
        }
        driven.command(&command, &arguments).map_err(|error| crate::logging::one_line(&error))
    }
}
