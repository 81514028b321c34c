//! One connection to the server, and the thread that receives from it, makes it again when it is gone, and keeps the
//! time.
//!
//! Who has something to ask puts it under the lock, and sends it himself if nothing else is under way; else he wakes
//! the thread if that sleeps, which sends what has come together meanwhile. The thread holds the lock only to send and
//! to look things up, never while it waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Facts;
use super::dial::{Dialed, Stream};
use super::pending::{Next, Owner, Pending};
use super::receive::Receiver;
use super::state::State;
use crate::host::store::Task;

/// How often deadlines are looked at, while there are any.
const TICK: Duration = Duration::from_millis(250);
/// How long to wait between two attempts to connect: the first and the longest time.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// A connection.
pub(super) struct Link(Arc<Line>);

/// What its users and its thread share.
pub(super) struct Line {
    pub(super) facts: Arc<Facts>,
    state: Mutex<State>,
    wake: OwnedFd,
    asleep: AtomicBool,
    dialed: Mutex<Option<Result<Dialed, String>>>,
}

impl Link {
    /// Starts the thread. Without a stream it makes a connection first.
    pub(super) fn start(facts: Arc<Facts>, stream: Option<Stream>) -> io::Result<Self> {
        let line = Arc::new(Line {
            state: Mutex::new(State::new(facts.export, stream)),
            facts,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: AtomicBool::new(false),
            dialed: Mutex::new(None),
        });
        let runner = Runner { line: Arc::clone(&line), dialing: Dialing::default(), tick: Instant::now() };
        thread::Builder::new().name("nbd".to_owned()).spawn(move || runner.run())?;
        Ok(Self(line))
    }

    /// Takes a request.
    pub(super) fn submit(&self, owner: Owner, task: Task) {
        let (line, now) = (&*self.0, Instant::now());
        let mut state = line.state();
        let pending = Pending::new(owner, task, now + line.facts.timeout);
        let lost = state.down_since.is_some_and(|since| now.duration_since(since) >= line.facts.timeout);
        let next = if state.closed || lost { Next::End(Err(overdue())) } else { pending.next(&state.export) };
        let asked = match next {
            Next::Ask(asked) => asked,
            Next::End(result) => {
                drop(state);
                return pending.finish(result);
            }
        };
        let alone = state.is_idle() && state.stream.is_some();
        state.insert(pending, asked);
        // What went wrong, the thread meets again.
        let done = alone && state.armed && state.send().unwrap_or(false);
        drop(state);
        if !done {
            line.wake();
        }
    }

    /// Ends the connection and the thread.
    pub(super) fn close(&self) {
        self.0.state().part();
        self.0.wake();
    }
}

impl Line {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Fails only if it is readable already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    fn dialed(&self) -> MutexGuard<'_, Option<Result<Dialed, String>>> {
        self.dialed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
struct Runner {
    line: Arc<Line>,
    dialing: Dialing,
    /// When deadlines are looked at next.
    tick: Instant,
}

/// The way to the next connection.
#[derive(Default)]
struct Dialing {
    under_way: bool,
    /// Those that came to nothing, or to a connection that did not last.
    attempts: u32,
    /// Why the last one came to nothing.
    failure: String,
    /// `None`: at once.
    next: Option<Instant>,
    connected: Option<Instant>,
}

impl Dialing {
    fn pause(&mut self) {
        let pause = PAUSE.0 * 2_u32.pow(self.attempts.min(6));
        self.attempts += 1;
        self.next = Some(Instant::now() + pause.min(PAUSE.1));
    }
}

impl Runner {
    fn run(mut self) {
        let mut receiver = Receiver::new();
        {
            let state = self.line.state();
            if let Some(stream) = &state.stream {
                receiver.reset(state.export.structured, stream.tls.is_some());
            }
        }
        loop {
            self.redial(&mut receiver);
            let (socket, flags) = {
                let mut state = self.line.state();
                if state.closed {
                    break;
                }
                let flags = match state.send() {
                    Ok(true) => PollFlags::IN,
                    Ok(false) => PollFlags::IN | PollFlags::OUT,
                    Err(error) => {
                        drop(state);
                        self.hang_up(&mut receiver, &error.to_string());
                        continue;
                    }
                };
                if !state.armed && !state.is_idle() {
                    (state.armed, self.tick) = (true, Instant::now() + TICK);
                }
                self.line.asleep.store(true, Ordering::SeqCst);
                (state.stream.as_ref().map(|stream| Arc::clone(&stream.socket)), flags)
            };
            let readable = self.sleep(socket.as_deref(), flags);
            if readable
                && let Some(socket) = &socket
                && let Err(why) = receiver.receive(&self.line, socket.as_fd())
            {
                self.hang_up(&mut receiver, &why);
            }
            self.keep_time(&mut receiver);
        }
        self.dismiss(&mut receiver);
    }

    /// The link was closed: fails what still waits, since somebody may wait for that.
    fn dismiss(&self, receiver: &mut Receiver) {
        let mut state = self.line.state();
        receiver.give_up(&mut state);
        state.stream = None;
        // Later than all deadlines, as no request comes any more.
        let left = state.expire(Instant::now() + self.line.facts.timeout);
        drop(state);
        left.into_iter().for_each(|pending| pending.finish(Err(io::ErrorKind::NotConnected.into())));
    }

