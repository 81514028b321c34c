//! A network device (VIRTIO 1.3, 5.1). The program is `vhost-user-net`; `docs/devices/net.md` tells its users what it
//! promises.
//!
//! [`Net`] is the control half. A [`PairHandler`] serves a pair of queues: [`tx`] judges what the guest sends, [`host`] is
//! where it goes and where packets come from, and [`rx`] puts those into the guest's buffers, as far as [`filter`] lets
//! them pass and where [`steer`] wants them. A [`ControlHandler`] serves the driver's commands; what they set is in [`shared`].

mod backlog;
mod coalescing;
mod config;
mod control;
mod counters;
mod device;
mod filter;
mod handler;
mod host;
mod limits;
mod options;
mod pair;
mod rx;
mod shared;
mod steer;
mod switch;
#[cfg(test)]
mod tests;
mod tx;

use std::sync::Arc;

use outboard_device::DeviceError;

pub use control::ControlHandler;
pub use device::Net;
pub use handler::NetHandler;
pub use host::{
    Dns, NoneOr, NullOptions, PcapOptions, Speed, TapOptions, UserOptions, XdpMode, XdpOptions, ZeroCopy,
};
pub use limits::LimitOptions;
pub use options::{BackendKind, Mac, NetOptions, Offloads};
pub use outboard_usernet::{Forward, Net4, Net6, Protocol};
pub use pair::PairHandler;
pub use switch::{HouseOptions, SwitchOptions, Switches, UplinkOption, UplinkTo};

/// The program `vhost-user-net`.
pub struct VhostUserNet;

impl outboard_daemon::Program for VhostUserNet {
    const NAME: &'static str = "vhost-user-net";
    const TYPE: &'static str = "net";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str =
        "A network interface on a tap, on a switch, or on a network of its own that takes no privileges";
    type Args = NetOptions;
    type Device = Net;

    fn open(options: NetOptions) -> Result<Net, DeviceError> {
        Net::open(&options)
    }
}

impl outboard_daemon::Housed for VhostUserNet {
    type HouseArgs = HouseOptions;
    type Common = Switches;

    fn furnish(options: HouseOptions) -> Result<Switches, DeviceError> {
        Switches::new(options)
    }

    fn open_in(options: NetOptions, name: &str, switches: &Arc<Switches>) -> Result<Net, DeviceError> {
        Net::open_in(&options, name, switches)
    }
}
