//! An SCMI device (VIRTIO 1.3, 5.17): a guest's sensors, clocks, power, performance, resets and voltages, by Arm's System
//! Control and Management Interface. The program is `vhost-user-scmi`; `docs/devices/scmi.md` tells its users what it
//! promises. What messages mean is `outboard-scmi-protocols`; here are the queues, and what stands behind the view.
//!
//! It is larger than such a device should be, since the things of seven protocols are described by whoever starts it: what a
//! description may say, and what is wrong with it, is half of all that is not host.

mod backlog;
mod description;
mod device;
mod handler;
mod host;
mod options;
mod shared;
mod verbs;

pub use device::{Scmi, VhostUserScmi};
pub use handler::ScmiHandler;
pub use options::ScmiOptions;

#[cfg(test)]
mod tests;
