//! Sockets of the host, for [`outboard_usernet`]: none of them blocks, and one descriptor tells which may go on.
//!
//! Readiness is told when it changes (EPOLLET): a socket that is full, or empty, costs no system call until it is not any
//! more.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use outboard_usernet::{Ending, Forward, Protocol, Readiness, SocketId, Sockets};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt};

use super::resolver::Resolver;

/// What the events of forwarded ports have in their number, which is none of a socket.
const FORWARD: u64 = 1 << 32;
/// So many events at a time.
const EVENTS: usize = 64;
/// How long nothing comes of a peer before it is asked whether it is there; how long it has for an answer, each of nine times
/// (tcp(7), TCP_KEEPCNT).
const SILENCE: Duration = Duration::from_secs(300);
const ASKED_AGAIN: Duration = Duration::from_secs(30);

/// A forwarded port of the host.
pub(super) enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// The host refuses it: the port is taken, or needs a privilege.
    pub(super) fn open(forward: &Forward) -> io::Result<Self> {
        Ok(match forward.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(forward.host)?;
                listener.set_nonblocking(true)?;
                Self::Tcp(listener)
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(forward.host)?;
                socket.set_nonblocking(true)?;
                Self::Udp(socket)
            }
        })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Udp(socket) => socket.local_addr().ok(),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// What may go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Socket(SocketId, Readiness),
    Forward(usize),
}

/// The sockets of one guest.
pub(super) struct HostSockets {
    epoll: OwnedFd,
    slots: Vec<Option<OwnedFd>>,
    free: Vec<u32>,
    listeners: Arc<[Listener]>,
    resolver: Resolver,
}

impl HostSockets {
    /// None yet, but the forwarded ports.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub(super) fn new(listeners: &Arc<[Listener]>, resolver: Resolver) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (number, listener) in (FORWARD..).zip(listeners.iter()) {
            epoll::add(&epoll, listener, EventData::new_u64(number), EventFlags::IN | EventFlags::ET)?;
        }
        let listeners = Arc::clone(listeners);
        Ok(Self { epoll, slots: Vec::new(), free: Vec::new(), listeners, resolver })
    }

    /// Fills `events` with what has happened since the last time. True if there may be more.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub(super) fn poll(&self, events: &mut Vec<Event>) -> io::Result<bool> {
        let mut some = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        // It does not sleep, so it is not interrupted.
        let (some, _) = epoll::wait(&self.epoll, &mut some, Some(&zero))?;
        events.extend(some.iter().map(|event| {
            let (number, flags) = (event.data.u64(), event.flags);
            match number.checked_sub(FORWARD) {
                // There are only so many.
                Some(forward) => Event::Forward(forward as usize),
                None => {
                    let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
                    let read = broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
                    let write = broken || flags.contains(EventFlags::OUT);
                    Event::Socket(SocketId(number as u32), Readiness { read, write })
                }
            }
        }));
        Ok(some.len() == EVENTS)
    }

    fn socket(&self, socket: SocketId) -> io::Result<BorrowedFd<'_>> {
        let slot = self.slots.get(socket.0 as usize).and_then(Option::as_ref);
        slot.map(AsFd::as_fd).ok_or_else(|| Errno::BADF.into())
    }

    /// Keeps a socket, and hears of it from now on.
    fn keep(&mut self, socket: OwnedFd) -> io::Result<SocketId> {
        // No process has so many descriptors.
        let at = self.free.pop().unwrap_or(self.slots.len() as u32);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, &socket, EventData::new_u64(at.into()), flags) {
            if (at as usize) < self.slots.len() {
                self.free.push(at);
            }
            return Err(error.into());
        }
        match self.slots.get_mut(at as usize) {
            Some(slot) => *slot = Some(socket),
            None => self.slots.push(Some(socket)),
        }
        Ok(SocketId(at))
    }

    /// A socket to one peer.
    fn open(
        &mut self,
        kind: SocketType,
        protocol: Option<rustix::net::Protocol>,
        to: SocketAddr,
    ) -> io::Result<SocketId> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, kind, flags, protocol)?;
        if kind == SocketType::STREAM {
            set_up(&socket)?;
        }
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => self.keep(socket),
            Err(error) => Err(error.into()),
        }
    }
}

