//! The interface, in the hands of the control half: its program in the kernel and its sockets, which sides borrow. What
//! the options say is trusted.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::xdp::SocketAddrXdpFlags;

use super::berth::Berth;
use super::options::{XdpMode, XdpOptions, ZeroCopy};
use super::program::{Place, Program};
use super::side::Xdp;
use super::socket::{self, Receiver, Sender};
use crate::host::{Backing, Side, Terms, netdevice};

/// Of an Ethernet header and two VLAN tags.
const HEADERS: usize = 14 + 8;

/// The interface.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    first: u32,
    mode: XdpMode,
    zero_copy: ZeroCopy,
    /// For each pair.
    berths: Vec<Arc<Berth>>,
    /// None while there is no such interface.
    open: Option<Open>,
}

/// What there is as long as the interface is.
#[derive(Debug)]
struct Open {
    ifindex: u32,
    place: Place,
    /// Ends with its descriptor.
    _link: OwnedFd,
    sockets: Vec<Arc<OwnedFd>>,
    /// What frames can hold, and the longest packet that may be sent, in bytes.
    capacity: usize,
    longest: Arc<AtomicUsize>,
}

impl Open {
    /// The interface's MTU may be another one by now.
    fn look(&self, name: &str) {
        if let Ok(mtu) = netdevice::mtu(name) {
            self.longest.store(self.capacity.min(usize::from(mtu) + HEADERS), Ordering::Relaxed);
        }
    }
}

impl Interface {
    /// Opens the interface's queues from `--queue` on, one for each of so many pairs.
    ///
    /// # Errors
    /// Options that do not go together; what the kernel refuses.
    pub(super) fn open(options: &XdpOptions, pairs: u16) -> Result<Self, DeviceError> {
        let Some(name) = options.interface.clone() else {
            return Err(DeviceError::Invalid("--backend af_xdp needs --interface".to_owned()));
        };
        let mut new = Self {
            name,
            first: options.queue.unwrap_or(0).into(),
            mode: options.xdp_mode.unwrap_or_default(),
            zero_copy: options.zero_copy.unwrap_or_default(),
            berths: (0..pairs).map(|_| Arc::default()).collect(),
            open: None,
        };
        if (new.mode, new.zero_copy) == (XdpMode::Generic, ZeroCopy::On) {
            let reason = "--xdp-mode generic copies packets: not with --zero-copy on";
            return Err(DeviceError::Invalid(reason.to_owned()));
        }
        new.open = Some(new.look_up()?);
        Ok(new)
    }

    /// Opens one queue, and gives out its socket.
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn open_one(options: &XdpOptions) -> Result<(Self, Receiver, Sender), DeviceError> {
        let interface = Self::open(options, 1)?;
        let kept = interface.berths.first().and_then(|berth| berth.take().socket);
        let none = || DeviceError::Invalid(format!("{} has no queue", interface.name));
        let (receiver, sender) = kept.ok_or_else(none)?;
        Ok((interface, receiver, sender))
    }

    /// Takes the interface's packets, and leaves a socket at each berth.
    fn look_up(&self) -> Result<Open, DeviceError> {
        let name = self.name.as_str();
        let failed = |error| DeviceError::host(format!("cannot use the interface {name}"), error);
        let any = netdevice::any_socket().map_err(failed)?;
        let ifindex = name_to_index(&any, name).map_err(|error| failed(error.into()))?;
        let mtu = netdevice::mtu(name).map_err(failed)?;
        let Some(size) = socket::size_for(usize::from(mtu) + HEADERS) else {
            let most = socket::MOST - HEADERS;
            let reason = format!("{name} has an MTU of {mtu}: an AF_XDP socket takes {most} at most");
            return Err(DeviceError::Invalid(reason));
        };
        let queues = self.first + self.berths.len() as u32;
        let program = Program::load(queues).map_err(|error| {
            let what = "cannot load the program for AF_XDP (it takes CAP_BPF and CAP_NET_ADMIN)";
            DeviceError::host(what, error)
        })?;
        let (place, link) = self.attach(&program, ifindex)?;
        let copying = match (self.zero_copy, place) {
            (ZeroCopy::On, Place::Native) => SocketAddrXdpFlags::XDP_ZEROCOPY,
            (ZeroCopy::On, Place::Generic) => {
                let reason = format!("--zero-copy on: the driver of {name} has no XDP of its own");
                return Err(DeviceError::Invalid(reason));
            }
            (ZeroCopy::Auto, Place::Native) => SocketAddrXdpFlags::empty(),
            (ZeroCopy::Off, _) | (_, Place::Generic) => SocketAddrXdpFlags::XDP_COPY,
        };
        let capacity = socket::capacity(size);
        let longest = Arc::new(AtomicUsize::new(usize::from(mtu) + HEADERS));
        let mut sockets = Vec::new();
        for (queue, berth) in (self.first..).zip(&self.berths) {
            let place = socket::Place { name, ifindex, queue, size, longest: &longest, copying };
            let (receiver, sender) = socket::open(&place)?;
            program.set(queue, &receiver).map_err(failed)?;
            sockets.push(Arc::clone(receiver.socket()));
            berth.leave(|kept| kept.socket = Some((receiver, sender)));
        }
        Ok(Open { ifindex, place, _link: link, sockets, capacity, longest })
    }

