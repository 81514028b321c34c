//! The names of lines, as a driver gets them: each ended by a zero, in the order of the lines; nothing at all if no line
//! has one (VIRTIO 1.3, 5.18.6.2).

use std::collections::HashSet;

use outboard_device::DeviceError;
use outboard_device::defs::gpio::NAME_MAX;

/// Whether a driver may get it.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() < NAME_MAX && name.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// The block of names.
///
/// # Errors
/// A name that is too long, is not of printable 7-bit characters, or is there twice.
pub(crate) fn block<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<Vec<u8>, DeviceError> {
    let mut seen = HashSet::new();
    for name in names.clone().filter(|name| !name.is_empty()) {
        if !is_name(name) {
            return Err(DeviceError::Invalid(format!(
                "{name:?} is no name for a line: 31 printable characters at most"
            )));
        }
        if !seen.insert(name) {
            return Err(DeviceError::Invalid(format!("two lines are called {name:?}")));
        }
    }
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    Ok(names.flat_map(|name| name.bytes().chain([0])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_has_a_name_for_each_line_or_none_at_all() {
        let of = |names: &[&str]| block(names.iter().copied()).ok();
        assert_eq!(of(&["door", "", "LED 1"]), Some(b"door\0\0LED 1\0".to_vec()));
        assert_eq!([of(&["", ""]), of(&[])], [Some(vec![]), Some(vec![])]);
        let long = "x".repeat(32);
        for wrong in [&["a", "a"][..], &["\u{e4}"], &["a\n"], &[&long]] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert!(of(&[&long[1..]]).is_some());
    }
}
