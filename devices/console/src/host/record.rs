//! A recording of what passes at a port, as asciinema reads it (asciicast v2): a JSON object, and a JSON array for each piece
//! with the seconds since the beginning. What is typed is recorded only if that is wanted: there are passwords in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};

use crate::Size;

/// A recording ends when it has so many bytes: a guest says what it likes.
const LONGEST: u64 = 1 << 30;

/// Writes a recording.
pub(crate) struct Recorder {
    path: PathBuf,
    /// `None`: it has ended.
    file: Option<File>,
    begun: Instant,
    records_input: bool,
    output: Text,
    input: Text,
    len: u64,
}

impl Recorder {
    /// Begins a recording in a new file, or in the place of an old one.
    pub(crate) fn create(path: &Path, size: Size, records_input: bool) -> Result<Self, DeviceError> {
        let failed = |error| DeviceError::host(format!("cannot record to {}", path.display()), error);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut recorder = Self {
            path: path.to_path_buf(),
            file: Some(file),
            begun: Instant::now(),
            records_input,
            output: Text::default(),
            input: Text::default(),
            len: 0,
        };
        let head = json!({ "version": 2, "width": size.cols, "height": size.rows, "timestamp": time });
        recorder.write(&head).map_err(failed)?;
        Ok(recorder)
    }

    /// The guest has put this out.
    pub(crate) fn output(&mut self, bytes: &[u8]) {
        let text = self.output.take(bytes);
        self.event("o", &text);
    }

    /// This was typed.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        if self.records_input {
            let text = self.input.take(bytes);
            self.event("i", &text);
        }
    }

    /// The console has another size.
    pub(crate) fn resized(&mut self, size: Size) {
        self.event("r", &size.to_string());
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn event(&mut self, kind: &str, text: &str) {
        if text.is_empty() || self.file.is_none() {
            return;
        }
        let event = json!([self.begun.elapsed().as_secs_f64(), kind, text]);
        let ends = match self.write(&event) {
            Ok(()) if self.len < LONGEST => return,
            Ok(()) => "it is long enough".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!("the recording {} ends: {ends}", self.path.display());
        self.file = None;
    }

    fn write(&mut self, line: &Value) -> io::Result<()> {
        let line = format!("{line}\n");
        self.len += line.len() as u64;
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()))
    }
}

/// Makes text of bytes that come in pieces: a character may be cut.
#[derive(Default)]
struct Text {
    cut: Vec<u8>,
}

impl Text {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.cut.extend(bytes);
        let whole = match std::str::from_utf8(&self.cut) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            // Other bytes that are no text may be followed by a character that is cut.
            Err(_) => whole_len(&self.cut),
            Ok(_) => self.cut.len(),
        };
        let rest = self.cut.split_off(whole);
        let text = String::from_utf8_lossy(&self.cut).into_owned();
        self.cut = rest;
        text
    }
}

/// How many bytes there are before a character that is cut at the end.
fn whole_len(bytes: &[u8]) -> usize {
    let begin = bytes.len().saturating_sub(3);
    let tail = bytes.get(begin..).unwrap_or_default();
    let cut = (0..tail.len()).find(|&at| {
        let end = tail.get(at..).unwrap_or_default();
        std::str::from_utf8(end).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    });
    cut.map_or(bytes.len(), |at| begin + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_device::serde_json;

    #[test]
    fn recording_is_text_in_pieces_with_times() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::create(file.path(), Size { cols: 80, rows: 24 }, true).unwrap();
        recorder.output(b"hello \xe2\x82");
        recorder.output(b"\xac\xff\"\x1b[0m\xf0\x9f");
        recorder.input(b"x");
        recorder.resized(Size { cols: 100, rows: 30 });
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(recorder.len(), text.len() as u64);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&lines[0]["version"], &lines[0]["width"], &lines[0]["height"]),
            (&json!(2), &json!(80), &json!(24))
        );
        let events: Vec<_> = lines[1..].iter().map(|line| (line[1].as_str(), line[2].as_str())).collect();
        let event = |kind, text| (Some(kind), Some(text));
        let expected = [
            event("o", "hello "),
            event("o", "\u{20ac}\u{fffd}\"\u{1b}[0m"),
            event("i", "x"),
            event("r", "100x30"),
        ];
        assert_eq!(events, expected);
        assert!(lines[1][0].as_f64().unwrap() <= lines[4][0].as_f64().unwrap());
    }

    #[test]
    fn recording_without_input_has_no_password() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::create(file.path(), Size { cols: 80, rows: 24 }, false).unwrap();
        recorder.input(b"secret");
        assert!(!std::fs::read_to_string(file.path()).unwrap().contains("secret"));
    }
}
