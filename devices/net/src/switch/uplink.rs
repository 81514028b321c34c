//! Ports that lead out of the process, to an interface of the host.
//!
//! What guests send is written by their own threads; what comes from the host is read by a thread of the uplink's own,
//! and given out in copies. The frames are anybody's, and so are judged as a guest's are: the kernel has made their
//! headers, if they have any, and the senders the rest.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_device::defs::net::HEADER_LEN;
use outboard_device::serde_json::{Map, Value, json};
use outboard_device::{Chain, DeviceError};
use outboard_frames::{Offload, plain};
use outboard_switch::{Decision, Egress, Front, Membership, PortId, PortSettings, Vlan, VlanSet, decide};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::DEFAULT;
use super::delivery::{Delivery, Pool};
use super::fabric::{Floods, Seat, Switch, View};
use super::port::PortCounters;
use super::shares::Shares;
use super::side::{MOST_COPIED, has_room};
use crate::host::netdevice::parse_name;
use crate::host::{Inbound, Outbound, Ways, af_xdp, tap};

/// So many frames between two looks at what has changed.
const AT_ONCE: usize = 64;
/// How long an interface that is gone is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// An uplink, as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkOption {
    /// The switch.
    pub switch: String,
    /// The interface.
    pub to: UplinkTo,
    /// The VLANs of the port.
    pub membership: Membership,
}

/// What an uplink leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkTo {
    /// A tap interface, which is there or is made.
    Tap(String),
    /// A queue of an interface, by an AF_XDP socket.
    AfXdp {
        /// Its name.
        interface: String,
        /// The number of the queue.
        queue: u16,
    },
}

impl UplinkTo {
    fn open(&self) -> Result<Ways, DeviceError> {
        match self {
            Self::Tap(name) => tap::open_uplink(name)
                .map_err(|error| DeviceError::host(format!("cannot open the uplink {self}"), error)),
            Self::AfXdp { interface, queue } => af_xdp::open_uplink(interface, *queue),
        }
    }
}

impl fmt::Display for UplinkTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "tap:{name}"),
            Self::AfXdp { interface, .. } => write!(f, "af_xdp:{interface}"),
        }
    }
}

impl FromStr for UplinkOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let (kind, name) = parts.next().and_then(|part| part.split_once(':')).unwrap_or_default();
        let mut to = match kind {
            _ if name.is_empty() => return Err("an uplink begins with tap:NAME or af_xdp:NAME".to_owned()),
            "tap" => UplinkTo::Tap(parse_name(name)?),
            "af_xdp" => UplinkTo::AfXdp { interface: parse_name(name)?, queue: 0 },
            _ => return Err(format!("{kind:?}: an uplink is tap or af_xdp")),
        };
        let (mut switch, mut vlan, mut trunk) = (DEFAULT.to_owned(), Vlan::DEFAULT, false);
        for part in parts {
            match (part.split_once('='), &mut to) {
                (Some(("switch", name)), _) if !name.is_empty() => name.clone_into(&mut switch),
                (Some(("vlan", id)), _) => vlan = id.parse().map_err(|error| format!("vlan: {error}"))?,
                (Some(("queue", number)), UplinkTo::AfXdp { queue, .. }) => {
                    *queue = number.parse().map_err(|error| format!("queue: {error}"))?;
                }
                (None, _) if part == "trunk" => trunk = true,
                _ => return Err(format!("{part:?}: switch=NAME, vlan=ID, trunk or (af_xdp) queue=N")),
            }
        }
        let membership = if trunk {
            let mut tagged = VlanSet::none();
            (1..=4094).filter_map(Vlan::new).for_each(|vlan| tagged.insert(vlan));
            Membership::Trunk { tagged, native: Some(vlan) }
        } else {
            Membership::Access(vlan)
        };
        Ok(Self { switch, to, membership })
    }
}

