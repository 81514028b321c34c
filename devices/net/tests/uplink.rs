//! A switch with an uplink, in a network namespace of its own: guests reach the host, and the host reaches them.
//!
//! The namespace needs `unshare` and `ip`, and a kernel that allows it; the test says so where it cannot run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{Args, FromArgMatches};
use outboard_backend::{Backend, Options as BackendOptions, Stop};
use outboard_device::defs::net::{F_CSUM, F_HOST_USO, HDR_F_NEEDS_CSUM, HDR_GSO_UDP_L4, Header};
use outboard_frames::testing::sum;
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions};
use outboard_frontend::{Frontend, Options, Wishes};
use outboard_net::{HouseOptions, NetOptions, Switches};

const LONG: Duration = Duration::from_secs(60);
const HOST: [u8; 4] = [10, 9, 0, 1];
const GUEST: [u8; 4] = [10, 9, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
const PORTS: [u16; 2] = [6000, 5000];
/// Says that the namespace is there.
const INSIDE: &str = "OUTBOARD_TEST_NAMESPACE";

#[test]
fn guests_of_a_switch_reach_the_host_by_an_uplink() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let possible = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    let namespace = ["--user", "--map-root-user", "--net"];
    let probe = [&namespace[..], &["ip", "tuntap", "add", "dev", "probe", "mode", "tap"]].concat();
    if !possible("unshare", &probe) {
        println!("skipped: no tap interface can be made in a namespace here (unshare, ip, /dev/net/tun)");
        return;
    }
    let test = "guests_of_a_switch_reach_the_host_by_an_uplink";
    let status = Command::new("unshare")
        .args(namespace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success());
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

/// A guest of the switch, and the back end that serves it.
fn guest(switches: &Switches, args: &[&str]) -> (Net, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let command = NetOptions::augment_args(clap::Command::new("net").no_binary_name(true));
    let fixed = ["--backend=switch", "--queue-size=256"];
    let options = NetOptions::from_arg_matches(&command.get_matches_from(fixed.iter().chain(args))).unwrap();
    let device = outboard_net::Net::open_in(&options, "guest", switches).unwrap();
    let thread = thread::spawn(move || {
        Backend::new(device, BackendOptions::default())
            .unwrap()
            .serve(theirs, &Stop::new().unwrap())
            .unwrap();
    });
    let frontend = Frontend::from_stream(ours, Options { timeout: LONG, ..Options::default() }).unwrap();
    let device_features = DriverOptions::FEATURES | F_CSUM | F_HOST_USO;
    let wishes = Wishes { device_features, ..DriverOptions::default().wishes };
    (Net::open(frontend, &DriverOptions { wishes, ..DriverOptions::default() }).unwrap(), thread)
}

/// A datagram of the guest for the host, its checksum left to do.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() + 8) as u16;
    let mut packet = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0].to_vec();
    packet[2..4].copy_from_slice(&(len + 20).to_be_bytes());
    packet.extend([GUEST, HOST].as_flattened());
    let checksum = !sum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(PORTS.map(u16::to_be_bytes).as_flattened());
    packet.extend(len.to_be_bytes());
    let pseudo = sum(&[&packet[12..20], &[0, 17], &len.to_be_bytes()].concat());
    packet.extend(pseudo.to_be_bytes());
    packet.extend(payload);
    [&HOST_MAC[..], &GUEST_MAC, &[8, 0], &packet].concat()
}

/// The payload of the next datagram that the guest receives, whose checksum is right. What else the host says is passed
/// over.
fn receive(net: &mut Net) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    loop {
        let len = net.receive(&mut bytes, LONG).unwrap().expect("a datagram arrives");
        let frame = &bytes[..len];
        if frame[12..14] != [8, 0] || frame[23] != 17 || frame[30..34] != GUEST {
            continue;
        }
        let udp = &frame[34..];
        let pseudo = [&frame[26..34], &[0, 17], &udp[4..6]].concat();
        assert_eq!(sum(&[&pseudo[..], udp].concat()), 0xffff, "checksum");
        return udp[8..].to_vec();
    }
}

fn inside() {
    ip("tuntap add dev up0 mode tap");
    ip("link set up0 address 02:00:00:00:09:01 up");
    ip("address add 10.9.0.1/24 dev up0");
    ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:09:02 dev up0 nud permanent");
    let options = HouseOptions { uplink: vec!["tap:up0,vlan=5".parse().unwrap()], ..HouseOptions::default() };
    let switches = Switches::new(options).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::from(HOST), PORTS[1])).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let ((mut a, a_thread), (mut b, b_thread)) =
        (guest(&switches, &["--vlan=5", "--isolated"]), guest(&switches, &["--trunk=6,native=5"]));
    let to_guest = (Ipv4Addr::from(GUEST), PORTS[0]);

    // Nobody knows where the guest is: all of its VLAN hear it.
    socket.send_to(&[7; 100], to_guest).unwrap();
    assert_eq!((receive(&mut a), receive(&mut b)), (vec![7; 100], vec![7; 100]));

    // It answers, and is known from now on; what is left to do for its packets the kernel does.
    let header =
        Header { flags: HDR_F_NEEDS_CSUM, csum_start: 34.into(), csum_offset: 6.into(), ..Header::default() };
    a.send_with(&header, &datagram(&[8; 1200])).unwrap();
    let mut bytes = [0; 4096];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 1200);
    assert_eq!(bytes[..1200], [8; 1200]);
    let cut = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 1000.into(), hdr_len: 42.into(), ..header };
    a.send_with(&cut, &datagram(&[9; 2500])).unwrap();
    for len in [1000, 1000, 500] {
        assert_eq!(socket.recv(&mut bytes).unwrap(), len);
        assert_eq!(bytes[..len], vec![9; len]);
    }
    socket.send_to(&[1; 50], to_guest).unwrap();
    assert_eq!(receive(&mut a), [1; 50]);
    // Nothing of that was for the other one: what it hears next is for all again.
    b.send(&[&GUEST_MAC[..], &[2, 0, 0, 0, 9, 3], &[0x88, 0xb5], &[0; 46]].concat()).unwrap();
    let mut frame = vec![0; 2048];
    while a.receive(&mut frame, LONG).unwrap().unwrap() != 60 || frame[6..12] != [2, 0, 0, 0, 9, 3] {}
    drop((a.close().unwrap(), b.close().unwrap()));
    a_thread.join().unwrap();
    b_thread.join().unwrap();
    // The interface stays behind, and is free.
    drop(switches);
    let options = HouseOptions { uplink: vec!["tap:up0".parse().unwrap()], ..HouseOptions::default() };
    Switches::new(options).unwrap();
}
