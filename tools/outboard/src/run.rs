//! `outboard run DEVICE ...`: a back end, exactly as its own program runs it. So this one binary is enough for the
//! demonstration, for `outboard vm`, and for the tests.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ValueEnum;

/// Run a back end: what vhost-user-DEVICE does
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// The device
    device: Device,
    /// The options of its program; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// The devices there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Device {
    /// A block device
    Blk,
    /// Consoles and ports
    Console,
    /// A GPIO controller
    Gpio,
    /// An I2C adapter
    I2c,
    /// An input device
    Input,
    /// A network device
    Net,
    /// An entropy device
    Rng,
    /// Sensors, clocks, power, performance, resets and voltages
    Scmi,
    /// A socket device
    Vsock,
}

impl Device {
    /// Its name on command lines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Blk => "blk",
            Self::Console => "console",
            Self::Gpio => "gpio",
            Self::I2c => "i2c",
            Self::Input => "input",
            Self::Net => "net",
            Self::Rng => "rng",
            Self::Scmi => "scmi",
            Self::Vsock => "vsock",
        }
    }

    /// The command line of its program.
    pub(crate) fn command(self) -> clap::Command {
        match self {
            Self::Blk => outboard_daemon::command::<outboard_blk::VhostUserBlk>(),
            Self::Console => outboard_daemon::command::<outboard_console::VhostUserConsole>(),
            Self::Gpio => outboard_daemon::command::<outboard_gpio::VhostUserGpio>(),
            Self::I2c => outboard_daemon::command::<outboard_i2c::VhostUserI2c>(),
            Self::Input => outboard_daemon::command::<outboard_input::VhostUserInput>(),
            Self::Net => outboard_daemon::command_housed::<outboard_net::VhostUserNet>(),
            Self::Rng => outboard_daemon::command::<outboard_rng::VhostUserRng>(),
            Self::Scmi => outboard_daemon::command::<outboard_scmi::VhostUserScmi>(),
            Self::Vsock => outboard_daemon::command_housed::<outboard_vsock::VhostUserVsock>(),
        }
    }
}

/// Becomes the program of the device.
pub(crate) fn run(args: Args) -> ExitCode {
    let Args { device, options } = args;
    let name = OsString::from(format!("outboard run {}", device.name()));
    let args = std::iter::once(name).chain(options);
    match device {
        Device::Blk => outboard_daemon::run_with::<outboard_blk::VhostUserBlk>(args),
        Device::Console => outboard_daemon::run_with::<outboard_console::VhostUserConsole>(args),
        Device::Gpio => outboard_daemon::run_with::<outboard_gpio::VhostUserGpio>(args),
        Device::I2c => outboard_daemon::run_with::<outboard_i2c::VhostUserI2c>(args),
        Device::Input => outboard_daemon::run_with::<outboard_input::VhostUserInput>(args),
        Device::Net => outboard_daemon::run_housed_with::<outboard_net::VhostUserNet>(args),
        Device::Rng => outboard_daemon::run_with::<outboard_rng::VhostUserRng>(args),
        Device::Scmi => outboard_daemon::run_with::<outboard_scmi::VhostUserScmi>(args),
        Device::Vsock => outboard_daemon::run_housed_with::<outboard_vsock::VhostUserVsock>(args),
    }
}