    fn attach(&self, program: &Program, ifindex: u32) -> Result<(Place, OwnedFd), DeviceError> {
        let name = &self.name;
        let failed = |error: std::io::Error| {
            let why = match error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => " (it has another one)",
                Some(libc::EOPNOTSUPP) => " (its driver has no XDP)",
                _ => "",
            };
            DeviceError::host(format!("cannot have an XDP program on {name}{why}"), error)
        };
        let attach = |place| program.attach(ifindex, place).map(|link| (place, link));
        match self.mode {
            XdpMode::Native => attach(Place::Native).map_err(failed),
            XdpMode::Generic => attach(Place::Generic).map_err(failed),
            XdpMode::Auto => attach(Place::Native).or_else(|error| {
                if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EPERM)) {
                    return Err(failed(error));
                }
                tracing::info!("{name}: packets are taken behind the driver, not in it: {error}");
                attach(Place::Generic).map_err(failed)
            }),
        }
    }

    /// Its name: it may have another one by now, or be gone.
    fn called(&self) -> Option<String> {
        let any = netdevice::any_socket().ok()?;
        index_to_name(&any, self.open.as_ref()?.ifindex).ok()
    }
}

impl Backing for Interface {
    fn name(&self) -> &'static str {
        "af_xdp"
    }

    fn side(&mut self, pair: u16, _: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        let Some(berth) = self.berths.get(usize::from(pair)) else {
            return Err(DeviceError::Invalid(format!("no queue of {} is for pair {pair}", self.name)));
        };
        Ok(Box::new(Xdp::new(Arc::clone(berth))))
    }

    /// An interface that is gone has none, until there is one of its name again.
    fn carrier(&mut self) -> bool {
        if let (Some(name), Some(open)) = (self.called(), &self.open) {
            open.look(&name);
            return netdevice::has_link(&name).unwrap_or(false);
        }
        if self.open.take().is_some() {
            tracing::warn!("the interface {} is gone", self.name);
        }
        match self.look_up() {
            Ok(open) => {
                tracing::info!("the interface {} is back", self.name);
                self.open = Some(open);
                netdevice::has_link(&self.name).unwrap_or(false)
            }
            Err(_) => false,
        }
    }

    fn most_mtu(&self) -> Option<u16> {
        let mtu = netdevice::mtu(&self.called()?).ok()?;
        let most = self.open.as_ref()?.capacity - HEADERS;
        Some(u16::try_from(most).unwrap_or(mtu).min(mtu))
    }

    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let told = self.berths.first().is_some_and(|berth| berth.leave(|kept| kept.announce = Some(mac)));
        if told {
            Ok(())
        } else {
            Err(DeviceError::Invalid("no queues run that could announce the guest".into()))
        }
    }

    fn status(&self) -> Value {
        let name = self.called();
        let Some(open) = &self.open else {
            return json!({ "interface": self.name, "mode": null, "mtu": null, "queues": [] });
        };
        let queues = (self.first..).zip(&open.sockets).map(|(queue, socket)| {
            let counted = socket::statistics(socket).ok();
            json!({
                "queue": queue,
                "zero_copy": socket::is_zero_copy(socket),
                "rx_dropped": counted.map(|counted| counted.rx_dropped),
                "rx_full": counted.and_then(|counted| counted.rx_ring_full),
                "rx_no_frames": counted.and_then(|counted| counted.rx_fill_ring_empty_descs),
            })
        });
        json!({
            "interface": name.as_ref().unwrap_or(&self.name),
            "mode": match open.place {
                Place::Native => "native",
                Place::Generic => "generic",
            },
            "mtu": self.most_mtu(),
            "queues": queues.collect::<Vec<_>>(),
        })
    }
}
