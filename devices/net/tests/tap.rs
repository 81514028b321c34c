//! The device over a tap interface, in a network namespace of its own: what the guest sends reaches a socket of the host,
//! and what the host sends reaches the guest, with offloads and without.
//!
//! The namespace needs `unshare` and `ip`, and a kernel that allows it; the test says so where it cannot run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unsafe_code, reason = "an interface is opened for a device, as whoever starts one does")]

mod rig;

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use outboard_backend::{Backend, Options as BackendOptions, Polling, Stop};
use outboard_device::defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_HOST_USO, F_MRG_RXBUF, HDR_F_NEEDS_CSUM, HDR_GSO_UDP_L4, Header,
};
use outboard_device::serde_json::json;
use outboard_device::{Device, DeviceError};
use outboard_frames::testing::sum;
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions, NetQueue};
use outboard_frontend::{Format, Waiting};
use outboard_net::Switches;
use rig::{
    GUEST, GUEST_MAC, HOST, HOST_MAC, LONG, PORTS, connect, datagram, driver, in_namespace, ip, is_for_guest,
    make_tap, pseudo,
};

#[test]
fn packets_pass_a_tap_interface_both_ways() {
    in_namespace("packets_pass_a_tap_interface_both_ways", inside);
}

fn open(args: &[&str]) -> Result<outboard_net::Net, DeviceError> {
    let args = [&["--backend=tap", "--mtu=1500", "--queue-size=256"], args].concat();
    rig::open(&Switches::default(), &args)
}

fn inside() {
    make_tap("guest0", "");
    one_queue();
    link_and_mtu();
    ip("tuntap del dev guest0 mode tap");

    make_tap("guest0", " multi_queue");
    several_queues(open(&["--tap=guest0", "--pairs=2"]).unwrap());
    handed_over();
}

/// The host's interface goes down and up, and the device's link with it.
fn link_and_mtu() {
    let mut device = open(&["--tap=guest0"]).unwrap();
    let link = |device: &outboard_net::Net| device.status()["link"].as_bool().unwrap();
    assert!(link(&device));
    ip("link set guest0 down");
    assert!(device.look(), "the configuration space is another");
    assert!(!link(&device));
    assert!(!device.look());
    ip("link set guest0 up");
    assert!(device.look());
    assert!(link(&device));

    // The host's side hears of a guest that has moved.
    let heard = || {
        let table = std::fs::read_to_string("/proc/self/net/dev").unwrap();
        let (_, numbers) = table.split_once("guest0:").unwrap();
        numbers.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = heard();
    device.announce(GUEST_MAC).unwrap();
    assert_eq!(heard() - before, 60, "bytes");

    ip("link set guest0 mtu 1400");
    let error = device.set_mtu(1401).unwrap_err();
    assert!(error.to_string().contains("68 to 1400"), "{error}");
    device.set_mtu(1400).unwrap();
    ip("link set guest0 name guest1");
    assert_eq!(device.status()["backend_status"]["tap"], "guest1");
    ip("link set guest1 name guest0");
}

/// What the guest sends on a queue is answered on it, and on another one as soon as that is used no more.
fn several_queues(device: outboard_net::Net) {
    let socket = UdpSocket::bind((Ipv4Addr::from(HOST), PORTS[1])).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let (streams, served) = channel();
    let back_end = thread::spawn(move || serve(device, &served));
    for format in [Format::Split, Format::Packed] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        streams.send(theirs).unwrap();
        let features = F_MRG_RXBUF | DriverOptions::MULTIQUEUE;
        let options = DriverOptions { pairs: 2, control: true, ..driver(format, features) };
        let mut net = Net::open(connect(ours), &options).unwrap();
        let area = net.frontend().allocate(2048).unwrap();
        let exchange = |net: &mut Net, to: usize| {
            let frame = datagram(&pattern(100), true);
            let piece = area.slice(0, frame.len()).unwrap();
            piece.write_from(0, &frame).unwrap();
            let tx = net.pairs()[to].tx();
            tx.transmit(&Header::default(), &[piece], 0).unwrap();
            tx.publish().unwrap();
            while tx.poll().unwrap().is_none() {
                assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
            }
            assert_eq!(socket.recv(&mut [0; 2048]).unwrap(), 100);
            socket.send_to(&pattern(200), (Ipv4Addr::from(GUEST), PORTS[0])).unwrap();
            assert_eq!(receive(&mut net.pairs()[to]).1, pattern(200));
        };
        exchange(&mut net, 1);
        exchange(&mut net, 0);
        exchange(&mut net, 1);
        net.control().unwrap().set_pairs(1).unwrap();
        socket.send_to(&pattern(300), (Ipv4Addr::from(GUEST), PORTS[0])).unwrap();
        assert_eq!(receive(&mut net.pairs()[0]).1, pattern(300));
        net.control().unwrap().set_pairs(2).unwrap();
        exchange(&mut net, 1);
        drop(net.close().unwrap());
    }
    drop(streams);
    back_end.join().unwrap();
}

