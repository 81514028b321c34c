//! Reports that are driven: commands on the socket of a simulated mouse, and the events that come of them. Neither the device is
//! trusted, nor the socket: each event is compared, and a refusal ends the measurement.

use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::{Error, Notifications, Queue, Waiting};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::input::Event;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::bytes::offer;
use super::figures::Way;
use super::lane::{Lane, Outcome, Returned};

const EVENT: usize = size_of::<Event>();
const EV_REL: u16 = 2;
/// How long to wait before the socket is looked at, which may have refused.
const LOOK: Duration = Duration::from_millis(50);
/// What is answered to a command that was carried out.
const DONE: &[u8] = br#"{"return":null}"#;
/// The longest answer that is kept, in bytes.
const LONGEST: usize = 4096;

/// The socket.
pub(super) struct Drive {
    stream: UnixStream,
    /// Commands that were not sent yet.
    commands: Vec<u8>,
    /// The end of what was answered, as long as its line is not whole.
    answer: Vec<u8>,
}

impl Drive {
    /// # Errors
    /// The host refuses.
    pub(super) fn new(stream: UnixStream, timeout: Duration) -> Result<Self> {
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, commands: Vec::new(), answer: Vec::new() })
    }

    /// Adds a command: a report with these movements.
    fn stage(&mut self, movements: impl Iterator<Item = (u16, i32)>) {
        self.commands.extend(br#"{"command":"events","arguments":{"events":["#);
        for (code, by) in movements {
            // To memory: it does not fail.
            let _ = write!(self.commands, "[{EV_REL},{code},{by}],");
        }
        self.commands.pop();
        self.commands.extend(b"]}}\n");
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.stream.write_all(&self.commands).map_err(Error::Transport)?;
        self.commands.clear();
        Ok(())
    }

    /// Reads what was answered: there is not to be more than that all was done.
    fn look(&mut self) -> Result<()> {
        let mut bytes = [0; LONGEST];
        loop {
            match recv(&self.stream, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => bail!("the driving socket is closed"),
                Ok((len, _)) => self.hear(bytes.get(..len).unwrap_or_default())?,
                Err(Errno::WOULDBLOCK) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("the driving socket"),
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.answer.extend(part);
            ensure!(self.answer.len() <= LONGEST, "an answer of the driving socket has no end");
            if let Some(line) = self.answer.strip_suffix(b"\n") {
                ensure!(line == DONE, "the driving socket says {}", String::from_utf8_lossy(line));
                self.answer.clear();
            }
        }
        Ok(())
    }
}

/// Has reports made, and takes them.
pub(super) struct Reports<'a> {
    queue: &'a mut Queue,
    buffers: Vec<Segment>,
    drive: Drive,
    /// Movements of each report.
    movements: u16,
    /// Slots of reports that have not come, oldest first.
    away: VecDeque<u16>,
    /// How many reports were asked for.
    asked: u64,
    /// How many came.
    came: u64,
    /// How many events have come of the next.
    at: u16,
    /// How long nothing has come.
    quiet: Duration,
    /// Buffers were given back that the device has not been shown.
    refilled: bool,
}

impl<'a> Reports<'a> {
    /// # Errors
    /// The ring has no room for all buffers.
    pub(super) fn new(
        queue: &'a mut Queue,
        buffers: Vec<Segment>,
        drive: Drive,
        movements: u16,
    ) -> Result<Self> {
        for slot in 0..buffers.len() as u16 {
            offer(queue, &buffers, slot)?;
        }
        let (away, quiet) = (VecDeque::new(), Duration::ZERO);
        Ok(Self { queue, buffers, drive, movements, away, asked: 0, came: 0, at: 0, quiet, refilled: true })
    }

    fn show_refilled(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.refilled) { self.queue.publish() } else { Ok(()) }
    }

    /// Takes an event. True if a report ends with it.
    fn take(&mut self, slot: u16) -> Result<bool> {
        let mut event = Event::new_zeroed();
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        buffer.read_into(0, event.as_mut_bytes())?;
        let came = (event.kind.get(), event.code.get(), event.value.get().cast_signed());
        let ends = self.at == self.movements;
        let (code, by) = movement(self.came, self.movements, self.at);
        let expected = if ends { (0, 0, 0) } else { (EV_REL, code, by) };
        ensure!(came == expected, "the event {came:?} came for {expected:?}");
        self.at = if ends { 0 } else { self.at + 1 };
        self.came += u64::from(ends);
        Ok(ends)
    }
}

impl Lane for Reports<'_> {
    fn stage(&mut self, slot: u16) -> Result<()> {
        let (report, movements) = (self.asked, self.movements);
        self.drive.stage((0..movements).map(|at| movement(report, movements, at)));
        self.asked += 1;
        self.away.push_back(slot);
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.show_refilled()?;
        self.drive.publish()
    }

    fn poll(&mut self) -> Result<Option<Returned>> {
        while let Some((token, len)) = self.queue.poll()? {
            ensure!(len as usize == EVENT, "the device returned an event of {len} bytes");
            let ends = self.take(token as u16)?;
            offer(self.queue, &self.buffers, token as u16)?;
            (self.refilled, self.quiet) = (true, Duration::ZERO);
            if ends {
                let slot = self.away.pop_front().context("more reports came than were asked for")?;
                let bytes = EVENT as u32 * (u32::from(self.movements) + 1);
                return Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, bytes) }));
            }
        }
        self.drive.look()?;
        Ok(None)
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.show_refilled()?;
        if !self.queue.wait(how, LOOK)? {
            self.quiet += LOOK;
        }
        // The socket is looked at in between.
        Ok(self.quiet < timeout)
    }

    fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }
}

/// The movement at a place of a report: its axis, and how far.
fn movement(report: u64, movements: u16, at: u16) -> (u16, i32) {
    let number = report * u64::from(movements) + u64::from(at);
    (at % 2, 1 + (number % 0x7fff) as i32)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn drive() -> (Drive, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Drive::new(ours, Duration::from_secs(10)).unwrap(), theirs)
    }

    #[test]
    fn commands_are_lines_of_json_that_say_what_moves() {
        let (mut drive, mut device) = drive();
        for report in [0, 0x7ffe] {
            drive.stage((0..2).map(|at| movement(report, 2, at)));
        }
        drive.publish().unwrap();
        drop(drive);
        let mut text = String::new();
        device.read_to_string(&mut text).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events = |first, second| {
            let events = [[2, 0, first], [2, 1, second]];
            serde_json::json!({ "command": "events", "arguments": { "events": events } })
        };
        assert_eq!(lines, [events(1, 2), events(0x7ffe, 0x7fff)]);
    }

    #[test]
    fn answers_are_looked_at_however_they_come() {
        let (mut drive, mut device) = drive();
        drive.look().unwrap();
        for part in ["{\"return\":null}\n{\"ret", "urn\":null}\n", "{\"error\":"] {
            device.write_all(part.as_bytes()).unwrap();
            drive.look().unwrap();
        }
        device.write_all(b"\"no such axis\"}\n").unwrap();
        assert!(drive.look().unwrap_err().to_string().contains("no such axis"));
        drop(device);
        assert!(drive.look().unwrap_err().to_string().contains("closed"));
    }

    #[test]
    fn answer_without_end_is_an_error() {
        let (mut drive, mut device) = drive();
        device.write_all(&[b'x'; LONGEST + 1]).unwrap();
        assert!(drive.look().unwrap_err().to_string().contains("no end"));
    }
}
