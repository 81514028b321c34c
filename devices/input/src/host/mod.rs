//! What is behind the device: input devices of the host ([`evdev`]), or simulated ones ([`synthetic`]), put together.

pub(crate) mod evdev;
pub(crate) mod synthetic;

use outboard_device::DeviceError;
use outboard_device::defs::input::Devids;

use crate::InputOptions;
use crate::config::{Abilities, TEXT_MAX};
use evdev::Source;
use synthetic::Kind;

/// All that the options name.
pub(crate) struct Behind {
    /// What it can do together.
    pub(crate) abilities: Abilities,
    pub(crate) sources: Vec<Source>,
    pub(crate) kinds: Vec<Kind>,
}

impl Behind {
    /// Opens it.
    ///
    /// # Errors
    /// A device of the host cannot be opened; sources contradict each other.
    pub(crate) fn open(options: &InputOptions) -> Result<Self, DeviceError> {
        let mut kinds = options.synthetic.clone();
        if kinds.is_empty() && options.evdev_path.is_empty() {
            kinds = vec![Kind::Keyboard, Kind::Mouse];
        }
        let sources = sources(options)?;
        let simulated = kinds.iter().map(Kind::abilities).collect::<Result<Vec<_>, _>>()?;
        let mut all = sources.iter().map(|source| source.abilities().clone()).chain(simulated);
        let mut abilities = all.next().unwrap_or_default();
        for other in all {
            abilities.merge(&other).map_err(DeviceError::Invalid)?;
        }
        identify(&mut abilities, &kinds, options);
        Ok(Self { abilities, sources, kinds })
    }
}

/// Opens the devices of the host.
///
/// # Errors
/// One cannot be opened.
pub(crate) fn sources(options: &InputOptions) -> Result<Vec<Source>, DeviceError> {
    options.evdev_path.iter().map(|path| Source::open(path, !options.no_grab)).collect()
}

/// Gives the device the name, serial number and ids that it has in the guest.
fn identify(abilities: &mut Abilities, kinds: &[Kind], options: &InputOptions) {
    if abilities.name.is_empty() {
        abilities.name = match kinds {
            [kind] => format!("Outboard {}", kind.name()).into_bytes(),
            _ => b"Outboard input".to_vec(),
        };
        if abilities.ids == Devids::default() {
            // Virtual things.
            abilities.ids.bustype = 6.into();
        }
    }
    if let Some(name) = &options.input_name {
        abilities.name = name.clone().into_bytes();
    }
    if let Some(serial) = &options.serial {
        abilities.serial = serial.clone().into_bytes();
    }
    abilities.ids = options.ids.unwrap_or(abilities.ids);
    abilities.name.truncate(TEXT_MAX);
    abilities.serial.truncate(TEXT_MAX);
}
