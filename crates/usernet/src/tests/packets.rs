//! Packets one by one, as no guest's network stack would send them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use outboard_frames::wire::{TCP_ACK, TCP_RST, TCP_SYN, Tcp};
use outboard_frames::{Offload, Takes};
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::guest::{GATEWAY, GUEST, MAC, World};
use super::{FAR, pattern, settings};
use crate::emit::{Way, heads};
use crate::icmp::{self, ICMP, ICMP6};
use crate::parse::Packet;
use crate::reassembly::Reassembly;
use crate::tcp::Connection;
use crate::*;

const OURS: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);

fn way(from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Way {
    Way { from: from.into(), to: to.into() }
}

fn frame(way: Way, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; way.heads_len()];
    frame.extend_from_slice(payload);
    heads(&mut frame, [OURS, MAC], way, protocol, 64).unwrap();
    frame
}

fn udp(way: Way, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut datagram = [ports[0], ports[1], len, 0].map(u16::to_be_bytes).as_flattened().to_vec();
    datagram.extend_from_slice(data);
    let checksum = way.pseudo(17, datagram.len()).plus(&datagram).checksum();
    datagram[6..8].copy_from_slice(&checksum.to_bytes());
    frame(way, 17, &datagram)
}

fn echo(way: Way, data: &[u8]) -> Vec<u8> {
    let kind = if way.to.is_ipv4() { 8 } else { 128 };
    let mut message = [&[kind, 0, 0, 0, 0x12, 0x34, 0, 1], data].concat();
    icmp::seal(way, &mut message);
    frame(way, icmp::protocol(way), &message)
}

fn tcp(way: Way, flags: u8, numbers: [u32; 2], data: &[u8]) -> Vec<u8> {
    tcp_with(1000, way, flags, numbers, data)
}

/// A segment of a guest that has so much room.
fn tcp_with(window: u16, way: Way, flags: u8, numbers: [u32; 2], data: &[u8]) -> Vec<u8> {
    let mut tcp = Tcp::read_from_bytes(&[0; 20]).unwrap();
    tcp.ports.copy_from_slice([5000_u16.to_be_bytes(), 80_u16.to_be_bytes()].as_flattened());
    (tcp.sequence, tcp.acknowledged) = (numbers[0].into(), numbers[1].into());
    (tcp.offset, tcp.flags, tcp.window) = (5 << 4, flags, window.into());
    tcp.checksum = way.pseudo(6, 20 + data.len()).plus(tcp.as_bytes()).plus(data).checksum();
    frame(way, 6, &[tcp.as_bytes(), data].concat())
}

/// What the guest is sent in answer, with how it goes.
fn answers(world: &mut World, mut frame: Vec<u8>) -> Vec<(Way, u8, Vec<u8>)> {
    let now = world.now();
    world.net.take(&mut frame, &Offload::None, now);
    given(world)
}

fn given(world: &mut World) -> Vec<(Way, u8, Vec<u8>)> {
    let (now, mut all) = (world.now(), Vec::new());
    world.net.give(now, |offload, frame| {
        assert_eq!(*offload, Offload::None);
        assert_eq!(frame[..12], [MAC, OURS].concat());
        let packet = match frame[12] {
            8 => Packet::parse4(frame, false).unwrap(),
            _ => Packet::parse6(frame, false).unwrap(),
        };
        let payload = frame[packet.payload.clone()].to_vec();
        let is_icmp = packet.protocol == ICMP || packet.protocol == ICMP6;
        match packet.fragment {
            Some(_) => {}
            None if is_icmp => assert!(icmp::is_right(packet.way, &payload)),
            None => assert!(packet.is_right(&payload)),
        }
        all.push((packet.way, packet.protocol, payload));
        true
    });
    all
}

#[test]
fn echo_of_the_gateway_and_resolver_comes_at_once() {
    let mut world = World::new(settings());
    let net6 = Net6::default();
    for way in [
        way(GUEST, GATEWAY),
        way(GUEST, Ipv4Addr::new(10, 0, 2, 3)),
        way(GUEST6, net6.gateway()),
        way(GUEST6, net6.resolver()),
        way("fe80::15".parse::<Ipv6Addr>().unwrap(), net6.link_gateway()),
    ] {
        let [(back, _, message)] = &answers(&mut world, echo(way, b"hello"))[..] else { panic!("{way:?}") };
        assert_eq!(*back, way.back());
        assert!(icmp::is_echo(way, message) && message[4..] == *b"\x12\x34\0\x01hello");
    }
    assert!(world.host().ends.is_empty());
}

