//! Names of keys and switches, and where characters are on a keyboard of the United States.

use outboard_device::serde_json::Value;

use super::codes::{KEYS, SWITCHES};
use crate::frame::{Change, EV_KEY};

const KEY_LEFTSHIFT: u16 = 42;

/// Rows of keys with the code of the first, and what they give with Shift.
const ROWS: [(u16, &str, &str); 4] = [
    (2, "1234567890-=", "!@#$%^&*()_+"),
    (16, "qwertyuiop[]", "QWERTYUIOP{}"),
    (30, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (43, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
];
/// Keys that give the same with Shift and without.
const OTHERS: [(u16, char); 5] = [(57, ' '), (28, '\n'), (15, '\t'), (14, '\x08'), (1, '\x1b')];

/// The key that gives a character, and whether Shift belongs to it.
fn key_for(character: char) -> Option<(u16, bool)> {
    let other = OTHERS.iter().find(|(_, given)| *given == character).map(|(code, _)| (*code, false));
    other.or_else(|| {
        ROWS.iter().find_map(|(first, plain, shifted)| {
            let at = |row: &str| (*first..).zip(row.chars()).find(|(_, given)| *given == character);
            at(plain).map(|(code, _)| (code, false)).or_else(|| at(shifted).map(|(code, _)| (code, true)))
        })
    })
}

/// The frames of somebody who types.
pub(super) fn typed(text: &str) -> Result<Vec<Vec<Change>>, String> {
    let mut frames = Vec::new();
    for character in text.chars() {
        let (code, shift) = key_for(character).ok_or_else(|| format!("no key gives {character:?}"))?;
        let mut key = |code, value| frames.push(vec![Change::new(EV_KEY, code, value)]);
        if shift {
            key(KEY_LEFTSHIFT, 1);
        }
        key(code, 1);
        key(code, 0);
        if shift {
            key(KEY_LEFTSHIFT, 0);
        }
    }
    Ok(frames)
}

/// The key that a command names, or numbers.
pub(super) fn key_of(code: &Value) -> Result<u16, String> {
    code_of(KEYS, code).ok_or_else(|| format!("{code} is no key, such as \"KEY_A\" or 30"))
}

/// The switch that a command names, or numbers.
pub(super) fn switch_of(code: &Value) -> Result<u16, String> {
    code_of(SWITCHES, code).ok_or_else(|| format!("{code} is no switch, such as \"SW_LID\" or 0"))
}

fn code_of(names: &[(&str, u16)], code: &Value) -> Option<u16> {
    let number = code.as_u64().and_then(|number| u16::try_from(number).ok());
    let named = || names.iter().find(|(name, _)| Some(*name) == code.as_str()).map(|(_, number)| *number);
    number.or_else(named)
}

/// What a code is called, or its number.
pub(super) fn name_of(names: &[(&str, u16)], code: u16) -> Value {
    names.iter().find(|(_, number)| *number == code).map_or_else(|| code.into(), |(name, _)| (*name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that can be typed, by the names of its keys.
    #[test]
    fn characters_are_on_the_keys_that_are_called_after_them() {
        for character in ' '..='~' {
            let (code, shift) = key_for(character).unwrap();
            let name = KEYS.iter().find(|(_, number)| *number == code).unwrap().0;
            let expected = character.to_ascii_uppercase();
            if character.is_ascii_alphanumeric() {
                assert_eq!(
                    (name, shift),
                    (format!("KEY_{expected}").as_str(), character.is_ascii_uppercase())
                );
            }
        }
        let named =
            |character| KEYS.iter().find(|(_, code)| *code == key_for(character).unwrap().0).unwrap().0;
        let others = ['-', '{', '`', '\\', '<', '?', '\n', '\t', ' ', '"', ';', '+'].map(named);
        assert_eq!(
            others,
            [
                "KEY_MINUS",
                "KEY_LEFTBRACE",
                "KEY_GRAVE",
                "KEY_BACKSLASH",
                "KEY_COMMA",
                "KEY_SLASH",
                "KEY_ENTER",
                "KEY_TAB",
                "KEY_SPACE",
                "KEY_APOSTROPHE",
                "KEY_SEMICOLON",
                "KEY_EQUAL"
            ]
        );
        assert_eq!(key_for('é'), None);
    }
}