/// The interface, as all threads of a switch see it.
#[derive(Debug)]
pub(super) struct Wire {
    /// As in the option.
    name: String,
    out: Box<dyn Outbound>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Not taken by the kernel: the interface is down, or its queue is full.
    refused: AtomicU64,
    /// From the host, but malformed.
    malformed: AtomicU64,
    /// What else came from the host and arrived nowhere.
    dropped: Arc<PortCounters>,
}

impl Wire {
    fn new(name: String, out: Box<dyn Outbound>) -> Self {
        Self {
            name,
            out,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            dropped: Arc::default(),
        }
    }

    /// Sends a packet that begins with `bytes`, and goes on in `rest`. What is left to do for it is done before, if the
    /// kernel does not. Afterwards both are of no use.
    pub(super) fn send(&self, offload: &Offload, bytes: &mut Vec<u8>, rest: Option<&mut Chain>) {
        if self.out.takes().has(offload) {
            let sent = match rest {
                None => self.out.send(offload, bytes),
                Some(rest) => self.out.send_behind(offload, bytes, rest),
            };
            return self.count(&sent);
        }
        if let Some(rest) = rest {
            let front = bytes.len();
            bytes.resize(front + rest.readable_len(), 0);
            // As many as there are.
            let _ = rest.read_exact(bytes.get_mut(front..).unwrap_or_default());
        }
        plain(offload, bytes, |frame| self.count(&self.out.send(&Offload::None, frame)));
    }

    fn count(&self, sent: &io::Result<()>) {
        let counter = if sent.is_ok() { &self.sent } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// What it has done.
    pub(super) fn status(&self) -> Value {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut dropped: Map<String, Value> =
            self.dropped.lost().map(|(name, count)| (name.to_owned(), count.into())).collect();
        dropped.insert("malformed".to_owned(), value(&self.malformed).into());
        json!({
            "uplink": self.name,
            "received": value(&self.received),
            "sent": value(&self.sent),
            "refused": value(&self.refused),
            "dropped": dropped,
        })
    }
}

/// A port that leads out, and its thread.
#[derive(Debug)]
pub(super) struct Uplink {
    switch: Arc<Switch>,
    seat: Arc<Seat>,
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Uplink {
    /// Opens the interface, or makes it, and joins the switch.
    ///
    /// # Errors
    /// The host refuses it.
    pub(super) fn open(option: &UplinkOption, switch: Arc<Switch>) -> Result<Self, DeviceError> {
        let name = option.to.to_string();
        let failed = |error| DeviceError::host(format!("cannot open the uplink {name}"), error);
        let Ways { out, back } = option.to.open()?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let end = Arc::new(end.map_err(|error| failed(io::Error::from(error)))?);
        let wire = Arc::new(Wire::new(name.clone(), out));
        let settings = PortSettings { membership: option.membership.clone(), isolated: false, uplink: true };
        let seat = switch.join(&name, settings, Some(Arc::clone(&wire)))?;
        let mut uplink = Self { switch, seat, end, thread: None };
        let giver = Giver::new(&uplink.switch, uplink.seat.port, wire);
        let reader = Reader { giver, back, end: Arc::clone(&uplink.end) };
        let thread = thread::Builder::new().name("uplink".to_owned()).spawn(move || reader.run());
        uplink.thread = Some(thread.map_err(failed)?);
        Ok(uplink)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // Readable for good: nobody reads it.
        let _ = rustix::io::write(&self.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // If it has panicked, that was logged.
            let _ = thread.join();
        }
        self.switch.leave(self.seat.port);
    }
}

/// Takes what comes from the host.
struct Reader {
    giver: Giver,
    back: Box<dyn Inbound>,
    end: Arc<OwnedFd>,
}

impl Reader {
    fn run(mut self) {
        let mut pause = None;
        while !self.is_over(pause) {
            pause = None;
            for _ in 0..AT_ONCE {
                match self.back.next() {
                    Ok(frame) => {
                        // Whoever was there when the frame came is to get it.
                        self.giver.view.renew();
                        self.giver.pass(frame);
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                        break;
                    }
                    Err(error) => {
                        tracing::warn!("uplink {}: {error}", self.giver.wire.name);
                        pause = Some(PAUSE);
                        break;
                    }
                }
            }
        }
    }

