//! The network as a whole: its flows, and whose turn it is. What comes of the guest is in `ingress`, what comes to forwarded
//! ports in `forwarding`.

mod forwarding;
mod ingress;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use outboard_frames::{Offload, Takes, plain};
use outboard_virtio_defs::net::{HDR_GSO_ECN, HDR_GSO_UDP_L4};

use crate::datagrams::{Datagrams, Host};
use crate::emit::{Emit, Outlet, Way};
use crate::neighbours;
use crate::reassembly::Reassembly;
use crate::settings::{Invalid, MTUS, Settings};
use crate::stack::Making;
use crate::table::Table;
use crate::tcp::{Connection, Failed, Next};
use crate::{Ending, Readiness, SocketId, Sockets};

/// How often the guest is told of the IPv6 network without having asked.
const ADVERTISED: Duration = Duration::from_secs(600);
/// The smallest window: below it a connection is not worth having.
const SMALL_WINDOW: usize = 16 << 10;

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
    /// Bytes of memory in use, and connections that have some.
    pub(crate) memory: usize,
    open: usize,
    /// Flows that came to each forwarded port.
    inward: Vec<usize>,
    /// When the IPv6 network is told of next.
    advertise_at: Option<Instant>,
    /// Which of the gateway's ports the next connection to the guest may come from.
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
            open: 0,
            inward: vec![0; settings.forwards.len()],
            advertise_at: None,
            next_port: 0,
            seed: settings.seed,
            counters: Counters::default(),
            settings,
        })
    }

    /// The guest takes over this from now on, of the work on packets.
    pub fn set_takes(&mut self, takes: Takes) {
        self.outlet.takes = takes;
    }

    /// The longest packet from now on, in bytes, within [`MTUS`]. Connections that are there keep to what they have agreed
    /// with the guest.
    pub fn set_mtu(&mut self, mtu: u16) {
        let mtu = mtu.clamp(*MTUS.start(), *MTUS.end());
        (self.settings.mtu, self.outlet.mtu) = (mtu, mtu);
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

    /// Makes room for a flow, by ending the one of datagrams that was not used for the longest time. False if there is none.
    fn make_room(&mut self) -> bool {
        self.table.len() < self.settings.limits.flows || self.end_idle(|_| true)
    }

    /// Likewise, for one that comes to a forwarded port: all of those together have half of the flows, one half of which is for
    /// whoever comes first, and of the other each has as many as another.
    fn make_room_inward(&mut self, forward: usize) -> bool {
        let quarter = self.settings.limits.flows / 4;
        let share = (quarter / self.inward.len().max(1)).max(1);
        let is_free = self.inward.iter().sum::<usize>() < quarter;
        if is_free || self.inward.get(forward).is_some_and(|count| *count < share) {
            return self.make_room();
        }
        self.end_idle(|host| matches!(host, Host::Forward(of, _) if of == forward))
    }

    /// Ends the flow of datagrams that was not used for the longest time, of those with such a host's side.
    fn end_idle(&mut self, which: impl Fn(Host) -> bool) -> bool {
        self.counters.exhausted += 1;
        let idle = self.table.iter().filter_map(|(at, flow)| match flow {
            Flow::Datagrams(flow) if which(flow.host) => Some((flow.used, at)),
            _ => None,
        });
        let Some((_, at)) = idle.min() else { return false };
        self.end(at, Ending::Orderly);
        true
    }

    /// A flow has come to a forwarded port, or one of those has ended.
    fn count_inward(&mut self, forward: usize, change: isize) {
        if let Some(count) = self.inward.get_mut(forward) {
            *count = count.saturating_add_signed(change);
        }
    }

    /// What a connection is made with, if there is memory for one.
    fn making(&mut self) -> Option<Making> {
        let limits = self.settings.limits;
        let left = limits.memory.saturating_sub(self.memory);
        // As many as there may be get the smallest window at least; and the fuller it gets, the less for each beyond that.
        let others = 2 * SMALL_WINDOW * limits.flows.saturating_sub(self.open);
        let spare = left.saturating_sub(others) / 32;
        let window = SMALL_WINDOW + limits.window.saturating_sub(SMALL_WINDOW).min(spare);
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
            Some((_, Flow::Connection(connection))) => {
                self.memory -= connection.memory;
                self.open -= usize::from(connection.memory > 0);
                if let Some(forward) = connection.forward {
                    self.count_inward(forward, -1);
                }
            }
            Some((_, Flow::Datagrams(Datagrams { host: Host::Forward(forward, peer), .. }))) => {
                self.forwarded.remove(&(forward, peer));
                self.count_inward(forward, -1);
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
                        self.open += usize::from(connection.memory > 0);
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

impl<S> std::fmt::Debug for UserNet<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserNet").field("settings", &self.settings).finish_non_exhaustive()
    }
}
