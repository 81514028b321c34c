//! The control socket: commands to the process and its devices, one JSON object a line, and an answer to each.
//!
//! Who can connect may command (the socket is the user's own), and is still not trusted: lines of any length, garbage,
//! clients that read slowly, never, or go away cost nobody anything. The devices are trusted, but may hang.
//!
//! Theory of operation. One thread serves all clients, and never blocks on any. A client has one request under way at a
//! time, and its next line is not looked at before the answer to the last has gone out: so what is kept for a client is
//! one line and one answer, and what waits at a device is one question. The device's control thread answers when it
//! gets to it; a [`Notice`] wakes this thread then. What takes longer than [`PATIENCE`] is answered with an error.

mod client;
mod commands;

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use outboard_backend::{Notice, Stop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use client::Client;
pub(crate) use commands::{Devices, Listed};

/// How long a device may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many clients there may be; with more, the one that has been silent for longest goes.
const CLIENTS: usize = 32;
/// How long no connection is accepted after one could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves clients until `end` is triggered.
pub(crate) fn serve(listener: &UnixListener, devices: &impl Devices, end: &Stop) {
    let prepared = listener.set_nonblocking(true).and_then(|()| Notice::new());
    match prepared {
        Ok(answered) => Server { listener, devices, answered, clients: Vec::new(), paused: None }.run(end),
        Err(error) => tracing::error!("the control socket cannot be served: {error}"),
    }
}

struct Server<'a, D> {
    listener: &'a UnixListener,
    devices: &'a D,
    /// A device has answered.
    answered: Notice,
    clients: Vec<Client>,
    /// No connection is accepted before this.
    paused: Option<Instant>,
}

impl<D: Devices> Server<'_, D> {
    fn run(mut self, end: &Stop) {
        while !end.is_set() {
            let ready = self.wait(end);
            for (client, ready) in self.clients.iter_mut().zip(ready) {
                client.serve(ready, self.devices, &self.answered);
            }
            self.clients.retain(|client| !client.is_over());
            self.accept();
        }
    }

    /// Sleeps until there is something to do. For each client, whether its socket is ready.
    fn wait(&mut self, end: &Stop) -> Vec<bool> {
        let now = Instant::now();
        self.paused = self.paused.filter(|until| *until > now);
        let mut polled = vec![PollFd::new(end, PollFlags::IN), PollFd::new(&self.answered, PollFlags::IN)];
        let accepts = if self.paused.is_none() { PollFlags::IN } else { PollFlags::empty() };
        polled.push(PollFd::from_borrowed_fd(self.listener.as_fd(), accepts));
        let fixed = polled.len();
        polled.extend(self.clients.iter().map(Client::interest));
        let due = self.clients.iter().filter_map(Client::deadline).chain(self.paused).min();
        let longest = due.map(|due| due.saturating_duration_since(now) + Duration::from_millis(1));
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        match poll(&mut polled, longest.as_ref()) {
            Ok(_) => {
                let mut ready = polled.iter().map(|polled| !polled.revents().is_empty());
                if ready.nth(1) == Some(true) {
                    // Before the answers are looked at.
                    self.answered.take_rung();
                }
                ready.skip(fixed - 2).collect()
            }
            Err(rustix::io::Errno::INTR) => vec![false; self.clients.len()],
            Err(error) => {
                tracing::debug!("control socket: {error}");
                std::thread::sleep(PAUSE);
                vec![false; self.clients.len()]
            }
        }
    }

    fn accept(&mut self) {
        while self.paused.is_none() {
            match self.listener.accept().and_then(|(stream, _)| Client::new(stream)) {
                Ok(client) => self.clients.push(client),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!("control socket: cannot accept a connection: {error}");
                    self.paused = Some(Instant::now() + PAUSE);
                }
            }
            if self.clients.len() > CLIENTS
                && let Some((at, _)) =
                    self.clients.iter().enumerate().min_by_key(|(_, client)| client.heard())
            {
                tracing::info!("control socket: too many clients, the most silent one is let go");
                self.clients.swap_remove(at);
            }
        }
    }
}
