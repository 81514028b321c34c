//! What is behind the interface: a [`Backing`] for the device, which makes a [`Side`] for each of its pairs of queues.
//!
//! Each kind has a module, with its options beside it; [`open`] knows all of them.

pub(crate) mod af_xdp;
mod loopback;
pub(crate) mod netdevice;
mod null;
mod pcap;
pub(crate) mod tap;
mod user;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use outboard_device::defs::net::HEADER_LEN;
use outboard_device::serde_json::Value;
use outboard_device::{Chain, Cx, DeviceError, Features, MOST_GLANCED, SourceId};
use outboard_frames::{Offload, Takes};

use crate::options::{BackendKind, MIN_MTU, NetOptions};
use crate::rx::Rx;
use crate::switch::{Port, Switches};
use crate::tx::Outgoing;
pub use af_xdp::{XdpMode, XdpOptions, ZeroCopy};
pub use null::NullOptions;
pub use pcap::{PcapOptions, Speed};
pub use tap::TapOptions;
pub use user::{Dns, NoneOr, UserOptions};

/// What is behind the interface, in the hands of the control half.
pub(crate) trait Backing: Send {
    /// How its kind is called.
    fn name(&self) -> &'static str;

    /// What a pair of queues gets. It is called again for the same pair when that starts anew; the side that it had is
    /// gone by then.
    ///
    /// # Errors
    /// The host refuses what the driver has agreed to.
    fn side(&mut self, pair: u16, terms: &Terms) -> Result<Box<dyn Side>, DeviceError>;

    /// The feature bits for offloads that it can keep, both ways.
    fn offers(&self) -> u64 {
        // What the guest does not take is done on the way to it.
        u64::MAX
    }

    /// Whether packets come back in the order in which they were sent (VIRTIO_F_IN_ORDER).
    fn keeps_order(&self) -> bool {
        true
    }

    /// How many pairs of queues it can serve.
    fn most_pairs(&self) -> u16 {
        u16::MAX
    }

    /// Whether there is a link, as far as the host knows. It is asked once a second.
    fn carrier(&mut self) -> bool {
        true
    }

    /// The longest packet that it takes, its Ethernet header aside, if that is less than any.
    fn most_mtu(&self) -> Option<u16> {
        None
    }

    /// The longest packet must be at least so long.
    fn least_mtu(&self) -> u16 {
        MIN_MTU
    }

    /// The guest was moved here: tells the network that it is to be found here by `mac`.
    ///
    /// # Errors
    /// The network cannot be told.
    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let _ = mac;
        Ok(())
    }

    /// Carries out a command of the control socket; `None` if it has no such command.
    fn control(&mut self, command: &str, arguments: &Value) -> Option<Result<Value, DeviceError>> {
        let _ = (command, arguments);
        None
    }

    /// What it adds to `status` of the device.
    fn status(&self) -> Value {
        Value::Null
    }
}

/// What a side is made for.
pub(crate) struct Terms {
    /// What the driver agreed to.
    pub(crate) agreed: Features,
    /// The longest packet, its Ethernet header aside, if that is limited.
    pub(crate) mtu: Option<u16>,
}

/// What became of a packet that the guest has sent.
pub(crate) enum Sent {
    /// The host is done with it.
    Done(Chain),
    /// The host has it with its chain, which the side completes, or lends and gets back.
    Kept,
    /// The host does not take it: it is dropped.
    Refused(Chain, io::Error),
}

/// Packets of at most so many bytes are seen [as a whole](Glance::is_whole).
pub(crate) const SHORT: usize = MOST_GLANCED - HEADER_LEN;

/// A packet that the guest has sent, as far as it was seen.
pub(crate) struct Glance<'a> {
    /// What is left to do for it.
    pub(crate) offload: Offload,
    /// Its front: a copy.
    pub(crate) front: &'a [u8],
    /// The length of the packet in bytes.
    pub(crate) len: usize,
}

impl Glance<'_> {
    /// Whether the front is all of it.
    pub(crate) const fn is_whole(&self) -> bool {
        self.front.len() == self.len
    }
}

/// What is behind a pair of queues, in the hands of the thread that serves it.
pub(crate) trait Side: Send {
    /// So many bytes of each packet's front are to be in [`Outgoing::head`] (of a shorter packet, all). Constant.
    fn front(&self) -> usize {
        0
    }

