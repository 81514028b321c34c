//! The device over AF_XDP sockets, in a network namespace of its own with pairs of virtual interfaces: frames pass both
//! ways as they are, and what the guest leaves to the device is done.
//!
//! It takes root of the machine (programs are loaded into the kernel), `unshare` and `ip`; the test says so where it
//! cannot run.
#![cfg(feature = "af-xdp")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unsafe_code, reason = "a packet socket is the other end of the wire")]

mod rig;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_backend::{
    Backend, EngineChoice, Notice, Options as BackendOptions, Polling, Remote, STATUS, Stop,
};
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{F_CSUM, F_HOST_USO, F_MRG_RXBUF, HDR_F_NEEDS_CSUM, HDR_GSO_UDP_L4, Header};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Counting, Setup};
use outboard_device::{Device, DeviceError, Features, Group};
use outboard_frames::rarp;
use outboard_frames::testing::sum;
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions, NetQueue};
use outboard_frontend::{Format, Waiting};
use outboard_net::{HouseOptions, Switches};
use rig::{GUEST_MAC, HOST_MAC, LONG, connect, datagram, driver, in_xdp_namespace, ip, make_wire, pseudo};

/// An EtherType for experiments (IEEE 802, 9.2.4): nobody else sends such frames.
const ETHER_TYPE: u16 = 0x88b5;
const IPV4: u16 = 0x0800;
const RARP: u16 = 0x8035;

fn open(args: &[&str]) -> Result<outboard_net::Net, DeviceError> {
    rig::open(&Switches::default(), &[&["--backend=af_xdp", "--queue-size=256"], args].concat())
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A guest, and the back end that serves it.
struct Guest {
    net: Net,
    remote: Remote,
    thread: JoinHandle<()>,
}

impl Guest {
    /// Before a device, with these wishes.
    fn new(device: outboard_net::Net, options: &DriverOptions, engine: EngineChoice) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let back_end = BackendOptions { engine, polling: Polling::Off, ..BackendOptions::default() };
        let mut back_end = Backend::new(device, back_end).unwrap();
        let remote = back_end.remote();
        let thread = thread::spawn(move || {
            back_end.serve(theirs, &Stop::new().unwrap()).unwrap();
        });
        Self { net: Net::open(connect(ours), options).unwrap(), remote, thread }
    }

    /// The device's part of what it says of itself.
    fn status(&self) -> Value {
        let answered = Notice::new().unwrap();
        let pending = self.remote.ask(STATUS.to_owned(), Value::Null, answered).unwrap();
        let start = Instant::now();
        loop {
            if let Some(answer) = pending.poll() {
                return answer.unwrap()["device"].clone();
            }
            assert!(start.elapsed() < LONG);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        drop(self.net.close().unwrap());
        self.thread.join().unwrap();
    }
}

/// The other end of the wire: frames of one EtherType, as they are.
struct Peer(OwnedFd);

impl Peer {
    fn on(name: &str, ether_type: u16) -> Self {
        let protocol = ether_type.to_be();
        // SAFETY: the call takes numbers.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
        assert!(socket >= 0);
        // SAFETY: it was just made, for nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let index = rustix::net::netdevice::name_to_index(&socket, name).unwrap();
        // SAFETY: all zeroes is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let len = size_of_val(&address) as u32;
        // SAFETY: the call takes an address of this length, borrowed for it.
        assert_eq!(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }, 0);
        let most = 16_i32 << 20;
        // SAFETY: the call takes the address of a number, borrowed for it.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const most).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(LONG))
            .unwrap();
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        assert_eq!(rustix::io::write(&self.0, frame).unwrap(), frame.len());
    }

    fn receive(&self) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let len = rustix::io::read(&self.0, bytes.as_mut_slice()).unwrap();
        bytes.truncate(len);
        bytes
    }
}

/// A frame of so many bytes.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 9, 2], &ETHER_TYPE.to_be_bytes()].concat();
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|at| (number * 31 + at * 7 + at / 251) as u8));
    frame
}

/// The same frame from the other end of the wire, to whom it says.
fn to(mac: &[u8; 6], frame: &[u8]) -> Vec<u8> {
    [&mac[..], &HOST_MAC, &frame[12..]].concat()
}

