//! One client of the control socket: its lines, and the answers to them.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use outboard_backend::Notice;
use outboard_device::serde_json::{Value, json};
use rustix::event::{PollFd, PollFlags};

use super::PATIENCE;
use super::commands::{Devices, Work, begin};

/// The longest line, in bytes, its end included.
const LINE_MAX: usize = 64 << 10;

pub(super) struct Client {
    stream: UnixStream,
    /// What was read and not looked at.
    input: Vec<u8>,
    /// What is to be written.
    output: Vec<u8>,
    work: Option<(Work, Instant)>,
    /// When it last said something.
    heard: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It says nothing more, or is not listened to any more: over when the answers have gone out.
    Closing,
    Over,
}

impl Client {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let now = Instant::now();
        Ok(Self { stream, input: Vec::new(), output: Vec::new(), work: None, heard: now, state: State::Open })
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// When its request has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.work.as_ref().map(|(_, deadline)| *deadline)
    }

    /// What it is polled for. That it is gone is told in any case.
    pub(super) fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        if !self.output.is_empty() {
            flags |= PollFlags::OUT;
        } else if self.work.is_none() && self.state == State::Open {
            flags |= PollFlags::IN;
        }
        PollFd::from_borrowed_fd(self.stream.as_fd(), flags)
    }

    /// Does what can be done without waiting. `ready`: the socket is.
    pub(super) fn serve(&mut self, ready: bool, devices: &impl Devices, answered: &Notice) {
        if ready && self.take_turn().is_err() {
            self.state = State::Over;
            return;
        }
        self.go_on(devices, answered);
        if self.flush().is_err() || self.is_done() {
            self.state = State::Over;
        }
    }

    /// The socket is ready: for what it was polled for, or because the client is gone.
    fn take_turn(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            return self.flush();
        }
        if self.work.is_some() || self.state == State::Closing {
            // Nothing was asked of poll: the client has hung up, and nobody waits for the answer.
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

    /// Answers what is under way if it has ended, and begins with the lines that are there, one after the other.
    fn go_on(&mut self, devices: &impl Devices, answered: &Notice) {
        loop {
            if let Some((mut work, deadline)) = self.work.take() {
                match work.poll(Instant::now() >= deadline) {
                    Some(answer) => self.answer(&answer),
                    None => {
                        self.work = Some((work, deadline));
                        return;
                    }
                }
            }
            if !self.output.is_empty() && self.flush().is_ok() && !self.output.is_empty() {
                return;
            }
            let Some(line) = self.next_line() else { return };
            match begin(&line, devices, answered) {
                Ok(work) => self.work = Some((work, Instant::now() + PATIENCE)),
                Err(reason) => self.answer(&json!({ "error": reason })),
            }
        }
    }

    /// A line that is not blank. At the end of what the client says, its end may be missing.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        loop {
            let end = self.input.iter().position(|byte| *byte == b'\n');
            if end.is_none_or(|end| end >= LINE_MAX) && self.input.len() >= LINE_MAX {
                self.input = Vec::new();
                self.answer(&json!({ "error": format!("a line has at most {LINE_MAX} bytes") }));
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

    fn answer(&mut self, answer: &Value) {
        self.output.extend(answer.to_string().bytes());
        self.output.push(b'\n');
    }

    fn flush(&mut self) -> io::Result<()> {
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

    fn is_done(&self) -> bool {
        self.state == State::Closing && self.work.is_none() && self.output.is_empty()
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
