//! Flows of datagrams: UDP, and ICMP echo. They have no end but that nobody uses them any more.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::emit::{Emit, Way};
use crate::icmp::{self, Why};
use crate::{SocketId, Sockets};

const PROTOCOL_UDP: u8 = 17;
/// So many at a time: other flows have their turn.
const AT_ONCE: usize = 32;
/// The longest message of an echo.
const MAX_ECHO: usize = 1 << 16;

/// A flow of datagrams.
pub(crate) struct Datagrams {
    pub(crate) guest: SocketAddr,
    /// The other end, as the guest knows it.
    pub(crate) far: SocketAddr,
    pub(crate) host: Host,
    /// The socket may have something.
    may_read: bool,
    /// When the last one came or went.
    pub(crate) used: Instant,
    /// After how long it is over.
    patience: Duration,
}

/// The host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A socket of its own.
    Udp(SocketId),
    /// Likewise, for echo; the guest's identifier.
    Ping(SocketId, u16),
    /// A forwarded port, and who uses it.
    Forward(usize, SocketAddr),
}

impl Host {
    pub(crate) const fn socket(self) -> Option<SocketId> {
        match self {
            Self::Udp(socket) | Self::Ping(socket, _) => Some(socket),
            Self::Forward(..) => None,
        }
    }
}

impl Datagrams {
    pub(crate) const fn new(
        guest: SocketAddr,
        far: SocketAddr,
        host: Host,
        patience: Duration,
        now: Instant,
    ) -> Self {
        Self { guest, far, host, may_read: true, used: now, patience }
    }

    const fn way(&self) -> Way {
        Way { from: self.guest.ip(), to: self.far.ip() }
    }

    pub(crate) const fn ready(&mut self) {
        self.may_read = true;
    }

    /// When it is over, if nothing happens.
    pub(crate) fn end(&self) -> Instant {
        self.used + self.patience
    }

    /// Sends what the guest sent.
    pub(crate) fn take(
        &mut self,
        data: &[u8],
        sockets: &mut impl Sockets,
        now: Instant,
        emit: &mut Emit<'_, '_>,
    ) {
        self.used = now;
        let sent = match self.host {
            Host::Udp(socket) | Host::Ping(socket, _) => sockets.write(socket, data),
            Host::Forward(forward, peer) => sockets.write_to(forward, data, peer),
        };
        if let Err(error) = sent {
            self.failed(&error, emit);
        }
    }

    /// What did not arrive is told of; that there is no room is not: datagrams are lost so.
    fn failed(&self, error: &io::Error, emit: &mut Emit<'_, '_>) {
        let why = match error.kind() {
            ErrorKind::WouldBlock => return,
            ErrorKind::ConnectionRefused => Why::Port,
            _ => Why::Host,
        };
        if let Host::Udp(_) = self.host {
            let [guest, far] = [self.guest.port(), self.far.port()].map(u16::to_be_bytes);
            // The header of a datagram between the two: which one it was is not known.
            let told = [guest, far, [0, 8], [0, 0]];
            icmp::unreachable(self.way(), PROTOCOL_UDP, told.as_flattened(), why, emit);
        }
    }

    /// Gives the guest what there is for it. True if there may be more.
    pub(crate) fn pump(&mut self, sockets: &mut impl Sockets, now: Instant, emit: &mut Emit<'_, '_>) -> bool {
        for _ in 0..AT_ONCE {
            if !self.may_read || !emit.is_open() {
                return self.may_read;
            }
            let read = match self.host {
                Host::Forward(..) => return false,
                Host::Udp(socket) => emit.datagram(self.far, self.guest, |room| sockets.read(socket, room)),
                Host::Ping(socket, identifier) => {
                    let mut message = vec![0; MAX_ECHO];
                    let read = sockets.read(socket, &mut message);
                    message.truncate(*read.as_ref().unwrap_or(&0));
                    let back = self.way().back();
                    if icmp::is_echo(back, &message) {
                        icmp::send_echo(back, message, identifier, emit);
                    }
                    read
                }
            };
            match read {
                Ok(_) => self.used = now,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.may_read = false,
                Err(error) => self.failed(&error, emit),
            }
        }
        self.may_read
    }
}