/// What holds for each connection: what it has goes at once, and a peer that is gone is noticed.
fn set_up(stream: impl AsFd) -> io::Result<()> {
    let stream = stream.as_fd();
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    Ok(sockopt::set_tcp_keepintvl(stream, ASKED_AGAIN)?)
}

impl AsFd for HostSockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Sockets for HostSockets {
    fn connect(&mut self, to: SocketAddr) -> io::Result<SocketId> {
        self.open(SocketType::STREAM, None, to)
    }

    fn outcome(&mut self, socket: SocketId) -> io::Result<()> {
        let socket = self.socket(socket)?;
        sockopt::socket_error(socket)??;
        match rustix::net::getpeername(socket) {
            Ok(_) => Ok(()),
            Err(Errno::NOTCONN) => Err(Errno::WOULDBLOCK.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self, forward: usize) -> io::Result<(SocketId, SocketAddr)> {
        let Some(Listener::Tcp(listener)) = self.listeners.get(forward) else {
            return Err(Errno::WOULDBLOCK.into());
        };
        let (stream, from) = loop {
            match listener.accept() {
                Ok(accepted) => break accepted,
                // It was gone again before.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        };
        stream.set_nonblocking(true)?;
        set_up(&stream)?;
        Ok((self.keep(stream.into())?, from))
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<SocketId> {
        self.open(SocketType::DGRAM, None, to)
    }

    fn ping(&mut self, to: IpAddr) -> io::Result<SocketId> {
        let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
        self.open(SocketType::DGRAM, Some(protocol), SocketAddr::new(to, 0))
    }

    fn read(&mut self, socket: SocketId, into: &mut [u8]) -> io::Result<usize> {
        let socket = self.socket(socket)?;
        Ok(retry_on_intr(|| rustix::io::read(socket, &mut *into))?)
    }

    fn write(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize> {
        let socket = self.socket(socket)?;
        Ok(retry_on_intr(|| rustix::net::send(socket, data, SendFlags::NOSIGNAL))?)
    }

    fn read_from(&mut self, forward: usize, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self.listeners.get(forward) {
            Some(Listener::Udp(socket)) => socket.recv_from(into),
            _ => Err(Errno::WOULDBLOCK.into()),
        }
    }

    fn write_to(&mut self, forward: usize, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self.listeners.get(forward) {
            Some(Listener::Udp(socket)) => socket.send_to(data, to),
            _ => Err(Errno::WOULDBLOCK.into()),
        }
    }

    fn shutdown(&mut self, socket: SocketId) {
        if let Ok(socket) = self.socket(socket) {
            // If it is broken, that is seen when it is read.
            let _ = rustix::net::shutdown(socket, Shutdown::Write);
        }
    }

    fn close(&mut self, socket: SocketId, ending: Ending) {
        let Some(slot) = self.slots.get_mut(socket.0 as usize).and_then(Option::take) else { return };
        if ending == Ending::Reset {
            // The peer is told at once, whatever is still to be sent.
            let _ = sockopt::set_socket_linger(&slot, Some(Duration::ZERO));
        }
        self.free.push(socket.0);
    }

    fn resolver(&mut self) -> Option<SocketAddr> {
        self.resolver.address()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dns;
    use super::*;

    #[test]
    fn peers_that_are_gone_are_noticed_by_connections_of_either_side() {
        let listener = Listener::open(&"tcp:127.0.0.1:0-:22".parse().unwrap()).unwrap();
        let address = listener.address().unwrap();
        let mut sockets = HostSockets::new(&[listener].into(), Resolver::new(Dns::Auto)).unwrap();
        let outward = sockets.connect(address).unwrap();
        let inward = loop {
            match sockets.accept(0) {
                Ok((socket, _)) => break socket,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            std::thread::yield_now();
        };
        for socket in [outward, inward] {
            let socket = sockets.socket(socket).unwrap();
            assert!(sockopt::socket_keepalive(socket).unwrap() && sockopt::tcp_nodelay(socket).unwrap());
            assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), SILENCE);
            assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), ASKED_AGAIN);
        }
    }
}
