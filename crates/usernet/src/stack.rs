//! One end of a TCP connection with the guest: smoltcp, with a network of its own for each connection.
//!
//! smoltcp looks for a packet's socket among all that an interface has, does not listen on ports that it does not know, and
//! segments nothing over IPv6. None of that matters here: each connection is an interface with one socket, between two
//! addresses that are never seen outside ([`NEAR`], [`FAR`]). What goes in and out is the TCP segment; the headers around
//! it are written anew.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use outboard_frames::Takes;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::socket::tcp::{ConnectError, ListenError, Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Cidr};

use crate::emit::{Emit, Way, ip_head};

/// The guest, and who it talks to, as smoltcp knows them (RFC 5737).
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Bytes of the header that stands before a segment in there.
pub(crate) const HEAD_LEN: usize = 20;
const PROTOCOL_TCP: u8 = 6;
/// The longest packet there.
const MAX_PACKET: usize = u16::MAX as usize;
/// The most bytes that IPv6 headers have more than those of IPv4.
const MORE_OF_IPV6: usize = 20;
/// How long the guest is asked whether it takes a connection, and reminded of the end of one.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a guest is asked whether it has room again.
const ASKED_AGAIN: Duration = Duration::from_millis(100);

/// One end of a connection.
pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    caps: DeviceCapabilities,
    way: Way,
}

/// What it takes to make one.
#[derive(Clone, Copy)]
pub(crate) struct Making {
    pub(crate) mtu: u16,
    pub(crate) takes: Takes,
    /// Bytes of the buffer for each direction.
    pub(crate) window: usize,
    pub(crate) seed: u64,
}

impl Stack {
    /// Waits for the guest, which is about to be heard, to connect to `far`.
    pub(crate) fn listen(
        guest: SocketAddr,
        far: SocketAddr,
        making: Making,
        now: Instant,
    ) -> Result<Self, ListenError> {
        let mut stack = Self::new(guest, far, making, now);
        stack.socket().listen((FAR, far.port()))?;
        Ok(stack)
    }

    /// Connects to the guest.
    pub(crate) fn connect(
        guest: SocketAddr,
        far: SocketAddr,
        making: Making,
        now: Instant,
    ) -> Result<Self, ConnectError> {
        let mut stack = Self::new(guest, far, making, now);
        let socket = stack.sockets.get_mut::<Socket<'_>>(stack.handle);
        socket.set_timeout(Some(PATIENCE));
        socket.connect(stack.interface.context(), (NEAR, guest.port()), (FAR, far.port()))?;
        Ok(stack)
    }

