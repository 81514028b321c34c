//! The names of lines, as a driver gets them: each ended by a zero, in the order of the lines; nothing at all if no line
//! has one (VIRTIO 1.3, 5.18.6.2).

use std::collections::{HashMap, HashSet};

use outboard_device::DeviceError;
use outboard_device::defs::gpio::NAME_MAX;

/// A line that the guest gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its number on the chip.
    pub(crate) number: u32,
    /// What the user calls it.
    pub(crate) given: Option<&'a str>,
    /// What the chip calls it; empty if it has no name.
    pub(crate) own: &'a str,
}

impl<'a> Wanted<'a> {
    fn name(&self) -> &'a str {
        self.given.unwrap_or(self.own)
    }
}

/// The name of each line: the user's, or the chip's. Boards call several lines `NC`, or write what no driver may get: such
/// names of the chip are left out.
pub(crate) fn settle(lines: &[Wanted<'_>]) -> Vec<String> {
    let mut times = HashMap::new();
    lines.iter().for_each(|line| *times.entry(line.name()).or_insert(0_u32) += 1);
    let is_left_out = |line: &&Wanted<'_>| {
        let name = line.name();
        line.given.is_none() && !name.is_empty() && !(is_name(name) && times.get(name) == Some(&1))
    };
    let left_out: Vec<u32> = lines.iter().filter(is_left_out).map(|line| line.number).collect();
    if !left_out.is_empty() {
        tracing::warn!(
            "lines {left_out:?} are nameless for the guest: their names are there twice, or unprintable"
        );
    }
    let name = |line| if is_left_out(&line) { String::new() } else { line.name().to_owned() };
    lines.iter().map(name).collect()
}

/// Whether a driver may get it.
fn is_name(name: &str) -> bool {
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

    #[test]
    fn names_of_the_chip_that_cannot_be_are_left_out_and_the_users_are_not() {
        let own = |own| Wanted { number: 0, given: None, own };
        let lines = [own("NC"), own("door"), own("NC"), own("\u{fffd}"), own(""), own("LED")];
        assert_eq!(settle(&lines), ["", "door", "", "", "", "LED"]);
        let given = |given| Wanted { given: Some(given), ..own("NC") };
        assert_eq!(
            settle(&[given("LED"), own("LED"), own("NC")]),
            ["LED", "", "NC"],
            "the user's goes before"
        );
        let wrong = settle(&[given("LED"), given("LED")]);
        assert!(block(wrong.iter().map(String::as_str)).is_err(), "the user hears of it");
    }
}
