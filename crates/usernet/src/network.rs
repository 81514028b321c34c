//! The network as a whole: what each frame of the guest is, and whose turn it is.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use outboard_frames::wire::{
    ETHER_IPV4, ETHER_IPV6, Ethernet, PROTOCOL_TCP, PROTOCOL_UDP, TCP_ACK, TCP_RST, TCP_SYN, Tcp, Udp,
};
use outboard_frames::{Offload, Takes, plain};
use outboard_virtio_defs::net::{HDR_GSO_ECN, HDR_GSO_UDP_L4};
use zerocopy::FromBytes;

use crate::arp::{self, ETHER_ARP};
use crate::datagrams::{Datagrams, Host};
use crate::dhcp;
use crate::emit::{BROADCAST, ETHERNET_LEN, Emit, Mac, Outlet, UDP_LEN, Way};
use crate::icmp::{self, Why};
use crate::neighbours;
use crate::parse::Packet;
use crate::reach::{self, Target};
use crate::reassembly::Reassembly;
use crate::settings::{Invalid, Protocol, Settings};
use crate::stack::{HEAD_LEN, Making};
use crate::table::{Key, Table};
use crate::tcp::{self, Connection, Failed, Next};
use crate::{Ending, Readiness, SocketId, Sockets};

/// How long flows of datagrams are kept that nobody uses.
const UDP_PATIENCE: Duration = Duration::from_secs(60);
/// Likewise, for questions about names, and for echo.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);
/// How often the guest is told of the IPv6 network without having asked.
const ADVERTISED: Duration = Duration::from_secs(600);
/// So many connections, or datagrams, of a forwarded port at a time.
const FORWARDED: usize = 32;
/// The smallest window: below it a connection is not worth having.
const SMALL_WINDOW: usize = 16 << 10;
/// The gateway's ports for connections to the guest (RFC 6335, 6).
const PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// What has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Flows at this time.
    pub flows: usize,
    /// Connections that were begun, by either side.
    pub tcp: u64,
    /// Flows of UDP datagrams.
    pub udp: u64,
    /// Flows of echoes.
    pub ping: u64,
    /// Packets to where the guest may not go.
    pub prohibited: u64,
    /// Connections that the host did not get.
    pub failed: u64,
    /// Flows that were refused, or ended, as there were too many, or too little memory.
    pub exhausted: u64,
    /// Frames that are malformed, have a wrong checksum, or are from or to nobody here.
    pub ignored: u64,
    /// Frames to the guest that nobody asks for again, or does.
    pub lost: u64,
}

enum Flow {
    Connection(Box<Connection>),
    Datagrams(Datagrams),
}

/// A network for one guest.
pub struct UserNet<S> {
    settings: Settings,
    sockets: S,
    outlet: Outlet,
    table: Table<Flow>,
    /// Flows of datagrams that came to forwarded ports, by who sent them.
    forwarded: HashMap<(usize, SocketAddr), usize>,
    /// Forwarded ports that may have something.
    ready: Vec<bool>,
    reassembly: Reassembly,
    /// When it all began.
    start: Instant,
    /// Bytes of memory in use.
    memory: usize,
    /// When the IPv6 network is told of next.
    advertise_at: Option<Instant>,
    /// Where the next connection to the guest may come from.
    next_port: u16,
    /// Changes with each connection.
    seed: u64,
    counters: Counters,
}

impl<S: Sockets> UserNet<S> {
    /// Begins, without any flows.
    ///
    /// # Errors
    /// The settings make no sense.
    pub fn new(settings: Settings, sockets: S, now: Instant) -> Result<Self, Invalid> {
        settings.check()?;
        // As others have it: 52:55 and the gateway's address.
        let [a, b, c, d] = settings.net.gateway().octets();
        Ok(Self {
            outlet: Outlet::new([0x52, 0x55, a, b, c, d], settings.mtu, settings.takes),
            sockets,
            table: Table::new(),
            forwarded: HashMap::new(),
            ready: vec![true; settings.forwards.len()],
            reassembly: Reassembly::default(),
            start: now,
            memory: 0,
            advertise_at: None,
            next_port: *PORTS.start(),
            seed: settings.seed,
            counters: Counters::default(),
            settings,
        })
    }

