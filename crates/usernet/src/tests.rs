//! The network between a guest with a stack of its own (smoltcp) and sockets that a test holds, on a clock that the test
//! turns: no time passes but what somebody waits for.

mod guest;
mod host;
mod packets;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use guest::{GATEWAY, GUEST, World};
use smoltcp::socket::tcp::State;

use crate::*;

fn settings() -> Settings {
    Settings {
        net: Net4::default(),
        net6: Some(Net6::default()),
        mtu: 1500,
        takes: outboard_frames::Takes::default(),
        host_loopback: true,
        forwards: Vec::new(),
        limits: Limits::default(),
        seed: 7,
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Nothing is lost, so nothing is waited for: less than any retransmission would take.
const AT_ONCE: Duration = Duration::from_millis(500);

const FAR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80)), 80);

#[test]
fn guest_gets_its_address_by_dhcp() {
    let mut world = World::new(settings());
    let config = world.dhcp();
    assert_eq!(config.address.address(), GUEST);
    assert_eq!(config.router, Some(GATEWAY));
    assert_eq!(config.dns_servers.to_vec(), [Ipv4Addr::new(10, 0, 2, 3)]);
}

#[test]
fn connection_is_answered_when_the_hosts_is_there() {
    let mut world = World::with_address(settings());
    let handle = world.connect(FAR, 50_000);
    world.settle();
    assert_eq!(world.socket(handle).state(), State::SynSent, "the host has not connected yet");
    let host = world.host().only();
    assert_eq!(world.host().end(host).to, Some(FAR));
    world.host_connected(host, Ok(()));
    world.settle();
    assert_eq!(world.socket(handle).state(), State::Established);
    assert!(world.elapsed() < AT_ONCE);
}

#[test]
fn connection_that_is_refused_is_refused_to_the_guest() {
    let mut world = World::with_address(settings());
    let handle = world.connect(FAR, 50_000);
    world.settle();
    let host = world.host().only();
    world.host_connected(host, Err(std::io::ErrorKind::ConnectionRefused));
    world.settle();
    assert_eq!(world.socket(handle).state(), State::Closed);
    assert_eq!(world.net.counters().flows, 0);
    assert!(world.host().end(host).closed.is_some());
    assert!(world.elapsed() < AT_ONCE);
}

#[test]
fn bytes_go_both_ways_and_ends_are_told() {
    for takes in [outboard_frames::Takes::default(), outboard_frames::Takes::by_driver(u64::MAX)] {
        let mut world = World::with_address(Settings { takes, ..settings() });
        let (handle, host) = world.established(FAR, 50_000);
        let (up, down) = (pattern(1_000_000), pattern(1_500_000));
        world.host().end(host).inbox.extend(&down);
        world.host().end(host).eof = true;
        world.host_ready(host);
        let got = world.exchange(handle, &up);
        world.settle();
        assert!(got == down, "{} bytes", got.len());
        assert!(world.host().end(host).outbox == up);
        assert!(world.host().end(host).shut);
        assert_eq!(world.host().end(host).closed, Some(Ending::Orderly));
        assert_eq!((world.net.counters().flows, world.net.counters().ignored), (0, 0));
        assert!(world.elapsed() < AT_ONCE, "{:?}", world.elapsed());
    }
}

#[test]
fn connection_that_breaks_on_one_side_is_reset_on_the_other() {
    let mut world = World::with_address(settings());
    let (handle, host) = world.established(FAR, 50_000);
    world.host().end(host).broken = Some(std::io::ErrorKind::ConnectionReset);
    world.host_ready(host);
    world.run();
    assert_eq!(world.socket(handle).state(), State::Closed);
    assert_eq!(world.host().end(host).closed, Some(Ending::Reset));

    let (handle, host) = world.established(FAR, 50_001);
    world.socket(handle).abort();
    world.run();
    assert_eq!(world.host().end(host).closed, Some(Ending::Reset));
    assert_eq!(world.net.counters().flows, 0);
}

#[test]
fn datagrams_go_both_ways_until_nobody_uses_them() {
    let mut world = World::with_address(settings());
    let resolver = SocketAddr::from(([10, 0, 2, 3], 53));
    for (far, target, patience) in
        [(FAR, FAR, 60), (resolver, SocketAddr::from(([198, 51, 100, 53], 53)), 10)]
    {
        let handle = world.udp(5000);
        world.send(handle, b"question", far);
        world.run_for(Duration::from_secs(1));
        let host = world.host().only();
        assert_eq!(world.host().end(host).to, Some(target));
        assert_eq!(world.host().end(host).datagrams_out, [b"question".to_vec()]);
        let long = pattern(1472);
        world.host().end(host).datagrams_in.extend([b"answer".to_vec(), Vec::new(), long.clone()]);
        world.host_ready(host);
        world.settle();
        assert_eq!(world.received(handle), [(b"answer".to_vec(), far), (Vec::new(), far), (long, far)]);
        world.wait(Duration::from_secs(patience - 1));
        assert_eq!(world.host().end(host).closed, None);
        world.wait(Duration::from_secs(1));
        assert!(world.host().end(host).closed.is_some());
        assert_eq!(world.net.counters().flows, 0);
        world.sockets.remove(handle);
    }
}

