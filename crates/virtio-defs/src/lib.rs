//! What the VirtIO specification (1.3) fixes in numbers and layouts: ids, feature bits, configuration spaces and
//! requests, one file per device. No logic, no I/O; nothing here judges what a peer sent.

pub mod blk;
pub mod config_fields;
pub mod console;
pub mod features;
pub mod fs;
pub mod gpio;
pub mod i2c;
mod ids;
pub mod input;
pub mod net;
pub mod net_control;
pub mod scmi;
pub mod vsock;

pub use ids::{DeviceId, UnknownDevice};
