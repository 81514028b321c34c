//! What comes to forwarded ports of the host, on its way to the guest.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use outboard_frames::wire::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::ingress::UDP_PATIENCE;
use super::{Flow, UserNet};
use crate::datagrams::{Datagrams, Host};
use crate::emit::Emit;
use crate::settings::Protocol;
use crate::table::Key;
use crate::tcp::Connection;
use crate::{Ending, Sockets, arp, neighbours};

/// So many connections, or datagrams, of a forwarded port at a time.
const FORWARDED: usize = 32;
/// The gateway's ports for connections to the guest (RFC 6335, 6): so many, from this one on.
const FIRST_PORT: u16 = 49152;
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;

impl<S: Sockets> UserNet<S> {
    /// Takes what came to forwarded ports.
    pub(super) fn accept(&mut self, now: Instant) {
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
        let has_room = self.make_room_inward(forward);
        let key = if has_room { self.inward_key(PROTOCOL_TCP, guest) } else { None };
        let connection = key.and_then(|key| {
            let making = self.making()?;
            Some((key, Connection::inward(guest, key.far, (socket, forward), making, stamp)?))
        });
        match connection {
            Some((key, connection)) => {
                self.counters.tcp += 1;
                self.memory += connection.memory;
                self.open += 1;
                self.count_inward(forward, 1);
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
                if !self.make_room_inward(forward) {
                    return Some(());
                }
                self.look_for(guest.ip());
                let Some(key) = self.inward_key(PROTOCOL_UDP, guest) else { return Some(()) };
                self.counters.udp += 1;
                self.count_inward(forward, 1);
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
        for _ in 0..PORTS {
            let far = SocketAddr::new(gateway, FIRST_PORT + self.next_port);
            self.next_port = (self.next_port + 1) % PORTS;
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
}