#[test]
fn echo_of_others_goes_through_the_host_with_the_guests_identifier() {
    let mut world = World::new(settings());
    for (way, answer) in [
        (way(GUEST, FAR.ip()), [0, 0, 0xff, 0xff, 9, 9, 0, 1]),
        (way(GUEST6, "2001:db8::9".parse::<Ipv6Addr>().unwrap()), [129, 0, 0xff, 0xff, 9, 9, 0, 1]),
    ] {
        assert_eq!(answers(&mut world, echo(way, b"hello")), []);
        let host = world.host().only();
        assert_eq!(world.host().end(host).to, Some((way.to, 0).into()));
        world.host().end(host).datagrams_in.extend([answer.to_vec(), b"no echo".to_vec()]);
        world.host_ready(host);
        let [(back, _, message)] = &given(&mut world)[..] else { panic!("one echo") };
        assert_eq!((*back, &message[4..]), (way.back(), &b"\x12\x34\0\x01"[..]));
        world.wait(Duration::from_secs(10));
        assert_eq!(world.net.counters().flows, 0);
    }
    // Where the host does not let us.
    world.host().refuses = Some(std::io::ErrorKind::PermissionDenied);
    let [(_, _, message)] = &answers(&mut world, echo(way(GUEST, FAR.ip()), b""))[..] else { panic!() };
    assert_eq!(message[..2], [3, 1]);
}

#[test]
fn addresses_that_lead_nowhere_are_prohibited() {
    let mut world = World::new(Settings { host_loopback: false, ..settings() });
    let mut count = 0;
    for to in ["127.0.0.1", "169.254.169.254", "0.1.2.3", "10.0.2.2", "10.0.2.9", "255.0.0.1"] {
        let way = way(GUEST, to.parse::<Ipv4Addr>().unwrap());
        for frame in [udp(way, [5000, 80], b"x"), tcp(way, TCP_SYN, [1, 0], b"")] {
            let [(back, ICMP, message)] = &answers(&mut world, frame.clone())[..] else { panic!("{to}") };
            assert_eq!((*back, &message[..2]), (way.back(), &[3, 13][..]), "{to}");
            // What it carried: ports, and what is behind them.
            assert_eq!(message[8 + 20..][..6], frame[34..][..6]);
            count += 1;
        }
    }
    for to in [
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "fe80::2",
        "fe80::1234",
        "fd00::2",
        "fd00::9",
        "fd00:ec2::254",
    ] {
        let way = way(GUEST6, to.parse::<Ipv6Addr>().unwrap());
        let [(_, ICMP6, message)] = &answers(&mut world, udp(way, [5000, 80], b"x"))[..] else {
            panic!("{to}")
        };
        assert_eq!(message[..2], [1, 1], "{to}");
        count += 1;
    }
    assert_eq!(world.net.counters().prohibited, count);
    assert!(world.host().ends.is_empty());
}

#[test]
fn host_is_reached_by_the_gateways_addresses() {
    let mut world = World::new(settings());
    for (way, host) in [
        (way(GUEST, GATEWAY), "127.0.0.1:80"),
        (way(GUEST6, Net6::default().gateway()), "[::1]:80"),
        (way(GUEST6, Net6::default().link_gateway()), "[::1]:80"),
        (way(GUEST6, "2001:db8::9".parse::<Ipv6Addr>().unwrap()), "[2001:db8::9]:80"),
    ] {
        assert_eq!(answers(&mut world, udp(way, [5000, 80], b"x")), []);
        let socket = world.host().only();
        assert_eq!(world.host().end(socket).to, Some(host.parse().unwrap()));
        world.wait(Duration::from_secs(60));
    }
}

