//! What each frame of the guest is, and what follows from it. Nothing in it is believed.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use outboard_frames::wire::{
    ETHER_IPV4, ETHER_IPV6, Ethernet, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK, TCP_RST, TCP_SYN, Tcp, Udp,
};
use zerocopy::FromBytes;

use super::{ADVERTISED, Flow, UserNet};
use crate::arp::{self, ETHER_ARP};
use crate::datagrams::{Datagrams, Host};
use crate::dhcp;
use crate::emit::{BROADCAST, ETHERNET_LEN, Emit, Mac, UDP_LEN, Way};
use crate::icmp::{self, Why};
use crate::neighbours;
use crate::parse::Packet;
use crate::reach::{self, Target};
use crate::stack::HEAD_LEN;
use crate::table::Key;
use crate::tcp::{self, Connection, Failed};
use crate::{Ending, Sockets};

/// How long flows of datagrams are kept that nobody uses.
pub(super) const UDP_PATIENCE: Duration = Duration::from_secs(60);
/// Likewise, for questions about names, and for echo.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

impl<S: Sockets> UserNet<S> {
    /// `is_trusted`: checksums are left to others; `is_long`: lengths are.
    pub(super) fn take_frame(&mut self, frame: &mut [u8], is_trusted: bool, is_long: bool, now: Instant) {
        if self.try_frame(frame, is_trusted, is_long, now).is_none() {
            self.counters.ignored += 1;
        }
    }

    /// `None` if it is ignored.
    fn try_frame(&mut self, frame: &mut [u8], is_trusted: bool, is_long: bool, now: Instant) -> Option<()> {
        let (ethernet, _) = Ethernet::ref_from_prefix(frame).ok()?;
        let Ethernet { addresses: [to, mac], ether_type } = *ethernet;
        let [first, ..] = to;
        if (to != self.outlet.ours && first & 1 == 0) || mac.first()? & 1 != 0 {
            return None;
        }
        let packet = match ether_type.get() {
            ETHER_ARP => {
                self.outlet.guest = Some(mac);
                let ours = [self.settings.net.gateway(), self.settings.net.resolver()];
                arp::take(frame.get(ETHERNET_LEN..)?, ours, &mut Emit::later(&mut self.outlet));
                return Some(());
            }
            ETHER_IPV4 => Packet::parse4(frame, is_long)?,
            ETHER_IPV6 => Packet::parse6(frame, is_long)?,
            _ => return None,
        };
        let is_from_guest = match packet.way.from {
            IpAddr::V4(from) => from == self.settings.net.guest() || from.is_unspecified(),
            IpAddr::V6(from) => self.settings.net6?.is_of_guest(from) || from.is_unspecified(),
        };
        if !is_from_guest {
            return None;
        }
        self.outlet.guest = Some(mac);
        if let Some(fragment) = packet.fragment {
            let payload = frame.get(packet.payload.clone())?;
            let whole = self.reassembly.take((packet.way, packet.protocol), fragment, payload, now);
            let Some(whole) = whole else { return Some(()) };
            // TCP is never so long.
            return self.payload(&packet, &whole, mac, is_trusted, false, now);
        }
        if packet.protocol == PROTOCOL_TCP && !packet.way.from.is_unspecified() {
            return self.segment(&packet, frame, is_trusted, now);
        }
        let payload = frame.get(packet.payload.clone())?;
        self.payload(&packet, payload, mac, is_trusted, is_long, now)
    }

    /// What a packet carries, but for TCP.
    fn payload(
        &mut self,
        packet: &Packet,
        payload: &[u8],
        mac: Mac,
        is_trusted: bool,
        is_long: bool,
        now: Instant,
    ) -> Option<()> {
        let way = packet.way;
        if packet.protocol == PROTOCOL_UDP {
            return self.udp(packet, payload, is_trusted, is_long, now);
        }
        if packet.protocol != icmp::protocol(way) || !icmp::is_right(way, payload) {
            return None;
        }
        let emit = &mut Emit::later(&mut self.outlet);
        if let Some(net) = self.settings.net6
            && way.to.is_ipv6()
            && neighbours::take(way, packet.limit, payload, mac, (net, true), emit)
        {
            self.advertise_at.get_or_insert(now + ADVERTISED);
            return Some(());
        }
        let identifier = icmp::question(way, payload)?;
        if reach::is_gateway(&self.settings, way.to) || reach::is_resolver(&self.settings, way.to) {
            icmp::echo(way, payload, emit);
            return Some(());
        }
        let (guest, far) = (SocketAddr::new(way.from, identifier), SocketAddr::new(way.to, 0));
        self.datagram(packet.protocol, guest, far, payload, now)
    }

