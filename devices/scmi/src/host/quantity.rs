//! What channels of IIO measure (Linux: Documentation/ABI/testing/sysfs-bus-iio), in SCMI's units.

use std::path::Path;

/// What a channel measures.
#[derive(Clone, Copy)]
pub(crate) struct Quantity {
    /// SCMI's number for the unit.
    pub(crate) unit: u8,
    /// With scale and offset applied, a channel counts the unit times ten to this power.
    pub(super) exponent: i8,
}

/// By the name behind `in_`.
const QUANTITIES: [(&str, u8, i8); 13] = [
    ("accel", 0x59, 0),
    ("anglvel", 0x57, 0),
    ("current", 6, -3),
    ("energy", 8, 0),
    ("gravity", 0x59, 0),
    ("humidityrelative", 0x41, -3),
    ("illuminance", 0x0d, 0),
    ("magn", 0x2d, 0),
    ("positionrelative", 0x41, -3),
    ("power", 7, -3),
    ("pressure", 0x42, 3),
    ("temp", 2, -3),
    ("voltage", 5, -3),
];

impl Quantity {
    /// Of the channel at `path`: `iio:device0/in_temp1_ambient`. `None` if it is not known here.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_prefix("in_")?;
        let name = name.split(|char: char| !char.is_ascii_alphabetic()).next()?;
        let &(_, unit, exponent) = QUANTITIES.iter().find(|(known, ..)| *known == name)?;
        Some(Self { unit, exponent })
    }
}
