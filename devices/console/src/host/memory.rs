//! Far ends in memory: a ring that keeps the end of what the guest has sent, an echo, and nothing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};

use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};

use super::Far;

/// Bytes for the guest that wait at most.
const INPUT: usize = 64 << 10;

/// Keeps what was sent last, and has what is typed in.
pub(crate) struct Ring {
    sent: VecDeque<u8>,
    size: usize,
    /// Bytes that were sent before the first that is still here.
    gone: u64,
    typed: VecDeque<u8>,
}

impl Ring {
    pub(super) fn new(size: usize) -> Self {
        Self { sent: VecDeque::new(), size, gone: 0, typed: VecDeque::new() }
    }

    /// What the guest has sent from byte `from` on, as far as it is here.
    pub(crate) fn show(&mut self, from: u64) -> Value {
        let begin = from.clamp(self.gone, self.gone + self.sent.len() as u64);
        let bytes = self.sent.make_contiguous();
        let rest = bytes.get((begin - self.gone) as usize..).unwrap_or_default();
        json!({ "from": begin, "next": begin + rest.len() as u64, "text": String::from_utf8_lossy(rest) })
    }

    /// Types something in, for the guest; all of it or nothing.
    pub(crate) fn type_in(&mut self, text: &str) -> Result<(), DeviceError> {
        if text.len() > INPUT - self.typed.len() {
            return Err(DeviceError::Invalid(format!(
                "the guest has not taken {} bytes yet; there is room for {INPUT}",
                self.typed.len()
            )));
        }
        self.typed.extend(text.as_bytes());
        Ok(())
    }
}

impl Far for Ring {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        take(&mut self.typed, into)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let kept = bytes.get(bytes.len().saturating_sub(self.size)..).unwrap_or_default();
        let over = (self.sent.len() + kept.len()).saturating_sub(self.size);
        self.sent.drain(..over);
        self.sent.extend(kept);
        self.gone += (over + bytes.len() - kept.len()) as u64;
        Ok(bytes.len())
    }

    fn has_input(&self) -> bool {
        !self.typed.is_empty()
    }

    fn ring(&mut self) -> Option<&mut Ring> {
        Some(self)
    }
}

/// Sends back what it gets.
#[derive(Default)]
pub(super) struct Echo(VecDeque<u8>);

impl Far for Echo {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        take(&mut self.0, into)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len().min(INPUT - self.0.len()) {
            0 => Err(ErrorKind::WouldBlock.into()),
            len => self.0.write(bytes.get(..len).unwrap_or(bytes)),
        }
    }

    fn has_input(&self) -> bool {
        !self.0.is_empty()
    }

    fn forget(&mut self) -> bool {
        self.0.clear();
        true
    }
}

/// Takes everything and has nothing.
pub(super) struct Null;

impl Far for Null {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
}

fn take(from: &mut VecDeque<u8>, into: &mut [u8]) -> io::Result<usize> {
    match from.read(into)? {
        0 => Err(ErrorKind::WouldBlock.into()),
        len => Ok(len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_keeps_the_end_of_what_was_sent_and_knows_where_it_is() {
        let mut ring = Ring::new(8);
        for (bytes, expected) in [
            (&b"abc"[..], (0, 3, "abc")),
            (b"defgh", (0, 8, "abcdefgh")),
            (b"ij", (2, 10, "cdefghij")),
            (b"0123456789", (12, 20, "23456789")),
        ] {
            assert_eq!(ring.write(bytes).unwrap(), bytes.len());
            let (from, next, text) = expected;
            assert_eq!(ring.show(0), json!({ "from": from, "next": next, "text": text }));
        }
        assert_eq!(ring.show(18)["text"], "89");
        assert_eq!(ring.show(u64::MAX), json!({ "from": 20, "next": 20, "text": "" }));
    }

    #[test]
    fn input_is_bounded() {
        let mut ring = Ring::new(8);
        ring.type_in(&"x".repeat(INPUT)).unwrap();
        assert!(ring.type_in("y").is_err());
        let mut echo = Echo::default();
        assert_eq!(echo.write(&vec![0; INPUT + 1]).unwrap(), INPUT);
        assert_eq!(echo.write(b"x").unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(echo.read(&mut [0; 10]).unwrap(), 10);
        assert_eq!(echo.write(b"0123456789012").unwrap(), 10);
    }
}