    fn new(guest: SocketAddr, far: SocketAddr, making: Making, now: Instant) -> Self {
        let way = Way { from: far.ip(), to: guest.ip() };
        let caps = capabilities(way, making);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = making.seed;
        let mut interface = Interface::new(config, &mut Capabilities(&caps), now);
        interface.update_ip_addrs(|addresses| {
            // There is room for it.
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(FAR, 24)));
        });
        let buffer = || SocketBuffer::new(vec![0; making.window]);
        let mut socket = Socket::new(buffer(), buffer());
        // The host's side has waited already, where that is of use; and what is acknowledged is so once a pass.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, caps, way }
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes a segment of the guest, which stands in `packet` behind [`HEAD_LEN`] bytes that are overwritten.
    pub(crate) fn take(&mut self, packet: &mut [u8], now: Instant, emit: &mut Emit<'_, '_>) {
        // What is longer than any packet is cut off: it comes again.
        let packet = match packet.get_mut(..MAX_PACKET) {
            Some(_) => packet.get_mut(..MAX_PACKET).unwrap_or_default(),
            None => packet,
        };
        let way = Way { from: NEAR.into(), to: FAR.into() };
        if ip_head(packet, way, PROTOCOL_TCP, 64).is_none() {
            return;
        }
        let mut wire = Wire { input: Some(packet), caps: &self.caps, way: self.way, emit };
        self.interface.poll_ingress_single(now, &mut wire, &mut self.sockets);
    }

    /// Says to the guest what is to be said, in so many segments at most. True if there is more.
    pub(crate) fn give(&mut self, most: usize, now: Instant, emit: &mut Emit<'_, '_>) -> bool {
        for _ in 0..most {
            if !emit.is_open() {
                return true;
            }
            let mut wire = Wire { input: None, caps: &self.caps, way: self.way, emit };
            if self.interface.poll_egress(now, &mut wire, &mut self.sockets) == PollResult::None {
                return false;
            }
        }
        true
    }

    /// When there is something to be said, if nothing happens before.
    ///
    /// smoltcp 0.14 forgets to send again what the guest had no room for, once the guest's window has been closed and is
    /// open again: then the guest is asked what it has, until it has all.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.interface.poll_at(now, &self.sockets);
        let has_more = self.socket().send_queue() > 0;
        if !has_more && self.socket().keep_alive().is_some() {
            self.socket().set_keep_alive(None);
        }
        if !has_more || due.is_some() {
            return due;
        }
        self.socket().set_keep_alive(Some(ASKED_AGAIN));
        self.interface.poll_at(now, &self.sockets)
    }

    /// Says no more, once all has been said; and does not wait for ever to be heard.
    pub(crate) fn close(&mut self) {
        let socket = self.socket();
        socket.close();
        socket.set_timeout(Some(PATIENCE));
    }

    /// Whether the guest has said all that it will, and whether all is over and known to be.
    pub(crate) fn state(&mut self) -> Progress {
        let socket = self.socket();
        let state = socket.state();
        if state == State::FinWait2 || state == State::Established {
            // The guest may take its time: it has heard all.
            socket.set_timeout(None);
        }
        Progress {
            guest_is_done: matches!(
                state,
                State::CloseWait | State::Closing | State::LastAck | State::TimeWait
            ),
            // Closed, but with nobody to be told so.
            is_over: state == State::Closed && socket.remote_endpoint().is_none(),
            is_waiting_only: state == State::TimeWait,
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// The guest will write no more.
    pub(crate) guest_is_done: bool,
    /// Nothing is sent or received any more.
    pub(crate) is_over: bool,
    /// Only for what may have been lost.
    pub(crate) is_waiting_only: bool,
}

/// What smoltcp may leave to others.
fn capabilities(way: Way, making: Making) -> DeviceCapabilities {
    let is_ipv6 = way.to.is_ipv6();
    let more = if is_ipv6 { MORE_OF_IPV6 } else { 0 };
    let mut caps = DeviceCapabilities::default();
    caps.medium = Medium::Ip;
    caps.max_transmission_unit = usize::from(making.mtu) - more;
    // What comes in was looked at; what goes out gets other addresses.
    caps.checksum = ChecksumCapabilities::ignored();
    caps.checksum.tcp = Checksum::None;
    if making.takes.cuts_tcp(is_ipv6) {
        caps.segmentation.tcpv4 = NonZeroUsize::new(MAX_PACKET - more);
    }
    caps
}

/// For an interface that is made.
struct Capabilities<'a>(&'a DeviceCapabilities);

/// The way between smoltcp and frames.
struct Wire<'a, 'b, 'c> {
    input: Option<&'a [u8]>,
    caps: &'a DeviceCapabilities,
    way: Way,
    emit: &'a mut Emit<'b, 'c>,
}

struct Input<'a>(&'a [u8]);

struct Output<'a, 'b, 'c> {
    way: Way,
    size: Option<u16>,
    emit: &'a mut Emit<'b, 'c>,
}

impl<'b, 'c> phy::Device for Wire<'_, 'b, 'c> {
    type RxToken<'t>
        = Input<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Output<'t, 'b, 'c>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Input<'_>, Output<'_, 'b, 'c>)> {
        let input = self.input.take()?;
        Some((Input(input), Output { way: self.way, size: None, emit: self.emit }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Output<'_, 'b, 'c>> {
        self.emit.is_open().then_some(Output { way: self.way, size: None, emit: self.emit })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.caps.clone()
    }
}

impl phy::Device for Capabilities<'_> {
    type RxToken<'t>
        = Input<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Nowhere
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Input<'_>, Nowhere)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Nowhere> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.0.clone()
    }
}

/// Nothing is sent.
struct Nowhere;

impl phy::TxToken for Nowhere {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        fill(&mut vec![0; len])
    }
}

impl phy::RxToken for Input<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

impl phy::TxToken for Output<'_, '_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        // smoltcp makes no packet without a header.
        let segment = len.saturating_sub(HEAD_LEN);
        self.emit.segment(self.way, (HEAD_LEN, segment), self.size, fill)
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.size = meta.segmentation_offload_size.map(Into::into);
    }
}
