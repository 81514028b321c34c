//! What a check is, and which there are.

use super::cx::Cx;
use super::groups;
use super::verdict::Checked;

/// One thing that must hold of a back end.
#[derive(Debug)]
pub(crate) struct Check {
    /// Its name for ever: `group.name`.
    pub(crate) id: &'static str,
    /// What must hold, as a sentence without its full stop.
    pub(crate) title: &'static str,
    /// Where that is written: a section of the specification, or `in use:` and the front ends that need it.
    pub(crate) spec: &'static str,
    /// Finds out.
    pub(crate) run: fn(&mut Cx) -> Checked,
}

impl Check {
    /// The part of the id before the dot.
    pub(crate) fn group(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(group, _)| group)
    }
}

/// All checks, group by group.
pub(crate) fn all() -> impl Iterator<Item = &'static Check> {
    groups::ALL.iter().copied().flatten()
}

/// Does `pattern` name the check: by its id, by its group, or with `*` for any part?
pub(crate) fn matches(pattern: &str, id: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == id || id.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('.'));
    };
    let Some(rest) = id.strip_prefix(before) else { return false };
    after.is_empty()
        || (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| matches_rest(after, rest)))
}

/// As [`matches`], where only the whole of `text` counts.
fn matches_rest(pattern: &str, text: &str) -> bool {
    if pattern.contains('*') { matches(pattern, text) } else { pattern == text }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        let mut seen = BTreeSet::new();
        for check in all() {
            assert!(seen.insert(check.id), "{} is there twice", check.id);
            let (group, name) = check.id.split_once('.').unwrap();
            let kebab = |text: &str| {
                text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            };
            assert!(kebab(group) && kebab(name) && !name.is_empty(), "{}", check.id);
            assert!(!check.title.ends_with('.') && !check.title.is_empty(), "{}", check.id);
            assert!(!check.spec.is_empty(), "{}", check.id);
        }
    }

    #[test]
    fn matches_takes_an_id_a_group_and_a_star() {
        assert!(matches("framing", "framing.reply-flags"));
        assert!(matches("framing.reply-flags", "framing.reply-flags"));
        assert!(matches("framing.*", "framing.reply-flags"));
        assert!(matches("*.reply-*s", "framing.reply-flags"));
        assert!(matches("*", "framing.reply-flags"));
        assert!(!matches("fram", "framing.reply-flags"));
        assert!(!matches("framing.reply", "framing.reply-flags"));
        assert!(!matches("*.reply", "framing.reply-flags"));
    }
}
