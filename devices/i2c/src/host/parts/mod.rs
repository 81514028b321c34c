//! The simulated parts, byte by byte as they are on a bus.

mod eeprom;
mod registers;
mod thermometer;

use std::path::PathBuf;
use std::str::FromStr;

use outboard_device::DeviceError;

use self::eeprom::Eeprom;
use self::registers::Registers;
use self::thermometer::Thermometer;
use crate::address::Address;

/// A part on the bus. It acknowledges its address.
pub(super) trait Part: Send {
    /// What it is.
    fn name(&self) -> &'static str;
    /// A start, or a repeated one, with its address.
    fn start(&mut self, read: bool);
    /// A byte for it; false if it does not acknowledge.
    fn write(&mut self, byte: u8) -> bool;
    /// A byte of it.
    fn read(&mut self) -> u8;
    /// The stop.
    fn stop(&mut self) {}
    /// Sets a register, from outside.
    fn set(&mut self, register: u64, value: u64) -> Result<(), String>;
    /// Sets what it measures, from outside.
    fn set_temperature(&mut self, celsius: f64) -> Result<(), String> {
        let _ = celsius;
        Err("it has none".to_owned())
    }
    /// All of its registers.
    fn dump(&self) -> Vec<u16>;
}

/// A byte for a table of registers.
fn byte_of(value: u64) -> Result<u8, String> {
    u8::try_from(value).map_err(|_| format!("{value} does not fit the register"))
}

/// Which part is where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartSpec {
    pub(super) address: Address,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Eeprom { size: usize, page: usize, file: Option<PathBuf> },
    Thermometer,
    Registers { count: usize },
}

impl PartSpec {
    pub(super) fn open(&self) -> Result<Box<dyn Part>, DeviceError> {
        Ok(match &self.kind {
            Kind::Eeprom { size, page, file } => Box::new(Eeprom::open(*size, *page, file.as_deref())?),
            Kind::Thermometer => Box::new(Thermometer::default()),
            Kind::Registers { count } => Box::new(Registers::new(*count)),
        })
    }
}

impl FromStr for PartSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (part, rest) = text.split_once('@').ok_or("a part is at an address: eeprom@0x50")?;
        let (name, size) = match part.split_once(':') {
            Some((name, size)) => {
                (name, Some(size.parse::<usize>().map_err(|_| format!("{size:?} is no size"))?))
            }
            None => (part, None),
        };
        let mut words = rest.split(',');
        let address = words.next().unwrap_or_default().parse()?;
        let (mut page, mut file) = (None, None);
        for word in words {
            match word.split_once('=') {
                Some(("page", number)) if name == "eeprom" => {
                    page = Some(
                        number.parse::<usize>().map_err(|_| format!("{number:?} is no size of a page"))?,
                    );
                }
                Some(("file", path)) if name == "eeprom" && !path.is_empty() => {
                    file = Some(PathBuf::from(path));
                }
                _ => return Err(format!("{name} has no {word:?}")),
            }
        }
        let kind = match (name, size) {
            ("eeprom", size) => {
                let size = size.unwrap_or(256);
                let page = page.unwrap_or(if size > 256 { 32 } else { 8 });
                if !(128..=65536).contains(&size) || !size.is_power_of_two() {
                    return Err("an EEPROM has 128 to 65536 bytes, a power of two".to_owned());
                }
                if !(1..=size).contains(&page) || !page.is_power_of_two() {
                    return Err("a page is a power of two, and in the EEPROM".to_owned());
                }
                Kind::Eeprom { size, page, file }
            }
            ("thermometer", None) => Kind::Thermometer,
            ("registers", count) => match count.unwrap_or(256) {
                count @ 1..=256 => Kind::Registers { count },
                _ => return Err("there are 1 to 256 registers".to_owned()),
            },
            _ => return Err(format!("there is no part {part:?}, but eeprom, thermometer, registers")),
        };
        Ok(Self { address, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_described_in_a_word() {
        let eeprom =
            |size, page, file: Option<&str>| Kind::Eeprom { size, page, file: file.map(PathBuf::from) };
        let table = [
            ("eeprom@0x50", eeprom(256, 8, None)),
            ("eeprom:4096@0x50", eeprom(4096, 32, None)),
            ("eeprom:512@0x50,page=16,file=a@b:c", eeprom(512, 16, Some("a@b:c"))),
            ("thermometer@0x50", Kind::Thermometer),
            ("registers@0x50", Kind::Registers { count: 256 }),
            ("registers:1@0x50", Kind::Registers { count: 1 }),
        ];
        for (text, kind) in table {
            assert_eq!(text.parse(), Ok(PartSpec { address: Address::seven(0x50), kind }), "{text}");
        }
        let wrong = [
            "",
            "eeprom",
            "eeprom@",
            "@0x50",
            "eeprom:100@0x50",
            "eeprom:131072@0x50",
            "eeprom@0x50,page=3",
            "eeprom@0x50,page=512",
            "eeprom@0x50,colour=red",
            "thermometer:3@0x48",
            "thermometer@0x48,page=8",
            "registers:0@0x20",
            "registers:257@0x20",
            "clock@0x68",
            "eeprom:x@0x50",
            "eeprom@0x50,file=",
        ];
        for text in wrong {
            assert!(text.parse::<PartSpec>().is_err(), "{text:?}");
        }
    }
}