#[test]
fn frames_that_are_not_the_guests_or_malformed_are_ignored() {
    let mut world = World::new(settings());
    let good = udp(way(GUEST, FAR.ip()), [5000, 80], b"data");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        frame
    };
    let cases: Vec<Vec<u8>> = vec![
        Vec::new(),
        good[..13].to_vec(),
        good[..33].to_vec(),
        good[..40].to_vec(),
        udp(way(Ipv4Addr::new(10, 0, 2, 16), FAR.ip()), [5000, 80], b"data"),
        udp(way(Ipv4Addr::UNSPECIFIED, FAR.ip()), [5000, 80], b"data"),
        udp(way("fd01::15".parse::<Ipv6Addr>().unwrap(), Ipv6Addr::LOCALHOST), [5000, 80], b"data"),
        // To somebody else on the link, from all of it, of an unknown kind, tagged.
        with(&|frame| frame[5] ^= 1),
        with(&|frame| frame[6] |= 1),
        with(&|frame| frame[12] = 0x99),
        with(&|frame| frame[12..14].copy_from_slice(&[0x81, 0])),
        // Version, header's length, checksums, lengths.
        with(&|frame| frame[14] = 0x55),
        with(&|frame| frame[14] = 0x44),
        with(&|frame| frame[24] ^= 1),
        with(&|frame| frame[45] ^= 1),
        with(&|frame| frame[38..40].copy_from_slice(&[0, 7])),
        with(&|frame| frame[38..40].copy_from_slice(&[0xff, 0xff])),
        tcp(way(GUEST, FAR.ip()), TCP_SYN, [1, 0], b"")[..50].to_vec(),
        echo(way(GUEST, FAR.ip()), b"")[..38].to_vec(),
        frame(way(GUEST, FAR.ip()), 132, b"SCTP is not served"),
    ];
    let count = cases.len() as u64;
    for frame in cases {
        assert_eq!(answers(&mut world, frame.clone()), [], "{frame:x?}");
    }
    assert_eq!(world.net.counters().ignored, count);
    assert!(world.host().ends.is_empty());
    assert_eq!(answers(&mut world, good), []);
    assert_eq!(world.host().ends.len(), 1);
}

#[test]
fn segment_of_no_connection_is_reset() {
    let mut world = World::new(settings());
    let way = way(GUEST, FAR.ip());
    let [(back, 6, answer)] = &answers(&mut world, tcp(way, TCP_ACK, [1000, 2000], b"data"))[..] else {
        panic!()
    };
    let (tcp_, _) = Tcp::ref_from_prefix(answer).unwrap();
    assert_eq!((*back, tcp_.flags, tcp_.sequence.get()), (way.back(), TCP_RST, 2000));
    let [(_, 6, answer)] = &answers(&mut world, tcp(way, 0, [1000, 0], b"data"))[..] else { panic!() };
    let (tcp_, _) = Tcp::ref_from_prefix(answer).unwrap();
    assert_eq!((tcp_.flags, tcp_.acknowledged.get()), (TCP_RST | TCP_ACK, 1004));
    assert_eq!(answers(&mut world, tcp(way, TCP_RST, [1000, 0], b"")), []);
}

#[test]
fn guest_that_gives_up_is_heard() {
    let mut world = World::new(settings());
    let way = way(GUEST, FAR.ip());
    assert_eq!(answers(&mut world, tcp(way, TCP_SYN, [1000, 0], b"")), []);
    assert_eq!(answers(&mut world, tcp(way, TCP_SYN, [1000, 0], b"")), [], "once more");
    assert_eq!(world.host().ends.len(), 1);
    let host = world.host().only();
    assert_eq!(answers(&mut world, tcp(way, TCP_RST, [1001, 0], b"")), []);
    assert_eq!(world.host().end(host).closed, Some(Ending::Reset));
}

