//! A capture file that is replayed.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_frames::pcap::Reader;
use outboard_frames::{MAX_LEN, MIN_LEN};

/// So many bytes are read at a time.
const CHUNK: usize = 256 << 10;

/// A capture file, frame by frame.
pub(super) struct Capture {
    file: Arc<File>,
    reader: Reader,
    /// What was read, and how much of it was taken.
    bytes: Vec<u8>,
    taken: usize,
    /// How far the file was read.
    offset: u64,
    /// The frame that is the next.
    frame: Vec<u8>,
    /// It is one that can be delivered.
    is_whole: bool,
    /// When the first frame was captured, and when it was replayed.
    first: Option<Duration>,
    began: Option<Instant>,
}

impl Capture {
    /// At the beginning.
    pub(super) fn new(file: &Arc<File>) -> Self {
        Self {
            file: Arc::clone(file),
            reader: Reader::new(),
            bytes: Vec::new(),
            taken: 0,
            offset: 0,
            frame: Vec::new(),
            is_whole: false,
            first: None,
            began: None,
        }
    }

    /// Begins again.
    pub(super) fn rewind(&mut self) {
        let file = Arc::clone(&self.file);
        *self = Self::new(&file);
    }

    /// Whether there was a frame since the beginning.
    pub(super) const fn has_frames(&self) -> bool {
        self.first.is_some()
    }

    /// When the first frame was replayed: now, if it was not yet.
    pub(super) fn began(&mut self, now: Instant) -> Instant {
        *self.began.get_or_insert(now)
    }

    /// The frame that is the next, if it can be delivered: no more than its beginning may have been captured.
    pub(super) fn frame(&self) -> Option<&[u8]> {
        self.is_whole.then_some(self.frame.as_slice())
    }

    /// Goes on to the next frame: how long after the first it was captured. `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is malformed.
    pub(super) fn advance(&mut self) -> io::Result<Option<Duration>> {
        loop {
            let wanted = self.reader.wanted();
            if !self.fill(wanted)? {
                // One that was cut off has its last whole frame, but must have begun.
                let has_begun = self.has_frames() || self.reader.is_between();
                return if has_begun { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            let piece = self.bytes.get(self.taken..self.taken + wanted).unwrap_or_default();
            let taken =
                self.reader.take(piece).map_err(|error| io::Error::new(ErrorKind::InvalidData, error));
            self.taken += wanted;
            if let Some(captured) = taken? {
                self.is_whole = captured.is_whole() && (MIN_LEN..=MAX_LEN).contains(&captured.len);
                self.frame.clear();
                self.frame.extend_from_slice(captured.bytes);
                let first = *self.first.get_or_insert(captured.at.unwrap_or_default());
                // Those that were captured before the first, or at no time, follow at once.
                return Ok(Some(captured.at.unwrap_or_default().saturating_sub(first)));
            }
        }
    }

    /// Has so many bytes ready. False if the file ends before.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        while self.bytes.len() - self.taken < wanted {
            self.bytes.drain(..self.taken);
            self.taken = 0;
            let len = self.bytes.len();
            self.bytes.resize(len + CHUNK, 0);
            let read = self.file.read_at(self.bytes.get_mut(len..).unwrap_or_default(), self.offset);
            self.bytes.truncate(len + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(false),
                Ok(read) => self.offset += read as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
