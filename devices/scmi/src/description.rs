//! The description of what a guest sees: TOML. Trusted, but written by hand: what is wrong is said with its place.

mod entry;

use std::collections::BTreeMap;
use std::path::Path;

use outboard_device::DeviceError;
use outboard_scmi_protocols::{Point, View, What};

use crate::host::{Host, Opener};
use entry::Entries;

/// What a guest sees if nothing is said.
const DEFAULT: &str = include_str!("default.toml");

/// A description that was read: what the guest sees, what stands behind it, and what the host's people call it.
pub(crate) struct Description {
    pub(crate) view: View,
    pub(crate) host: Host,
    /// `clock.uart.rate`, and so on.
    pub(crate) names: BTreeMap<String, Point>,
}

impl Description {
    /// Reads the file, and opens what it names below `sysfs`.
    pub(crate) fn open(file: Option<&Path>, sysfs: &Path) -> Result<Self, DeviceError> {
        let Some(path) = file else { return Self::parse(DEFAULT, sysfs) };
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| DeviceError::host(format!("cannot read {shown}"), error))?;
        Self::parse(&text, sysfs).map_err(|error| DeviceError::Invalid(format!("{shown}: {error}")))
    }

    pub(crate) fn parse(text: &str, sysfs: &Path) -> Result<Self, DeviceError> {
        let entries: Entries = toml::from_str(text)
            .map_err(|error| DeviceError::Invalid(error.to_string().trim().to_owned()))?;
        let mut description =
            Self { view: View::default(), host: Host::new(Opener::new(sysfs)), names: BTreeMap::new() };
        entries.build(&mut description)?;
        Ok(description)
    }

    /// Names what there is of a thing.
    fn name(&mut self, name: &str, id: usize, points: &[(What, &str)]) -> Result<(), DeviceError> {
        for (what, suffix) in points {
            if self.names.insert(format!("{name}{suffix}"), Point { what: *what, id }).is_some() {
                return Err(DeviceError::Invalid(format!("there are two of {name}")));
            }
        }
        Ok(())
    }
}
