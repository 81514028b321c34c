//! An input device (VIRTIO 1.3, 5.8): keyboards, mice, tablets and touch screens of the host, or simulated ones. The program is
//! `vhost-user-input`; `docs/devices/input.md` tells its users what it promises.
//!
//! Read downhill: [`device`] and [`handler`]; [`kept`] (what waits for the guest); [`config`] (what a driver may ask), [`state`] (what the guest knows, and what
//! is), [`frame`]; [`host`] (what is real, and what is simulated). The guest is not trusted, nor is who drives
//! what is simulated; the host's devices are the kernel's.

mod config;
mod device;
mod frame;
mod handler;
mod host;
mod kept;
mod options;
mod state;

pub use device::{Input, VhostUserInput};
pub use options::InputOptions;

#[cfg(test)]
mod tests;
