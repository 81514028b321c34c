//! Addresses on an I2C bus, as users write them.

/// An address of 7 bits that a chip can have: `0x50`, `80`.
pub(crate) fn i2c_address(text: &str) -> Result<u8, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.ok().filter(|address| *address < 0x78).ok_or_else(|| "an address, below 0x78".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_written_in_either_base() {
        assert_eq!(["0x50", "80", "0x77"].map(i2c_address), [Ok(0x50), Ok(80), Ok(0x77)]);
        for text in ["", "0x78", "-1", "0x", "x", "256"] {
            assert!(i2c_address(text).is_err(), "{text:?}");
        }
    }
}
