//! The man in the middle: one thread that accepts front ends, connects to the back end for each, and passes on what
//! they say. It never waits for anything but a socket; what there is to show goes to a thread of its own.
//!
//! The first connections wait for a back end that is still to be started. Once it was there, a front end that comes
//! while it is away is closed at once: it would have found nobody without us either, and tries again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outboard_frontend::dial;
use outboard_vhost_user::observe::{Channel, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::back_channel::BackChannel;
use super::flow::{Flow, Passed, Scratch, hung_up};
use super::witness::{Event, Witness};

/// How often to try to reach a back end that is not there yet, or to accept when there is no descriptor to be had.
const RETRY: Duration = Duration::from_millis(20);

/// Time since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// See the module.
pub(super) struct Wire {
    connect_to: PathBuf,
    /// How long a front end is held while the back end has never been there.
    patience: Duration,
    clock: Clock,
    witness: Witness,
    scratch: Scratch,
    count: u32,
    reached: bool,
    waiting: Vec<Waiting>,
    connections: Vec<Connection>,
}

/// A front end for which the back end is not there yet.
struct Waiting {
    number: u32,
    front: OwnedFd,
    until: Instant,
}

struct Connection {
    number: u32,
    /// Two for each channel that is open.
    flows: Vec<Flow>,
    /// How many back channels there have been.
    back_channels: u16,
    /// Who was first to have no more to say on the main channel.
    ended_by: Option<Side>,
    /// Has the end of the main channel been told?
    told: bool,
}

impl Wire {
    pub(super) fn new(connect_to: &Path, patience: Duration, clock: Clock, witness: Witness) -> Self {
        let (waiting, connections) = (Vec::new(), Vec::new());
        let (scratch, connect_to) = (Scratch::new(), connect_to.to_owned());
        Self { connect_to, patience, clock, witness, scratch, count: 0, reached: false, waiting, connections }
    }

    /// Passes on until `stop` is readable.
    ///
    /// # Errors
    /// The kernel refuses to wait or to listen.
    pub(super) fn run(mut self, listener: &UnixListener, stop: BorrowedFd<'_>) -> Result<()> {
        // A front end may be gone between poll and accept: that must not hold up the others.
        listener.set_nonblocking(true).context("cannot listen")?;
        let mut accepts = true;
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
            let flags = if accepts { PollFlags::IN } else { PollFlags::empty() };
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), flags));
            fds.extend(
                self.connections.iter().flat_map(|connection| &connection.flows).filter_map(Flow::awaits),
            );
            let retries = !self.waiting.is_empty() || !accepts;
            let limit = retries.then(|| Timespec::try_from(RETRY)).transpose().context("cannot wait")?;
            match poll(&mut fds, limit.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait"),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            let (stopped, knocks) = (ready.next() == Some(true), ready.next() == Some(true));
            drop(fds);
            self.pump(&mut ready);
            if stopped {
                return Ok(());
            }
            accepts = !knocks || self.accept(listener);
            self.reach();
        }
    }

    /// Passes on where there is something; `ready` follows the order of flows that wait.
    fn pump(&mut self, ready: &mut dyn Iterator<Item = bool>) {
        let (clock, scratch, witness) = (self.clock, &mut self.scratch, &mut self.witness);
        for connection in &mut self.connections {
            let number = connection.number;
            let mut opened = Vec::new();
            for flow in &mut connection.flows {
                if flow.awaits().is_none() || ready.next() != Some(true) {
                    continue;
                }
                flow.pump(clock, scratch, &mut |passed| match passed {
                    Passed::Message { mut seen, lost } => {
                        seen.connection = number;
                        witness.tell(Event::Message { seen, lost });
                    }
                    Passed::BackChannel(channel) => opened.push(channel),
                    Passed::Note(text) => witness.tell(Event::Note { connection: number, text }),
                });
                if flow.is_main() && flow.is_closed() {
                    connection.ended_by.get_or_insert(flow.side());
                }
            }
            for channel in opened {
                connection.add(channel);
            }
            if let Some(by) = connection.ended() {
                witness.tell(Event::Closed { connection: number, time: clock.now(), by });
            }
        }
        self.connections.retain(|connection| {
            let open = !connection.flows.is_empty();
            if !open {
                witness.tell(Event::Gone { connection: connection.number });
            }
            open
        });
    }

    /// Accepts whoever is there; false: there is no descriptor to be had for the next.
    fn accept(&mut self, listener: &UnixListener) -> bool {
        loop {
            match listener.accept() {
                Ok((front, _)) => {
                    self.count = self.count.saturating_add(1);
                    let until = Instant::now() + if self.reached { Duration::ZERO } else { self.patience };
                    self.waiting.push(Waiting { number: self.count, front: front.into(), until });
                }
                Err(error) => match error.kind() {
                    std::io::ErrorKind::WouldBlock => return true,
                    std::io::ErrorKind::Interrupted | std::io::ErrorKind::ConnectionAborted => {}
                    _ => return false,
                },
            }
        }
    }

    /// Connects to the back end for those who wait for it.
    fn reach(&mut self) {
        for Waiting { number, front, until } in std::mem::take(&mut self.waiting) {
            let connection = number;
            match dial(&self.connect_to) {
                Ok(back) => {
                    let back = OwnedFd::from(back);
                    self.reached = true;
                    let time = self.clock.now();
                    self.witness.tell(Event::Opened {
                        connection,
                        time,
                        front: peer(&front),
                        back: peer(&back),
                    });
                    self.connections.push(Connection::new(number, front, back));
                }
                Err(_) if hung_up(front.as_fd()) => {
                    let text = "the front end did not wait for the back end".to_owned();
                    self.witness.tell(Event::Note { connection, text });
                }
                Err(error) if Instant::now() >= until => {
                    let path = self.connect_to.display();
                    let text = format!("closed: no back end at {path}: {}", error);
                    self.witness.tell(Event::Note { connection, text });
                }
                Err(_) => self.waiting.push(Waiting { number, front, until }),
            }
        }
    }
}

