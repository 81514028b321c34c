//! Addresses on a bus, lists of them, and how users write them. Those of the guest are bits only, and may be none.

use std::fmt;
use std::str::FromStr;

/// Most addresses of a list.
const MOST: usize = 1024;
/// Most bytes of what says where in a chip.
const MOST_POINTER: usize = 4;

/// An address of 7 or 10 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) bits: u16,
    /// It is sent in two bytes.
    pub(crate) ten: bool,
}

impl Address {
    #[cfg(test)]
    pub(crate) const fn seven(bits: u16) -> Self {
        Self { bits, ten: false }
    }

    /// As the header of a request has it (VIRTIO 1.3, 5.16.6.1); `None` if it means nobody.
    pub(crate) const fn of_request(addr: u16) -> Option<Self> {
        let (first, second) = (addr & 0xff, addr >> 8);
        let ten = Self { bits: (first & 6) << 7 | second, ten: true };
        let seven = Self { bits: first >> 1, ten: false };
        match (first & 1, first & 0xf8, second) {
            (0, 0xf0, _) => Some(ten),
            (0, _, 0) => Some(seven),
            _ => None,
        }
    }

    /// As the header of a request has it.
    #[cfg(test)]
    pub(crate) const fn to_request(self) -> u16 {
        use outboard_device::defs::i2c::{seven_bit, ten_bit};
        if self.ten { ten_bit(self.bits) } else { seven_bit(self.bits as u8) }
    }

    /// Its place in a table of all: the 128 short ones, then the 1024 long ones.
    pub(crate) const fn index(self) -> usize {
        self.bits as usize + if self.ten { 0x80 } else { 0 }
    }

    /// What [`Self::index`] was made of.
    pub(crate) fn of_index(index: usize) -> Self {
        let ten = index >= 0x80;
        Self { bits: (index - if ten { 0x80 } else { 0 }) as u16, ten }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:#04x}", if self.ten { "t" } else { "" }, self.bits)
    }
}

impl FromStr for Address {
    type Err = String;

    /// `0x50`, `80`; what needs more than 7 bits, or has a `t` before it, has 10.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('t').unwrap_or(text);
        let bits = match number.strip_prefix("0x") {
            Some(digits) => u16::from_str_radix(digits, 16),
            None => number.parse(),
        };
        let bits = bits.ok().filter(|bits| *bits <= 0x3ff);
        let bits = bits.ok_or_else(|| format!("{text:?} is no address: 0x03, 0x77, 0x3ff, t0x50"))?;
        let ten = bits > 0x7f || number.len() != text.len();
        // VIRTIO 1.3, 5.16.6.1: the patterns that begin an address of 10 bits.
        if !ten && bits & 0x7c == 0x78 {
            return Err(format!("{text:?} is no address of 7 bits: it would begin one of 10"));
        }
        Ok(Self { bits, ten })
    }
}

/// Addresses in a list, each with the one that it stands for: itself, if nothing else was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses(Vec<(Address, Address)>);

impl Addresses {
    /// What `address` stands for; `None` if it is not in the list.
    pub(crate) fn of(&self, address: Address) -> Option<Address> {
        self.0.iter().find(|(listed, _)| *listed == address).map(|(_, real)| *real)
    }

    /// All that are in the list.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Address> {
        self.0.iter().map(|(listed, _)| *listed)
    }
}

impl FromStr for Addresses {
    type Err = String;

    /// `0x50,0x68-0x6f,0x20=0x21`: the last is known as 0x20 here and is 0x21 there.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for item in text.split(',') {
            let (first, last, real) = if let Some((known, real)) = item.split_once('=') {
                let known = known.parse::<Address>()?;
                (known, known, Some(real.parse()?))
            } else if let Some((first, last)) = item.split_once('-') {
                (first.parse::<Address>()?, last.parse::<Address>()?, None)
            } else {
                let only = item.parse()?;
                (only, only, None)
            };
            if first.ten != last.ten || last < first {
                return Err(format!("{item:?} is no range of addresses"));
            }
            for bits in first.bits..=last.bits {
                let address = Address { bits, ten: first.ten };
                if list.of(address).is_some() {
                    return Err(format!("{address} is there twice"));
                }
                list.0.push((address, real.unwrap_or(address)));
            }
            if list.0.len() > MOST {
                return Err("there are not so many addresses".to_owned());
            }
        }
        Ok(list)
    }
}

