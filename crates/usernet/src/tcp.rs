//! A TCP connection: a socket of the host on one side, the guest on the other, and bytes that go from one to the other.
//!
//! A guest that connects is answered when the host's connection is there, so that it sees refusals and timeouts as they
//! are. What one side has said to its end is said to its end on the other; what breaks on one side is reset on the other.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use outboard_frames::wire::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp};
use smoltcp::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

use crate::emit::{Emit, Way};
use crate::stack::{HEAD_LEN, Making, Stack};
use crate::{Ending, Readiness, SocketId, Sockets};

const PROTOCOL_TCP: u8 = 6;
const LIFETIME: u8 = 64;
/// So many segments at a time, of up to 64 KiB: other connections have their turn.
const SEGMENTS: usize = 16;
/// How soon a timer is looked at again that ran out for nothing.
const AGAIN: Duration = Duration::from_millis(10);
/// So many reads of the host at a time.
const READS: usize = 4;

/// A connection.
pub(crate) struct Connection {
    pub(crate) guest: SocketAddr,
    pub(crate) far: SocketAddr,
    pub(crate) socket: SocketId,
    /// The forwarded port that it came to.
    pub(crate) forward: Option<usize>,
    phase: Phase,
    flow: Flow,
    /// The host's side is.
    is_broken: bool,
    /// Bytes of the buffers.
    pub(crate) memory: usize,
}

/// What goes back and forth.
#[derive(Default)]
struct Flow {
    /// The socket may have something, or may take something.
    ready: Readiness,
    /// The host has said all that it will.
    host_is_done: bool,
    /// The guest has heard all of it, and that it was all.
    guest_is_told: bool,
    /// The guest has.
    guest_is_done: bool,
    /// The host knows that, and has taken all of it.
    host_knows: bool,
}

enum Phase {
    /// The host connects. Meanwhile the header of the guest's first segment is kept, behind room for one of IP. Data is sent
    /// again by who sends some with it.
    Connecting(Vec<u8>),
    Open(Box<Stack>),
}

/// What is to come of a connection.
pub(crate) enum Next {
    /// There is more to do at once.
    Now,
    /// There is nothing to do before something happens, or before this time.
    Later(Option<Instant>),
    /// It is over.
    Over(Ending),
}

/// Why the host's side did not come about.
pub(crate) enum Failed {
    /// Somebody said no.
    Refused,
    /// There is no way there.
    Unreachable,
}

impl Connection {
    /// The guest's first segment, in `packet` behind room for a header: the host connects.
    pub(crate) fn outward(guest: SocketAddr, far: SocketAddr, socket: SocketId, packet: &[u8]) -> Self {
        let segment = packet.get(HEAD_LEN..).unwrap_or_default();
        let header = Tcp::ref_from_prefix(segment).map_or(0, |(tcp, _)| 4 * usize::from(tcp.offset >> 4));
        let kept = packet.get(..HEAD_LEN + header.max(size_of::<Tcp>())).unwrap_or(packet);
        Self::new(guest, far, socket, Phase::Connecting(kept.to_vec()))
    }

    /// Somebody has connected to the host, at a forwarded port, and the guest is to be connected.
    pub(crate) fn inward(
        guest: SocketAddr,
        far: SocketAddr,
        (socket, forward): (SocketId, usize),
        making: Making,
        now: Instant,
    ) -> Option<Self> {
        let stack = Stack::connect(guest, far, making, now).ok()?;
        let flow = Flow { ready: Readiness { read: true, write: true }, ..Flow::default() };
        let new = Self::new(guest, far, socket, Phase::Open(Box::new(stack)));
        Some(Self { memory: 2 * making.window, flow, forward: Some(forward), ..new })
    }

    fn new(guest: SocketAddr, far: SocketAddr, socket: SocketId, phase: Phase) -> Self {
        Self { guest, far, socket, forward: None, phase, flow: Flow::default(), is_broken: false, memory: 0 }
    }