    /// Waits for frames, or for a time without looking at any. True if this is the end.
    fn is_over(&self, pause: Option<Duration>) -> bool {
        let (end, fd) = (&*self.end, self.back.fd());
        let mut polled = vec![PollFd::new(end, PollFlags::IN)];
        if pause.is_none() {
            polled.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let pause = pause.and_then(|pause| Timespec::try_from(pause).ok());
        // What goes wrong with it goes wrong with the end, too: there is no other way to hear of that.
        match poll(&mut polled, pause.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => thread::sleep(PAUSE),
        }
        polled.first().is_some_and(|end| !end.revents().is_empty())
    }
}

/// Gives out what comes from the host.
struct Giver {
    view: View,
    id: PortId,
    wire: Arc<Wire>,
    counters: Arc<PortCounters>,
    pool: Pool,
    floods: Floods,
    shares: Shares,
    /// For one delivery on its way; empty.
    posted: Vec<Delivery>,
}

impl Giver {
    fn new(switch: &Arc<Switch>, id: PortId, wire: Arc<Wire>) -> Self {
        Self {
            view: View::new(switch),
            id,
            counters: Arc::clone(&wire.dropped),
            wire,
            pool: Pool::default(),
            floods: Floods::new(switch.flood_pps),
            shares: Shares::default(),
            posted: Vec::new(),
        }
    }