#[test]
fn guest_that_closed_its_window_and_has_room_again_gets_what_it_dropped() {
    let mut world = World::new(settings());
    let way = way(GUEST, FAR.ip());
    assert_eq!(answers(&mut world, tcp(way, TCP_SYN, [1000, 0], b"")), []);
    let host = world.host().only();
    world.host_connected(host, Ok(()));
    let place = |segment: &[u8]| Tcp::ref_from_prefix(segment).unwrap().0.sequence.get();
    let [(_, 6, answer)] = &given(&mut world)[..] else { panic!() };
    let first = place(answer).wrapping_add(1);
    assert_eq!(answers(&mut world, tcp(way, TCP_ACK, [1001, first], b"")), []);
    world.host().end(host).inbox.extend(pattern(1000));
    world.host_ready(host);
    let sent: usize = given(&mut world).iter().map(|(_, _, segment)| segment.len() - 20).sum();
    assert_eq!(sent, 1000);
    // What is behind 300 bytes is dropped: there is no room for it, and then there is. That something was taken makes the
    // difference: else the time to send again is still set.
    let rest = first.wrapping_add(300);
    for room in [0, 1000] {
        assert_eq!(answers(&mut world, tcp_with(room, way, TCP_ACK, [1001, rest], b"")), []);
    }
    // Asked, the guest says again what it waits for.
    let before = world.elapsed();
    for _ in 0..20 {
        let due = world.net.wake_at().expect("somebody will say something");
        world.elapse(due.saturating_duration_since(world.now()));
        let mut said = given(&mut world);
        while let Some((_, _, segment)) = said.pop() {
            if place(&segment) == rest && segment.len() > 20 {
                assert_eq!(segment[20..], pattern(1000)[300..][..segment.len() - 20]);
                assert!(world.elapsed() - before < Duration::from_secs(1), "{:?}", world.elapsed());
                return;
            }
            said.extend(answers(&mut world, tcp(way, TCP_ACK, [1001, rest], b"")));
        }
    }
    panic!("nothing is sent again");
}

#[test]
fn host_that_cannot_be_reached_is_told_of() {
    let mut world = World::new(settings());
    let way = way(GUEST, FAR.ip());
    assert_eq!(answers(&mut world, tcp(way, TCP_SYN, [1000, 0], b"")), []);
    let host = world.host().only();
    world.host_connected(host, Err(std::io::ErrorKind::TimedOut));
    let [(_, ICMP, message)] = &given(&mut world)[..] else { panic!() };
    assert_eq!(message[..2], [3, 1]);
    // And a port where nobody listens.
    assert_eq!(answers(&mut world, udp(way, [5000, 80], b"x")), []);
    let host = world.host().only();
    world.host().end(host).broken = Some(std::io::ErrorKind::ConnectionRefused);
    let [(_, ICMP, message)] = &answers(&mut world, udp(way, [5000, 80], b"x"))[..] else { panic!() };
    assert_eq!(message[..2], [3, 3]);
}

#[test]
fn flows_are_limited_and_idle_datagrams_go_first() {
    let limits = Limits { flows: 4, ..Limits::default() };
    let mut world = World::new(Settings { limits, ..settings() });
    let way = way(GUEST, FAR.ip());
    for port in 1..=6 {
        world.wait(Duration::from_secs(1));
        assert_eq!(answers(&mut world, udp(way, [port, 80], b"x")), []);
    }
    let open = |world: &mut World| world.host().ends.values().filter(|end| end.closed.is_none()).count();
    assert_eq!((open(&mut world), world.net.counters().exhausted), (4, 2));
    assert!(world.host().end(SocketId(0)).closed.is_some() && world.host().end(SocketId(1)).closed.is_some());
    // Connections take their places, and are not taken theirs.
    for port in 1..=5_u8 {
        let to = Way { to: Ipv4Addr::new(192, 0, 2, port).into(), ..way };
        let answers = answers(&mut world, tcp(to, TCP_SYN, [1000, 0], b""));
        assert_eq!(answers.len(), usize::from(port == 5), "refused when there is no room at all");
    }
    assert_eq!((open(&mut world), world.net.counters().flows), (4, 4));
}

/// The headers' numbers of a segment: its own, and the one that it acknowledges.
fn numbers(segment: &[u8]) -> [u32; 2] {
    let (tcp, _) = Tcp::ref_from_prefix(segment).unwrap();
    [tcp.sequence.get(), tcp.acknowledged.get()]
}