    /// The guest takes over this from now on, of the work on packets.
    pub fn set_takes(&mut self, takes: Takes) {
        self.outlet.takes = takes;
    }

    /// The host's side.
    pub fn sockets(&mut self) -> &mut S {
        &mut self.sockets
    }

    /// What has happened.
    pub fn counters(&self) -> Counters {
        Counters { flows: self.table.len(), lost: self.outlet.lost, ..self.counters }
    }

    /// A frame of the guest, with what it left to do. What follows from it is done by [`Self::give`]. Afterwards `frame`
    /// is of no use.
    pub fn take(&mut self, frame: &mut [u8], offload: &Offload, now: Instant) {
        let is_trusted = *offload != Offload::None;
        match offload {
            Offload::Segments(_) if offload.header().gso_type & !HDR_GSO_ECN == HDR_GSO_UDP_L4 => {
                let mut pieces = Vec::new();
                plain(offload, frame, |piece| pieces.push(piece.to_vec()));
                pieces.iter_mut().for_each(|piece| self.take_frame(piece, true, false, now));
            }
            Offload::Segments(_) => self.take_frame(frame, is_trusted, true, now),
            _ => self.take_frame(frame, is_trusted, false, now),
        }
    }

    /// `is_trusted`: checksums are left to others; `is_long`: lengths are.
    fn take_frame(&mut self, frame: &mut [u8], is_trusted: bool, is_long: bool, now: Instant) {
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

    fn connection_failed(&mut self, way: Way, segment: &[u8], failed: &Failed) {
        self.counters.failed += 1;
        let emit = &mut Emit::later(&mut self.outlet);
        match failed {
            Failed::Refused => tcp::refuse(way, segment, emit),
            Failed::Unreachable => icmp::unreachable(way, PROTOCOL_TCP, segment, Why::Host, emit),
        }
    }

    /// Makes room for a flow, by ending the one of datagrams that was not used for the longest time. False if there is none.
    fn make_room(&mut self) -> bool {
        if self.table.len() < self.settings.limits.flows {
            return true;
        }
        self.counters.exhausted += 1;
        let idle = self.table.iter().filter_map(|(at, flow)| match flow {
            Flow::Datagrams(flow) => Some((flow.used, at)),
            Flow::Connection(_) => None,
        });
        let Some((_, at)) = idle.min() else { return false };
        self.end(at, Ending::Orderly);
        true
    }

    /// What a connection is made with, if there is memory for one.
    fn making(&mut self) -> Option<Making> {
        let limits = self.settings.limits;
        let left = limits.memory.saturating_sub(self.memory);
        // The fuller it gets, the less for each.
        let window = limits.window.min(left / 32).max(SMALL_WINDOW);
        if 2 * window > left {
            self.counters.exhausted += 1;
            return None;
        }
        // Whoever sees some of them does not see the others.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut seed = self.seed;
        seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(Making { mtu: self.settings.mtu, takes: self.outlet.takes, window, seed: seed ^ (seed >> 31) })
    }

    fn end(&mut self, at: usize, ending: Ending) {
        let socket = match self.table.flow(at) {
            Some((_, Flow::Connection(connection))) => Some(connection.socket),
            Some((_, Flow::Datagrams(flow))) => flow.host.socket(),
            None => return,
        };
        match self.table.remove(at, socket) {
            Some((_, Flow::Connection(connection))) => self.memory -= connection.memory,
            Some((_, Flow::Datagrams(Datagrams { host: Host::Forward(forward, peer), .. }))) => {
                self.forwarded.remove(&(forward, peer));
            }
            _ => {}
        }
        if let Some(socket) = socket {
            self.sockets.close(socket, ending);
        }
    }

    /// A socket may go on.
    pub fn ready(&mut self, socket: SocketId, how: Readiness) {
        let Some(at) = self.table.find_socket(socket) else { return };
        match self.table.flow(at) {
            Some((_, Flow::Connection(connection))) => connection.ready(how),
            Some((_, Flow::Datagrams(flow))) if how.read => flow.ready(),
            _ => return,
        }
        self.table.set_ready(at);
    }

    /// A forwarded port has something.
    pub fn forward_ready(&mut self, forward: usize) {
        if let Some(ready) = self.ready.get_mut(forward) {
            *ready = true;
        }
    }

    /// Whether [`Self::give`] has something to do, beside what is due at a time.
    pub fn has_work(&self) -> bool {
        self.outlet.has_waiting() || self.table.has_ready() || self.ready.contains(&true)
    }

    /// When [`Self::give`] has something to do, if nothing happens before.
    pub fn wake_at(&self) -> Option<Instant> {
        self.table.due().into_iter().chain(self.advertise_at).min()
    }

    /// Does what is to be done: hands what there is for the guest to `out`, which says whether it took a frame, and to the
    /// host what there is for it. Not all of it at once, if there is much.
    pub fn give(&mut self, now: Instant, mut out: impl FnMut(&Offload, &[u8]) -> bool) {
        self.table.wake(now);
        if let Some(net) = self.settings.net6
            && self.advertise_at.is_some_and(|at| at <= now)
        {
            self.advertise_at = Some(now + ADVERTISED);
            neighbours::advertise(net, true, &mut Emit::later(&mut self.outlet));
        }
        self.accept(now);
        if !self.outlet.give_waiting(&mut out) {
            return;
        }
        let stamp = self.stamp(now);
        for _ in 0..self.table.ready_len() {
            let Some(at) = self.table.next_ready() else { break };
            let making = self.needs_making(at).then(|| self.making());
            let emit = &mut Emit::now(&mut self.outlet, &mut out);
            match self.table.flow(at) {
                None => {}
                Some((_, Flow::Datagrams(flow))) => {
                    let more = flow.pump(&mut self.sockets, now, emit);
                    let (end, is_open) = (flow.end(), emit.is_open());
                    if end <= now {
                        self.end(at, Ending::Orderly);
                    } else {
                        self.table.set_due(at, Some(end));
                        if more {
                            self.table.set_ready(at);
                        }
                    }
                    if !is_open {
                        return;
                    }
                }
                Some((_, Flow::Connection(connection))) => {
                    let sockets = &mut self.sockets;
                    let settled = match making {
                        None => Ok(()),
                        Some(None) => Err(Failed::Refused),
                        Some(Some(making)) => connection.settle(sockets, making, stamp, emit),
                    };
                    if making.is_some() {
                        self.memory += connection.memory;
                    }
                    let next = match &settled {
                        Ok(()) => connection.pump(sockets, stamp, emit),
                        Err(_) => Next::Over(Ending::Reset),
                    };
                    let is_open = emit.is_open();
                    if let Err(failed) = settled {
                        let way = Way { from: connection.guest.ip(), to: connection.far.ip() };
                        let segment = connection.first_segment().to_vec();
                        self.connection_failed(way, &segment, &failed);
                    }
                    match next {
                        Next::Now => self.table.set_ready(at),
                        Next::Later(due) => {
                            let due = due.map(|due| self.time(due));
                            self.table.set_due(at, due);
                        }
                        Next::Over(ending) => self.end(at, ending),
                    }
                    if !is_open {
                        return;
                    }
                }
            }
        }
        self.outlet.give_waiting(&mut out);
    }

    /// Whether a connection is about to be there, for which memory is needed then.
    fn needs_making(&mut self, at: usize) -> bool {
        matches!(self.table.flow(at), Some((_, Flow::Connection(connection))) if connection.is_connecting())
    }

    /// Takes what came to forwarded ports.
    fn accept(&mut self, now: Instant) {
        for forward in 0..self.ready.len() {
            let Some(settings) = self.settings.forwards.get(forward).copied() else { continue };
            if !self.ready.get(forward).is_some_and(|ready| *ready) {
                continue;
            }
            let guest =
                SocketAddr::new(settings.guest.unwrap_or(self.settings.net.guest().into()), settings.port);
            for _ in 0..FORWARDED {
                let more = match settings.protocol {
                    Protocol::Tcp => self.accept_connection(forward, guest, now),
                    Protocol::Udp => self.accept_datagram(forward, guest, now),
                };
                if more.is_none() {
                    if let Some(ready) = self.ready.get_mut(forward) {
                        *ready = false;
                    }
                    break;
                }
            }
        }
    }

    /// `None` if there is none.
    fn accept_connection(&mut self, forward: usize, guest: SocketAddr, now: Instant) -> Option<()> {
        let (socket, _) = self.sockets.accept(forward).ok()?;
        self.look_for(guest.ip());
        let stamp = self.stamp(now);
        let key = if self.make_room() { self.inward_key(PROTOCOL_TCP, guest) } else { None };
        let connection = key.and_then(|key| {
            let making = self.making()?;
            Some((key, Connection::inward(guest, key.far, socket, making, stamp)?))
        });
        match connection {
            Some((key, connection)) => {
                self.counters.tcp += 1;
                self.memory += connection.memory;
                let at = self.table.insert(key, Some(socket), Flow::Connection(Box::new(connection)));
                self.table.set_ready(at);
            }
            None => self.sockets.close(socket, Ending::Reset),
        }
        Some(())
    }

    /// `None` if there is none.
    fn accept_datagram(&mut self, forward: usize, guest: SocketAddr, now: Instant) -> Option<()> {
        let mut data = vec![0; 1 << 16];
        let (len, peer) = self.sockets.read_from(forward, &mut data).ok()?;
        let data = data.get(..len).unwrap_or_default();
        let at = match self.forwarded.get(&(forward, peer)) {
            Some(at) => *at,
            None => {
                if !self.make_room() {
                    return Some(());
                }
                self.look_for(guest.ip());
                let Some(key) = self.inward_key(PROTOCOL_UDP, guest) else { return Some(()) };
                self.counters.udp += 1;
                let flow = Datagrams::new(guest, key.far, Host::Forward(forward, peer), UDP_PATIENCE, now);
                let at = self.table.insert(key, None, Flow::Datagrams(flow));
                self.forwarded.insert((forward, peer), at);
                at
            }
        };
        let Some((key, Flow::Datagrams(flow))) = self.table.flow(at) else { return Some(()) };
        flow.used = now;
        let end = flow.end();
        self.table.set_due(at, Some(end));
        let _ = Emit::later(&mut self.outlet).datagram(key.far, guest, |room| match room.get_mut(..len) {
            Some(room) => {
                room.copy_from_slice(data);
                Ok(len)
            }
            None => Err(()),
        });
        Some(())
    }

    /// A name for a flow that somebody else has begun: the guest sees it come from the gateway.
    fn inward_key(&mut self, protocol: u8, guest: SocketAddr) -> Option<Key> {
        let gateway: IpAddr = match guest.ip() {
            IpAddr::V4(_) => self.settings.net.gateway().into(),
            // An address of the link is talked to from such a one.
            IpAddr::V6(ip) if ip.is_unicast_link_local() => self.settings.net6?.link_gateway().into(),
            IpAddr::V6(_) => self.settings.net6?.gateway().into(),
        };
        for _ in PORTS {
            let far = SocketAddr::new(gateway, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(*PORTS.start());
            let key = Key { protocol, guest, far };
            if self.table.find(&key).is_none() {
                return Some(key);
            }
        }
        None
    }

    /// Asks who the guest is, if that is not known.
    fn look_for(&mut self, guest: IpAddr) {
        if self.outlet.guest.is_some() {
            return;
        }
        let emit = &mut Emit::later(&mut self.outlet);
        match guest {
            IpAddr::V4(guest) => arp::ask(self.settings.net.gateway(), guest, emit),
            IpAddr::V6(guest) => {
                if let Some(net) = self.settings.net6 {
                    neighbours::ask(net, guest, emit);
                }
            }
        }
    }

    /// A time as smoltcp counts it: from a second before the beginning.
    fn stamp(&self, now: Instant) -> smoltcp::time::Instant {
        let since = now.saturating_duration_since(self.start) + Duration::from_secs(1);
        // For a few hundred thousand years.
        smoltcp::time::Instant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn time(&self, stamp: smoltcp::time::Instant) -> Instant {
        let micros = u64::try_from(stamp.total_micros()).unwrap_or(0);
        self.start + Duration::from_micros(micros.saturating_sub(1_000_000))
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

impl<S> std::fmt::Debug for UserNet<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserNet").field("settings", &self.settings).finish_non_exhaustive()
    }
}
