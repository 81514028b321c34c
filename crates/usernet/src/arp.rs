//! ARP (RFC 826): the gateway and the resolver are here, and the guest is looked for.

use std::net::Ipv4Addr;

use outboard_frames::wire::Ethernet;
use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::emit::{BROADCAST, Emit, Mac};

pub(crate) const ETHER_ARP: u16 = 0x0806;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Hardware and protocol, of which lengths: Ethernet and IPv4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Arp {
    kind: [u8; 6],
    operation: U16,
    sender: Mac,
    sender_ip: [u8; 4],
    target: Mac,
    target_ip: [u8; 4],
}

/// Takes what stands behind the Ethernet header, and answers if it asks for one of `ours`.
pub(crate) fn take(payload: &[u8], ours: [Ipv4Addr; 2], emit: &mut Emit<'_, '_>) {
    let Ok((arp, _)) = Arp::ref_from_prefix(payload) else { return };
    let wanted = Ipv4Addr::from(arp.target_ip);
    if arp.kind == KIND && arp.operation == REQUEST && ours.contains(&wanted) {
        send(REPLY, [wanted, arp.sender_ip.into()], arp.sender, arp.sender, emit);
    }
}

/// Asks who has the guest's address.
pub(crate) fn ask(gateway: Ipv4Addr, guest: Ipv4Addr, emit: &mut Emit<'_, '_>) {
    send(REQUEST, [gateway, guest], BROADCAST, [0; 6], emit);
}

fn send(operation: u16, [from, about]: [Ipv4Addr; 2], to: Mac, target: Mac, emit: &mut Emit<'_, '_>) {
    let ours = emit.outlet.ours;
    let ethernet = Ethernet { addresses: [to, ours], ether_type: ETHER_ARP.into() };
    let arp = Arp {
        kind: KIND,
        operation: operation.into(),
        sender: ours,
        sender_ip: from.octets(),
        target,
        target_ip: about.octets(),
    };
    emit.frame(&[ethernet.as_bytes(), arp.as_bytes()].concat());
}