#[test]
fn all_flows_that_there_may_be_can_be_connections_within_the_memory() {
    let Limits { flows, memory, window } = Limits::default();
    let mut world = World::new(settings());
    for number in 0..flows {
        let [high, low] = (number as u16).to_be_bytes();
        let way = way(GUEST, Ipv4Addr::new(198, 51, high, low));
        assert_eq!(answers(&mut world, tcp(way, TCP_SYN, [1000, 0], b"")), []);
        let host = SocketId(number as u32);
        world.host_connected(host, Ok(()));
        let [(_, 6, answer)] = &given(&mut world)[..] else { panic!("connection {number}") };
        assert_eq!(answers(&mut world, tcp(way, TCP_ACK, [1001, numbers(answer)[0] + 1], b"")), []);
        assert!(world.net.memory <= memory);
        if number == 0 {
            assert_eq!(world.net.memory, 2 * window, "there is enough for all that may come");
        }
    }
    assert_eq!((world.net.counters().flows, world.net.counters().exhausted), (flows, 0));
    let refused = answers(&mut world, tcp(way(GUEST, FAR.ip()), TCP_SYN, [1000, 0], b""));
    assert_eq!((refused.len(), world.net.counters().exhausted), (1, 1));
    for number in 0..flows {
        let host = SocketId(number as u32);
        world.host().end(host).broken = Some(std::io::ErrorKind::ConnectionReset);
        world.host_ready(host);
    }
    world.settle();
    assert_eq!((world.net.counters().flows, world.net.memory), (0, 0));
}

#[test]
fn flows_that_come_to_forwarded_ports_leave_room_for_others() {
    let forwards = ["tcp:127.0.0.1:2222-:22", "udp:127.0.0.1:5353-:53"].map(|text| text.parse().unwrap());
    let limits = Limits { flows: 16, ..Limits::default() };
    let mut world = World::new(Settings { limits, forwards: forwards.to_vec(), ..settings() });
    let discard = |world: &mut World| {
        let now = world.now();
        world.net.give(now, |_, _| true);
    };
    let peer = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    world.host().arrived.extend((0..6).map(peer));
    world.net.forward_ready(0);
    discard(&mut world);
    // A quarter of all for whoever comes first, and another for both.
    assert_eq!((world.net.counters().flows, world.net.counters().exhausted), (4, 2));
    for port in 0..6 {
        world.elapse(Duration::from_secs(1));
        world.host().datagrams_arrived.push_back((b"x".to_vec(), peer(port)));
        world.net.forward_ready(1);
        discard(&mut world);
    }
    assert_eq!((world.net.counters().flows, world.net.counters().exhausted), (6, 6));
    for number in 0..10 {
        let to = way(GUEST, Ipv4Addr::new(198, 51, 100, number));
        assert_eq!(answers(&mut world, udp(to, [5000, 80], b"x")), []);
    }
    assert_eq!((world.net.counters().flows, world.net.counters().exhausted), (16, 6));
    // They have room again when they are over.
    world.wait(Duration::from_secs(3600));
    assert_eq!(world.net.counters().flows, 0);
    world.host().arrived.extend((0..5).map(peer));
    world.net.forward_ready(0);
    discard(&mut world);
    assert_eq!((world.net.counters().flows, world.net.counters().exhausted), (4, 7));
}

/// However much there is with it, and however many there are.
#[test]
fn first_segment_of_a_connection_is_kept_without_its_data() {
    let way = way(GUEST, FAR.ip());
    let long = tcp(way, TCP_SYN, [1000, 0], &pattern(1400));
    let far = SocketAddr::new(FAR.ip(), 80);
    // Without options, with eight bytes of them, and with more than there are.
    for (offset, len) in [(5 << 4, 20), (7 << 4, 28), (15 << 4, 60), (0, 20)] {
        let mut packet = long[14..].to_vec();
        packet[20 + 12] = offset;
        let guest = SocketAddr::new(GUEST.into(), 5000);
        let connection = Connection::outward(guest, far, SocketId(0), &packet);
        assert_eq!(connection.first_segment(), &packet[20..20 + len]);
    }
    let mut world = World::new(settings());
    assert_eq!(answers(&mut world, long), []);
    let host = world.host().only();
    world.host_connected(host, Ok(()));
    let [(_, 6, answer)] = &given(&mut world)[..] else { panic!() };
    assert_eq!(numbers(answer)[1], 1001, "data comes again");
}

