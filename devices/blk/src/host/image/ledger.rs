//! The order in which the tables of a qcow2 image reach its file.
//!
//! Theory of operation. What is counted may be lost if nothing points to it; what is pointed to must be counted, or it
//! will be used twice. imago keeps this order between its two caches, but writes the entries that make a new table known
//! at once, before the table's own cluster is counted in the file. A program that is killed in between leaves a broken
//! image. So:
//!
//! - Entries of the L1 table wait in the ledger until everything that they point to is counted, at the end of the
//!   request. Nobody reads them from the file before.
//! - Entries of the table of counts are written at once. imago does not write one again that could not be: it waits in
//!   the ledger as well, and goes first.
//! - What is rare, a new block or table of counts (with the usual clusters, every 2 GiB) or a larger L1 table, happens
//!   under the mark that QEMU has for this: an image that carries it is refused, and `qemu-img check -r all` repairs it.
//!   If the header cannot be written in the course of it, imago and the file are of two minds: the image is left alone.
//!
//! One request at a time changes tables.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imago::io_buffers::IoVector;

use super::layer::Part;

/// Bytes of a header of version 2, which one of version 3 begins with.
const HEADER: usize = 72;
/// Where a header of version 3 says what is unusual about the image, in bytes, and that its counts may be wrong.
const FEATURES: u64 = 72;
const DIRTY: u64 = 1;

/// What a header says about the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) cluster_bits: u64,
    pub(super) size: u64,
    pub(super) encrypted: bool,
    pub(super) snapshots: u64,
    pub(super) features: u64,
    pub(super) l1: Range<u64>,
    pub(super) counts: Range<u64>,
}

impl Header {
    pub(super) fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0; HEADER + 8];
        file.read_exact_at(&mut bytes, 0)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let word = |at: usize| -> u64 {
            let bytes = bytes.get(at..at + 4).unwrap_or_default();
            bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
        };
        let long = |at: usize| word(at) << 32 | word(at + 4);
        if word(0) != u64::from(u32::from_be_bytes(*b"QFI\xfb")) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no qcow2 image"));
        }
        let version = word(4);
        let cluster = 1_u64.checked_shl(u32::try_from(word(20)).unwrap_or(u32::MAX)).unwrap_or(0);
        let range = |begin: u64, len: u64| begin..begin.saturating_add(len);
        Ok(Self {
            version,
            cluster_bits: word(20),
            size: long(24),
            encrypted: word(32) != 0,
            snapshots: word(60),
            features: if version < 3 { 0 } else { long(72) },
            l1: range(long(40), word(36) * 8),
            counts: range(long(48), word(56).saturating_mul(cluster)),
        })
    }
}

/// What is to be written to the tables of an image, and when.
pub(crate) struct Ledger {
    part: Arc<Part>,
    state: Mutex<State>,
}

struct State {
    version: u64,
    features: u64,
    l1: Range<u64>,
    counts: Range<u64>,
    /// Entries of the L1 table, in their order.
    held: Vec<(u64, [u8; 8])>,
    /// Entries of the table of counts that could not be written.
    owed: Vec<(u64, [u8; 8])>,
    marked: bool,
    /// The header is not what imago takes it for.
    adrift: bool,
}

impl Ledger {
    pub(super) fn new(part: Arc<Part>, header: &Header) -> Self {
        let Header { version, features, l1, counts, .. } = header.clone();
        let (held, owed) = (Vec::new(), Vec::new());
        let state = State { version, features, l1, counts, held, owed, marked: false, adrift: false };
        Self { part, state: Mutex::new(state) }
    }

    /// Whether these bytes are seen to here. What is not for a table may be written.
    pub(super) fn takes(&self, bytes: &IoVector<'_>, offset: u64) -> io::Result<bool> {
        match bytes.len() {
            8 => {
                let mut entry = [0; 8];
                bytes.copy_into_slice(&mut entry);
                self.takes_entry(entry, offset)
            }
            len if offset == 0 && len >= HEADER as u64 => {
                let mut header = vec![0; usize::try_from(len).map_err(io::Error::other)?];
                bytes.copy_into_slice(&mut header);
                self.follow(&header).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn takes_entry(&self, entry: [u8; 8], offset: u64) -> io::Result<bool> {
        let mut state = self.state();
        if state.l1.contains(&offset) {
            state.held.push((offset, entry));
            return Ok(true);
        }
        if state.counts.contains(&offset) {
            let written = self.mark(&mut state).and_then(|()| self.part.write(&entry, offset));
            if written.is_err() {
                state.owed.push((offset, entry));
            }
            return written.map(|()| true);
        }
        Ok(false)
    }

    /// Writes a new header.
    fn follow(&self, header: &[u8]) -> io::Result<()> {
        let Header { l1, counts, .. } = Header::parse(header)?;
        let mut state = self.state();
        let moved = state.l1 != l1 || state.counts != counts;
        let marked = if moved { self.mark(&mut state) } else { Ok(()) };
        let written = marked.and_then(|()| self.part.write(header, 0));
        state.adrift |= written.is_err();
        if moved {
            if state.l1 != l1 {
                // The new table has what waited for the old one.
                state.held.clear();
            }
            (state.l1, state.counts) = (l1, counts);
        }
        written
    }

    /// Nothing more may be done to the image.
    pub(super) fn is_adrift(&self) -> bool {
        self.state().adrift
    }

    /// Writes what everything else depends on.
    pub(super) fn catch_up(&self) -> io::Result<()> {
        let mut state = self.state();
        while let Some(&(offset, entry)) = state.owed.first() {
            self.mark(&mut state)?;
            self.part.write(&entry, offset)?;
            state.owed.remove(0);
        }
        Ok(())
    }

    /// Everything else is in the file: writes what waited for that.
    pub(super) fn settle(&self) -> io::Result<()> {
        let mut state = self.state();
        while let Some((offset, entry)) = state.held.first() {
            self.part.write(entry, *offset)?;
            state.held.remove(0);
        }
        if state.marked {
            self.part.write(&state.features.to_be_bytes(), FEATURES)?;
            state.marked = false;
        }
        Ok(())
    }

    fn mark(&self, state: &mut State) -> io::Result<()> {
        // Version 2 knows no marks.
        if state.version >= 3 && !state.marked {
            self.part.write(&(state.features | DIRTY).to_be_bytes(), FEATURES)?;
            state.marked = true;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of changes to the file.
    #[cfg(test)]
    pub(crate) fn faults(&self) -> &super::layer::Faults {
        &self.part.faults
    }
}
