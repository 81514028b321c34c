//! A port: bytes from the guest to its far end, and back.
//!
//! Theory of operation. What the guest sends goes into a backlog and from there to the far end at once; the chain is complete
//! by then, since drivers wait for that. Only while the far end takes nothing, and the backlog is full, do chains wait: those of
//! a console for [`HELD_UP`] at most, since Linux waits for them with interrupts off, on whatever CPU has something to print.
//! What comes from the far end is read straight into chains, and only if there are some.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use outboard_device::serde_json::{Value, json};
use outboard_device::{Chain, DeviceError};
use outboard_streams::Backlog;

use crate::host::{Far, Recorder, Watch};
use crate::talk::{News, Talk};
use crate::{PortSpec, Size};

/// Bytes that wait for the far end before chains do.
const ROOM: usize = 64 << 10;
/// How long the far end of a console holds up the guest without taking [`SOME`] of it. What is sent then is lost, until half
/// of the backlog is taken.
pub(crate) const HELD_UP: Duration = Duration::from_millis(250);
/// Bytes by which a far end is known to take something.
const SOME: usize = 4096;
/// Bytes of a chain that are taken; the others are dropped.
const LONGEST: usize = 1 << 20;

/// A port.
pub(crate) struct Port {
    pub(crate) spec: PortSpec,
    pub(crate) far: Box<dyn Far>,
    pub(crate) talk: Talk,
    pub(crate) size: Size,
    recorder: Option<Recorder>,
    backlog: Backlog,
    /// The far end is to be looked at.
    stirred: bool,
    /// The far end may have something.
    pub(crate) readable: bool,
    /// A chain of the guest waits for the far end.
    waits: bool,
    /// When the backlog was full first since the far end has last taken something, and how many bytes it has taken since.
    full_since: Option<Instant>,
    taken: usize,
    /// The far end of a console takes nothing: what the guest sends is lost.
    stalled: bool,
    was_open: bool,
    into: u64,
    out: u64,
    dropped: u64,
}

impl Port {
    pub(crate) fn open(spec: PortSpec, size: Size, watch: Watch) -> Result<Self, DeviceError> {
        let record = spec.record.as_deref();
        let recorder = record.map(|path| Recorder::create(path, size, spec.record_input)).transpose()?;
        let far = spec.to.open(watch)?;
        Ok(Self {
            far,
            recorder,
            spec,
            size,
            talk: Talk::default(),
            backlog: Backlog::default(),
            stirred: true,
            readable: true,
            waits: false,
            full_since: None,
            taken: 0,
            stalled: false,
            was_open: false,
            into: 0,
            out: 0,
            dropped: 0,
        })
    }

    /// Another driver begins.
    pub(crate) fn forget(&mut self) {
        self.talk = Talk::default();
        if self.far.forget() {
            self.backlog.skip(usize::MAX);
            self.relieved(0);
            (self.readable, self.waits) = (false, false);
        }
    }

    /// There is news of the far end.
    pub(crate) fn stir(&mut self, readable: bool) {
        self.stirred = true;
        self.readable |= readable;
    }

    /// Looks at the far end, if there is a reason to. True if a chain that waits has room now.
    pub(crate) fn look(&mut self, now: Instant) -> bool {
        self.flush();
        self.tell_open();
        while std::mem::take(&mut self.stirred) {
            self.stirred = self.far.look(now);
            if let Some(size) = self.far.size() {
                self.resize(size);
            }
            self.tell_open();
            self.flush();
        }
        self.readable |= self.far.has_input();
        self.backlog.len() <= ROOM && std::mem::take(&mut self.waits)
    }

    /// Tells the guest if somebody has come, or gone.
    fn tell_open(&mut self) {
        let is_open = self.far.is_open();
        if std::mem::replace(&mut self.was_open, is_open) != is_open {
            self.readable |= is_open;
            self.talk.tell(if is_open { News::Open } else { News::Closed });
        }
    }

    pub(crate) fn resize(&mut self, size: Size) {
        if self.size != size {
            self.size = size;
            if let Some(recorder) = &mut self.recorder {
                recorder.resized(size);
            }
            if self.spec.console {
                self.talk.tell(News::Size);
            }
        }
    }

