//! Drivers in user space, each the counterpart of one device type, over [`Queue`](crate::Queue).
//!
//! What they have in common: data lies in guest memory and is never copied on the way (only the convenience calls
//! copy); nothing is allocated per request; a request is known by a token of the caller's choice.

mod blk;
mod blk_queue;
mod blk_zones;
mod console;
mod exchange;
mod fs;
mod fs_queue;
mod gpio;
mod i2c;
mod input;
mod net;
mod net_control;
mod net_queue;
mod net_rx;
mod rng;
mod scmi;
mod slots;
mod vsock;
mod vsock_connection;

pub use blk::{Blk, BlkOptions};
pub use blk_queue::{BlkQueue, Completion, Failure};
pub use blk_zones::{RangeCommand, ZoneCommand};
pub use console::Console;
pub use fs::{Fs, FsOptions};
pub use fs_queue::{Answer, FsCompletion, FsFailure, FsQueue};
pub use gpio::Gpio;
pub use i2c::{I2c, I2cAddress, I2cMessage};
pub use input::Input;
pub use net::{Net, NetOptions};
pub use net_control::{NetControl, Rss};
pub use net_queue::{NetQueue, NetTx};
pub use net_rx::{NetRx, Received};
pub use rng::Rng;
pub use scmi::Scmi;
pub use vsock::{MAX_DATA, Vsock, VsockOptions, VsockPacket};
pub use vsock_connection::VsockConnection;