/// Descriptors of an interface that somebody else has opened.
fn handed_over() {
    let queue = |flags: i32| {
        let tun = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: all zeroes is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        b"guest0".iter().zip(&mut request.ifr_name).for_each(|(byte, place)| *place = *byte as _);
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | flags) as i16;
        // SAFETY: the call takes the address of a request, which is borrowed for it.
        assert_eq!(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }, 0);
        tun
    };
    let numbers = |of: &[&File]| {
        let numbers: Vec<_> = of.iter().map(|file| file.as_raw_fd().to_string()).collect();
        format!("--tap-fd={}", numbers.join(","))
    };
    let refused = |args: &[&str]| open(args).err().unwrap().to_string();
    let bare = queue(0);
    assert!(refused(&[&numbers(&[&bare])]).contains("IFF_VNET_HDR"));
    drop(bare);
    let unset = File::open("/dev/net/tun").unwrap();
    assert!(refused(&[&numbers(&[&unset])]).contains("is no tap interface"));
    assert!(refused(&[&numbers(&[&File::open("/dev/null").unwrap()])]).contains("is no tap interface"));
    let [first, second] = [0; 2].map(|_| queue(libc::IFF_VNET_HDR));
    assert!(refused(&[&numbers(&[&first, &second])]).contains("2 descriptors"));
    let device = open(&[&numbers(&[&first, &second]), "--pairs=2"]).unwrap();
    assert_eq!(device.status()["backend_status"], json!({ "tap": "guest0", "mtu": 1500 }));
    drop((first, second));
    several_queues(device);
}

fn one_queue() {
    let device = open(&["--tap=guest0"]).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::from(HOST), PORTS[1])).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();

    let (streams, served) = channel();
    let back_end = thread::spawn(move || serve(device, &served));
    let offloads = F_CSUM | F_HOST_USO | F_GUEST_CSUM | F_GUEST_TSO4;
    for format in [Format::Split, Format::Packed] {
        // The last is what no driver may agree on: segments without checksums.
        for features in [0, F_MRG_RXBUF, F_MRG_RXBUF | offloads, F_GUEST_TSO4] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            streams.send(theirs).unwrap();
            let mut net = Net::open(connect(ours), &driver(format, features)).unwrap();
            exchange(&mut net, &socket, features & offloads);
            drop(net.close().unwrap());
        }
    }
    drop(streams);
    back_end.join().unwrap();
}

/// Serves one front end after the other.
fn serve(device: outboard_net::Net, streams: &Receiver<UnixStream>) {
    let options = BackendOptions { polling: Polling::Off, ..BackendOptions::default() };
    let mut backend = Backend::new(device, options).unwrap();
    while let Ok(stream) = streams.recv() {
        backend.serve(stream, &Stop::new().unwrap()).unwrap();
    }
}

fn exchange(net: &mut Net, socket: &UdpSocket, offloads: u64) {
    let has_uso = net.has(F_HOST_USO);
    let area = net.frontend().allocate(16 << 10).unwrap();
    let pair = &mut net.pairs()[0];
    let mut send = |header: &Header, frame: &[u8]| {
        let piece = area.slice(0, frame.len()).unwrap();
        piece.write_from(0, frame).unwrap();
        let tx = pair.tx();
        tx.transmit(header, &[piece], 0).unwrap();
        tx.publish().unwrap();
        while tx.poll().unwrap().is_none() {
            assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
        }
    };
    let expect = |payload: &[u8]| {
        let mut bytes = [0; 2048];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(bytes[..len], *payload);
        assert_eq!(from.port(), PORTS[0]);
    };

    for len in [1, 18, 700, 1472] {
        send(&Header::default(), &datagram(&pattern(len), true));
        expect(&pattern(len));
    }
    let asking =
        Header { flags: HDR_F_NEEDS_CSUM, csum_start: 34.into(), csum_offset: 6.into(), ..Header::default() };
    if offloads & F_CSUM != 0 {
        send(&asking, &datagram(&pattern(1001), false));
        expect(&pattern(1001));
    }
    if has_uso {
        let header = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 1000.into(), ..asking };
        send(&header, &datagram(&pattern(4500), false));
        pattern(4500).chunks(1000).for_each(expect);
    }

    // More than there are buffers: the interface keeps them.
    for number in 0..400 {
        socket.send_to(&pattern(number + 1), (Ipv4Addr::from(GUEST), PORTS[0])).unwrap();
    }
    for number in 0..400 {
        let (header, payload) = receive(pair);
        assert_eq!(payload, pattern(number + 1));
        let asks = header.flags & HDR_F_NEEDS_CSUM != 0;
        assert_eq!(asks, offloads & F_GUEST_CSUM != 0, "{header:?}");
        assert!(asks || header.flags == 0);
    }
}

/// The next datagram for the guest, its checksum looked at.
fn receive(pair: &mut NetQueue) -> (Header, Vec<u8>) {
    let rx = pair.rx();
    loop {
        let Some(packet) = rx.poll().unwrap() else {
            assert!(rx.wait(Waiting::Interrupt, LONG).unwrap());
            continue;
        };
        let (header, mut frame) = (*packet.header(), vec![0; packet.len()]);
        assert_eq!(rx.copy(&packet, &mut frame), frame.len());
        rx.recycle(packet).unwrap();
        rx.publish().unwrap();
        if !is_for_guest(&frame) {
            continue;
        }
        assert_eq!(frame[..12], [GUEST_MAC, HOST_MAC].concat());
        let udp = &frame[34..];
        let pseudo = pseudo(&frame[26..34], udp.len() as u16);
        if header.flags & HDR_F_NEEDS_CSUM == 0 {
            assert_eq!(sum(&[&pseudo.to_be_bytes(), udp].concat()), 0xffff, "checksum");
        } else {
            assert_eq!((header.csum_start.get(), header.csum_offset.get()), (34, 6));
            assert_eq!(udp[6..8], pseudo.to_be_bytes(), "what there is of the checksum");
        }
        return (header, udp[8..].to_vec());
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (len * 31 + at * 7 + at / 251) as u8).collect()
}
