//! A block device (VIRTIO 1.3, 5.2) over a raw image, a block device of the host, or memory. The program is
//! `vhost-user-blk`; `docs/devices/blk.md` tells its users what it promises.
//!
//! [`Blk`] is the control half. A [`BlkHandler`] serves one queue: it understands requests by `request`, a pure
//! module, and moves their data between the guest and what `host` opened.

mod config;
mod counters;
mod device;
mod handler;
mod host;
mod limits;
mod options;
mod request;
mod resize;
mod syncs;
#[cfg(test)]
mod tests;
mod zones;

pub use device::Blk;
pub use handler::{BlkHandler, Op};
pub use host::Locking;
pub use limits::LimitOptions;
pub use options::{BlkOptions, DEFAULT_RAM, Follow, ImageFormat, parse_size};

/// The program `vhost-user-blk`.
pub struct VhostUserBlk;

impl outboard_daemon::Program for VhostUserBlk {
    const NAME: &'static str = "vhost-user-blk";
    const TYPE: &'static str = "block";
    const FEATURES: &'static [&'static str] = &["read-only", "blk-file"];
    const DESCRIPTION: &'static str = "A disk from a raw image, a block device, or memory";
    type Args = BlkOptions;
    type Device = Blk;

    fn open(options: BlkOptions) -> Result<Blk, outboard_device::DeviceError> {
        Blk::open(&options)
    }
}
