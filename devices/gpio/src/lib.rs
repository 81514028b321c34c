//! A GPIO controller (VIRTIO 1.3, 5.18): the guest's lines are lines of a chip of the host, or simulated. The program is
//! `vhost-user-gpio`; `docs/devices/gpio.md` tells its users what it promises.
//!
//! The guest is not trusted with lines, values and lengths ([`request`], [`lines`]), and gets at what it was given only
//! ([`options`]). Chips of the host are trusted; what is connected to them does as it pleases.

mod device;
mod handler;
mod host;
mod lines;
mod names;
mod options;
mod request;

use outboard_device::DeviceError;

pub use device::Gpio;
pub use handler::GpioHandler;
pub use options::GpioOptions;

/// The program `vhost-user-gpio`.
pub struct VhostUserGpio;

impl outboard_daemon::Program for VhostUserGpio {
    const NAME: &'static str = "vhost-user-gpio";
    const TYPE: &'static str = "gpio";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "A GPIO controller: lines of a chip of the host, or simulated ones";
    type Args = GpioOptions;
    type Device = Gpio;

    fn open(options: GpioOptions) -> Result<Gpio, DeviceError> {
        Gpio::open(&options)
    }
}

#[cfg(test)]
mod tests;
