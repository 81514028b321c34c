//! The script: commands with their times.

use std::path::Path;
use std::time::Duration;

use outboard_device::DeviceError;
use outboard_device::serde_json::{self, Map, Value};

use crate::request::Request;

/// The longest script, in bytes.
const SIZE_MAX: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Script {
    lines: Vec<Line>,
    repeat: bool,
    /// The line that comes next, and when the present round began, on the script's clock.
    next: usize,
    round: Duration,
}

#[derive(Debug)]
struct Line {
    /// Since the round began.
    at: Duration,
    command: String,
    arguments: Value,
}

impl Script {
    pub(super) fn read(path: &Path, repeat: bool) -> Result<Self, DeviceError> {
        let host = |error| DeviceError::host(format!("cannot read {}", path.display()), error);
        let size = std::fs::metadata(path).map_err(host)?.len();
        if size > SIZE_MAX {
            return Err(DeviceError::Invalid(format!("{}: more than {SIZE_MAX} bytes", path.display())));
        }
        let text = std::fs::read_to_string(path).map_err(host)?;
        Self::parse(&text, repeat)
            .map_err(|reason| DeviceError::Invalid(format!("{}: {reason}", path.display())))
    }

    pub(super) fn parse(text: &str, repeat: bool) -> Result<Self, String> {
        let mut lines: Vec<Line> = Vec::new();
        for (number, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() {
                continue;
            }
            let before = lines.last().map_or(Duration::ZERO, |line| line.at);
            lines.push(parse(text, before).map_err(|reason| format!("line {number}: {reason}"))?);
        }
        match lines.last() {
            Some(last) if repeat && last.at.is_zero() => {
                Err("a script that repeats takes a millisecond at least".to_owned())
            }
            _ => Ok(Self { lines, repeat, next: 0, round: Duration::ZERO }),
        }
    }

    /// When the next command is due, on the script's clock. `None`: at the end.
    pub(super) fn due(&self) -> Option<Duration> {
        self.lines.get(self.next).map(|line| self.round + line.at)
    }

    /// Takes the command that is due at `now`, if there is one.
    pub(super) fn take(&mut self, now: Duration) -> Option<(&str, &Value)> {
        if self.due()? > now {
            return None;
        }
        let line = self.lines.get(self.next)?;
        self.next += 1;
        if self.repeat && self.next == self.lines.len() {
            self.next = 0;
            self.round += line.at;
        }
        Some((&line.command, &line.arguments))
    }
}

fn parse(text: &str, before: Duration) -> Result<Line, String> {
    let mut object: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))?;
    let mut time = |key: &str| match object.remove(key).map(|value| value.as_u64()) {
        None => Ok(None),
        Some(Some(milliseconds)) if milliseconds <= 1 << 40 => Ok(Some(Duration::from_millis(milliseconds))),
        Some(_) => Err(format!("{key}: a number of milliseconds")),
    };
    let at = match (time("at")?, time("after")?) {
        (Some(_), Some(_)) => return Err("at or after, not both".to_owned()),
        (Some(at), None) if at < before => return Err("before the line before".to_owned()),
        (Some(at), None) => at,
        (None, after) => before + after.unwrap_or_default(),
    };
    match Request::take(&mut object)? {
        Request { device: Some(_), .. } => Err("a script drives its own device".to_owned()),
        Request { command, device: None, arguments } => Ok(Line { at, command, arguments }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
{"command": "a"}
{"after": 10, "command": "b", "arguments": {"x": 1}}
{"at": 10, "command": "c"}

{"after": 5, "command": "d"}"#;

    fn run(script: &mut Script, now: u64) -> Vec<String> {
        let now = Duration::from_millis(now);
        std::iter::from_fn(|| script.take(now).map(|(command, _)| command.to_owned())).collect()
    }

    #[test]
    fn commands_are_due_at_their_times_once_or_again_and_again() {
        for repeat in [false, true] {
            let mut script = Script::parse(TEXT, repeat).unwrap();
            assert_eq!(run(&mut script, 0), ["a"]);
            assert_eq!(script.due(), Some(Duration::from_millis(10)));
            assert!(run(&mut script, 9).is_empty());
            assert_eq!(run(&mut script, 11), ["b", "c"]);
            let rest = run(&mut script, 25);
            if repeat {
                assert_eq!(rest, ["d", "a", "b", "c"]);
                assert_eq!(run(&mut script, 30), ["d", "a"]);
            } else {
                assert_eq!(rest, ["d"]);
                assert_eq!(script.due(), None);
            }
        }
        assert_eq!(Script::parse("", true).unwrap().due(), None);
    }

    #[test]
    fn line_that_makes_no_sense_is_named() {
        for (text, reason) in [
            ("{\"command\": \"a\"}\nx", "line 2"),
            ("[]", "JSON"),
            ("{}", "a request has a command"),
            (r#"{"command": "a", "at": 1, "after": 1}"#, "not both"),
            (r#"{"command": "a", "at": -1}"#, "milliseconds"),
            (r#"{"command": "a", "after": 18446744073709551615}"#, "milliseconds"),
            ("{\"at\": 2, \"command\": \"a\"}\n{\"at\": 1, \"command\": \"a\"}", "line 2: before"),
            (r#"{"command": "a", "device": "b"}"#, "its own device"),
            (r#"{"command": "a", "when": 1}"#, "when"),
        ] {
            let error = Script::parse(text, false).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Script::parse("{\"command\": \"a\"}", true).is_err(), "it would never rest");
    }
}
