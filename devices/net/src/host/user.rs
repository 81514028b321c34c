//! User-mode networking: a network of the guest's own, in which sockets of this process stand for the rest of the world.
//!
//! What the network is and does is in [`outboard_usernet`]; here are its sockets, and its place between the queues of a
//! pair. It takes no privileges, and serves one pair.

mod passt;
mod resolver;
mod sockets;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use outboard_device::serde_json::{Value, json};
use outboard_device::{Cx, DeviceError, Features, SourceId};
use outboard_frames::{MAX_LEN, Takes};
use outboard_usernet::{Counters, Forward, Limits, MTUS, Net4, Net6, Settings, UserNet};

use super::{Backing, Sent, Side, Terms};
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;
pub use resolver::Dns;
use resolver::Resolver;
use sockets::{Event, HostSockets, Listener};

/// What the sockets are watched as.
const SOCKETS: SourceId = SourceId(0);
/// What the time is watched as.
const TIME: SourceId = SourceId(1);
/// The longest packet of a guest that was told of none.
const MTU: u16 = 1500;
/// Descriptors that the program needs beside those of its guests' flows.
const OTHER_FILES: u64 = 256;

/// What `--backend user` takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct UserOptions {
    /// The guest's IPv4 network (--backend user): the gateway is number 2 in it, the guest 15 [default: 10.0.2.0/24]
    #[arg(long, value_name = "NETWORK")]
    pub net: Option<Net4>,

    /// The guest's IPv6 network (--backend user), or none [default: fd00::/64]
    #[arg(long, value_name = "NETWORK", value_parser = parse_net6)]
    pub net6: Option<NoneOr<Net6>>,

    /// A port of the host that leads to the guest (--backend user), as in tcp:127.0.0.1:2222-:22
    #[arg(long, value_name = "FORWARD")]
    pub host_forward: Vec<Forward>,

    /// Who answers the guest's questions about names (--backend user): an address, or whoever the host asks [default: auto]
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Option<Dns>,

    /// The gateway's address does not lead to the host's loopback interface (--backend user)
    #[arg(long)]
    pub no_host_loopback: bool,

    /// The program passt, which is to be the network in our place (--backend user)
    #[arg(long, value_name = "PATH")]
    pub passt: Option<PathBuf>,
}

/// Something, or expressly nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoneOr<T> {
    /// Nothing.
    None,
    /// Something.
    Some(T),
}

fn parse_net6(text: &str) -> Result<NoneOr<Net6>, String> {
    if text == "none" { Ok(NoneOr::None) } else { text.parse().map(NoneOr::Some) }
}

impl UserOptions {
    /// One of these options, if any was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.net.is_some(), "--net"),
            (self.net6.is_some(), "--net6"),
            (!self.host_forward.is_empty(), "--host-forward"),
            (self.dns.is_some(), "--dns"),
            (self.no_host_loopback, "--no-host-loopback"),
            (self.passt.is_some(), "--passt"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

/// Opens what the options say: a network of our own, or passt.
///
/// # Errors
/// The host refuses a forwarded port; what the options say makes no sense, or cannot be had.
pub(super) fn open(options: &UserOptions, mtu: Option<u16>) -> Result<Box<dyn Backing>, DeviceError> {
    Ok(match &options.passt {
        Some(path) => Box::new(passt::Passt::new(path, options)?),
        None => Box::new(Network::open(options, mtu)?),
    })
}

/// The network, in the hands of the control half.
struct Network {
    options: UserOptions,
    mtu: u16,
    listeners: Arc<[Listener]>,
    counters: Arc<Mutex<Counters>>,
}

impl Network {
    /// Listens on the forwarded ports.
    ///
    /// # Errors
    /// The host refuses one.
    fn open(options: &UserOptions, mtu: Option<u16>) -> Result<Self, DeviceError> {
        let listeners = options.host_forward.iter().map(|forward| {
            Listener::open(forward)
                .map_err(|error| DeviceError::host(format!("cannot listen on {}", forward.host), error))
        });
        allow_files(Limits::default().flows as u64 + OTHER_FILES);
        let listeners = listeners.collect::<Result<_, _>>()?;
        let new =
            Self { options: options.clone(), mtu: mtu.unwrap_or(MTU), listeners, counters: Arc::default() };
        new.settings(Features(0), 0).check().map_err(|error| DeviceError::Invalid(error.to_string()))?;
        Ok(new)
    }
}

impl Network {
    fn settings(&self, agreed: Features, seed: u64) -> Settings {
        Settings {
            net: self.options.net.unwrap_or_default(),
            net6: match self.options.net6 {
                None => Some(Net6::default()),
                Some(NoneOr::Some(net)) => Some(net),
                Some(NoneOr::None) => None,
            },
            mtu: self.mtu,
            takes: Takes::by_driver(agreed.0),
            host_loopback: !self.options.no_host_loopback,
            forwards: self.options.host_forward.clone(),
            limits: Limits::default(),
            seed,
        }
    }
}

/// Asks for so many descriptors. If there are fewer, flows fail for want of them.
fn allow_files(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        let current = Some(maximum.map_or(wanted, |most| most.min(wanted)));
        let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
    }
}

impl Backing for Network {
    fn name(&self) -> &'static str {
        "user"
    }

