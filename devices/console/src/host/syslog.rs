//! The system's log: lines of the guest, a message each, as syslog(3) sends them.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Far, Watch};

/// Where the log is without an option.
pub(crate) const LOG: &str = "/dev/log";
/// Facility daemon, severity info (RFC 5424, 6.2.1).
const PRIORITY: u8 = 3 << 3 | 6;
/// Bytes of a line; a longer one becomes several.
const LONGEST: usize = 1000;
/// How often a log that is not there is looked for.
const AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Syslog {
    path: PathBuf,
    tag: String,
    watch: Watch,
    log: Option<UnixDatagram>,
    next_look: Option<Instant>,
    /// The line that has not ended.
    line: Vec<u8>,
}

impl Syslog {
    pub(super) fn new(path: PathBuf, tag: String, watch: Watch) -> Self {
        Self { path, tag, watch, log: None, next_look: None, line: Vec::new() }
    }

    fn connect(&self) -> io::Result<UnixDatagram> {
        let log = UnixDatagram::unbound()?;
        log.set_nonblocking(true)?;
        log.connect(&self.path)?;
        self.watch.add(&log, true)?;
        Ok(log)
    }

    /// Hands a line over: what of it is text.
    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let text: String = String::from_utf8_lossy(line).chars().filter(|it| !it.is_control()).collect();
        let Some(log) = self.log.as_ref().filter(|_| !text.is_empty()) else { return Ok(()) };
        match log.send(format!("<{PRIORITY}>{}: {text}", self.tag).as_bytes()) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                self.log = None;
                Err(error)
            }
            result => result.map(drop),
        }
    }
}

impl Far for Syslog {
    fn look(&mut self, now: Instant) -> bool {
        if self.log.is_none() && self.next_look.is_none_or(|next| next <= now) {
            self.next_look = Some(now + AGAIN);
            self.log = self.connect().ok();
        }
        false
    }

    fn is_open(&self) -> bool {
        self.log.is_some()
    }

    fn is_polled(&self) -> bool {
        self.log.is_none()
    }

    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LONGEST - self.line.len();
        let end = bytes.iter().take(room).position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(bytes.len().min(room));
        let part = bytes.get(..taken).unwrap_or_default();
        if end.is_none() && taken < room {
            self.line.extend_from_slice(part);
            return Ok(taken);
        }
        // Nothing has happened if the log takes nothing now.
        let line = [&self.line, part].concat();
        self.send(&line)?;
        self.line.clear();
        Ok(taken + usize::from(end.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use outboard_streams::Poller;

    use super::*;

    fn far(path: &Path) -> Syslog {
        let watch = Watch::new(&Arc::new(Poller::new().unwrap()), 0);
        Syslog::new(path.to_owned(), "vm1".to_owned(), watch)
    }

    fn put(far: &mut Syslog, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let len = far.write(bytes).unwrap();
            bytes = &bytes[len..];
        }
    }

    #[test]
    fn lines_are_messages_and_hold_nothing_but_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        log.set_nonblocking(true).unwrap();
        let mut far = far(&path);
        far.look(Instant::now());
        assert!(far.is_open());
        put(&mut far, b"begun\r\n\n\x1b[1mhal");
        put(&mut far, b"f\xff\nrest");
        put(&mut far, &[b'x'; LONGEST]);
        let mut heard = Vec::new();
        let mut room = [0; 2048];
        while let Ok(len) = log.recv(&mut room) {
            heard.push(String::from_utf8(room[..len].to_vec()).unwrap());
        }
        let long = format!("<30>vm1: rest{}", "x".repeat(LONGEST - 4));
        assert_eq!(heard, ["<30>vm1: begun", "<30>vm1: [1mhalf\u{fffd}", &long]);
    }

    #[test]
    fn log_that_takes_nothing_is_asked_again_and_one_that_went_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut far = far(&path);
        let start = Instant::now();
        far.look(start);
        assert!(!far.is_open() && far.is_polled());
        let log = UnixDatagram::bind(&path).unwrap();
        far.look(start + AGAIN / 2);
        assert!(!far.is_open());
        far.look(start + AGAIN);
        // A line that is refused is not half taken.
        put(&mut far, b"a ");
        let mut sent = 0;
        let full = loop {
            match far.write(b"line\n") {
                Ok(_) => sent += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let mut room = [0; 64];
        let len = log.recv(&mut room).unwrap();
        assert_eq!(&room[..len], b"<30>vm1: a line");
        put(&mut far, b"last\n");
        for _ in 1..sent {
            assert_eq!(log.recv(&mut room).unwrap(), b"<30>vm1: line".len());
        }
        let len = log.recv(&mut room).unwrap();
        assert_eq!(&room[..len], b"<30>vm1: last");
        drop(log);
        assert!(far.write(b"lost\n").is_err() && !far.is_open());
    }
}