/// The next frame for the guest, on one of its pairs.
fn receive(pair: &mut NetQueue) -> (Header, Vec<u8>) {
    let rx = pair.rx();
    loop {
        let Some(packet) = rx.poll().unwrap() else {
            assert!(rx.wait(Waiting::Interrupt, LONG).unwrap(), "a frame comes");
            continue;
        };
        let (header, mut frame) = (*packet.header(), vec![0; packet.len()]);
        assert_eq!(rx.copy(&packet, &mut frame), frame.len());
        rx.recycle(packet).unwrap();
        rx.publish().unwrap();
        return (header, frame);
    }
}

/// The payload of a datagram as it goes over a wire.
fn payload(frame: &[u8]) -> &[u8] {
    let udp = &frame[34..];
    assert_eq!(udp[4..6], (udp.len() as u16).to_be_bytes());
    assert_eq!(sum(&frame[14..34]), 0xffff, "checksum of the header");
    let pseudo = pseudo(&frame[26..34], udp.len() as u16).to_be_bytes();
    assert_eq!(sum(&[&pseudo[..], udp].concat()), 0xffff, "checksum");
    &udp[8..]
}

#[test]
fn frames_pass_an_interface_both_ways() {
    in_xdp_namespace("frames_pass_an_interface_both_ways", || {
        make_wire(1);
        for (mode, place) in [("generic", "generic"), ("native", "native"), ("auto", "native")] {
            for (engine, format) in
                [(EngineChoice::Epoll, Format::Split), (EngineChoice::IoUring, Format::Packed)]
            {
                for offloads in [0, F_MRG_RXBUF | F_CSUM | F_HOST_USO] {
                    let device = open(&["--interface=left", &format!("--xdp-mode={mode}")]).unwrap();
                    let mut guest = Guest::new(device, &driver(format, offloads), engine);
                    exchange(&mut guest.net);
                    many(&mut guest.net);
                    if offloads != 0 {
                        left_to_do(&mut guest.net);
                    }
                    let status = guest.status();
                    assert_eq!(status["backend"], "af_xdp");
                    let queue = json!({ "queue": 0, "zero_copy": false, "rx_dropped": 0, "rx_full": 0, "rx_no_frames": 0 });
                    let expected =
                        json!({ "interface": "left", "mode": place, "mtu": 1500, "queues": [queue] });
                    assert_eq!(status["backend_status"], expected);
                    assert_eq!(status["tx"]["host_refused"], 1, "{status}");
                    guest.end();
                }
            }
        }
    });
}

/// One by one.
fn exchange(net: &mut Net) {
    let peer = Peer::on("right", ETHER_TYPE);
    for (number, len) in [60, 61, 700, 1513, 1514, 1522].into_iter().enumerate() {
        // Tags are part of the frame.
        let frame = frame(number, len);
        if len <= 1514 {
            net.send(&frame).unwrap();
            assert_eq!(peer.receive(), frame);
        }
        let back = to(&[0xff; 6], &frame[..len.min(1514)]);
        peer.send(&back);
        let expected = Header { num_buffers: 1.into(), ..Header::default() };
        assert_eq!(receive(&mut net.pairs()[0]), (expected, back));
    }
    // Longer than the interface's MTU and two tags.
    net.send(&frame(0, 1523)).unwrap();
    net.send(&frame(1, 60)).unwrap();
    assert_eq!(peer.receive(), frame(1, 60));
}

/// More than there are frames, and more than the guest has buffers.
fn many(net: &mut Net) {
    let peer = Peer::on("right", ETHER_TYPE);
    let (frontend, pairs) = net.parts();
    let area = frontend.allocate(64 * 2048).unwrap();
    let (rx, tx) = pairs[0].halves();
    for round in 0..40 {
        for number in 0..64 {
            let frame = frame(round * 64 + number, 60 + number);
            let piece = area.slice(number * 2048, frame.len()).unwrap();
            piece.write_from(0, &frame).unwrap();
            tx.transmit(&Header::default(), &[piece], 0).unwrap();
        }
        tx.publish().unwrap();
        for _ in 0..64 {
            while tx.poll().unwrap().is_none() {
                assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
            }
        }
        (0..64).for_each(|number| assert_eq!(peer.receive(), frame(round * 64 + number, 60 + number)));
    }

    let mut next = || loop {
        if let Some(packet) = rx.poll().unwrap() {
            return packet;
        }
        assert!(rx.wait(Waiting::Interrupt, LONG).unwrap());
    };
    // The guest holds all buffers that it has.
    let held: Vec<_> = (0..256)
        .map(|number| {
            peer.send(&frame(number, 100));
            next()
        })
        .collect();
    // No more than a virtual interface itself takes at once.
    (256..456).for_each(|number| peer.send(&frame(number, 100)));
    let mut bytes = [0; 100];
    for (number, packet) in held.into_iter().enumerate() {
        assert_eq!(rx.copy(&packet, &mut bytes), 100);
        assert_eq!(bytes[..], frame(number, 100));
        rx.recycle(packet).unwrap();
    }
    rx.publish().unwrap();
    for number in 256..456 {
        assert_eq!(receive(&mut pairs[0]).1, frame(number, 100));
    }
    // All around the ring.
    for number in 0..3000 {
        peer.send(&frame(number, 100));
        assert_eq!(receive(&mut pairs[0]).1, frame(number, 100));
    }
}