#[test]
fn echo_longer_than_a_packet_comes_in_fragments() {
    let mut world = World::new(settings());
    for (mtu, count) in [(1500, 3), (1280, 4)] {
        world.net.set_mtu(mtu);
        for way in [way(GUEST, GATEWAY), way(GUEST6, Net6::default().gateway())] {
            let (mut question, now) = (echo(way, &pattern(4000)), world.now());
            let expected = [&b"\x12\x34\0\x01"[..], &pattern(4000)].concat();
            world.net.take(&mut question, &Offload::None, now);
            let (mut reassembly, mut whole, mut frames) = (Reassembly::default(), None, 0);
            world.net.give(now, |_, frame| {
                assert!(frame.len() <= 14 + usize::from(mtu));
                let packet = match way.to {
                    IpAddr::V4(_) => Packet::parse4(frame, false).unwrap(),
                    IpAddr::V6(_) => Packet::parse6(frame, false).unwrap(),
                };
                assert_eq!((packet.way, packet.protocol), (way.back(), icmp::protocol(way)));
                let payload = &frame[packet.payload.clone()];
                frames += 1;
                assert!(whole.is_none());
                whole =
                    reassembly.take((packet.way, packet.protocol), packet.fragment.unwrap(), payload, now);
                true
            });
            let whole = whole.expect("all of it");
            assert!(icmp::is_echo(way, &whole) && icmp::is_right(way.back(), &whole));
            assert_eq!((&whole[4..], frames), (&expected[..], count));
        }
    }
}

#[test]
fn long_datagrams_are_cut_and_put_together() {
    let mut world = World::new(settings());
    let long = pattern(4000);
    for way in [way(GUEST, FAR.ip()), way(GUEST6, "2001:db8::9".parse::<Ipv6Addr>().unwrap())] {
        // From the guest: fragments, as the network makes them for it.
        assert_eq!(answers(&mut world, udp(way, [5000, 80], b"first")), []);
        let host = world.host().only();
        world.host().end(host).datagrams_in.push_back(long.clone());
        world.host_ready(host);
        let mut frames = Vec::new();
        let now = world.now();
        world.net.give(now, |_, frame| {
            assert!(frame.len() <= 1514);
            frames.push(frame.to_vec());
            true
        });
        assert_eq!(frames.len(), 3);
        // Turned round, they are the guest's.
        let half = if way.to.is_ipv4() { 4 } else { 16 };
        let at = if way.to.is_ipv4() { 26 } else { 22 };
        let ports = way.heads_len() + if way.to.is_ipv4() { 0 } else { 8 };
        for (number, frame) in frames.iter_mut().enumerate() {
            frame[..12].copy_from_slice(&[OURS, MAC].concat());
            frame[at..at + 2 * half].rotate_left(half);
            if number == 0 {
                frame[ports..ports + 4].rotate_left(2);
            }
            world.net.take(frame, &Offload::None, now);
        }
        assert_eq!(world.host().end(host).datagrams_out, [b"first".to_vec(), long.clone()]);
        assert_eq!(world.net.counters().ignored, 0);
        world.wait(Duration::from_secs(60));
    }
}

