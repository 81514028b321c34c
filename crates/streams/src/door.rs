//! Whoever comes by TCP proves that he may: his first line is the token.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use outboard_device::DeviceError;

use crate::Stream;

/// The shortest token, in bytes.
const SHORTEST: usize = 16;
/// The longest, in bytes.
const LONGEST: usize = 128;

/// A secret of an administrator, from a file.
#[derive(Clone)]
pub struct Token(Arc<[u8]>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// What is known of somebody at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// He has not said enough. Who asks again and again does not wait for ever.
    Waits,
    /// He may come in; his line is taken, and nothing behind it.
    Admitted,
    /// He may not.
    Refused,
}

/// Looks at the first line of each who comes.
#[derive(Clone, Debug)]
pub struct Door(Option<Token>);

impl Token {
    /// The first line of a file, 16 to 128 bytes, that nobody but its owner can read.
    ///
    /// # Errors
    /// It is not so.
    pub fn read(path: &Path) -> Result<Self, DeviceError> {
        let failed = |error| DeviceError::host(format!("cannot read {}", path.display()), error);
        let wrong = |what: &str| Err(DeviceError::Invalid(format!("{} {what}", path.display())));
        if std::fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
            return wrong("can be read by others: a token's file has mode 0600");
        }
        let bytes = std::fs::read(path).map_err(failed)?;
        let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !(SHORTEST..=LONGEST).contains(&line.len()) {
            return wrong("has a first line that is no token: 16 to 128 bytes are");
        }
        Ok(Self(line.into()))
    }

    /// Whether `guess` is it. Takes as long for any guess of the same length.
    fn is(&self, guess: &[u8]) -> bool {
        let differs = self.0.iter().zip(guess).fold(0, |differs, (one, other)| differs | (one ^ other));
        std::hint::black_box(differs) == 0 && self.0.len() == guess.len()
    }
}

impl Door {
    /// A door that `token` opens, or one that stands open.
    #[must_use]
    pub fn new(token: Option<Token>) -> Self {
        Self(token)
    }

    /// Looks at what the one at `stream` has said so far.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn judge(&self, stream: &Stream) -> io::Result<Verdict> {
        let Some(token) = &self.0 else { return Ok(Verdict::Admitted) };
        let mut said = [0; LONGEST + 2];
        let len = match stream.receive(&mut said, true) {
            Ok(0) => return Ok(Verdict::Refused),
            Ok(len) => len.min(said.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Verdict::Waits),
            Err(error) => return Err(error),
        };
        let said = said.get_mut(..len).unwrap_or_default();
        let Some(end) = said.iter().position(|&byte| byte == b'\n') else {
            return Ok(if len > LONGEST { Verdict::Refused } else { Verdict::Waits });
        };
        let (line, _) = said.split_at_mut(end + 1);
        // What was seen is there.
        stream.receive(line, false)?;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(if token.is(line) { Verdict::Admitted } else { Verdict::Refused })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::{Form, pair};

    fn token(text: &str, mode: u32) -> Result<Token, DeviceError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        Token::read(file.path())
    }

    #[test]
    fn token_file_must_be_private_and_of_some_length() {
        assert!(token("0123456789abcdef\nmore", 0o600).is_ok());
        for (text, mode) in [("0123456789abcdef", 0o640), ("short", 0o600), (&*"x".repeat(129), 0o600)] {
            assert!(token(text, mode).is_err(), "{text}");
        }
    }

    #[test]
    fn door_opens_to_the_token_alone_and_takes_no_more_than_its_line() {
        let door = Door::new(Some(token("0123456789abcdef", 0o600).unwrap()));
        let say = |text: &[u8]| {
            let (one, other) = pair(Form::Bytes).unwrap();
            one.send(text).unwrap();
            (door.judge(&other).unwrap(), one, other)
        };
        let (verdict, _one, other) = say(b"0123456789abcdef\r\nhello");
        assert_eq!(verdict, Verdict::Admitted);
        assert_eq!(other.receive(&mut [0; 9], false).unwrap(), 5);
        for wrong in [&b"0123456789abcdeg\n"[..], b"0123456789abcde\n", b"\n", &[b'x'; 130]] {
            assert_eq!(say(wrong).0, Verdict::Refused);
        }
        let (verdict, one, other) = say(b"0123456789");
        assert_eq!(verdict, Verdict::Waits);
        one.send(b"abcdef\n").unwrap();
        assert_eq!(door.judge(&other).unwrap(), Verdict::Admitted);
        drop(one);
        assert_eq!(door.judge(&other).unwrap(), Verdict::Refused);
    }
}