    pub(crate) const fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting(_))
    }

    /// The first segment of a guest that waits for the host, without its data.
    pub(crate) fn first_segment(&self) -> &[u8] {
        match &self.phase {
            Phase::Connecting(packet) => packet.get(HEAD_LEN..).unwrap_or_default(),
            Phase::Open(_) => &[],
        }
    }

    /// A segment of the guest, in `packet` behind room for a header. False: the guest has given up.
    pub(crate) fn take(&mut self, packet: &mut [u8], now: Instant, emit: &mut Emit<'_, '_>) -> bool {
        match &mut self.phase {
            Phase::Connecting(_) => {
                // It repeats its first segment, or wants no more.
                !Tcp::ref_from_prefix(packet.get(HEAD_LEN..).unwrap_or_default())
                    .is_ok_and(|(tcp, _)| tcp.flags & TCP_RST != 0)
            }
            Phase::Open(stack) => {
                stack.take(packet, now, emit);
                true
            }
        }
    }

    pub(crate) fn ready(&mut self, how: Readiness) {
        self.flow.ready.read |= how.read;
        self.flow.ready.write |= how.write;
    }

    /// Sees what came of the host's connection, if it is decided: then the guest is answered.
    pub(crate) fn settle(
        &mut self,
        sockets: &mut impl Sockets,
        making: Making,
        now: Instant,
        emit: &mut Emit<'_, '_>,
    ) -> Result<(), Failed> {
        let Phase::Connecting(packet) = &mut self.phase else { return Ok(()) };
        match sockets.outcome(self.socket) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(failed(&error)),
        }
        let mut stack = Stack::listen(self.guest, self.far, making, now).map_err(|_| Failed::Unreachable)?;
        stack.take(packet, now, emit);
        self.phase = Phase::Open(Box::new(stack));
        self.memory = 2 * making.window;
        self.flow.ready = Readiness { read: true, write: true };
        Ok(())
    }

    /// Moves bytes both ways, as far as they go.
    pub(crate) fn pump(&mut self, sockets: &mut impl Sockets, now: Instant, emit: &mut Emit<'_, '_>) -> Next {
        let Phase::Open(stack) = &mut self.phase else { return Next::Later(None) };
        if !self.is_broken && self.flow.exchange(stack, self.socket, sockets).is_err() {
            self.is_broken = true;
            stack.socket().abort();
        }
        let more = stack.give(SEGMENTS, now, emit);
        let (progress, flow) = (stack.state(), &self.flow);
        let is_said = flow.host_knows && flow.host_is_done;
        if progress.is_over {
            let is_orderly = flow.guest_is_done && flow.host_is_done && !self.is_broken;
            return match (is_said, is_orderly) {
                (true, true) => Next::Over(Ending::Orderly),
                // The host is still to take what the guest has said before.
                (false, true) => Next::Later(None),
                (_, false) => Next::Over(Ending::Reset),
            };
        }
        if more || (flow.ready.read && !flow.host_is_done && stack.socket().can_send()) {
            return Next::Now;
        }
        let due = stack.due(now);
        if progress.is_waiting_only && is_said && due.is_none_or(|due| due > now) {
            return Next::Over(Ending::Orderly);
        }
        Next::Later(due.map(|due| due.max(now + AGAIN)))
    }
}

impl Flow {
    /// Moves bytes between the socket and the stack.
    fn exchange(
        &mut self,
        stack: &mut Stack,
        socket: SocketId,
        sockets: &mut impl Sockets,
    ) -> io::Result<()> {
        for _ in 0..READS {
            if !self.ready.read || self.host_is_done {
                break;
            }
            let read = stack.socket().send(|room| match room.len() {
                0 => (0, None),
                _ => match sockets.read(socket, room) {
                    Ok(len) => (len, Some(Ok(len))),
                    Err(error) => (0, Some(Err(error))),
                },
            });
            match read {
                // There is no room, or it is not the time.
                Ok(None) | Err(_) => break,
                Ok(Some(Ok(0))) => self.host_is_done = true,
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) if error.kind() == ErrorKind::WouldBlock => self.ready.read = false,
                Ok(Some(Err(error))) => return Err(error),
            }
        }
        // Not before all of it has arrived: smoltcp 0.14 does not hear of a window that opens once it has been closed on
        // both sides (LAST-ACK).
        if self.host_is_done && !self.guest_is_told && stack.socket().send_queue() == 0 {
            stack.close();
            self.guest_is_told = true;
        }
        if self.host_knows && stack.socket().can_recv() {
            // The guest has said more behind its end, and smoltcp has taken it.
            return Err(ErrorKind::InvalidData.into());
        }
        while self.ready.write && stack.socket().can_recv() {
            let written = stack.socket().recv(|data| match sockets.write(socket, data) {
                Ok(len) => (len, Ok(len)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(0)) | Err(_) => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.ready.write = false,
                Ok(Err(error)) => return Err(error),
            }
        }
        self.guest_is_done |= stack.state().guest_is_done;
        if self.guest_is_done && !self.host_knows && !stack.socket().can_recv() {
            sockets.shutdown(socket);
            self.host_knows = true;
        }
        Ok(())
    }
}

pub(crate) fn failed(error: &io::Error) -> Failed {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Failed::Refused,
        _ => Failed::Unreachable,
    }
}

/// Says that there is no such connection (RFC 9293, 3.10.7.1). `segment` is one that belongs to none, sent along `way`.
pub(crate) fn refuse(way: Way, segment: &[u8], emit: &mut Emit<'_, '_>) {
    let Ok((tcp, _)) = Tcp::ref_from_prefix(segment) else { return };
    if tcp.flags & TCP_RST != 0 {
        return;
    }
    let [a, b, c, d] = tcp.ports;
    let header_len = 4 * usize::from(tcp.offset >> 4);
    // No segment is longer than a frame.
    let data = segment.len().saturating_sub(header_len) as u32;
    let ends = u32::from(tcp.flags & TCP_SYN != 0) + u32::from(tcp.flags & TCP_FIN != 0);
    let (sequence, acknowledged, flags) = if tcp.flags & TCP_ACK == 0 {
        (0.into(), tcp.sequence.get().wrapping_add(data).wrapping_add(ends).into(), TCP_RST | TCP_ACK)
    } else {
        (tcp.acknowledged, 0.into(), TCP_RST)
    };
    let mut answer = Tcp {
        ports: [c, d, a, b],
        sequence,
        acknowledged,
        offset: 5 << 4,
        flags,
        window: 0.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    let back = way.back();
    answer.checksum = back.pseudo(PROTOCOL_TCP, size_of::<Tcp>()).plus(answer.as_bytes()).checksum();
    emit.packet(back, PROTOCOL_TCP, LIFETIME, answer.as_bytes());
}
