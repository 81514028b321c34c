//! A guest: smoltcp on the link.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use outboard_frames::{Offload, plain};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr, Ipv6Cidr};

use super::host::Fake;
use crate::{Readiness, Settings, SocketId, UserNet};

pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(super) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Frames both ways.
#[derive(Default)]
pub(super) struct Link {
    pub(super) to_guest: VecDeque<Vec<u8>>,
    pub(super) from_guest: VecDeque<Vec<u8>>,
}

pub(super) struct Received(Vec<u8>);
pub(super) struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Received(frame), Sending(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.from_guest))
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
        self.0.push_back(frame);
        result
    }
}

/// Guest, network and host.
pub(super) struct World {
    pub(super) net: UserNet<Fake>,
    pub(super) link: Link,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    start: Instant,
    elapsed: Duration,
    /// How many frames the guest has buffers for, at a time.
    pub(super) buffers: usize,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        let start = Instant::now();
        let mut link = Link::default();
        let interface =
            Interface::new(Config::new(EthernetAddress(MAC).into()), &mut link, smoltcp::time::Instant::ZERO);
        let net = UserNet::new(settings, Fake::default(), start).unwrap();
        let sockets = SocketSet::new(Vec::new());
        Self { net, link, interface, sockets, start, elapsed: Duration::ZERO, buffers: 64 }
    }

    /// A guest that has its addresses, and knows its gateway.
    pub(super) fn with_address(settings: Settings) -> Self {
        let net6 = settings.net6;
        let mut world = Self::new(settings);
        world.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(GUEST, 24))).unwrap();
            if net6.is_some() {
                addresses.push(IpCidr::Ipv6(Ipv6Cidr::new("fd00::15".parse().unwrap(), 64))).unwrap();
            }
        });
        world.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        if let Some(net6) = net6 {
            world.interface.routes_mut().add_default_ipv6_route(net6.gateway()).unwrap();
        }
        world
    }

    pub(super) fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn stamp(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.elapsed.as_micros() as i64)
    }

    pub(super) fn host(&mut self) -> &mut Fake {
        self.net.sockets()
    }

    /// Everybody does what there is to do, for now. True if there was something.
    pub(super) fn step(&mut self) -> bool {
        let (now, stamp) = (self.now(), self.stamp());
        self.interface.poll(stamp, &mut self.link, &mut self.sockets);
        let mut moved = !self.link.from_guest.is_empty();
        while let Some(mut frame) = self.link.from_guest.pop_front() {
            self.net.take(&mut frame, &Offload::None, now);
        }
        let mut buffers = self.buffers;
        let to_guest = &mut self.link.to_guest;
        self.net.give(now, |offload, frame| {
            if buffers == 0 {
                return false;
            }
            buffers -= 1;
            // A guest that cuts what it takes over, as a card would.
            plain(offload, &mut frame.to_vec(), |frame| to_guest.push_back(frame.to_vec()));
            true
        });
        moved |= !self.link.to_guest.is_empty();
        moved
    }

    /// Until nothing moves any more; time stands still.
    pub(super) fn settle(&mut self) {
        while self.step() || self.net.has_work() {}
    }

    /// Likewise, and then so long as somebody waits for less than a few seconds.
    pub(super) fn run(&mut self) {
        self.run_for(Duration::from_secs(5));
    }

    pub(super) fn run_for(&mut self, most: Duration) {
        let end = self.elapsed + most;
        loop {
            self.settle();
            let guest = self.interface.poll_at(self.stamp(), &self.sockets);
            let guest = guest.map(|at| Duration::from_micros(at.total_micros() as u64));
            let net = self.net.wake_at().map(|at| at - self.start);
            match guest.into_iter().chain(net).min() {
                Some(next) if next <= end => self.elapsed = next.max(self.elapsed + Duration::from_micros(1)),
                _ => return,
            }
        }
    }

    /// Time goes by, and nobody does anything.
    pub(super) fn elapse(&mut self, time: Duration) {
        self.elapsed += time;
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.elapsed += time;
        self.settle();
    }

    pub(super) fn dhcp(&mut self) -> dhcpv4::Config<'static> {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        for _ in 0..10 {
            self.settle();
            let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle);
            if let Some(dhcpv4::Event::Configured(config)) = socket.poll() {
                return dhcpv4::Config {
                    server: config.server,
                    address: config.address,
                    router: config.router,
                    dns_servers: config.dns_servers,
                    packet: None,
                };
            }
        }
        panic!("no address");
    }

    pub(super) fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 << 10]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    pub(super) fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(super) fn connect(&mut self, to: SocketAddr, from: u16) -> SocketHandle {
        let handle = self.tcp();
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).unwrap();
        handle
    }

    pub(super) fn host_connected(&mut self, host: SocketId, outcome: Result<(), ErrorKind>) {
        self.host().end(host).outcome = Some(outcome);
        self.host_ready(host);
    }

    pub(super) fn host_ready(&mut self, host: SocketId) {
        self.net.ready(host, Readiness { read: true, write: true });
    }

    pub(super) fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 128 << 10]);
        let handle = self.sockets.add(udp::Socket::new(buffer(), buffer()));
        self.sockets.get_mut::<udp::Socket<'_>>(handle).bind(port).unwrap();
        handle
    }

    pub(super) fn send(&mut self, handle: SocketHandle, data: &[u8], to: SocketAddr) {
        self.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(data, to).unwrap();
    }

    pub(super) fn received(&mut self, handle: SocketHandle) -> Vec<(Vec<u8>, SocketAddr)> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        let next = || {
            socket.recv().ok().map(|(data, from)| {
                let from = SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port);
                (data.to_vec(), from)
            })
        };
        std::iter::from_fn(next).collect()
    }

    /// A connection that is there, on both sides.
    pub(super) fn established(&mut self, to: SocketAddr, from: u16) -> (SocketHandle, SocketId) {
        let handle = self.connect(to, from);
        self.settle();
        let host = self.host().only();
        self.host_connected(host, Ok(()));
        self.settle();
        assert_eq!(self.socket(handle).state(), tcp::State::Established);
        (handle, host)
    }

    /// The guest sends all of this, says that it is all, and receives until the other end has said the same.
    pub(super) fn exchange(&mut self, handle: SocketHandle, send: &[u8]) -> Vec<u8> {
        let (mut sent, mut received) = (0, Vec::new());
        let mut idle = 0;
        while sent < send.len() || self.socket(handle).may_recv() {
            let before = (sent, received.len());
            let socket = self.socket(handle);
            if sent < send.len() && socket.can_send() {
                sent += socket.send_slice(&send[sent..]).unwrap();
                if sent == send.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket.recv(|data| (data.len(), received.extend_from_slice(data))).unwrap();
            }
            self.settle();
            if before == (sent, received.len()) {
                idle += 1;
                self.run_for(Duration::from_millis(20));
            }
            assert!(idle < 1000, "{sent} of {} bytes, {} back", send.len(), received.len());
        }
        received
    }
}
