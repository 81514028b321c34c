//! Standard error: the log, and the one line that says why the program did not start.
//!
//! A reader of standard error that is slow, stuck or gone must not stop a device: nothing here blocks, and lines
//! that cannot be written at once are dropped. Text comes from options, paths and peers, so control characters
//! are escaped and a failure stays on one line.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::level_filters::LevelFilter;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    /// What ends the program or a connection
    Error,
    /// And what a front end, a guest or the host does wrong
    Warn,
    /// And connections that come and go
    Info,
    /// And every protocol message
    Debug,
    /// And what happens inside
    Trace,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Sets the log up for the process, panics included. A log that is set up already stays: the `outboard` tool has its
/// own.
pub(crate) fn init(level: LogLevel, format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(level))
        .with_writer(|| StandardError)
        // The subscriber would report a failed write with `eprintln!`, which panics where stderr is gone.
        .log_internal_errors(false);
    let _ = match format {
        LogFormat::Text => log.with_ansi(colours()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    let in_full = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{}", panicked(panic));
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            in_full(panic);
        }
    }));
}

/// What is known of a panic, in one line.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
    let text = panic.payload_as_str().unwrap_or("no reason given");
    escaped(&format!(
        "a bug: thread {} panicked{}: {text}",
        thread.name().unwrap_or("without name"),
        place.unwrap_or_default(),
    ))
}

/// Says in one line why `program` ends with a failure. This line is not subject to `--log-level`.
pub(crate) fn failure(program: &str, format: LogFormat, error: &dyn Error) {
    let reason = one_line(error);
    match format {
        LogFormat::Text => write_now(format!("{program}: {reason}\n").as_bytes()),
        LogFormat::Json => tracing::error!("{reason}"),
    }
}

/// An error and its causes in one line: a cause that the text ends with already is left out, as is the `(os error 2)`
/// that the standard library adds.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut text = without_code(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = without_code(&error.to_string());
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    escaped(&text)
}

fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

fn without_code(text: &str) -> String {
    match text.rsplit_once(" (os error ") {
        Some((before, code)) if code.strip_suffix(')').is_some_and(|n| n.parse::<i32>().is_ok()) => {
            before.into()
        }
        _ => text.into(),
    }
}

fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes to standard error what it takes without blocking; the rest is dropped. Async-signal-safe.
pub(crate) fn write_now(text: &[u8]) {
    let stderr = io::stderr();
    // A pipe that polls as writable takes PIPE_BUF bytes without blocking.
    for piece in text.chunks(libc::PIPE_BUF) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&now));
        if ready != Ok(1) || rustix::io::write(&stderr, piece).is_err() {
            return;
        }
    }
}

struct StandardError;

impl Write for StandardError {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        write_now(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Outer(String, #[source] io::Error);

    #[test]
    fn one_line_cause_already_named_is_not_repeated() {
        let cause = || io::Error::from_raw_os_error(libc::ENOENT);
        let error = Outer(format!("cannot open disk.img: {}", cause()), cause());
        assert_eq!(one_line(&error), "cannot open disk.img: No such file or directory");
    }

    #[test]
    fn one_line_cause_not_named_is_added() {
        let error = Outer("cannot open disk.img".into(), io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(one_line(&error), "cannot open disk.img: Permission denied");
    }

    #[test]
    fn one_line_control_characters_are_escaped() {
        let error = Outer("cannot open a\nb\u{1b}[31m".into(), io::Error::other("no"));
        assert_eq!(one_line(&error), "cannot open a\\nb\\u{1b}[31m: no");
    }
}
