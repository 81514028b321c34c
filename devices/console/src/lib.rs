//! A console device (VIRTIO 1.3, 5.3): a console of the guest, and more ports of bytes with names. The program is
//! `vhost-user-console`; `docs/devices/console.md` tells its users what it promises.
//!
//! Read downhill: [`device`] and [`handler`]; [`console`] (all ports, and what driver and device say to each other of them),
//! [`port`] (one: bytes both ways), [`talk`] (what the driver knows of a port); `host` (what is at the far end of a port, and
//! what records it). Neither the guest is trusted, nor whoever is at a far end.

mod command;
mod console;
mod device;
mod handler;
mod host;
mod options;
mod port;
mod talk;

pub use device::{ConsoleDevice, VhostUserConsole};
pub use handler::ConsoleHandler;
pub use options::{ConsoleOptions, PortSpec, Size};

#[cfg(test)]
mod tests;
