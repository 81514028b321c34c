//! Neighbours of IPv6 (RFC 4861): the gateway and the resolver are here, and the guest is told of its network and of who
//! answers questions about names (RFC 8106).

use std::net::{IpAddr, Ipv6Addr};

use crate::emit::{Emit, Mac, Way};
use crate::icmp::{ICMP6, seal};
use crate::settings::Net6;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Messages that crossed a router have another (RFC 4861, 7.1).
const LIMIT: u8 = 255;

/// Options: addresses of the link, the prefix, the MTU, resolvers.
const OWN_ADDRESS: u8 = 1;
const ADDRESS: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const RESOLVERS: u8 = 25;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
/// How long the gateway, the prefix and the resolver are to be believed in, in seconds. They are told of again long before.
const BELIEVED: u32 = 9000;

/// Takes a message of `guest`, and answers it. False if it is none of this protocol.
pub(crate) fn take(
    way: Way,
    limit: u8,
    message: &[u8],
    guest: Mac,
    (net, resolves): (Net6, bool),
    emit: &mut Emit<'_, '_>,
) -> bool {
    let IpAddr::V6(from) = way.from else { return false };
    match message {
        [ROUTER_SOLICITATION, 0, ..] if limit == LIMIT => advertise(net, resolves, emit),
        [SOLICITATION, 0, _, _, _, _, _, _, target @ ..] if limit == LIMIT => {
            let target = target.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
            let ours = [net.gateway(), net.link_gateway(), net.resolver()];
            if let Some(target) = target.filter(|target| ours.contains(target)) {
                answer(target, from, guest, emit);
            }
        }
        [ROUTER_SOLICITATION..=ADVERTISEMENT, ..] => {}
        _ => return false,
    }
    true
}

/// `target` is here.
fn answer(target: Ipv6Addr, from: Ipv6Addr, guest: Mac, emit: &mut Emit<'_, '_>) {
    // Somebody who looks whether the address is free is answered so that all hear it.
    let asked = !from.is_unspecified();
    let (to, mac) = if asked { (from, guest) } else { (ALL_NODES, ALL_NODES_MAC) };
    // A router, asked for, and to be believed.
    let flags = if asked { 0xe0 } else { 0xa0 };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([ADDRESS, 1]);
    message.extend(emit.outlet.ours);
    send(target, to, mac, message, emit);
}

/// Tells all of the network.
pub(crate) fn advertise(net: Net6, resolves: bool, emit: &mut Emit<'_, '_>) {
    // The hop limit, no flags; how long this is a router; nothing about how long neighbours are there.
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, 64, 0];
    message.extend((BELIEVED as u16).to_be_bytes());
    message.extend([0; 8]);
    message.extend([OWN_ADDRESS, 1]);
    message.extend(emit.outlet.ours);
    message.extend([MTU, 1, 0, 0]);
    message.extend(u32::from(emit.outlet.mtu).to_be_bytes());
    // On the link, and to make addresses of.
    message.extend([PREFIX, 4, 64, 0xc0]);
    message.extend(BELIEVED.to_be_bytes());
    message.extend(BELIEVED.to_be_bytes());
    message.extend([0; 4]);
    message.extend(net.network().octets());
    if resolves {
        message.extend([RESOLVERS, 3, 0, 0]);
        message.extend(BELIEVED.to_be_bytes());
        message.extend(net.resolver().octets());
    }
    send(net.link_gateway(), ALL_NODES, ALL_NODES_MAC, message, emit);
}

/// Asks who has an address of the guest.
pub(crate) fn ask(net: Net6, guest: Ipv6Addr, emit: &mut Emit<'_, '_>) {
    let [.., a, b, c] = guest.octets();
    // RFC 4291, 2.7.1.
    let to = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(guest.octets());
    message.extend([OWN_ADDRESS, 1]);
    message.extend(emit.outlet.ours);
    send(net.link_gateway(), to, [0x33, 0x33, 0xff, a, b, c], message, emit);
}

fn send(from: Ipv6Addr, to: Ipv6Addr, mac: Mac, mut message: Vec<u8>, emit: &mut Emit<'_, '_>) {
    let way = Way { from: from.into(), to: to.into() };
    seal(way, &mut message);
    emit.packet_to(mac, way, ICMP6, LIMIT, &message);
}
