//! Queues of an interface of the host, by AF_XDP sockets: packets go between its driver and this process without the
//! kernel's network in between, and without what that would do to them. The interface is the administrator's; what comes
//! from it is anybody's, and is a frame as it goes over a wire.

#[cfg(feature = "af-xdp")]
mod berth;
#[cfg(feature = "af-xdp")]
mod interface;
#[cfg(feature = "af-xdp")]
mod memory;
mod options;
#[cfg(feature = "af-xdp")]
mod program;
#[cfg(feature = "af-xdp")]
mod ring;
#[cfg(feature = "af-xdp")]
mod side;
#[cfg(feature = "af-xdp")]
mod socket;

use outboard_device::DeviceError;

use super::Backing;
pub use options::{XdpMode, XdpOptions, ZeroCopy};

/// Opens what the options say: a queue of the interface for each of so many pairs.
///
/// # Errors
/// What the kernel refuses.
#[cfg(feature = "af-xdp")]
pub(super) fn open(options: &XdpOptions, pairs: u16) -> Result<Box<dyn Backing>, DeviceError> {
    Ok(Box::new(interface::Interface::open(options, pairs)?))
}

/// The program was built without it.
///
/// # Errors
/// Always.
#[cfg(not(feature = "af-xdp"))]
pub(super) fn open(_: &XdpOptions, _: u16) -> Result<Box<dyn Backing>, DeviceError> {
    let how = "this program was built without it (cargo build --release -p outboard-net --features af-xdp)";
    Err(DeviceError::Invalid(format!("--backend af_xdp: {how}")))
}