    /// Gives a frame, with what is left to do for it, to whom it is for.
    fn pass(&mut self, frame: Option<(Offload, &[u8])>) {
        self.wire.received.fetch_add(1, Ordering::Relaxed);
        if let Some((offload, bytes)) = frame
            && let Some(front) = Front::parse(bytes)
        {
            let now = Instant::now();
            let View { switch, plan, .. } = &self.view;
            match decide(&plan.ports, &switch.fdb, self.id, &front, switch.seconds(now)) {
                Decision::Unicast(egress) => {
                    if !self.deliver(egress, &offload, bytes) {
                        self.counters.to_down.add(1);
                    }
                }
                Decision::Flood(vlan) if self.floods.admit(offload.frames(bytes.len()), now) => {
                    let plan = Arc::clone(plan);
                    for egress in plan.ports.flood(self.id, front, vlan) {
                        self.deliver(egress, &offload, bytes);
                    }
                }
                Decision::Flood(_) => self.counters.flood_limit.add(1),
                Decision::Drop(why) => self.counters.decided(why),
            }
        } else {
            self.wire.malformed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a port a frame, or counts why not. False: the port receives nothing at all.
    fn deliver(&mut self, egress: Egress, offload: &Offload, bytes: &[u8]) -> bool {
        let Some(offload) = offload.moved(egress.retag.growth()) else {
            self.counters.no_tag.add(1);
            return true;
        };
        if let Some(wire) = self.view.plan.wire(egress.port) {
            let mut copy = Vec::with_capacity(bytes.len() + HEADER_LEN);
            egress.retag.write(bytes, &mut copy);
            wire.send(&offload, &mut copy, None);
            return true;
        }
        let Some(entrance) = self.view.plan.entrance(egress.port, 0) else { return false };
        let copied = self.shares.of(egress.port).copied;
        if !has_room(MOST_COPIED, &entrance.frames, &copied) {
            self.counters.to_full.add(1);
            return true;
        }
        let frame = self.pool.make(|frame| {
            frame.offload = offload;
            egress.retag.write(bytes, &mut frame.bytes);
        });
        let places = [entrance.frames.enter(1), copied.enter(1)];
        self.posted.push(Delivery::Frame { from: self.id, frame, _places: places });
        if entrance.outlet.post(&mut self.posted) == 0 {
            self.counters.not_taken(&entrance.outlet, 1);
        }
        self.posted.clear();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::HouseOptions;
    use outboard_frames::Takes;

    /// Takes whatever comes.
    #[derive(Debug)]
    struct Away;

    impl Outbound for Away {
        fn takes(&self) -> Takes {
            Takes::default()
        }

        fn send(&self, _: &Offload, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn send_behind(&self, _: &Offload, _: &mut Vec<u8>, _: &mut Chain) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_of_the_host_that_arrive_nowhere_are_counted_by_why() {
        let switch = Arc::new(Switch::new("s", &HouseOptions::default()));
        let wire = Arc::new(Wire::new("tap:up0".to_owned(), Box::new(Away)));
        let settings = PortSettings { uplink: true, ..PortSettings::default() };
        let seat = switch.join("tap:up0", settings, Some(Arc::clone(&wire))).unwrap();
        let guest = switch.join("guest", PortSettings::default(), None).unwrap();
        let mut giver = Giver::new(&switch, seat.port, Arc::clone(&wire));
        let frame = |to: [u8; 6], from: [u8; 6]| [&to[..], &from, &[0x88, 0xb5], &[0; 46]].concat();
        let [own, other, all] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0xff; 6]];
        // Both are known, and the guest receives nothing.
        let front = frame(all, own);
        let front = Front::parse(&front).unwrap();
        let now = switch.seconds(Instant::now());
        decide(&giver.view.plan.ports, &switch.fdb, guest.port, &front, now);
        for bytes in [
            frame(all, other),
            frame(own, other),
            frame(other, other),
            frame([1, 0x80, 0xc2, 0, 0, 0], other),
            frame(own, all),
        ] {
            giver.pass(Some((Offload::None, &bytes)));
        }
        giver.pass(None);
        let status = wire.status();
        assert_eq!(status["received"], 6);
        let counted = |why: &&str| status["dropped"][why] == 1;
        let whys = ["to_down", "home", "reserved", "sender", "malformed"];
        assert!(whys.iter().all(counted), "{status}");
        let sum: u64 = status["dropped"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(sum, 5, "but not what goes to everybody, and nobody is there: {status}");
    }

    #[test]
    fn uplink_option_says_switch_interface_and_vlans() {
        let parse = |text: &str| text.parse::<UplinkOption>();
        let plain = parse("tap:up0").unwrap();
        assert_eq!((plain.switch.as_str(), &plain.to), (DEFAULT, &UplinkTo::Tap("up0".to_owned())));
        assert_eq!(plain.membership, Membership::default());
        let trunk = parse("tap:up0,switch=blue,vlan=7,trunk").unwrap();
        assert_eq!(
            (trunk.switch.as_str(), trunk.membership.to_string().as_str()),
            ("blue", "1-4094,native=7")
        );
        assert_eq!(parse("tap:up0,vlan=7").unwrap().membership.to_string(), "7");
        let queue = parse("af_xdp:eth1,vlan=7,queue=3").unwrap();
        assert_eq!(queue.to, UplinkTo::AfXdp { interface: "eth1".to_owned(), queue: 3 });
        assert_eq!(queue.to.to_string(), "af_xdp:eth1");
        let wrong = ["", "up0", "tap:", "tap:x,switch=", "tap:x,vlan=0", "tap:x,trunk=1", "tap:x,y"];
        for wrong in wrong.into_iter().chain(["tap:x,queue=1", "af_xdp:x,queue=", "xdp:x"]) {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for name in ["sixteen-letters-", "up/0", "up%d", "up 0"] {
            assert!(parse(&format!("tap:{name}")).unwrap_err().contains("name"), "{name}");
            assert!(parse(&format!("af_xdp:{name},queue=1")).unwrap_err().contains("name"), "{name}");
        }
    }
}