    fn side(&mut self, _: u16, terms: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        let failed = |error| DeviceError::host("cannot make a network of sockets", error);
        let settings = self.settings(terms.agreed, seed().map_err(failed)?);
        let sockets = HostSockets::new(&self.listeners, Resolver::new(self.options.dns.unwrap_or_default()));
        let net = UserNet::new(settings, sockets.map_err(failed)?, Instant::now());
        Ok(Box::new(Flows {
            net: net.map_err(|error| DeviceError::Invalid(error.to_string()))?,
            counters: Arc::clone(&self.counters),
            events: Vec::new(),
            may_have_events: true,
            has_no_buffers: false,
            alarm: None,
            frame: vec![0; MAX_LEN as usize],
        }))
    }

    fn most_pairs(&self) -> u16 {
        1
    }

    fn most_mtu(&self) -> Option<u16> {
        Some(self.mtu)
    }

    fn least_mtu(&self) -> u16 {
        *MTUS.start()
    }

    fn status(&self) -> Value {
        let counters = *self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let forwards = self.listeners.iter().zip(&self.options.host_forward).map(|(listener, forward)| {
            json!({
                "protocol": format!("{:?}", forward.protocol).to_lowercase(),
                "host": listener.address().map(|address| address.to_string()),
                "guest": forward.guest.map(|guest| guest.to_string()),
                "port": forward.port,
            })
        });
        json!({
            "flows": counters.flows,
            "tcp": counters.tcp,
            "udp": counters.udp,
            "ping": counters.ping,
            "prohibited": counters.prohibited,
            "failed": counters.failed,
            "exhausted": counters.exhausted,
            "ignored": counters.ignored,
            "lost": counters.lost,
            "forwards": forwards.collect::<Vec<_>>(),
        })
    }
}

/// Of the kernel.
fn seed() -> std::io::Result<u64> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(seed))
}

/// The network, in the hands of the thread that serves the pair.
struct Flows {
    net: UserNet<HostSockets>,
    counters: Arc<Mutex<Counters>>,
    events: Vec<Event>,
    /// Sockets may have become ready.
    may_have_events: bool,
    /// The guest takes no frames before it has given buffers.
    has_no_buffers: bool,
    /// When the timer runs out.
    alarm: Option<Instant>,
    /// What the guest has sent.
    frame: Vec<u8>,
}

impl Flows {
    /// Hears which sockets may go on.
    fn hear(&mut self, cx: &mut Cx<'_, ()>) {
        match self.net.sockets().poll(&mut self.events) {
            Ok(more) => self.may_have_events = more,
            Err(error) => {
                cx.warn("the sockets of the guest", error);
                self.may_have_events = false;
            }
        }
        for event in self.events.drain(..) {
            match event {
                Event::Socket(socket, how) => self.net.ready(socket, how),
                Event::Forward(forward) => self.net.forward_ready(forward),
            }
        }
        if !self.may_have_events {
            cx.rearm(SOCKETS);
        }
    }

    /// Puts what was counted where the control half sees it.
    fn tell(&self, counters: Counters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    fn has_work(&self) -> bool {
        self.may_have_events || (!self.has_no_buffers && self.net.has_work())
    }
}

impl Side for Flows {
    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let watched = cx.watch_once(self.net.sockets().as_fd(), SOCKETS);
        watched.map_err(|error| DeviceError::host("cannot watch the sockets of the guest", error))
    }

    fn turned(&mut self, _: bool, _: &mut Cx<'_, ()>) {
        self.has_no_buffers = false;
    }

    fn takes(&mut self, features: Features, _: &mut Cx<'_, ()>) {
        self.net.set_takes(Takes::by_driver(features.0));
    }

    fn set_mtu(&mut self, mtu: Option<u16>) {
        self.net.set_mtu(mtu.unwrap_or(MTU));
    }

    fn send(&mut self, mut packet: Outgoing<'_>, _: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent {
        let (head, len) = (packet.head.len(), packet.len());
        let Some(frame) = self.frame.get_mut(..len) else { return Sent::Done(packet.rest) };
        if let Some((front, rest)) = frame.split_at_mut_checked(head) {
            front.copy_from_slice(packet.head);
            // As many as are left.
            let _ = packet.rest.read_exact(rest);
        }
        self.net.take(frame, &packet.offload, cx.now());
        Sent::Done(packet.rest)
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        if self.may_have_events {
            self.hear(cx);
        }
        let (now, mut given) = (cx.now(), 0_usize);
        let mut has_no_buffers = false;
        self.net.give(now, |offload, frame| {
            // What does not go to the guest for another reason is lost, as anywhere.
            has_no_buffers = rx.deliver(offload, frame, cx) == Err(Dropped::NoBuffer);
            given += usize::from(!has_no_buffers);
            !has_no_buffers
        });
        self.has_no_buffers = has_no_buffers;
        if let Some(at) = self.net.wake_at()
            && self.alarm.is_none_or(|alarm| at < alarm)
        {
            cx.after(at.saturating_duration_since(now), TIME);
            self.alarm = Some(at);
        }
        given > 0 || self.has_work()
    }

    fn is_ready(&self) -> bool {
        self.has_work()
    }

    fn rest(&mut self, _: &mut Cx<'_, ()>) -> bool {
        self.tell(self.net.counters());
        !self.has_work()
    }

    fn event(&mut self, source: SourceId, _: &mut Cx<'_, ()>) {
        if source == SOCKETS {
            self.may_have_events = true;
        } else {
            self.alarm = None;
        }
    }
}

impl Drop for Flows {
    /// All flows end with their sockets.
    fn drop(&mut self) {
        self.tell(Counters { flows: 0, ..self.net.counters() });
    }
}