    fn udp(
        &mut self,
        packet: &Packet,
        datagram: &[u8],
        is_trusted: bool,
        is_long: bool,
        now: Instant,
    ) -> Option<()> {
        let (udp, _) = Udp::ref_from_prefix(datagram).ok()?;
        let len = if is_long { datagram.len() } else { udp.len.get().into() };
        let datagram = datagram.get(..len)?;
        let data = datagram.get(UDP_LEN..)?;
        let has_none = packet.way.to.is_ipv4() && udp.checksum.get() == 0;
        if !is_trusted && !has_none && !packet.is_right(datagram) {
            return None;
        }
        let [a, b, c, d] = udp.ports;
        let guest = SocketAddr::new(packet.way.from, u16::from_be_bytes([a, b]));
        let far = SocketAddr::new(packet.way.to, u16::from_be_bytes([c, d]));
        if let IpAddr::V4(to) = far.ip() {
            let net = self.settings.net;
            let is_server = to.is_broadcast() || to == net.gateway() || to == net.broadcast();
            if is_server && far.port() == dhcp::SERVER_PORT {
                let answer = dhcp::answer(data, net, self.settings.mtu, true)?;
                self.answer_dhcp(&answer);
                return Some(());
            }
        }
        if guest.ip().is_unspecified() {
            return None;
        }
        self.datagram(PROTOCOL_UDP, guest, far, data, now)
    }

    fn answer_dhcp(&mut self, answer: &dhcp::Answer) {
        let way = Way { from: self.settings.net.gateway().into(), to: (*answer.to.ip()).into() };
        let len = (UDP_LEN + answer.message.len()) as u16;
        let [from, to] = [dhcp::SERVER_PORT, dhcp::CLIENT_PORT].map(u16::to_be_bytes);
        let mut datagram = [from, to, len.to_be_bytes(), [0, 0]].as_flattened().to_vec();
        datagram.extend_from_slice(&answer.message);
        let checksum = way.pseudo(PROTOCOL_UDP, datagram.len()).plus(&datagram).checksum();
        if let Some(place) = datagram.get_mut(6..8) {
            place.copy_from_slice(&checksum.to_bytes());
        }
        let mac = answer.mac.unwrap_or(BROADCAST);
        Emit::later(&mut self.outlet).packet_to(mac, way, PROTOCOL_UDP, 64, &datagram);
    }

    /// A datagram, or a question for an echo, to somebody outside.
    fn datagram(
        &mut self,
        protocol: u8,
        guest: SocketAddr,
        far: SocketAddr,
        data: &[u8],
        now: Instant,
    ) -> Option<()> {
        let key = Key { protocol, guest, far };
        let at = match self.table.find(&key) {
            Some(at) => at,
            None => self.begin_datagrams(key, data, now)?,
        };
        if let Some((_, Flow::Datagrams(flow))) = self.table.flow(at) {
            flow.take(data, &mut self.sockets, now, &mut Emit::later(&mut self.outlet));
        }
        Some(())
    }

    /// `None` if there is no such flow.
    fn begin_datagrams(&mut self, key: Key, data: &[u8], now: Instant) -> Option<usize> {
        let Key { protocol, guest, far } = key;
        let target = match reach::target(&self.settings, far) {
            Target::Host(target) => target,
            Target::Resolver => self.sockets.resolver()?,
            Target::Nowhere => {
                // What is meant for all is for nobody here.
                let is_for_all = far.ip().is_multicast()
                    || matches!(far.ip(), IpAddr::V4(ip) if ip.is_broadcast() || ip == self.settings.net.broadcast());
                if !is_for_all {
                    self.prohibit(key, data);
                }
                return None;
            }
        };
        if !self.make_room() {
            return None;
        }
        let is_short = protocol != PROTOCOL_UDP || reach::is_resolver(&self.settings, far.ip());
        let patience = if is_short { SHORT_PATIENCE } else { UDP_PATIENCE };
        let opened = if protocol == PROTOCOL_UDP {
            self.sockets.udp(target).map(Host::Udp)
        } else {
            self.sockets.ping(target.ip()).map(|socket| Host::Ping(socket, guest.port()))
        };
        let Ok(host) = opened else {
            self.counters.failed += 1;
            let way = Way { from: guest.ip(), to: far.ip() };
            let told = told(key, data);
            icmp::unreachable(way, protocol, &told, Why::Host, &mut Emit::later(&mut self.outlet));
            return None;
        };
        *if protocol == PROTOCOL_UDP { &mut self.counters.udp } else { &mut self.counters.ping } += 1;
        let flow = Datagrams::new(guest, far, host, patience, now);
        let end = flow.end();
        let at = self.table.insert(key, host.socket(), Flow::Datagrams(flow));
        self.table.set_due(at, Some(end));
        Some(at)
    }