    /// Waits for something to do. True if the socket has something.
    fn sleep(&self, socket: Option<&OwnedFd>, flags: PollFlags) -> bool {
        let now = Instant::now();
        let tick = self.line.state().armed.then_some(self.tick);
        let dial =
            if socket.is_none() && !self.dialing.under_way { self.dialing.next.or(Some(now)) } else { None };
        let until = tick.into_iter().chain(dial).min();
        let left = until
            .map(|until| until.saturating_duration_since(now))
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let wake = PollFd::new(&self.line.wake, PollFlags::IN);
        let mut fds = match socket {
            Some(socket) => vec![wake, PollFd::new(socket, flags)],
            None => vec![wake],
        };
        if let Err(error) = poll(&mut fds, left.as_ref())
            && error != rustix::io::Errno::INTR
        {
            tracing::error!("cannot wait for the NBD server: {error}");
            thread::sleep(TICK);
        }
        self.line.asleep.store(false, Ordering::SeqCst);
        if fds.first().is_some_and(|wake| !wake.revents().is_empty()) {
            // It is readable until it was read.
            let _ = rustix::io::read(&self.line.wake, &mut [0_u8; 8]);
        }
        fds.get(1).is_some_and(|socket| socket.revents().intersects(!PollFlags::OUT))
    }

    /// Ends the connection. What was not answered waits for the next.
    fn hang_up(&mut self, receiver: &mut Receiver, why: &str) {
        let mut state = self.line.state();
        receiver.give_up(&mut state);
        state.stream = None;
        state.down_since = Some(Instant::now());
        let lasted = self.dialing.connected.is_none_or(|since| since.elapsed() > PAUSE.1);
        if lasted {
            self.dialing = Dialing::default();
        } else {
            self.dialing.pause();
        }
        if !state.closed {
            tracing::warn!("{}: {why}; connecting again", self.line.facts.uri());
        }
    }

    /// Fails what has waited for too long.
    fn keep_time(&mut self, receiver: &mut Receiver) {
        let now = Instant::now();
        let mut state = self.line.state();
        if !state.armed || now < self.tick {
            return;
        }
        self.tick = now + TICK;
        state.armed = !state.is_idle();
        let lost = state.down_since.is_some_and(|since| now.duration_since(since) >= self.line.facts.timeout);
        if lost {
            // Nobody waits any longer than this, whenever he came.
            let expired = state.expire(now + self.line.facts.timeout);
            drop(state);
            expired.into_iter().for_each(|pending| pending.finish(Err(overdue())));
        } else if state.is_overdue(now) {
            let up = state.stream.is_some();
            drop(state);
            if up {
                self.hang_up(receiver, "the server does not answer");
            }
            let expired = self.line.state().expire(now);
            expired.into_iter().for_each(|pending| pending.finish(Err(overdue())));
        }
    }

    /// Makes a connection if there is none.
    fn redial(&mut self, receiver: &mut Receiver) {
        let result = self.line.dialed().take();
        if let Some(result) = result {
            self.dialing.under_way = false;
            match result.and_then(|dialed| self.line.facts.accept(&dialed.export).map(|()| dialed)) {
                Ok(dialed) => return self.connected(receiver, dialed),
                Err(why) => self.failed(&why),
            }
        }
        let due = self.dialing.next.is_none_or(|next| next <= Instant::now());
        if self.dialing.under_way || !due || self.line.state().stream.is_some() {
            return;
        }
        let line = Arc::clone(&self.line);
        let dial = move || {
            let result = line.facts.dialer.dial(ATTEMPT.min(line.facts.timeout));
            *line.dialed() = Some(result);
            let _ = rustix::io::write(&line.wake, &1_u64.to_ne_bytes());
        };
        match thread::Builder::new().name("nbd-dial".to_owned()).spawn(dial) {
            Ok(_) => self.dialing.under_way = true,
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, why: &str) {
        // A server that is up again may be another one.
        if self.dialing.failure != why {
            tracing::warn!("{}: {why}; trying again", self.line.facts.uri());
            why.clone_into(&mut self.dialing.failure);
        }
        self.dialing.pause();
        let mut state = self.line.state();
        state.down_since.get_or_insert_with(Instant::now);
    }

    fn connected(&mut self, receiver: &mut Receiver, dialed: Dialed) {
        self.dialing.connected = Some(Instant::now());
        receiver.reset(dialed.export.structured, dialed.stream.tls.is_some());
        let mut state = self.line.state();
        if let Some(since) = state.down_since.take() {
            let seconds = since.elapsed().as_secs_f32();
            tracing::info!("{}: connected again after {seconds:.1} s", self.line.facts.uri());
        }
        (state.export, state.stream) = (dialed.export, Some(dialed.stream));
        let over = state.ask_again();
        drop(state);
        over.into_iter().for_each(|(pending, result)| pending.finish(result));
    }
}

fn overdue() -> io::Error {
    io::ErrorKind::TimedOut.into()
}
