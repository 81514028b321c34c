//! A command in one argument, cut into words as a shell does: blanks, quotes and backslashes, nothing else.

use anyhow::{Result, bail};

/// The words of `text`.
///
/// # Errors
/// A quote that is not closed, a backslash with nothing behind it.
pub(super) fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => quoted(&mut chars, word.get_or_insert_default(), '\'')?,
            '"' => quoted(&mut chars, word.get_or_insert_default(), '"')?,
            '\\' => match chars.next() {
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => bail!("a backslash at the end of: {text}"),
            },
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes everything up to the closing quote.
fn quoted(chars: &mut std::str::Chars<'_>, word: &mut String, quote: char) -> Result<()> {
    loop {
        match chars.next() {
            Some(char) if char == quote => return Ok(()),
            Some('\\') if quote == '"' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => word.push(escaped),
                Some(other) => word.extend(['\\', other]),
                None => break,
            },
            Some(char) => word.push(char),
            None => break,
        }
    }
    bail!("a quote {quote} is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_blanks_outside_of_quotes() {
        for (text, expected) in [
            ("a  b\tc", ["a", "b", "c"].as_slice()),
            ("'a b' \"c d\"", &["a b", "c d"]),
            (r#"a\ b "\"\\\n" '\'"#, &["a b", r#""\\n"#, r"\"]),
            ("x'y'\"z\" ''", &["xyz", ""]),
            ("", &[]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn words_left_open_are_an_error() {
        for text in ["'a", "\"a", "a\\", "\"a\\"] {
            assert!(words(text).is_err(), "{text}");
        }
    }
}
