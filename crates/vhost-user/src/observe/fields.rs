//! A decoded payload: fields with a name and a value, to be shown as text or turned into something else.

use std::borrow::Cow;
use std::fmt;

use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::features::feature_names;

use crate::features::ProtocolFeatures;

/// How many bytes of a longer value its text shows.
const SHOWN: usize = 64;

/// One field of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
}

/// The value of a field, with the way in which people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count, an index, a size.
    Number(u64),
    /// An address, an offset, a mask.
    Hex(u64),
    /// Bits, and what the set ones are called.
    Bits(u64, Vec<Cow<'static, str>>),
    /// A word.
    Word(Cow<'static, str>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Several of the same kind.
    List(Vec<Vec<Field>>),
}

impl Value {
    /// Virtio feature bits. Without a device type, its own bits are numbers.
    pub fn features(bits: u64, device: Option<DeviceId>) -> Self {
        let names = feature_names(device.unwrap_or(DeviceId(0)), bits)
            .map(|(bit, name)| name.map_or_else(|| bit.to_string().into(), Cow::Borrowed));
        Self::Bits(bits, names.collect())
    }

    /// Protocol feature bits.
    pub fn protocol(bits: u64) -> Self {
        let features = ProtocolFeatures(bits);
        let mut names: Vec<Cow<'static, str>> = features.names().map(Cow::Borrowed).collect();
        let rest = features.unnamed().0;
        names.extend((0..u64::BITS).filter(|bit| rest & (1 << bit) != 0).map(|bit| bit.to_string().into()));
        Self::Bits(bits, names)
    }

    /// Virtio device status bits (VIRTIO 1.3, 2.1).
    pub fn status(bits: u64) -> Self {
        const NAMES: [(u64, &str); 6] = [
            (1, "ACKNOWLEDGE"),
            (2, "DRIVER"),
            (4, "DRIVER_OK"),
            (8, "FEATURES_OK"),
            (64, "DEVICE_NEEDS_RESET"),
            (128, "FAILED"),
        ];
        let names = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| Cow::Borrowed(*name));
        Self::Bits(bits, names.collect())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Hex(number) => write!(f, "{number:#x}"),
            Self::Bits(bits, names) if names.is_empty() => write!(f, "{bits:#x}"),
            Self::Bits(bits, names) => write!(f, "{bits:#x} [{}]", names.join(" ")),
            Self::Word(word) => f.write_str(word),
            Self::Bytes(bytes) => {
                for byte in bytes.iter().take(SHOWN) {
                    write!(f, "{byte:02x}")?;
                }
                if bytes.len() > SHOWN { write!(f, "... ({} bytes)", bytes.len()) } else { Ok(()) }
            }
            Self::List(items) => {
                for (nth, fields) in items.iter().enumerate() {
                    write!(f, "{}{{", if nth == 0 { "" } else { " " })?;
                    write_fields(f, fields)?;
                    f.write_str("}")?;
                }
                Ok(())
            }
        }
    }
}

/// Fields one after the other.
fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[Field]) -> fmt::Result {
    for (nth, field) in fields.iter().enumerate() {
        write!(f, "{}{field}", if nth == 0 { "" } else { " " })?;
    }
    Ok(())
}
