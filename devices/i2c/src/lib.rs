//! An I2C adapter (VIRTIO 1.3, 5.16): the guest's messages go to adapters of the host, or to parts that are simulated. The
//! program is `vhost-user-i2c`; `docs/devices/i2c.md` tells its users what it promises.
//!
//! The guest is not trusted with addresses, flags and lengths ([`request`]), and gets at what it was given only
//! ([`options`]). Adapters of the host are trusted; the chips on them answer as they please.

mod address;
mod device;
mod executor;
mod handler;
mod host;
mod options;
mod request;
mod status;
mod transaction;

use outboard_device::DeviceError;

pub use device::I2c;
pub use handler::I2cHandler;
pub use options::I2cOptions;

/// The program `vhost-user-i2c`.
pub struct VhostUserI2c;

impl outboard_daemon::Program for VhostUserI2c {
    const NAME: &'static str = "vhost-user-i2c";
    const TYPE: &'static str = "i2c";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "An I2C adapter: chips on the host's buses, or simulated ones";
    type Args = I2cOptions;
    type Device = I2c;

    fn open(options: I2cOptions) -> Result<I2c, DeviceError> {
        I2c::open(&options)
    }
}

#[cfg(test)]
mod tests;
