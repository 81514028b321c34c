//! Where a thing's values come from, as the description says it.

use std::path::PathBuf;

use serde::Deserialize;

use super::quantity::Quantity;

/// Where a thing's values come from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) enum Origin {
    /// The program: they are what somebody sets them to.
    #[default]
    Simulated,
    /// An attribute, or a directory of them.
    Sysfs(PathBuf),
    /// A channel of an IIO device: `iio:device0/in_temp`.
    Iio(PathBuf),
}

impl Origin {
    /// Whether it is known when somebody else changes something there.
    pub(crate) fn tells(&self) -> bool {
        *self == Self::Simulated
    }

    /// What it measures, where the host says so.
    pub(crate) fn quantity(&self) -> Option<Quantity> {
        match self {
            Self::Iio(path) => Quantity::of(path),
            Self::Simulated | Self::Sysfs(_) => None,
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "simulated" => Ok(Self::Simulated),
            Some(("sysfs", path)) if !path.is_empty() => Ok(Self::Sysfs(path.into())),
            Some(("iio", path)) if path.contains('/') => Ok(Self::Iio(path.into())),
            _ => Err(format!("{text:?} is no source: simulated, sysfs:PATH or iio:DEVICE/CHANNEL")),
        }
    }
}
