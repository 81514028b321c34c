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
use outboard_device::serde_json::{Value, json};
use outboard_device::{Chain, DeviceError};
use outboard_frames::{Offload, plain};
use outboard_switch::{Decision, Egress, Front, Membership, PortId, PortSettings, Vlan, VlanSet, decide};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::DEFAULT;
use super::delivery::{Delivery, Pool};
use super::fabric::{Floods, Seat, Switch, View};
use super::shares::Shares;
use super::side::{MOST_COPIED, has_room};
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
            "tap" => UplinkTo::Tap(name.to_owned()),
            "af_xdp" => UplinkTo::AfXdp { interface: name.to_owned(), queue: 0 },
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
    /// From the host, for a port that had too many, or for too many ports.
    dropped: AtomicU64,
}

impl Wire {
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
        json!({
            "uplink": self.name,
            "received": value(&self.received),
            "sent": value(&self.sent),
            "refused": value(&self.refused),
            "dropped": value(&self.dropped),
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
        let wire = Arc::new(Wire {
            name: name.clone(),
            out,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let settings = PortSettings { membership: option.membership.clone(), isolated: false, uplink: true };
        let seat = switch.join(&name, settings, Some(Arc::clone(&wire)))?;
        let mut uplink = Self { switch, seat, end, thread: None };
        let giver = Giver {
            view: View::new(&uplink.switch),
            id: uplink.seat.port,
            wire,
            pool: Pool::default(),
            floods: Floods::new(uplink.switch.flood_pps),
            shares: Shares::default(),
            posted: Vec::new(),
        };
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
    pool: Pool,
    floods: Floods,
    shares: Shares,
    /// For one delivery on its way; empty.
    posted: Vec<Delivery>,
}

impl Giver {
    /// Gives a frame, with what is left to do for it, to whom it is for.
    fn pass(&mut self, frame: Option<(Offload, &[u8])>) {
        self.wire.received.fetch_add(1, Ordering::Relaxed);
        if let Some((offload, bytes)) = frame
            && let Some(front) = Front::parse(bytes)
        {
            let now = Instant::now();
            let View { switch, plan, .. } = &self.view;
            match decide(&plan.ports, &switch.fdb, self.id, &front, switch.seconds(now)) {
                Decision::Unicast(egress) => self.deliver(egress, &offload, bytes),
                Decision::Flood(vlan) if self.floods.admit(now) => {
                    let plan = Arc::clone(plan);
                    for egress in plan.ports.flood(self.id, front, vlan) {
                        self.deliver(egress, &offload, bytes);
                    }
                }
                Decision::Flood(_) => self.drop_one(),
                Decision::Drop(_) => {}
            }
        } else {
            self.drop_one();
        }
    }

    fn deliver(&mut self, egress: Egress, offload: &Offload, bytes: &[u8]) {
        let Some(offload) = offload.moved(egress.retag.growth()) else { return self.drop_one() };
        if let Some(wire) = self.view.plan.wire(egress.port) {
            let mut copy = Vec::with_capacity(bytes.len() + HEADER_LEN);
            egress.retag.write(bytes, &mut copy);
            return wire.send(&offload, &mut copy, None);
        }
        let Some(entrance) = self.view.plan.entrance(egress.port, 0) else { return };
        let copied = self.shares.of(egress.port).copied;
        if !has_room(MOST_COPIED, &entrance.frames, &copied) {
            return self.drop_one();
        }
        let frame = self.pool.make(|frame| {
            frame.offload = offload;
            egress.retag.write(bytes, &mut frame.bytes);
        });
        let places = [entrance.frames.enter(1), copied.enter(1)];
        self.posted.push(Delivery::Frame { from: self.id, frame, _places: places });
        if entrance.outlet.post(&mut self.posted) == 0 {
            self.drop_one();
        }
        self.posted.clear();
    }

    fn drop_one(&self) {
        self.wire.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
