//! DHCP (RFC 2131): one address, for whoever asks.

use std::net::{Ipv4Addr, SocketAddrV4};

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::settings::Net4;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// In the flags: an answer to all is wanted.
const TO_ALL: u16 = 0x8000;
/// How long an address is the guest's, in seconds; it is no other's in between.
const LEASE: u32 = 24 * 60 * 60;

/// Options (RFC 2132).
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const RESOLVER: u8 = 6;
const MTU: u8 = 26;
const WANTED: u8 = 50;
const TIME: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const END: u8 = 255;

/// Kinds of messages.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const ASK: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// What every message begins with.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    operation: u8,
    hardware: u8,
    hardware_len: u8,
    hops: u8,
    transaction: U32,
    seconds: U16,
    flags: U16,
    client: [u8; 4],
    yours: [u8; 4],
    server: [u8; 4],
    relay: [u8; 4],
    mac: [u8; 16],
    names: [u8; 192],
    magic: [u8; 4],
}

/// An answer: to whom, and what.
pub(crate) struct Answer {
    /// `None`: to all on the link.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) to: SocketAddrV4,
    pub(crate) message: Vec<u8>,
}

/// Answers what a client says, if that is to be answered. `has_resolver`: there is somebody to ask about names.
pub(crate) fn answer(message: &[u8], net: Net4, mtu: u16, has_resolver: bool) -> Option<Answer> {
    let (head, options) = Head::ref_from_prefix(message).ok()?;
    if head.operation != REQUEST || (head.hardware, head.hardware_len) != (1, 6) || head.magic != MAGIC {
        return None;
    }
    let (mut kind, mut wanted, mut server) = (0, None, None);
    for (option, value) in Options(options) {
        match (option, value) {
            (KIND, &[value]) => kind = value,
            (WANTED, &[a, b, c, d]) => wanted = Some(Ipv4Addr::new(a, b, c, d)),
            (SERVER, &[a, b, c, d]) => server = Some(Ipv4Addr::new(a, b, c, d)),
            _ => {}
        }
    }
    if server.is_some_and(|server| server != net.gateway()) {
        return None;
    }
    let client = Ipv4Addr::from(head.client);
    let has_address = !client.is_unspecified();
    let kind = match kind {
        DISCOVER => OFFER,
        // RFC 2131, 4.3.2: the address that it was offered, had, or has.
        ASK if wanted.unwrap_or(client) == net.guest() => ACK,
        ASK => NAK,
        INFORM if has_address => ACK,
        _ => return None,
    };
    let is_informed = has_address && wanted.is_none() && kind == ACK && client != net.guest();
    let mut reply = Head {
        operation: REPLY,
        hops: 0,
        seconds: 0.into(),
        yours: if kind == NAK || is_informed { [0; 4] } else { net.guest().octets() },
        server: [0; 4],
        names: [0; 192],
        ..head.clone()
    };
    if kind == NAK {
        reply.client = [0; 4];
    }
    let mut message = reply.as_bytes().to_vec();
    let mut option = |option: u8, value: &[u8]| {
        message.extend([option, value.len() as u8]);
        message.extend_from_slice(value);
    };
    option(KIND, &[kind]);
    option(SERVER, &net.gateway().octets());
    if kind != NAK {
        if !is_informed {
            option(TIME, &LEASE.to_be_bytes());
        }
        option(MASK, &net.mask().octets());
        option(ROUTER, &net.gateway().octets());
        if has_resolver {
            option(RESOLVER, &net.resolver().octets());
        }
        option(MTU, &mtu.to_be_bytes());
    }
    message.push(END);
    // RFC 1542, 2.1: some do not take messages that are shorter than those of BOOTP.
    message.resize(message.len().max(300), 0);
    let to_all = kind == NAK || head.flags.get() & TO_ALL != 0;
    let to = if has_address && kind != NAK { client } else { Ipv4Addr::BROADCAST };
    let [mac @ .., _, _, _, _, _, _, _, _, _, _] = head.mac;
    let mac = (!to_all || to == client).then_some(mac);
    Some(Answer { mac, to: SocketAddrV4::new(to, CLIENT_PORT), message })
}

/// Options, as long as they are whole.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0 {
                [0, rest @ ..] => self.0 = rest,
                [END, ..] => return None,
                [option, len, rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(usize::from(*len))?;
                    self.0 = rest;
                    return Some((*option, value));
                }
                _ => return None,
            }
        }
    }
}
