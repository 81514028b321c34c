//! What the guest's lines are called, of all that the chip and the user say.

use std::collections::HashMap;

use crate::names::is_name;

/// A line that the guest gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Its number on the chip.
    pub(super) number: u32,
    /// What the user calls it.
    pub(super) given: Option<&'a str>,
    /// What the chip calls it; empty if it has no name.
    pub(super) own: &'a str,
}

impl<'a> Wanted<'a> {
    fn name(&self) -> &'a str {
        self.given.unwrap_or(self.own)
    }
}

/// The name of each line: the user's, or the chip's. Boards call several lines `NC`, or write what no driver may get: such
/// names of the chip are left out.
pub(super) fn settle(lines: &[Wanted<'_>]) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

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
        assert!(names::block(wrong.iter().map(String::as_str)).is_err(), "the user hears of it");
    }
}
