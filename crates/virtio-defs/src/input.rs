//! The input device (VIRTIO 1.3, 5.8): events, and the configuration space in which a driver selects what it wants to know.
//! Layouts only.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Nothing is selected (VIRTIO 1.3, 5.8.4).
pub const CFG_UNSET: u8 = 0x00;
/// The device's name, text without an end (VIRTIO 1.3, 5.8.4).
pub const CFG_ID_NAME: u8 = 0x01;
/// Its serial number, likewise (VIRTIO 1.3, 5.8.4).
pub const CFG_ID_SERIAL: u8 = 0x02;
/// Its [`Devids`] (VIRTIO 1.3, 5.8.4).
pub const CFG_ID_DEVIDS: u8 = 0x03;
/// A bit for each property (VIRTIO 1.3, 5.8.4).
pub const CFG_PROP_BITS: u8 = 0x10;
/// A bit for each code of the type of events that is selected (VIRTIO 1.3, 5.8.4).
pub const CFG_EV_BITS: u8 = 0x11;
/// The [`AbsInfo`] of the axis that is selected (VIRTIO 1.3, 5.8.4).
pub const CFG_ABS_INFO: u8 = 0x12;

/// The configuration space (VIRTIO 1.3, 5.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Config {
    /// What the driver wants to know.
    pub select: u8,
    /// Of what.
    pub subsel: u8,
    /// How many bytes of `data` tell it; 0: nothing is known of that.
    pub size: u8,
    /// Nothing.
    pub reserved: [u8; 5],
    /// The answer.
    pub data: [u8; 128],
}

/// What range and precision an axis has (VIRTIO 1.3, 5.8.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AbsInfo {
    /// The smallest value. A number of 32 bits with a sign, as the others.
    pub min: U32,
    /// The largest value.
    pub max: U32,
    /// Changes of so much are noise.
    pub fuzz: U32,
    /// Values of so much around 0 are 0.
    pub flat: U32,
    /// Units in a millimetre, or in a radian.
    pub res: U32,
}

/// Who made the device (VIRTIO 1.3, 5.8.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Devids {
    /// What it is on: USB is 3, virtual things are 6.
    pub bustype: U16,
    /// Who made it.
    pub vendor: U16,
    /// What it is.
    pub product: U16,
    /// Which edition.
    pub version: U16,
}

/// An event, in either direction (VIRTIO 1.3, 5.8.6). Types, codes and values are those of Linux's evdev.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Event {
    /// What kind of thing has changed.
    pub kind: U16,
    /// Which of its kind.
    pub code: U16,
    /// What it is now. A number of 32 bits with a sign.
    pub value: U32,
}

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_input as oracle;

    use super::*;

    #[test]
    fn layouts_are_the_specification_s() {
        assert_eq!(size_of::<Config>(), size_of::<oracle::virtio_input_config>());
        assert_eq!(size_of::<AbsInfo>(), size_of::<oracle::virtio_input_absinfo>());
        assert_eq!(size_of::<Devids>(), size_of::<oracle::virtio_input_devids>());
        assert_eq!(size_of::<Event>(), size_of::<oracle::virtio_input_event>());
        let selects = [
            (CFG_UNSET, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_UNSET),
            (CFG_ID_NAME, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_ID_NAME),
            (CFG_ID_SERIAL, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_ID_SERIAL),
            (CFG_ID_DEVIDS, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_ID_DEVIDS),
            (CFG_PROP_BITS, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_PROP_BITS),
            (CFG_EV_BITS, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_EV_BITS),
            (CFG_ABS_INFO, oracle::virtio_input_config_select_VIRTIO_INPUT_CFG_ABS_INFO),
        ];
        assert!(selects.iter().all(|(ours, theirs)| u32::from(*ours) == *theirs));
    }
}