/// The guest leaves checksums and segments to the device.
fn left_to_do(net: &mut Net) {
    let peer = Peer::on("right", IPV4);
    let pattern = |len: usize| (0..len).map(|at| (at * 7 + at / 251) as u8).collect::<Vec<_>>();
    let header =
        Header { flags: HDR_F_NEEDS_CSUM, csum_start: 34.into(), csum_offset: 6.into(), ..Header::default() };
    for len in [18, 1001] {
        net.send_with(&header, &datagram(&pattern(len), false)).unwrap();
        assert_eq!(payload(&peer.receive()), pattern(len));
    }
    assert!(net.has(F_HOST_USO));
    let header = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 1000.into(), ..header };
    net.send_with(&header, &datagram(&pattern(40_500), false)).unwrap();
    pattern(40_500).chunks(1000).for_each(|part| assert_eq!(payload(&peer.receive()), part));
}

#[test]
fn interface_that_cannot_be_had_is_refused_with_the_reason() {
    in_xdp_namespace("interface_that_cannot_be_had_is_refused_with_the_reason", || {
        make_wire(1);
        let refused = |args: &[&str], why: &str| {
            let error = open(args).err().unwrap().to_string();
            assert!(error.contains(why), "{args:?}: {error}");
        };
        refused(&[], "needs --interface");
        refused(&["--interface=nowhere"], "cannot use the interface nowhere");
        refused(&["--interface=left", "--queue=7"], "cannot have queue 7 of left (there is no such queue");
        refused(&["--interface=left", "--pairs=2"], "cannot have queue 1 of left (there is no such queue");
        refused(&["--interface=left", "--zero-copy=on"], "cannot do without copies");
        refused(&["--interface=left", "--xdp-mode=generic", "--zero-copy=on"], "copies packets");
        ip("link set lo mtu 1500");
        refused(&["--interface=lo", "--xdp-mode=native"], "(its driver has no XDP)");
        let mut first = open(&["--interface=left"]).unwrap();
        assert!(first.announce([2; 6]).unwrap_err().to_string().contains("no queues run"));
        refused(&["--interface=left"], "(it has another one)");
        refused(&["--interface=left", "--xdp-mode=generic"], "(it has another one)");
        drop(first);
        ip("link set left mtu 3819");
        refused(&["--interface=left"], "left has an MTU of 3819: an AF_XDP socket takes 3818 at most");
        // Beyond what the driver of virtual interfaces takes, but not what is behind it.
        ["left", "right"].iter().for_each(|end| ip(&format!("link set {end} mtu 3818")));
        let status = open(&["--interface=left"]).unwrap().status();
        assert_eq!(status["backend_status"]["mode"], "generic");

        // Root of a user namespace is nobody to the kernel.
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_vhost-user-net")])
            .args(["--socket-path=/nowhere/socket", "--backend=af_xdp", "--interface=left"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("it takes CAP_BPF and CAP_NET_ADMIN"), "{said}");
    });
}

/// Whether the interface has a program, waited for.
fn wait_for_program(there: bool) {
    let start = Instant::now();
    loop {
        let output = Command::new("ip").args(["link", "show", "left"]).output().unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("prog/xdp") == there {
            return;
        }
        assert!(start.elapsed() < LONG);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn program_in_the_kernel_ends_with_ours() {
    in_xdp_namespace("program_in_the_kernel_ends_with_ours", || {
        make_wire(1);
        wait_for_program(false);
        let device = open(&["--interface=left"]).unwrap();
        wait_for_program(true);
        drop(device);
        wait_for_program(false);
        let directory = tempfile::tempdir().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_vhost-user-net"))
            .arg(format!("--socket-path={}", directory.path().join("socket").display()))
            .args(["--backend=af_xdp", "--interface=left"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_program(true);
        // With SIGKILL.
        program.kill().unwrap();
        program.wait().unwrap();
        wait_for_program(false);
        open(&["--interface=left"]).unwrap();
    });
}

#[test]
fn link_and_mtu_are_the_interfaces() {
    in_xdp_namespace("link_and_mtu_are_the_interfaces", || {
        make_wire(1);
        let mut device = open(&["--interface=left"]).unwrap();
        let link = |device: &outboard_net::Net| device.status()["link"].as_bool().unwrap();
        assert!(link(&device));
        for end in ["left", "right"] {
            ip(&format!("link set {end} down"));
            assert!(device.look(), "the configuration space is another");
            assert!(!link(&device));
            assert!(!device.look());
            ip(&format!("link set {end} up"));
            assert!(device.look());
            assert!(link(&device));
        }
        let error = device.set_mtu(1501).unwrap_err();
        assert!(error.to_string().contains("68 to 1500"), "{error}");
        device.set_mtu(1500).unwrap();
        ip("link set left mtu 1400");
        assert!(device.set_mtu(1401).is_err());
        ip("link set left mtu 9000");
        assert!(device.set_mtu(1771).is_err(), "no frame holds it");
        device.set_mtu(1770).unwrap();

        let handler = device.handler(Group(0), Features(VIRTIO_F_VERSION_1)).unwrap();
        let mut bench = Bench::with(handler, &Setup { queues: 2, ..Setup::new(Format::Split) });
        let peer = Peer::on("right", RARP);
        device.announce([2, 0, 0, 0, 9, 2]).unwrap();
        bench.run();
        assert_eq!(peer.receive(), rarp([2, 0, 0, 0, 9, 2]));
    });
}

/// The interface vanishes, and another one of its name comes, while the guest is served.
#[test]
fn interface_that_comes_back_is_taken_again() {
    in_xdp_namespace("interface_that_comes_back_is_taken_again", || {
        make_wire(1);
        let mut guest = Guest::new(
            open(&["--interface=left"]).unwrap(),
            &driver(Format::Split, F_MRG_RXBUF),
            EngineChoice::Epoll,
        );
        exchange(&mut guest.net);
        let wait_for = |guest: &Guest, link: bool| {
            let start = Instant::now();
            while guest.status()["link"] != link {
                assert!(start.elapsed() < LONG);
                thread::sleep(Duration::from_millis(20));
            }
        };
        ip("link del left");
        wait_for(&guest, false);
        let gone = json!({ "interface": "left", "mode": null, "mtu": null, "queues": [] });
        assert_eq!(guest.status()["backend_status"], gone);
        guest.net.send(&frame(1, 60)).unwrap();
        make_wire(1);
        wait_for(&guest, true);
        exchange(&mut guest.net);
        guest.end();
    });
}

/// Two devices, one at each end of the wire: what is sent by a queue comes by the same one.
#[test]
fn pairs_are_queues_of_the_interface() {
    in_xdp_namespace("pairs_are_queues_of_the_interface", || {
        make_wire(3);
        for (engine, format) in
            [(EngineChoice::Epoll, Format::Packed), (EngineChoice::IoUring, Format::Split)]
        {
            let mut guests = ["left", "right"].map(|end| {
                let device = open(&[&format!("--interface={end}"), "--queue=1", "--pairs=2"]).unwrap();
                let features = F_MRG_RXBUF | DriverOptions::MULTIQUEUE;
                let options = DriverOptions { pairs: 2, control: true, ..driver(format, features) };
                Guest::new(device, &options, engine)
            });
            for round in 0..20 {
                for pair in [0, 1, 1, 0] {
                    for (from, to) in [(0, 1), (1, 0)] {
                        let [from, to] =
                            guests.get_disjoint_mut([from, to]).unwrap().map(|guest| &mut guest.net);
                        let (front_end, pairs) = from.parts();
                        let frame = frame(round, 60 + round * 50);
                        let piece = front_end.allocate(frame.len()).unwrap();
                        piece.write_from(0, &frame).unwrap();
                        let tx = pairs[pair].tx();
                        tx.transmit(&Header::default(), &[piece], 0).unwrap();
                        tx.publish().unwrap();
                        while tx.poll().unwrap().is_none() {
                            assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
                        }
                        assert_eq!(receive(&mut to.pairs()[pair]).1, frame);
                    }
                }
            }
            for guest in guests {
                let queues = &guest.status()["backend_status"]["queues"];
                assert_eq!([&queues[0]["queue"], &queues[1]["queue"]], [1, 2]);
                guest.end();
            }
        }
    });
}

#[test]
fn guests_of_a_switch_reach_an_interface_by_an_uplink() {
    in_xdp_namespace("guests_of_a_switch_reach_an_interface_by_an_uplink", || {
        make_wire(1);
        let uplink = vec!["af_xdp:left,vlan=5".parse().unwrap()];
        let switches = Switches::new(HouseOptions { uplink, ..HouseOptions::default() }).unwrap();
        let device = rig::open(&switches, &["--backend=switch", "--vlan=5", "--queue-size=256"]).unwrap();
        let features = F_MRG_RXBUF | F_CSUM | F_HOST_USO;
        let mut guest = Guest::new(device, &driver(Format::Split, features), EngineChoice::Epoll);
        exchange(&mut guest.net);
        left_to_do(&mut guest.net);
        // What is for the guest comes to it by its address, which it has sent by: more than there are frames.
        let peer = Peer::on("right", ETHER_TYPE);
        for number in 0..5000 {
            let frame = to(&GUEST_MAC, &frame(number, 94));
            peer.send(&frame);
            assert_eq!(receive(&mut guest.net.pairs()[0]).1, frame);
        }
        let mut uplinks = guest.status()["backend_status"]["uplinks"].take();
        let dropped = uplinks[0]["dropped"].take();
        for why in ["flood_limit", "to_full", "to_down", "no_tag", "malformed"] {
            assert_eq!(dropped[why], 0, "{why} of {dropped}");
        }
        let expected = json!([{
            "uplink": "af_xdp:left", "received": 5006, "sent": 49, "refused": 1, "dropped": null,
        }]);
        assert_eq!(uplinks, expected);
        guest.end();
        drop(switches);
        wait_for_program(false);
    });
}

#[test]
fn packets_by_af_xdp_allocate_nothing_each() {
    in_xdp_namespace("packets_by_af_xdp_allocate_nothing_each", || {
        make_wire(1);
        Counting::spare_this_thread();
        for (engine, format) in
            [(EngineChoice::Epoll, Format::Split), (EngineChoice::IoUring, Format::Packed)]
        {
            let mut guests = ["left", "right"].map(|end| {
                let device = open(&[&format!("--interface={end}")]).unwrap();
                Guest::new(device, &driver(format, F_MRG_RXBUF), engine)
            });
            let [from, to] = &mut guests;
            let (front_end, pairs) = from.net.parts();
            let pieces: Vec<_> = (0..32)
                .map(|number| {
                    let bytes = frame(number, 60 + number);
                    let piece = front_end.allocate(bytes.len()).unwrap();
                    piece.write_from(0, &bytes).unwrap();
                    piece
                })
                .collect();
            let (tx, rx) = (pairs[0].tx(), to.net.pairs()[0].rx());
            let mut pass = |rounds: usize| {
                for _ in 0..rounds {
                    for piece in &pieces {
                        tx.transmit(&Header::default(), std::slice::from_ref(piece), 0).unwrap();
                    }
                    tx.publish().unwrap();
                    for _ in &pieces {
                        while tx.poll().unwrap().is_none() {
                            assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
                        }
                    }
                    for _ in &pieces {
                        let packet = loop {
                            match rx.poll().unwrap() {
                                Some(packet) => break packet,
                                None => assert!(rx.wait(Waiting::Interrupt, LONG).unwrap()),
                            }
                        };
                        rx.recycle(packet).unwrap();
                    }
                    rx.publish().unwrap();
                }
            };
            pass(100);
            let before = Counting::allocations();
            pass(300);
            // The look at the link, once a second, is no affair of packets.
            let count = Counting::allocations() - before;
            assert!(count < 1000, "{count} for 9600 packets, twice");
            guests.into_iter().for_each(Guest::end);
        }
    });
}
