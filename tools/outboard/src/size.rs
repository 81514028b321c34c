//! Amounts of bytes as the user writes them.

use std::fmt;
use std::str::FromStr;

/// An amount of bytes, written as a number with a suffix if need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, 0)
    }
}

impl Size {
    /// The amount that `text` says; without a suffix the number counts units of two to the power of `unit` bytes.
    ///
    /// # Errors
    /// It is no number with a suffix, or too large.
    pub(crate) fn parse(text: &str, unit: u32) -> Result<Self, &'static str> {
        let suffixed = match text.bytes().last() {
            Some(b'k' | b'K') => Some(10),
            Some(b'm' | b'M') => Some(20),
            Some(b'g' | b'G') => Some(30),
            Some(b't' | b'T') => Some(40),
            _ => None,
        };
        let digits = if suffixed.is_some() { text.get(..text.len() - 1).unwrap_or_default() } else { text };
        let number: u64 =
            digits.parse().map_err(|_| "a size is a number, with suffix K, M, G or T if need be")?;
        number.checked_mul(1 << suffixed.unwrap_or(unit)).map(Self).ok_or("that is too much")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if bytes != 0 && bytes.is_multiple_of(1 << shift) {
                return write!(out, "{} {unit}", bytes >> shift);
            }
        }
        write!(out, "{bytes} B")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_with_and_without_suffix_is_bytes() {
        for (text, bytes, shown) in [
            ("512", 512, "512 B"),
            ("4k", 4096, "4 KiB"),
            ("128K", 131_072, "128 KiB"),
            ("1M", 1 << 20, "1 MiB"),
            ("3G", 3 << 30, "3 GiB"),
            ("1536", 1536, "1536 B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string()), (bytes, shown.to_owned()));
        }
    }

    #[test]
    fn size_that_is_none_is_refused() {
        for text in ["", "K", "-1", "1.5M", "99999999999T", "4KiB", "1Ｇ"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
