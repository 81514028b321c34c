//! One end of a UNIX socket over which JSON objects go, one a line: what is read and not looked at, and what is to be
//! written. Nothing here waits. Whoever is at the other end is not trusted: lines have an end, and so has what is kept.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use outboard_device::serde_json::{Value, json};
use rustix::event::{PollFd, PollFlags};

/// The longest line, in bytes, its end included.
pub(crate) const LINE_MAX: usize = 64 << 10;

pub(crate) struct Lines {
    stream: UnixStream,
    /// What was read and not looked at.
    input: Vec<u8>,
    /// What is to be written.
    output: Vec<u8>,
    /// When the other end last said something.
    heard: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The other end says nothing more, or is not listened to any more: over when the answers have gone out.
    Closing,
    Over,
}

impl Lines {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (input, output) = (Vec::new(), Vec::new());
        Ok(Self { stream, input, output, heard: Instant::now(), state: State::Open })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// Bytes that are to be written.
    pub(crate) fn unread(&self) -> usize {
        self.output.len()
    }

    /// Whether there is a line to be looked at and nothing to be written before: no poll tells of it.
    pub(crate) fn is_behind(&self) -> bool {
        let line = self.input.contains(&b'\n') || (self.state == State::Closing && !self.input.is_empty());
        line && self.output.is_empty() && self.state != State::Over
    }

    /// What it is polled for: to be written to, or else to be read if it `listens`. That the other end is gone is told in any
    /// case.
    pub(crate) fn interest(&self, listens: bool) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        if !self.output.is_empty() {
            flags |= PollFlags::OUT;
        } else if listens && self.state == State::Open {
            flags |= PollFlags::IN;
        }
        PollFd::from_borrowed_fd(self.stream.as_fd(), flags)
    }

    /// Takes its turn when poll has found it ready: for what it was polled for, or because the other end is gone.
    pub(crate) fn take_turn(&mut self, listens: bool) {
        if self.try_turn(listens).is_err() {
            self.end();
        }
    }

    fn try_turn(&mut self, listens: bool) -> io::Result<()> {
        if !self.output.is_empty() {
            return self.write();
        }
        if !listens || self.state == State::Closing {
            // Nothing was asked of poll: the other end has hung up, and nobody waits for the answer.
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.state = State::Closing,
            Ok(count) => {
                self.heard = Instant::now();
                self.input.extend(buffer.iter().take(count));
            }
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// A line that is not blank. At the end of what the other end says, its end may be missing.
    pub(crate) fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.input.iter().position(|byte| *byte == b'\n');
            if end.is_none_or(|end| end >= LINE_MAX) && self.input.len() >= LINE_MAX {
                self.input = Vec::new();
                self.say(&json!({ "error": format!("a line has at most {LINE_MAX} bytes") }));
                self.state = State::Closing;
                return None;
            }
            let line: Vec<u8> = match end {
                Some(end) => self.input.drain(..=end).collect(),
                None if self.state == State::Closing => std::mem::take(&mut self.input),
                None => return None,
            };
            match line.trim_ascii() {
                [] if self.input.is_empty() => return None,
                [] => {}
                line => return Some(line.to_vec()),
            }
        }
    }

    /// Adds a line to what is to be written.
    pub(crate) fn say(&mut self, value: &Value) {
        self.output.extend(value.to_string().bytes());
        self.output.push(b'\n');
    }

    /// Writes what can be written without waiting, and ends if all is said.
    pub(crate) fn flush(&mut self, waits: bool) {
        let written = self.write();
        let all_said = self.state == State::Closing && self.input.is_empty() && self.output.is_empty();
        if written.is_err() || (all_said && !waits) {
            self.end();
        }
    }

    pub(crate) fn end(&mut self) {
        self.state = State::Over;
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