#[test]
fn connection_over_ipv6_is_one_like_others() {
    for takes in [outboard_frames::Takes::default(), outboard_frames::Takes::by_driver(u64::MAX)] {
        let mut world = World::with_address(Settings { takes, ..settings() });
        let far = "[2001:db8::80]:80".parse().unwrap();
        let (handle, host) = world.established(far, 50_000);
        assert_eq!(world.host().end(host).to, Some(far));
        let (up, down) = (pattern(300_000), pattern(400_000));
        world.host().end(host).inbox.extend(&down);
        world.host().end(host).eof = true;
        world.host_ready(host);
        assert!(world.exchange(handle, &up) == down);
        assert!(world.host().end(host).outbox == up);
        assert!(world.elapsed() < AT_ONCE, "{:?}", world.elapsed());
    }
}

#[test]
fn guest_without_buffers_gets_all_when_it_has_some() {
    let mut world = World::with_address(settings());
    let (handle, host) = world.established(FAR, 50_000);
    // One frame at a time, which is no reason to lose any.
    world.buffers = 1;
    world.host().end(host).inbox.extend(pattern(100_000));
    world.host().end(host).eof = true;
    world.host_ready(host);
    assert!(world.exchange(handle, b"x") == pattern(100_000));
    assert!(world.elapsed() < AT_ONCE, "{:?}", world.elapsed());
}

#[test]
fn host_that_takes_nothing_stops_the_guest_and_nothing_is_lost() {
    let mut world = World::with_address(Settings {
        limits: Limits { window: 64 << 10, ..Limits::default() },
        ..settings()
    });
    let (handle, host) = world.established(FAR, 50_000);
    world.host().end(host).room = 0;
    let data = pattern(200_000);
    let mut sent = 0;
    for _ in 0..10 {
        sent += world.socket(handle).send_slice(&data[sent..]).unwrap();
        world.run_for(Duration::from_secs(3));
    }
    assert!((64 << 10..200_000).contains(&sent), "{sent}: its window is full, and so is its own buffer");
    world.host().end(host).room = usize::MAX;
    world.host_ready(host);
    world.run_for(Duration::from_secs(60));
    while sent < data.len() {
        sent += world.socket(handle).send_slice(&data[sent..]).unwrap();
        world.run();
    }
    assert!(world.host().end(host).outbox == data);
}

#[test]
fn connections_to_forwarded_ports_reach_the_guest() {
    for (text, gateway) in [
        ("tcp:127.0.0.1:2222-:22", IpAddr::from(GATEWAY)),
        ("tcp:127.0.0.1:2222-[fd00::15]:22", "fd00::2".parse().unwrap()),
    ] {
        let forwards = vec![text.parse().unwrap()];
        let mut world = World::with_address(Settings { forwards, ..settings() });
        let handle = world.tcp();
        world.socket(handle).listen(22).unwrap();
        // Nobody has heard of the guest yet: it is asked for.
        world.host().arrived.push_back("127.0.0.1:40000".parse().unwrap());
        world.net.forward_ready(0);
        world.run();
        assert_eq!(world.socket(handle).state(), State::Established, "{text}");
        let from = world.socket(handle).remote_endpoint().unwrap();
        assert_eq!(from.addr, gateway.into());
        let host = world.host().only();
        world.host().end(host).inbox.extend(b"question");
        world.host().end(host).eof = true;
        world.host_ready(host);
        assert_eq!(world.exchange(handle, b"answer"), b"question");
        world.settle();
        assert_eq!(world.host().end(host).outbox, b"answer");

        // To a port where nobody listens.
        world.host().arrived.push_back("127.0.0.1:40001".parse().unwrap());
        world.net.forward_ready(0);
        world.settle();
        assert_eq!(world.host().ends.values().filter(|end| end.closed == Some(Ending::Reset)).count(), 1);
    }
}

#[test]
fn datagrams_to_forwarded_ports_are_answered_to_who_sent_them() {
    let forwards = vec!["udp:127.0.0.1:5353-:53".parse().unwrap()];
    let mut world = World::with_address(Settings { forwards, ..settings() });
    let handle = world.udp(53);
    // The guest says something first, so that it is known.
    world.send(handle, b"x", SocketAddr::new(GATEWAY.into(), 9));
    world.settle();
    let peers: [SocketAddr; 2] = ["127.0.0.1:40000".parse().unwrap(), "127.0.0.1:40001".parse().unwrap()];
    for round in 0..2_u8 {
        for peer in peers {
            let question = [round, peer.port() as u8];
            world.host().datagrams_arrived.push_back((question.to_vec(), peer));
            world.net.forward_ready(0);
            world.settle();
            let [(data, from)] = &world.received(handle)[..] else { panic!("a datagram") };
            assert_eq!((data.as_slice(), from.ip()), (&question[..], GATEWAY.into()));
            world.send(handle, b"answer", *from);
            world.settle();
            assert_eq!(world.host().answered.pop(), Some((b"answer".to_vec(), peer)));
        }
    }
    assert_eq!(world.net.counters().udp, 3);
    world.wait(Duration::from_secs(60));
    assert_eq!(world.net.counters().flows, 0);
}
