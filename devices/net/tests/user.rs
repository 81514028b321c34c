//! The device with user-mode networking: a guest that is smoltcp, over the front end's driver, talks to servers on the
//! host's loopback interface, and they to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_backend::{EngineChoice, Options as BackendOptions, Polling};
use outboard_device::defs::net::F_MRG_RXBUF;
use outboard_frontend::Format;
use outboard_frontend::drivers::Net;
use outboard_net::Switches;
use rig::{LONG, driver, serve};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// A network card, as smoltcp wants it.
struct Card(Net);

struct Received(Vec<u8>);

struct Sending<'a>(&'a mut Net);

impl phy::Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; 2048];
        let len = self.0.receive(&mut frame, Duration::ZERO).unwrap()?;
        frame.truncate(len);
        Some((Received(frame), Sending(&mut self.0)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1514;
        caps
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        self.0.send(&frame).unwrap();
        result
    }
}

/// A guest with its own network stack.
struct Guest {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    back_end: JoinHandle<()>,
}

fn now() -> smoltcp::time::Instant {
    smoltcp::time::Instant::now()
}

impl Guest {
    fn start(args: &[&str], engine: EngineChoice, format: Format, features: u64) -> Self {
        let args = [&["--backend=user", "--queue-size=256"], args].concat();
        let options = BackendOptions { engine, polling: Polling::Off, ..BackendOptions::default() };
        let (frontend, back_end) = serve(rig::open(&Switches::default(), &args).unwrap(), options);
        let mut card = Card(Net::open(frontend, &driver(format, features)).unwrap());
        let config = Config::new(EthernetAddress(MAC).into());
        let interface = Interface::new(config, &mut card, now());
        Self { card, interface, sockets: SocketSet::new(Vec::new()), back_end }
    }

    fn poll(&mut self) {
        self.interface.poll(now(), &mut self.card, &mut self.sockets);
    }

    /// Lives until `done` answers.
    fn until<R>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<R>) -> R {
        let end = Instant::now() + LONG;
        loop {
            self.poll();
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < end, "{what}");
        }
    }

    /// Asks for an address, and takes it.
    fn configure(&mut self) {
        let dhcp = self.sockets.add(dhcpv4::Socket::new());
        let (address, router, servers) = self.until("an address", |guest| {
            match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).poll() {
                Some(dhcpv4::Event::Configured(config)) => {
                    Some((config.address, config.router, config.dns_servers.to_vec()))
                }
                _ => None,
            }
        });
        self.sockets.remove(dhcp);
        assert_eq!(address, Ipv4Cidr::new(GUEST, 24));
        assert_eq!((router, servers), (Some(GATEWAY), vec![Ipv4Addr::new(10, 0, 2, 3)]));
        self.interface.update_ip_addrs(|addresses| addresses.push(IpCidr::Ipv4(address)).unwrap());
        self.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 << 10]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    fn connect(&mut self, to: (Ipv4Addr, u16), from: u16) -> SocketHandle {
        let handle = self.tcp();
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends all of `request`, says that it is all, and receives until the other end has said the same.
    fn exchange(&mut self, handle: SocketHandle, request: &[u8]) -> Vec<u8> {
        let (mut sent, mut answer) = (0, Vec::new());
        self.until("an answer", |guest| {
            let socket = guest.socket(handle);
            if sent < request.len() && socket.can_send() {
                sent += socket.send_slice(&request[sent..]).unwrap();
                if sent == request.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket.recv(|data| (data.len(), answer.extend_from_slice(data))).unwrap();
            }
            (sent == request.len() && !socket.may_recv()).then_some(())
        });
        answer
    }

    fn end(self) {
        drop(self.card.0.close().unwrap());
        self.back_end.join().unwrap();
    }
}

/// The bytes of a transfer.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + seed) as u8).collect()
}

/// What a guest goes through, on either engine and format, with merged buffers and without.
fn ways() -> [(EngineChoice, Format, u64); 3] {
    [
        (EngineChoice::Epoll, Format::Split, F_MRG_RXBUF),
        (EngineChoice::IoUring, Format::Packed, F_MRG_RXBUF),
        (EngineChoice::Epoll, Format::Packed, 0),
    ]
}

#[test]
fn guest_with_a_lease_talks_to_a_server_of_the_host() {
    for (engine, format, features) in ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let request = pattern(700_000, 1);
        let expected = request.clone();
        let host = thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            assert!(heard == expected, "{} bytes of {}", heard.len(), expected.len());
            stream.write_all(&pattern(1_000_000, 2)).unwrap();
        });
        let mut guest = Guest::start(&[], engine, format, features);
        guest.configure();
        let handle = guest.connect((GATEWAY, port), 50_000);
        let answer = guest.exchange(handle, &request);
        assert!(answer == pattern(1_000_000, 2), "{} bytes, {engine:?} {format:?}", answer.len());
        host.join().unwrap();

        // Where nobody listens, there is a refusal at once.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = taken.local_addr().unwrap().port();
        drop(taken);
        let handle = guest.connect((GATEWAY, nobody), 50_001);
        guest.until("a refusal", |guest| (guest.socket(handle).state() == tcp::State::Closed).then_some(()));
        guest.end();
    }
}

#[test]
fn guest_that_listens_is_reached_through_a_forwarded_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    drop(taken);
    let forward = format!("--host-forward=tcp:127.0.0.1:{port}-:80");
    let mut guest = Guest::start(&[&forward], EngineChoice::Epoll, Format::Split, F_MRG_RXBUF);
    guest.configure();
    let handle = guest.tcp();
    guest.socket(handle).listen(80).unwrap();
    let host = thread::spawn(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    guest.until("a connection", |guest| guest.socket(handle).may_recv().then_some(()));
    assert_eq!(guest.socket(handle).remote_endpoint().unwrap().addr, GATEWAY.into());
    assert_eq!(guest.exchange(handle, &pattern(100_000, 3)), b"question");
    guest.until("all to be said", |_| host.is_finished().then_some(()));
    assert_eq!(host.join().unwrap(), pattern(100_000, 3));
    guest.end();
}

#[test]
fn datagrams_go_out_and_answers_come_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let host = thread::spawn(move || {
        for _ in 0..2 {
            let mut datagram = [0; 2048];
            let (len, from) = server.recv_from(&mut datagram).unwrap();
            datagram[..len].reverse();
            server.send_to(&datagram[..len], from).unwrap();
        }
    });
    let dns = format!("--dns=127.0.0.1:{port}");
    let mut guest = Guest::start(&[&dns], EngineChoice::IoUring, Format::Split, F_MRG_RXBUF);
    guest.configure();
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 16 << 10]);
    let handle = guest.sockets.add(udp::Socket::new(buffer(), buffer()));
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).bind(5353).unwrap();
    // Who answers questions about names, which is that server here.
    let (to, port) = (Ipv4Addr::new(10, 0, 2, 3), 53);
    for seed in 0..2 {
        let sent = pattern(1000, seed);
        guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(&sent, (to, port)).unwrap();
        let (data, from) = guest.until("a datagram", |guest| {
            let (data, from) = guest.sockets.get_mut::<udp::Socket<'_>>(handle).recv().ok()?;
            Some((data.to_vec(), from.endpoint))
        });
        assert_eq!((from.addr, from.port), (to.into(), port));
        assert_eq!(data, sent.iter().rev().copied().collect::<Vec<_>>());
    }
    host.join().unwrap();
    guest.end();
}
