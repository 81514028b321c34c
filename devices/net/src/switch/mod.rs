//! A switch among the devices of one process: packets go from guest to guest in one copy.
//!
//! The guests are hostile, and so is each to the others: a port that stalls, dies or has no buffers costs the others what
//! they send to it, and no more; and what one sends it sends by its own name and in its own VLANs, or not at all.
//!
//! Theory of operation. [`outboard_switch`] decides. [`fabric`] is what all ports share: where they are, as one value
//! that is replaced as a whole and that each thread looks up when it has changed. A [`side`] serves a pair of queues. It
//! lends the packets for one port to that port's thread by the batch ([`outboard_device::Parcel`]), with a copy of their
//! fronts, which is what was decided on and is what is delivered; that thread copies the rest and gives the chains back.
//! Of a packet that is short the front is all, and no chain is lent.
//! Each ring stays with its own thread, and nobody keeps a chain of another for longer than a pass. What goes to several
//! ports is copied once into [`delivery::Frame`]s of our own.

mod delivery;
mod fabric;
mod mirror;
mod port;
mod shares;
mod side;
#[cfg(test)]
mod tests;
mod turns;
mod uplink;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use outboard_device::DeviceError;
use outboard_switch::{Membership, Vlan};

use fabric::Switch;
pub(crate) use port::Port;
use uplink::Uplink;
pub use uplink::{UplinkOption, UplinkTo};

/// The switch of ports that name none.
const DEFAULT: &str = "default";

/// What `--backend switch` takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SwitchOptions {
    /// The switch that the interface is a port of (--backend switch) [default: default]
    #[arg(long, value_name = "NAME")]
    pub switch: Option<String>,

    /// The VLAN of the port, without tags, 1 to 4094 (--backend switch) [default: 1]
    #[arg(long, value_name = "ID", conflicts_with = "trunk")]
    pub vlan: Option<Vlan>,

    /// The VLANs of the port, with tags: numbers and ranges, or all; native=ID is without (--backend switch)
    #[arg(long, value_name = "IDS[,native=ID]")]
    pub trunk: Option<Membership>,

    /// Keep the port from other isolated ones (--backend switch)
    #[arg(long)]
    pub isolated: bool,

    /// Write what the guest sends and receives to this capture file (--backend switch); one that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub mirror: Option<PathBuf>,
}

impl SwitchOptions {
    /// One of these options, if any was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.switch.is_some(), "--switch"),
            (self.vlan.is_some(), "--vlan"),
            (self.trunk.is_some(), "--trunk"),
            (self.isolated, "--isolated"),
            (self.mirror.is_some(), "--mirror"),
        ];
        given.into_iter().find_map(|(given, option)| given.then_some(option))
    }
}

/// What holds for every switch of a process.
#[derive(clap::Args, Clone, Debug)]
pub struct HouseOptions {
    /// Switches: a port that leads to an interface of the host; may be repeated
    ///
    /// It is a port of the switch "default", in VLAN 1 without tags, unless switch=NAME and vlan=ID say otherwise; with
    /// trunk, it has all VLANs with tags, but that one.
    #[arg(long, value_name = "tap:NAME[,switch=NAME][,vlan=ID][,trunk]")]
    pub uplink: Vec<UplinkOption>,

    /// Switches: remember so many MAC addresses, 16 to 1048576; 256 at most of one port
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub fdb_size: u32,

    /// Switches: forget a MAC address that was not seen for so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub fdb_age: u32,

    /// Switches: let each port send so many packets a second to all others: broadcasts, multicasts, unknown addresses
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub flood_pps: u32,
}

impl Default for HouseOptions {
    fn default() -> Self {
        Self { uplink: Vec::new(), fdb_size: 4096, fdb_age: 300, flood_pps: 1000 }
    }
}

/// The switches of a process, by their names. One is there as long as it has a port.
#[derive(Debug, Default)]
pub struct Switches {
    options: HouseOptions,
    all: Mutex<BTreeMap<String, Weak<Switch>>>,
    /// Their switches are there as long as the process is.
    uplinks: Vec<Uplink>,
}

impl Switches {
    /// Those that have uplinks.
    ///
    /// # Errors
    /// An uplink cannot be opened.
    pub fn new(options: HouseOptions) -> Result<Self, DeviceError> {
        let mut switches = Self { options, ..Self::default() };
        for option in switches.options.uplink.clone() {
            let uplink = Uplink::open(&option, switches.open(&option.switch))?;
            switches.uplinks.push(uplink);
        }
        Ok(switches)
    }

    /// The switch of this name.
    fn open(&self, name: &str) -> Arc<Switch> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, switch| switch.strong_count() > 0);
        if let Some(switch) = all.get(name).and_then(Weak::upgrade) {
            return switch;
        }
        let switch = Arc::new(Switch::new(name, &self.options));
        all.insert(name.to_owned(), Arc::downgrade(&switch));
        switch
    }
}
