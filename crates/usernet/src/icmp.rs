//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo, and what cannot be reached.

use std::net::IpAddr;

use outboard_frames::Sum;

use crate::emit::{Emit, Way, ip_head};

pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMP6: u8 = 58;
const LIFETIME: u8 = 64;
/// Type and code, checksum, identifier and sequence.
pub(crate) const ECHO_LEN: usize = 8;
/// How much of a packet is told of that could not be delivered.
const TOLD: usize = 64;

/// Why a packet was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody listens on that port.
    Port,
    /// There is no way to that host.
    Host,
    /// It is not allowed to go there.
    Prohibited,
}

impl Why {
    /// Type and code.
    const fn code(self, is_ipv4: bool) -> [u8; 2] {
        match (is_ipv4, self) {
            (true, Self::Port) => [3, 3],
            (true, Self::Host) => [3, 1],
            (true, Self::Prohibited) => [3, 13],
            (false, Self::Port) => [1, 4],
            (false, Self::Host) => [1, 3],
            (false, Self::Prohibited) => [1, 1],
        }
    }
}

/// The protocol of a family.
pub(crate) const fn protocol(way: Way) -> u8 {
    if way.to.is_ipv4() { ICMP } else { ICMP6 }
}

/// Whether a message is a question for an echo; then its identifier.
pub(crate) fn question(way: Way, message: &[u8]) -> Option<u16> {
    let kind = if way.to.is_ipv4() { 8 } else { 128 };
    match message {
        [first, 0, _, _, a, b, _, _, ..] if *first == kind => Some(u16::from_be_bytes([*a, *b])),
        _ => None,
    }
}

/// Whether a message is an echo.
pub(crate) fn is_echo(way: Way, message: &[u8]) -> bool {
    let kind = if way.to.is_ipv4() { 0 } else { 129 };
    message.len() >= ECHO_LEN && message.starts_with(&[kind, 0])
}

/// Echoes a question that came along `way`.
pub(crate) fn echo(way: Way, question: &[u8], emit: &mut Emit<'_, '_>) {
    let mut message = question.to_vec();
    if let [kind, ..] = message.as_mut_slice() {
        *kind = if way.to.is_ipv4() { 0 } else { 129 };
    }
    send(way.back(), message, emit);
}

/// Sends a message with this identifier, of an echo.
pub(crate) fn send_echo(way: Way, mut message: Vec<u8>, identifier: u16, emit: &mut Emit<'_, '_>) {
    if let Some(place) = message.get_mut(4..6) {
        place.copy_from_slice(&identifier.to_be_bytes());
    }
    send(way, message, emit);
}

/// Tells the guest that a packet of its own was not delivered, which went along `way` and carried so much of `protocol`.
pub(crate) fn unreachable(way: Way, protocol_: u8, carried: &[u8], why: Why, emit: &mut Emit<'_, '_>) {
    // From the gateway it would come in the world; but some take it from nobody but who they talk to.
    let told = carried.get(..TOLD).unwrap_or(carried);
    let mut packet = vec![0; way.ip_len()];
    packet.extend_from_slice(told);
    if ip_head(&mut packet, way, protocol_, LIFETIME).is_none() {
        return;
    }
    let mut message = why.code(way.to.is_ipv4()).to_vec();
    message.extend([0; 6]);
    message.extend(packet);
    send(way.back(), message, emit);
}

/// Sends a message whose checksum is yet to be written.
pub(crate) fn send(way: Way, mut message: Vec<u8>, emit: &mut Emit<'_, '_>) {
    seal(way, &mut message);
    emit.packet(way, protocol(way), LIFETIME, &message);
}

/// Writes the checksum.
pub(crate) fn seal(way: Way, message: &mut [u8]) {
    if let Some(place) = message.get_mut(2..4) {
        place.fill(0);
    }
    let sum = match way.to {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => way.pseudo(ICMP6, message.len()),
    };
    let checksum = sum.plus(message).checksum();
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&checksum.to_bytes());
    }
}

/// Whether the checksum is right.
pub(crate) fn is_right(way: Way, message: &[u8]) -> bool {
    let sum = match way.to {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => way.pseudo(ICMP6, message.len()),
    };
    sum.plus(message).is_right()
}
