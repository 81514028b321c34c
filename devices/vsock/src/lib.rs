//! A socket device (VIRTIO 1.3, 5.10): connections between a guest, programs of its host, and other guests. The program
//! is `vhost-user-vsock`; `docs/devices/vsock.md` tells its users what it promises.
//!
//! [`Vsock`] is the control half. Its [`VsockHandler`] has the guest's connections (`flows`): each is a state (`flow`) with
//! two counts of credit (`credit`) and an end on the host. What the guest sends (`packet`, `outbound`) and what it receives
//! (`inbound`) goes past the table; `opening` makes connections, as far as `rules` let it, to the host, and to other guests
//! of the process (`sibling`).

mod borders;
mod command;
mod control;
mod counters;
mod credit;
mod device;
mod flow;
mod flows;
mod handler;
mod inbound;
mod opening;
mod options;
mod outbound;
mod packet;
mod rules;
mod sibling;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use outboard_device::DeviceError;

pub use device::Vsock;
pub use handler::VsockHandler;
pub use options::{Forward, Listen, Serve, VsockOptions};
pub use rules::Service;
pub use sibling::Registry;

/// The program `vhost-user-vsock`.
pub struct VhostUserVsock;

impl outboard_daemon::Program for VhostUserVsock {
    const NAME: &'static str = "vhost-user-vsock";
    const TYPE: &'static str = "vsock";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "Sockets between a guest, programs of its host, and other guests";
    type Args = VsockOptions;
    type Device = Vsock;

    fn open(options: VsockOptions) -> Result<Vsock, DeviceError> {
        Vsock::open(&options, &Arc::default())
    }
}

/// What the guests of a process have in common takes no options.
#[derive(clap::Args, Debug)]
pub struct HouseOptions {}

impl outboard_daemon::Housed for VhostUserVsock {
    type HouseArgs = HouseOptions;
    type Common = Registry;

    fn furnish(HouseOptions {}: HouseOptions) -> Result<Registry, DeviceError> {
        Ok(Registry::default())
    }

    fn open_in(options: VsockOptions, _: &str, registry: &Arc<Registry>) -> Result<Vsock, DeviceError> {
        Vsock::open(&options, registry)
    }
}
