//! The command line. It is trusted; what makes no sense in it is told.

use std::path::PathBuf;

use outboard_daemon::DriveArgs;
use outboard_device::defs::input::Devids;

use crate::config::TEXT_MAX;
use crate::host::synthetic::Kind;

/// What the guest's input device is made of.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct InputOptions {
    /// Give the guest this input device of the host, such as /dev/input/event3; repeated: all of them as one device
    #[arg(long, value_name = "PATH")]
    pub evdev_path: Vec<PathBuf>,

    /// Let the host go on using its input devices: it sees what the guest sees
    #[arg(long, requires = "evdev_path")]
    pub no_grab: bool,

    /// Wait for an input device that is unplugged to come back, and look for it once a second
    #[arg(long, requires = "evdev_path")]
    pub evdev_wait: bool,

    /// Simulate keyboard, mouse, rotary, switches, tablet[=WxH], single-touch[=WxH], multi-touch[=WxHxCONTACTS], trackpad[=WxH],
    /// multi-touch-trackpad[=WxHxCONTACTS] or custom=FILE; repeated: all of them as one device
    ///
    /// Without this and --evdev-path: keyboard and mouse.
    #[arg(long, value_name = "KIND", help_heading = "Simulation")]
    pub(crate) synthetic: Vec<Kind>,

    /// What the device is called in the guest [default: as on the host]
    #[arg(long, value_name = "TEXT", value_parser = text)]
    pub input_name: Option<String>,

    /// Its serial number [default: as on the host]
    #[arg(long, value_name = "TEXT", value_parser = text)]
    pub serial: Option<String>,

    /// Its ids, in hexadecimal [default: as on the host]
    #[arg(long, value_name = "BUS:VENDOR:PRODUCT:VERSION", value_parser = ids)]
    pub ids: Option<Devids>,

    /// How what is simulated is driven.
    #[command(flatten)]
    pub drive: DriveArgs,
}

pub(crate) fn text(text: &str) -> Result<String, String> {
    match text.len() {
        1..=TEXT_MAX => Ok(text.to_owned()),
        _ => Err(format!("1 to {TEXT_MAX} bytes")),
    }
}

pub(crate) fn ids(text: &str) -> Result<Devids, String> {
    let numbers: Vec<_> = text.split(':').map(|number| u16::from_str_radix(number, 16)).collect();
    match numbers.as_slice() {
        &[Ok(bus), Ok(vendor), Ok(product), Ok(version)] => Ok(Devids {
            bustype: bus.into(),
            vendor: vendor.into(),
            product: product.into(),
            version: version.into(),
        }),
        _ => Err("four numbers of up to four hexadecimal digits, such as 3:46d:c52b:111".to_owned()),
    }
}
