//! The interface itself, in the hands of the control half. Options are trusted, descriptors that were handed over are looked
//! at all the same.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use outboard_device::DeviceError;
use outboard_device::defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6, F_HOST_ECN,
    F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO, HEADER_LEN, Header,
};
use outboard_device::serde_json::{Value, json};
use outboard_frames::{MAX_LEN, rarp};
use zerocopy::IntoBytes;

use super::{Next, Tap, USO, ioctl, left_to_guest};
use crate::host::netdevice::{self, parse_name};
use crate::host::{Backing, Side, Terms};

/// What `--backend tap` takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TapOptions {
    /// The tap interface (--backend tap): one that there is, or one that is made, and gone with the program
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub tap: Option<String>,

    /// The tap interface, opened by whoever starts the program: a descriptor for each pair of queues
    #[arg(long, value_name = "N", value_delimiter = ',', conflicts_with = "tap")]
    #[arg(value_parser = clap::value_parser!(RawFd).range(3..))]
    pub tap_fd: Vec<RawFd>,
}

impl TapOptions {
    /// One of these options, if any was given.
    pub(in crate::host) fn given(&self) -> Option<&'static str> {
        let fd = (!self.tap_fd.is_empty()).then_some("--tap-fd");
        self.tap.as_ref().map(|_| "--tap").or(fd)
    }
}

/// The interface.
pub(in crate::host) struct Interface {
    name: String,
    /// For each pair.
    queues: Vec<Arc<OwnedFd>>,
    /// The kernel knows UDP segments: since Linux 6.2.
    uso: bool,
}

impl Interface {
    /// Opens the interface, makes it, or takes it over, with a queue for each of so many pairs.
    ///
    /// # Errors
    /// None is named; there are not as many descriptors as pairs, or they are no such interface's; the kernel refuses it.
    pub(in crate::host) fn open(options: &TapOptions, pairs: u16) -> Result<Self, DeviceError> {
        let (name, queues) = match (&options.tap, options.tap_fd.as_slice()) {
            (Some(name), _) => by_name(name, pairs)?,
            (None, []) => {
                return Err(DeviceError::Invalid("--backend tap needs --tap or --tap-fd".to_owned()));
            }
            (None, numbers) => by_number(numbers, pairs)?,
        };
        let failed = |error| DeviceError::host(format!("cannot set up the tap interface {name}"), error);
        let mut uso = true;
        for (at, queue) in queues.iter().enumerate() {
            uso &= ioctl::set_offload(queue, libc::TUN_F_CSUM | USO).is_ok();
            ioctl::set_offload(queue, 0).map_err(failed)?;
            if at > 0 {
                // Nobody takes what comes by it yet.
                ioctl::attach(queue, false).map_err(failed)?;
            }
        }
        Ok(Self { name, queues: queues.into_iter().map(Arc::new).collect(), uso })
    }

    fn first(&self) -> Option<&OwnedFd> {
        self.queues.first().map(Arc::as_ref)
    }

    /// Its name: it may have another one by now, or be gone.
    fn called(&self) -> Option<String> {
        self.first().and_then(|tap| ioctl::name_of(tap).ok()?)
    }
}

fn by_name(name: &str, pairs: u16) -> Result<(String, Vec<OwnedFd>), DeviceError> {
    let queues = (0..pairs).map(|_| ioctl::open_tap(name, pairs > 1)).collect::<Result<_, _>>();
    let queues =
        queues.map_err(|error| DeviceError::host(format!("cannot open the tap interface {name}"), error))?;
    Ok((name.to_owned(), queues))
}

fn by_number(numbers: &[RawFd], pairs: u16) -> Result<(String, Vec<OwnedFd>), DeviceError> {
    if numbers.len() != usize::from(pairs) {
        let count = numbers.len();
        let reason = format!("--tap-fd has {count} descriptors: there is one for each of --pairs {pairs}");
        return Err(DeviceError::Invalid(reason));
    }
    let mut name: Option<String> = None;
    let mut queues = Vec::new();
    for &number in numbers {
        let failed = |error| DeviceError::host(format!("--tap-fd {number} is no tap interface"), error);
        let queue = ioctl::duplicate(number).map_err(failed)?;
        let of = ioctl::name_of(&queue).map_err(failed)?;
        let Some(of) = of else {
            let reason = format!("--tap-fd {number}: opened without IFF_TAP or IFF_VNET_HDR");
            return Err(DeviceError::Invalid(reason));
        };
        if let Some(other) = name.replace(of.clone()).filter(|other| *other != of) {
            return Err(DeviceError::Invalid(format!("--tap-fd: {other} and {of} are two interfaces")));
        }
        ioctl::set_up(&queue).map_err(failed)?;
        queues.push(queue);
    }
    Ok((name.unwrap_or_default(), queues))
}

impl Backing for Interface {
    fn name(&self) -> &'static str {
        "tap"
    }

    fn side(&mut self, pair: u16, terms: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        let Some(tap) = self.queues.get(usize::from(pair)) else {
            return Err(DeviceError::Invalid(format!("no queue of {} is for pair {pair}", self.name)));
        };
        let left = left_to_guest(terms.agreed);
        ioctl::set_offload(tap, left)
            .map_err(|error| DeviceError::host(format!("cannot set the offloads of {}", self.name), error))?;
        Ok(Box::new(Tap {
            tap: Arc::clone(tap),
            is_optional: pair > 0,
            left,
            receives: false,
            waits: false,
            frame: vec![0; HEADER_LEN + MAX_LEN as usize],
            next: Next::None,
        }))
    }

    fn offers(&self) -> u64 {
        let sent = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
        let received = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;
        let uso = if self.uso { F_HOST_USO | F_GUEST_USO4 | F_GUEST_USO6 } else { 0 };
        sent | received | uso
    }

    /// One that cannot be asked (moved to another namespace, say) is taken to have one.
    fn carrier(&mut self) -> bool {
        self.called().is_none_or(|name| netdevice::has_link(&name).unwrap_or(true))
    }

    fn most_mtu(&self) -> Option<u16> {
        self.called().and_then(|name| netdevice::mtu(&name).ok())
    }

    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let frame = [Header::default().as_bytes(), &rarp(mac)].concat();
        let written = self.first().map_or(Ok(0), |tap| rustix::io::write(tap, &frame));
        written.map(|_| ()).map_err(|error| DeviceError::host("cannot announce the guest", error))
    }

    fn status(&self) -> Value {
        json!({ "tap": self.called().as_ref().unwrap_or(&self.name), "mtu": self.most_mtu() })
    }
}