#[test]
fn neighbours_and_routers_are_answered() {
    let mut world = World::new(settings());
    let (net, from) = (Net6::default(), "fe80::15".parse::<Ipv6Addr>().unwrap());
    let solicit = |target: Ipv6Addr, limit: u8| {
        let way = way(from, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2));
        let mut message = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &[1, 1], &MAC].concat();
        icmp::seal(way, &mut message);
        let mut frame = frame(way, ICMP6, &message);
        frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 2]);
        frame[21] = limit;
        frame
    };
    for target in [net.gateway(), net.link_gateway(), net.resolver()] {
        let [(way, ICMP6, message)] = &answers(&mut world, solicit(target, 255))[..] else {
            panic!("{target}")
        };
        assert_eq!((way.from, way.to), (target.into(), from.into()));
        assert_eq!((message[0], &message[8..24], &message[26..32]), (136, &target.octets()[..], &OURS[..]));
    }
    assert_eq!(answers(&mut world, solicit(net.gateway(), 64)), [], "it has crossed a router");
    assert_eq!(answers(&mut world, solicit(GUEST6, 255)), [], "it is not ours");
    let mut question = vec![133, 0, 0, 0, 0, 0, 0, 0];
    let to_routers = way(from, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2));
    icmp::seal(to_routers, &mut question);
    let mut ask = frame(to_routers, ICMP6, &question);
    (ask[0], ask[21]) = (0x33, 255);
    let now = world.now();
    world.net.take(&mut ask, &Offload::None, now);
    let told = |world: &mut World| {
        let (now, mut told) = (world.now(), Vec::new());
        world.net.give(now, |_, frame| {
            told = frame[54..].to_vec();
            true
        });
        told
    };
    let first = told(&mut world);
    let has = |option: &[u8]| first.windows(option.len()).any(|window| window == option);
    assert_eq!(first[0], 134);
    assert!(has(&net.resolver().octets()) && has(&[3, 4, 64, 0xc0]) && has(&[5, 1, 0, 0, 0, 0, 5, 220]));
    // And again, before it is forgotten.
    world.wait(Duration::from_secs(599));
    assert_eq!(told(&mut world), Vec::<u8>::new());
    world.elapse(Duration::from_secs(1));
    assert_eq!(told(&mut world), first);
    world.net.set_mtu(1400);
    world.elapse(Duration::from_secs(600));
    assert!(told(&mut world).windows(8).any(|window| window == [5, 1, 0, 0, 0, 0, 5, 120]), "of the new MTU");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// A guest whose numbers are near to the right ones, and a host of changing mood.
    #[test]
    fn anything_that_a_guest_sends_is_survived(
        takes in any::<bool>(),
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<i8>(), any::<i8>(), any::<u16>(), 0..1400_usize), 1..80),
    ) {
        let takes = Takes::by_driver(if takes { u64::MAX } else { 0 });
        let limits = Limits { memory: 4 << 20, window: 64 << 10, ..Limits::default() };
        let mut world = World::new(Settings { takes, limits, ..settings() });
        let way = way(GUEST, FAR.ip());
        let (mut near, mut far) = (0_u32, 0_u32);
        let syn = (0, TCP_SYN, 0, 0, 60_000, 0);
        for (step, flags, sequence, acknowledged, window, len) in [syn, (1, 0, 0, 0, 0, 0)].into_iter().chain(steps) {
            match step % 4 {
                0 | 2 => {
                    let far = far.wrapping_add_signed(sequence.into());
                    let mut frame = tcp(way, flags, [far, near.wrapping_add_signed(acknowledged.into())], &pattern(len));
                    frame[48..50].copy_from_slice(&window.to_be_bytes());
                    frame[50..52].fill(0);
                    let checksum = way.pseudo(6, frame.len() - 34).plus(&frame[34..]).checksum();
                    frame[50..52].copy_from_slice(&checksum.to_bytes());
                    let now = world.now();
                    world.net.take(&mut frame, &Offload::None, now);
                }
                1 => {
                    let open: Vec<_> = world.host().ends.iter().filter(|(_, end)| end.closed.is_none()).map(|(id, _)| *id).collect();
                    for id in open {
                        let end = world.host().end(SocketId(id));
                        end.outcome = Some(Ok(()));
                        end.inbox.extend(pattern(len * 10));
                        end.eof |= flags > 200;
                        end.room = if flags & 1 == 0 { usize::MAX } else { len };
                        world.host_ready(SocketId(id));
                    }
                }
                _ => world.elapse(Duration::from_millis(u64::from(window) * 4)),
            }
            let (now, mut room) = (world.now(), if flags & 2 == 0 { 64 } else { 1 });
            world.net.give(now, |offload, frame| {
                if room == 0 {
                    return false;
                }
                room -= 1;
                assert!(takes.has(offload));
                if let Ok((tcp, data)) = Tcp::ref_from_prefix(&frame[34..]) {
                    near = tcp.sequence.get().wrapping_add(data.len() as u32 + u32::from(tcp.flags & 3 != 0));
                    far = tcp.acknowledged.get();
                }
                true
            });
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let forward = |text: &str| vec![text.parse::<Forward>().unwrap()];
    for (settings, reason) in [
        (Settings { mtu: 1279, ..settings() }, "1280..=65521"),
        (Settings { forwards: forward("tcp:127.0.0.1:0-10.0.2.16:1"), ..settings() }, "10.0.2.16"),
        (Settings { forwards: forward("tcp:127.0.0.1:0-[fd00::2]:1"), ..settings() }, "fd00::2"),
        (Settings { net6: None, forwards: forward("tcp:[::1]:0-[fd00::9]:1"), ..settings() }, "fd00::9"),
    ] {
        assert!(settings.check().unwrap_err().to_string().contains(reason), "{reason}");
    }
}
