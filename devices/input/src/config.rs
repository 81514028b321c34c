//! What a driver may ask of the device in its configuration space (VIRTIO 1.3, 5.8.4, 5.8.5): pure.
//!
//! The driver writes to `select` and `subsel`, one after the other or with everything else at once, and reads the answer. All that can be
//! asked is known from the start.

use std::collections::BTreeMap;

use outboard_device::defs::input::{
    AbsInfo, CFG_ABS_INFO, CFG_EV_BITS, CFG_ID_DEVIDS, CFG_ID_NAME, CFG_ID_SERIAL, CFG_PROP_BITS, Config,
    Devids,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::frame::{ABS_MT_SLOT, EV_ABS, EV_REP};

/// The longest name and serial number, in bytes: the kernel of the guest adds an end.
pub(crate) const TEXT_MAX: usize = 127;

/// A set of codes, as evdev and the configuration space have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Bits([u8; 128]);

impl Default for Bits {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl Bits {
    pub(crate) fn of(codes: impl IntoIterator<Item = u16>) -> Self {
        let mut bits = Self::default();
        codes.into_iter().for_each(|code| bits.set(code, true));
        bits
    }

    pub(crate) fn set(&mut self, code: u16, on: bool) {
        if let Some(byte) = self.0.get_mut(usize::from(code / 8)) {
            let bit = 1 << (code % 8);
            *byte = if on { *byte | bit } else { *byte & !bit };
        }
    }

    pub(crate) fn has(&self, code: u16) -> bool {
        self.0.get(usize::from(code / 8)).is_some_and(|byte| byte & (1 << (code % 8)) != 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..1024).filter(|code| self.has(*code))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, more)| *byte |= more);
    }

    /// Up to the last that is in it.
    fn bytes(&self) -> &[u8] {
        let len = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.0.get(..len).unwrap_or(&self.0)
    }

    /// For the kernel to fill.
    pub(crate) fn room(&mut self) -> &mut [u8; 128] {
        &mut self.0
    }
}

/// What an input device is and has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) name: Vec<u8>,
    pub(crate) serial: Vec<u8>,
    pub(crate) ids: Devids,
    pub(crate) props: Bits,
    /// The codes of each type; EV_SYN is none of them.
    pub(crate) codes: BTreeMap<u16, Bits>,
    pub(crate) axes: BTreeMap<u16, AbsInfo>,
}

impl Abilities {
    /// Whether an event of the type and code may come from it, or go to it.
    pub(crate) fn has(&self, kind: u16, code: u16) -> bool {
        self.codes.get(&kind).is_some_and(|codes| codes.has(code))
    }

    /// Adds the codes of a type.
    pub(crate) fn with(mut self, kind: u16, codes: impl IntoIterator<Item = u16>) -> Self {
        self.codes.entry(kind).or_default().add(&Bits::of(codes));
        self
    }

    /// Adds an axis.
    pub(crate) fn axis(mut self, code: u16, info: AbsInfo) -> Self {
        self.axes.insert(code, info);
        self.with(EV_ABS, [code])
    }

    /// Takes over what `other` has: one device that is both.
    ///
    /// # Errors
    /// The two have an axis in common that is not the same, or both tell contacts apart: the numbers of one's slots would be the
    /// other's.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        if self.has(EV_ABS, ABS_MT_SLOT) && other.has(EV_ABS, ABS_MT_SLOT) {
            return Err("two sources have contacts in slots: they cannot be one device".to_owned());
        }
        for (code, info) in &other.axes {
            if self.axes.insert(*code, *info).is_some_and(|known| known != *info) {
                return Err(format!(
                    "two sources have another range for the axis {code:#x}: they cannot be one device"
                ));
            }
        }
        for (kind, codes) in &other.codes {
            self.codes.entry(*kind).or_default().add(codes);
        }
        self.props.add(&other.props);
        Ok(())
    }

    /// The configuration space when this is selected.
    pub(crate) fn config(&self, select: u8, subsel: u8) -> Config {
        let mut config = Config::new_zeroed();
        (config.select, config.subsel) = (select, subsel);
        let code = u16::from(subsel);
        let axis = self.axes.get(&code).filter(|_| select == CFG_ABS_INFO);
        let answer: &[u8] = match (select, subsel) {
            (CFG_ID_NAME, 0) => &self.name,
            (CFG_ID_SERIAL, 0) => &self.serial,
            (CFG_ID_DEVIDS, 0) => self.ids.as_bytes(),
            (CFG_PROP_BITS, 0) => self.props.bytes(),
            // Linux asks whether there are any.
            (CFG_EV_BITS, _) if code == EV_REP && self.codes.contains_key(&EV_REP) => &[3],
            (CFG_EV_BITS, _) => self.codes.get(&code).map(Bits::bytes).unwrap_or_default(),
            _ => axis.map(AbsInfo::as_bytes).unwrap_or_default(),
        };
        for (place, byte) in config.data.iter_mut().zip(answer) {
            *place = *byte;
            config.size += 1;
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{EV_KEY, EV_LED};

    fn info(max: u32) -> AbsInfo {
        AbsInfo { max: max.into(), ..AbsInfo::default() }
    }

    fn both() -> Abilities {
        let mut abilities =
            Abilities { name: vec![b'n'; 200], serial: b"s1".to_vec(), ..Abilities::default() }
                .with(EV_KEY, [1, 30, 0x2ff])
                .with(EV_REP, [0, 1])
                .axis(5, info(100));
        abilities.ids.vendor = 0x1234.into();
        abilities
    }

    #[test]
    fn answers_have_the_size_of_what_is_there_and_zeroes_behind() {
        let abilities = both();
        for (select, subsel, size) in [
            (0, 0, 0),
            (CFG_ID_NAME, 0, 128),
            (CFG_ID_NAME, 1, 0),
            (CFG_ID_SERIAL, 0, 2),
            (CFG_ID_DEVIDS, 0, 8),
            (CFG_PROP_BITS, 0, 0),
            (CFG_EV_BITS, 0, 0),
            (CFG_EV_BITS, 1, 96),
            (CFG_EV_BITS, 3, 1),
            (CFG_EV_BITS, 0x11, 0),
            (CFG_EV_BITS, 0x14, 1),
            (CFG_ABS_INFO, 5, 20),
            (CFG_ABS_INFO, 6, 0),
            (0xff, 0xff, 0),
        ] {
            let config = abilities.config(select, subsel);
            assert_eq!((config.select, config.subsel, config.size), (select, subsel, size));
            assert!(config.data.iter().skip(size.into()).all(|byte| *byte == 0));
        }
        assert_eq!(abilities.config(CFG_ABS_INFO, 5).data[4], 100);
        assert_eq!(abilities.config(CFG_EV_BITS, 1).data[..4], [2, 0, 0, 0x40]);
    }

    #[test]
    fn devices_merged_are_both_unless_they_contradict_each_other() {
        let mut abilities = both();
        abilities.merge(&Abilities::default().with(EV_LED, [1]).with(EV_KEY, [31])).unwrap();
        assert!(abilities.has(EV_LED, 1) && abilities.has(EV_KEY, 30) && abilities.has(EV_KEY, 31));
        assert!(!abilities.has(EV_KEY, 32) && !abilities.has(0, 0));
        abilities.merge(&both()).unwrap();
        let other = Abilities::default().axis(5, AbsInfo::default());
        assert!(abilities.merge(&other).unwrap_err().contains("0x5"));
        let slots = Abilities::default().axis(ABS_MT_SLOT, info(9));
        abilities.merge(&slots).unwrap();
        assert!(abilities.merge(&slots).unwrap_err().contains("slots"));
    }
}
