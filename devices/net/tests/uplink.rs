//! A switch with an uplink, in a network namespace of its own: guests reach the host, and the host reaches them.
//!
//! The namespace needs `unshare` and `ip`, and a kernel that allows it; the test says so where it cannot run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::net::{Ipv4Addr, UdpSocket};
use std::thread::JoinHandle;

use outboard_backend::Options as BackendOptions;
use outboard_device::defs::net::{F_CSUM, F_HOST_USO, HDR_F_NEEDS_CSUM, HDR_GSO_UDP_L4, Header};
use outboard_frames::testing::sum;
use outboard_frontend::Format;
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions};
use outboard_net::{HouseOptions, Switches};
use rig::{
    GUEST, GUEST_MAC, HOST, LONG, PORTS, datagram, driver, in_namespace, is_for_guest, make_tap, serve,
};

#[test]
fn guests_of_a_switch_reach_the_host_by_an_uplink() {
    in_namespace("guests_of_a_switch_reach_the_host_by_an_uplink", inside);
}

/// A guest of the switch, and the back end that serves it.
fn guest(switches: &Switches, args: &[&str]) -> (Net, JoinHandle<()>) {
    let args = [&["--backend=switch", "--queue-size=256"], args].concat();
    let (frontend, thread) = serve(rig::open(switches, &args).unwrap(), BackendOptions::default());
    let features = DriverOptions::FEATURES | F_CSUM | F_HOST_USO;
    (Net::open(frontend, &driver(Format::Split, features)).unwrap(), thread)
}

/// The payload of the next datagram that the guest receives, whose checksum is right. What else the host says is passed
/// over.
fn receive(net: &mut Net) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    loop {
        let len = net.receive(&mut bytes, LONG).unwrap().expect("a datagram arrives");
        let frame = &bytes[..len];
        if !is_for_guest(frame) {
            continue;
        }
        let udp = &frame[34..];
        let pseudo = [&frame[26..34], &[0, 17], &udp[4..6]].concat();
        assert_eq!(sum(&[&pseudo[..], udp].concat()), 0xffff, "checksum");
        return udp[8..].to_vec();
    }
}

fn inside() {
    make_tap("up0", "");
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
    a.send_with(&header, &datagram(&[8; 1200], false)).unwrap();
    let mut bytes = [0; 4096];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 1200);
    assert_eq!(bytes[..1200], [8; 1200]);
    let cut = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 1000.into(), hdr_len: 42.into(), ..header };
    a.send_with(&cut, &datagram(&[9; 2500], false)).unwrap();
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