    /// Takes what the guest sends. False: it has to wait.
    pub(crate) fn take(&mut self, chain: &mut Chain, now: Instant) -> bool {
        if self.backlog.len() > ROOM {
            self.flush();
        }
        self.waits = self.backlog.len() > ROOM && !self.gives_up(now);
        if self.waits {
            return false;
        }
        let is_taken = self.far.is_open() && !self.stalled;
        let taken = if is_taken { chain.readable_len().min(LONGEST) } else { 0 };
        self.dropped += (chain.readable_len() - taken) as u64;
        chain.truncate_readable(taken);
        self.backlog.take(chain);
        self.flush();
        true
    }

    /// Whether the far end has held up the guest for long enough. Nobody but a console's is hurried.
    fn gives_up(&mut self, now: Instant) -> bool {
        let since = *self.full_since.get_or_insert(now);
        if self.spec.console && !self.stalled && now.saturating_duration_since(since) >= HELD_UP {
            self.stalled = true;
            let name = self.far.address().unwrap_or_else(|| self.spec.to.to_string());
            tracing::warn!("{name} takes nothing: what the guest's console sends is lost until it does");
        }
        self.stalled
    }

    /// Puts out a character before, and beside, everything else. It may come before anything has looked who is there.
    pub(crate) fn emergency(&mut self, character: u8) {
        if !self.far.is_open() {
            self.stirred = self.far.look(Instant::now());
        }
        match self.far.is_open() && self.backlog.len() <= ROOM + LONGEST {
            true => self.backlog.add(&[character]),
            false => self.dropped += 1,
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            match self.far.write(self.backlog.pieces().0) {
                Ok(len) if len > 0 => {
                    if let (Some(recorder), (front, _)) = (&mut self.recorder, self.backlog.pieces()) {
                        recorder.output(front.get(..len).unwrap_or(front));
                    }
                    self.backlog.skip(len);
                    self.out += len as u64;
                    self.relieved(len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() != ErrorKind::WouldBlock => {
                    self.dropped += self.backlog.len() as u64;
                    self.backlog.skip(usize::MAX);
                    self.relieved(0);
                    self.stirred = true;
                }
                _ => return,
            }
        }
    }

    /// The far end has taken `len` bytes.
    fn relieved(&mut self, len: usize) {
        self.taken += len;
        let has_room = self.backlog.len() <= ROOM / 2;
        if has_room || (self.taken >= SOME && !self.stalled) {
            self.begins_to_wait();
        }
    }

    /// The far end has all its time again: it has taken something, or nobody has waited for it meanwhile.
    pub(crate) fn begins_to_wait(&mut self) {
        (self.full_since, self.taken, self.stalled) = (None, 0, false);
    }

    /// Gives the guest what the far end has. False: it has nothing.
    pub(crate) fn give(&mut self, chain: &mut Chain) -> bool {
        let Self { far, recorder, readable, stirred, .. } = self;
        let given = chain.fill_with(|room| {
            loop {
                match far.read(room) {
                    Ok(len) if len > 0 => {
                        if let Some(recorder) = recorder {
                            recorder.input(room.get(..len).unwrap_or(room));
                        }
                        return Ok(len);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => *readable = false,
                    // Its end, or it is broken: there is another one perhaps.
                    _ => (*readable, *stirred) = (false, true),
                }
                if !*readable {
                    return Ok(0);
                }
            }
        });
        let given = given.unwrap_or(0);
        self.into += given as u64;
        given > 0
    }

    pub(crate) fn show(&self, id: usize) -> Value {
        json!({
            "id": id,
            "name": self.spec.name,
            "to": self.far.address().unwrap_or_else(|| self.spec.to.to_string()),
            "console": self.spec.console,
            "size": self.size.to_string(),
            "guest_open": self.talk.guest_open,
            "host_open": self.far.is_open(),
            "in": self.into,
            "out": self.out,
            "waiting": self.backlog.len(),
            "dropped": self.dropped,
            "recorded": self.recorder.as_ref().map(Recorder::len),
        })
    }
}