/// Addresses that are for reading, and how many bytes at most say what of the chip is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadOnly(Vec<(Addresses, usize)>);

impl ReadOnly {
    /// Of how many bytes the pointer is; `None` if the address is not in the list.
    pub(crate) fn pointer(&self, address: Address) -> Option<usize> {
        self.0.iter().find(|(list, _)| list.of(address).is_some()).map(|(_, pointer)| *pointer)
    }
}

impl FromStr for ReadOnly {
    type Err = String;

    /// `0x48,0x50-0x57/2,0x20/0`: of one byte, unless it is said.
    fn from_str(text: &str) -> Result<Self, String> {
        let items = || text.split(',').map(|item| item.split_once('/').unwrap_or((item, "1")));
        // None may be there twice, whatever is behind it.
        items().map(|(list, _)| list).collect::<Vec<_>>().join(",").parse::<Addresses>()?;
        let parsed = items().map(|(list, bytes)| {
            let pointer = bytes.parse().ok().filter(|bytes| *bytes <= MOST_POINTER);
            Ok((
                list.parse()?,
                pointer.ok_or(format!("{bytes:?}: 0 to {MOST_POINTER} bytes say what is read"))?,
            ))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_request_is_told_by_its_pattern() {
        let ten = |bits| Some(Address { bits, ten: true });
        let table = [
            (0x00a0, Some(Address::seven(0x50))),
            (0x0000, Some(Address::seven(0))),
            (0x00ee, Some(Address::seven(0x77))),
            (0x00f8, Some(Address::seven(0x7c))),
            (0x00f0, ten(0)),
            (0x50f2, ten(0x150)),
            (0xfff6, ten(0x3ff)),
            (0x00a1, None),
            (0x01a0, None),
            (0x50f3, None),
            (0xffff, None),
        ];
        for (addr, address) in table {
            assert_eq!(Address::of_request(addr), address, "{addr:#06x}");
            if let Some(address) = address {
                assert_eq!(address.to_request(), addr);
                assert_eq!(Address::of_index(address.index()), address);
            }
        }
    }

    #[test]
    fn addresses_are_written_in_either_base_and_told_apart_by_size() {
        let table = [("0x50", 0x50, false), ("80", 80, false), ("0x80", 0x80, true), ("t0x50", 0x50, true)];
        for (text, bits, ten) in table {
            assert_eq!(text.parse(), Ok(Address { bits, ten }), "{text}");
        }
        for text in ["", "x", "0x400", "-1", "t", "0x78", "0x7b", "0x"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        assert_eq!(
            [Address::seven(3).to_string(), "t5".parse::<Address>().unwrap().to_string()],
            ["0x03", "t0x05"]
        );
    }

    #[test]
    fn list_knows_ranges_and_renames() {
        let list: Addresses = "0x50,0x68-0x6a,0x20=0x21,t3=0x30".parse().unwrap();
        let real = |text: &str| list.of(text.parse().unwrap()).map(|address| address.to_string());
        let table =
            [("0x50", Some("0x50")), ("0x69", Some("0x69")), ("0x20", Some("0x21")), ("t3", Some("0x30"))];
        for (known, there) in table {
            assert_eq!(real(known).as_deref(), there, "{known}");
        }
        assert_eq!([real("0x21"), real("0x6b"), real("3")], [None, None, None]);
        assert_eq!(list.iter().count(), 6);
        for text in ["", "0x50,0x50", "0x50-0x40", "0x70-t0x90", "0x20=", "=0x20", "1-3,2"] {
            assert!(text.parse::<Addresses>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn read_only_list_knows_how_long_a_pointer_is() {
        let list: ReadOnly = "0x48,0x50-0x51/2,0x20/0,t3/4".parse().unwrap();
        let pointer = |text: &str| list.pointer(text.parse().unwrap());
        let table = [("0x48", Some(1)), ("0x51", Some(2)), ("0x20", Some(0)), ("t3", Some(4)), ("3", None)];
        for (address, bytes) in table {
            assert_eq!(pointer(address), bytes, "{address}");
        }
        for text in ["", "0x50/", "0x50/5", "0x50/-1", "0x50/1/1", "/1", "0x50,0x50/2", "0x50/0x1"] {
            assert!(text.parse::<ReadOnly>().is_err(), "{text:?}");
        }
    }
}
