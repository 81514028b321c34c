//! A socket: one that is listened at, for one client at a time, or one that is connected to, again and again. Clients of TCP
//! prove by a token that they may.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use outboard_device::DeviceError;
use outboard_streams::{Access, Address, Dial, Door, Form, Listener, Stream, Token, Verdict};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Far, Watch};

/// How many may stand at the door.
const CALLERS: usize = 8;
/// How long they may take to say who they are.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a socket is tried at which nobody listens.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Socket {
    source: Source,
    watch: Watch,
    door: Door,
    /// Of a client that has closed one way it is known when he closes the other.
    is_unix: bool,
    client: Option<Stream>,
    /// The client sends no more, but may still listen.
    ended: bool,
    callers: Vec<(Stream, Instant)>,
}

/// Where clients come from.
enum Source {
    Listener(Listener),
    /// Connected to, not before then.
    Dialed {
        address: Address,
        again: Option<Instant>,
    },
}

impl Socket {
    /// Listens at an address.
    pub(super) fn listen(address: &Address, token: Option<&Path>, watch: Watch) -> Result<Self, DeviceError> {
        let door = Door::new(token.map(Token::read).transpose()?);
        let listener = Listener::open(address, Form::Bytes, Access::Private)?;
        let watched = watch.add(&listener, false);
        watched.map_err(|error| DeviceError::host("cannot watch a listener", error))?;
        let is_unix = matches!(address, Address::Unix(_));
        Ok(Self::of(Source::Listener(listener), door, watch, is_unix))
    }

    /// Connects to a UNIX address, as soon as somebody listens there.
    pub(super) fn dial(address: Address, watch: Watch) -> Self {
        Self::of(Source::Dialed { address, again: None }, Door::new(None), watch, true)
    }

    fn of(source: Source, door: Door, watch: Watch, is_unix: bool) -> Self {
        Self { source, watch, door, is_unix, client: None, ended: false, callers: Vec::new() }
    }

    /// Somebody comes, if there is room for him.
    fn meet(&mut self, now: Instant) -> Option<Stream> {
        match &mut self.source {
            Source::Listener(listener) => listener.accept().unwrap_or_else(|error| {
                tracing::warn!("a far end of a port: {error}");
                None
            }),
            Source::Dialed { again: Some(again), .. } if now < *again => None,
            Source::Dialed { address, again } => {
                *again = Some(now + AGAIN);
                match Stream::dial(address, Form::Bytes) {
                    Ok(Dial::Open(stream) | Dial::Coming(stream)) => Some(stream),
                    Err(_) => None,
                }
            }
        }
    }

    fn lose(&mut self) {
        (self.client, self.ended) = (None, false);
    }
}

impl Far for Socket {
    fn look(&mut self, now: Instant) -> bool {
        // What he has said before he went is still for the guest.
        let is_over = |client: &Stream| is_gone(client) && !matches!(client.receive(&mut [0], true), Ok(1..));
        if self.client.as_ref().is_some_and(is_over) {
            self.lose();
            return true;
        }
        if self.client.is_some() {
            return false;
        }
        while self.callers.len() < CALLERS
            && let Some(stream) = self.meet(now)
        {
            // Who cannot be watched is sent away.
            if self.watch.add(&stream, true).is_ok() {
                self.callers.push((stream, now + PATIENCE));
            }
        }
        let mut at = 0;
        while let Some((stream, until)) = self.callers.get(at) {
            match self.door.judge(stream) {
                Ok(Verdict::Admitted) => {
                    self.client = Some(self.callers.remove(at).0);
                    break;
                }
                Ok(Verdict::Waits) if now < *until => at += 1,
                _ => drop(self.callers.remove(at)),
            }
        }
        false
    }

    fn is_open(&self) -> bool {
        self.client.is_some()
    }

    fn is_polled(&self) -> bool {
        self.client.is_none() && (!self.callers.is_empty() || matches!(self.source, Source::Dialed { .. }))
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(client) = self.client.as_ref().filter(|_| !self.ended) else {
            return Err(ErrorKind::WouldBlock.into());
        };
        match client.receive(into, false) {
            Ok(0) if self.is_unix && !is_gone(client) => {
                self.ended = true;
                Err(ErrorKind::WouldBlock.into())
            }
            Ok(0) => {
                self.lose();
                Ok(0)
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                self.lose();
                Err(error)
            }
            result => result,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(client) = &self.client else { return Err(ErrorKind::NotConnected.into()) };
        client.send(bytes).inspect_err(|error| {
            if error.kind() != ErrorKind::WouldBlock {
                self.lose();
            }
        })
    }

    fn hang_up(&mut self) {
        self.lose();
    }

    fn address(&self) -> Option<String> {
        match &self.source {
            // The host may have chosen the port.
            Source::Listener(listener) => match (listener.address(), listener.tcp_port()) {
                (Address::Tcp(address), Some(port)) => {
                    Some(format!("tcp:{}", SocketAddr::new(address.ip(), port)))
                }
                _ => None,
            },
            Source::Dialed { .. } => None,
        }
    }
}

/// Whether both ways are closed.
fn is_gone(stream: &Stream) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let count = poll(&mut polled, Some(&now));
    count.is_err() || polled.iter().any(|polled| polled.revents().intersects(PollFlags::HUP | PollFlags::ERR))
}
