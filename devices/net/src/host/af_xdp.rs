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
#[cfg(feature = "af-xdp")]
mod uplink;

use outboard_device::DeviceError;

use super::{Backing, Ways};
pub use options::{XdpMode, XdpOptions, ZeroCopy};

/// Opens what the options say: a queue of the interface for each of so many pairs.
///
/// # Errors
/// What the kernel refuses.
#[cfg(feature = "af-xdp")]
pub(super) fn open(options: &XdpOptions, pairs: u16) -> Result<Box<dyn Backing>, DeviceError> {
    Ok(Box::new(interface::Interface::open(options, pairs)?))
}

/// Opens a queue of an interface as the way out of a switch.
///
/// # Errors
/// Likewise.
#[cfg(feature = "af-xdp")]
pub(crate) fn open_uplink(interface: &str, queue: u16) -> Result<Ways, DeviceError> {
    uplink::open(interface, queue)
}

/// The program was built without it.
#[cfg(not(feature = "af-xdp"))]
pub(super) fn open(_: &XdpOptions, _: u16) -> Result<Box<dyn Backing>, DeviceError> {
    Err(missing("--backend af_xdp"))
}

/// Likewise.
#[cfg(not(feature = "af-xdp"))]
pub(crate) fn open_uplink(interface: &str, _: u16) -> Result<Ways, DeviceError> {
    Err(missing(&format!("the uplink af_xdp:{interface}")))
}

#[cfg(not(feature = "af-xdp"))]
fn missing(what: &str) -> DeviceError {
    let how = "this program was built without it (cargo build --release -p outboard-net --features af-xdp)";
    DeviceError::Invalid(format!("{what}: {how}"))
}