    /// The guest may not go there.
    fn prohibit(&mut self, key: Key, carried: &[u8]) {
        self.counters.prohibited += 1;
        let way = Way { from: key.guest.ip(), to: key.far.ip() };
        let told = told(key, carried);
        let emit = &mut Emit::later(&mut self.outlet);
        icmp::unreachable(way, key.protocol, &told, Why::Prohibited, emit);
    }

    /// A TCP segment in its frame.
    fn segment(&mut self, packet: &Packet, frame: &mut [u8], is_trusted: bool, now: Instant) -> Option<()> {
        let segment = frame.get(packet.payload.clone())?;
        if !is_trusted && !packet.is_right(segment) {
            return None;
        }
        let (&Tcp { ports: [a, b, c, d], flags, .. }, _) = Tcp::ref_from_prefix(segment).ok()?;
        let guest = SocketAddr::new(packet.way.from, u16::from_be_bytes([a, b]));
        let far = SocketAddr::new(packet.way.to, u16::from_be_bytes([c, d]));
        if guest.port() == 0 || far.port() == 0 {
            return None;
        }
        let key = Key { protocol: PROTOCOL_TCP, guest, far };
        if let Some(at) = self.table.find(&key) {
            let stamp = self.stamp(now);
            // The headers of Ethernet and IP are longer.
            let with_room = frame.get_mut(packet.payload.start - HEAD_LEN..packet.payload.end)?;
            let Some((_, Flow::Connection(connection))) = self.table.flow(at) else { return None };
            if connection.take(with_room, stamp, &mut Emit::later(&mut self.outlet)) {
                self.table.set_ready(at);
            } else {
                self.end(at, Ending::Reset);
            }
            return Some(());
        }
        if flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN {
            let with_room = frame.get(packet.payload.start - HEAD_LEN..packet.payload.end)?;
            self.begin_connection(key, with_room);
        } else {
            tcp::refuse(packet.way, segment, &mut Emit::later(&mut self.outlet));
        }
        Some(())
    }

    /// The guest's first segment, behind room for a header.
    fn begin_connection(&mut self, key: Key, with_room: &[u8]) {
        let Key { guest, far, .. } = key;
        let way = Way { from: guest.ip(), to: far.ip() };
        let segment = with_room.get(HEAD_LEN..).unwrap_or_default();
        let target = match reach::target(&self.settings, far) {
            Target::Host(target) => Some(target),
            Target::Resolver => self.sockets.resolver(),
            Target::Nowhere => return self.prohibit(key, segment),
        };
        let has_room = target.is_some() && self.make_room();
        let Some(target) = target.filter(|_| has_room) else {
            return tcp::refuse(way, segment, &mut Emit::later(&mut self.outlet));
        };
        match self.sockets.connect(target) {
            Ok(socket) => {
                self.counters.tcp += 1;
                let connection = Connection::outward(guest, far, socket, with_room);
                let at = self.table.insert(key, Some(socket), Flow::Connection(Box::new(connection)));
                self.table.set_ready(at);
            }
            Err(error) => {
                let failed = tcp::failed(&error);
                self.connection_failed(way, segment, &failed);
            }
        }
    }

    pub(super) fn connection_failed(&mut self, way: Way, segment: &[u8], failed: &Failed) {
        self.counters.failed += 1;
        let emit = &mut Emit::later(&mut self.outlet);
        match failed {
            Failed::Refused => tcp::refuse(way, segment, emit),
            Failed::Unreachable => icmp::unreachable(way, PROTOCOL_TCP, segment, Why::Host, emit),
        }
    }
}

/// What is told of a packet that was not delivered: the beginning of what it carried.
fn told(key: Key, carried: &[u8]) -> Vec<u8> {
    if key.protocol == PROTOCOL_UDP {
        let [guest, far] = [key.guest.port(), key.far.port()].map(u16::to_be_bytes);
        let len = u16::try_from(UDP_LEN + carried.len()).unwrap_or(u16::MAX);
        [[guest, far, len.to_be_bytes(), [0, 0]].as_flattened(), carried].concat()
    } else {
        carried.to_vec()
    }
}