impl Connection {
    fn new(number: u32, front: OwnedFd, back: OwnedFd) -> Self {
        let flows = both_ways(front, back, Channel::MAIN);
        Self { number, flows, back_channels: 0, ended_by: None, told: false }
    }

    fn add(&mut self, channel: BackChannel) {
        self.back_channels = self.back_channels.saturating_add(1);
        let BackChannel { to_front_end, to_back_end } = channel;
        self.flows.extend(both_ways(to_front_end, to_back_end, Channel(self.back_channels)));
    }

    /// Lets go of channels that are closed. Once, when the main one is: who closed it.
    fn ended(&mut self) -> Option<Side> {
        let closed = |flows: &[Flow], of: Channel| {
            flows.iter().filter(|flow| flow.channel() == of).all(Flow::is_closed)
        };
        let open: Vec<Channel> =
            self.flows.iter().map(Flow::channel).filter(|&channel| !closed(&self.flows, channel)).collect();
        self.flows.retain(|flow| open.contains(&flow.channel()));
        if self.told || open.contains(&Channel::MAIN) {
            return None;
        }
        self.told = true;
        self.ended_by
    }
}

fn both_ways(front: OwnedFd, back: OwnedFd, channel: Channel) -> Vec<Flow> {
    let (front, back) = (Rc::new(front), Rc::new(back));
    let there = Flow::new(Rc::clone(&front), Rc::clone(&back), Side::FrontEnd, channel);
    vec![there, Flow::new(back, front, Side::BackEnd, channel)]
}

/// The process at the other end, for people to read.
fn peer(socket: &OwnedFd) -> String {
    let Ok(Some(pid)) = crate::peer::pid(socket) else { return "unknown".to_owned() };
    let pid = pid.as_raw_nonzero();
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{} (pid {pid})", name.trim_end()),
        Err(_) => format!("pid {pid}"),
    }
}