    /// Once, before the first packet.
    ///
    /// # Errors
    /// The pair cannot be served.
    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let _ = cx;
        Ok(())
    }

    /// The guest receives on this pair, or does not: its ring was started or enabled, or it was not, or the driver uses
    /// fewer pairs. At first it does not.
    fn turned(&mut self, receives: bool, cx: &mut Cx<'_, ()>) {
        let _ = (receives, cx);
    }

    /// The work on packets that the guest takes over from now on, as feature bits; what it does not is done on the way to
    /// it, whatever the side does about that. Said before the first packet.
    fn takes(&mut self, features: Features, cx: &mut Cx<'_, ()>) {
        let _ = (features, cx);
    }

    /// The longest packet from now on, its Ethernet header aside, if that is limited. Said before the first packet.
    fn set_mtu(&mut self, mtu: Option<u16>) {
        let _ = mtu;
    }

    /// How many bytes of a packet's front [`Side::glance`] is to be shown; `None`: it is not asked. Constant.
    fn glanced_at(&self) -> Option<usize> {
        None
    }

    /// The guest sent this, and it was judged. True: the host is done with it, by its front alone. False, and nothing has
    /// happened: [`Side::send`] gets it as a whole.
    fn glance(&mut self, packet: &Glance<'_>, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        let _ = (packet, rx, cx);
        false
    }

    /// The guest sent this, and it was judged.
    fn send(&mut self, packet: Outgoing<'_>, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent;

    /// Once a pass, after what the guest has sent: gives the guest what there is for it, some dozens of packets at most.
    /// True if there was something.
    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        let _ = (rx, cx);
        false
    }

    /// Whether [`Side::pump`] would give something, as far as can be seen at once. If not, it has asked for what wakes it.
    fn is_ready(&self) -> bool {
        false
    }

    /// The thread is about to sleep: looks for the last time at what others have put somewhere. False: there is
    /// something after all, for [`Side::pump`].
    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let _ = cx;
        !self.is_ready()
    }

    /// Chains that were lent are back. Those that are left are completed.
    fn returned(&mut self, chains: &mut Vec<Chain>, cx: &mut Cx<'_, ()>) {
        let _ = (chains, cx);
    }

    /// What was watched is there, or a timer ran out. [`Side::pump`] follows.
    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
        let _ = (source, cx);
    }

    /// The queue that sends stops, or rests: chains of it that were kept are completed or put back now; those that are
    /// lent come back by themselves.
    fn stop(&mut self, cx: &mut Cx<'_, ()>) {
        let _ = cx;
    }
}

/// The way out of a switch, for all of its ports.
pub(crate) trait Outbound: fmt::Debug + Send + Sync {
    /// The work on packets that is left to whoever is behind it.
    fn takes(&self) -> Takes;

    /// Sends a frame, for which there is nothing left to do but what [`Outbound::takes`] has.
    ///
    /// # Errors
    /// It was not taken.
    fn send(&self, offload: &Offload, frame: &[u8]) -> io::Result<()>;

    /// The same for one that begins with `front`, and goes on in `rest`. Afterwards both are of no use.
    ///
    /// # Errors
    /// Likewise.
    fn send_behind(&self, offload: &Offload, front: &mut Vec<u8>, rest: &mut Chain) -> io::Result<()>;
}

/// The way into a switch.
pub(crate) trait Inbound: fmt::Debug + Send {
    /// Is readable when there is something.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The next frame, and what is left to do for it; `None` for one that is malformed.
    ///
    /// # Errors
    /// `WouldBlock` if there is none.
    fn next(&mut self) -> io::Result<Option<(Offload, &[u8])>>;
}

/// Both ways.
pub(crate) struct Ways {
    pub(crate) out: Box<dyn Outbound>,
    pub(crate) back: Box<dyn Inbound>,
}

/// Opens what the options say, for an interface of this name.
///
/// # Errors
/// Options that do not go together; the host refuses it.
pub(crate) fn open(
    options: &NetOptions,
    name: &str,
    switches: &Switches,
) -> Result<Box<dyn Backing>, DeviceError> {
    let given = [
        (BackendKind::Null, options.null.given()),
        (BackendKind::Tap, options.tap.given()),
        (BackendKind::Switch, options.switch.given()),
        (BackendKind::User, options.user.given()),
        (BackendKind::Pcap, options.pcap.given()),
        (BackendKind::AfXdp, options.xdp.given()),
    ];
    for (kind, option) in given {
        if let Some(option) = option.filter(|_| kind != options.backend) {
            return Err(DeviceError::Invalid(format!("{option} goes with --backend {kind}")));
        }
    }
    let backing: Box<dyn Backing> = match options.backend {
        BackendKind::Null => Box::new(null::Nothing::open(&options.null)),
        BackendKind::Loop => Box::new(loopback::Guest),
        BackendKind::Tap => Box::new(tap::Interface::open(&options.tap, options.pairs)?),
        BackendKind::Switch => Box::new(Port::open(&options.switch, name, switches)?),
        BackendKind::Pcap => Box::new(pcap::Files::open(&options.pcap)?),
        BackendKind::User => user::open(&options.user, options.mtu)?,
        BackendKind::AfXdp => af_xdp::open(&options.xdp, options.pairs)?,
    };
    let (pairs, most) = (options.pairs, backing.most_pairs());
    if pairs > most {
        let kind = options.backend;
        return Err(DeviceError::Invalid(format!(
            "--backend {kind} serves no more than {most} pair of queues"
        )));
    }
    Ok(backing)
}
