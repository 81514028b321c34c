//! A descriptor chain: the walk through it, and its bytes (VIRTIO 1.3, 2.7.5, 2.8.5). The driver is not trusted with
//! any number.

use outboard_guest_memory::Segment;

use crate::faults::{Fault, Faults, die};
use crate::memory::{Bad, Cells, Guest};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// The longest chain, in descriptors: what the largest ring holds.
const MAX_CHAIN: u64 = 0x8000;

/// A descriptor of either format.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    /// The next descriptor in a split ring, the buffer id in a packed one.
    pub(crate) link: u16,
}

impl Descriptor {
    /// Entry `index` of a table in the layout of split rings.
    pub(crate) fn split(table: &Segment, index: usize) -> Self {
        let at = 16 * index;
        let (flags, link) = (table.load(at + 12), table.load(at + 14));
        Self { addr: table.load(at), len: table.load(at + 8), flags, link }
    }

    /// Entry `index` of a table in the layout of packed rings.
    pub(crate) fn packed(table: &Segment, index: usize) -> Self {
        let at = 16 * index;
        let (link, flags) = (table.load(at + 12), table.load(at + 14));
        Self { addr: table.load(at), len: table.load(at + 8), flags, link }
    }

    pub(crate) fn has(self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What a walk needs to know.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'a> {
    pub(crate) mem: &'a Guest,
    pub(crate) faults: Faults,
    /// VIRTIO_F_INDIRECT_DESC is agreed on.
    pub(crate) indirect: bool,
    pub(crate) packed: bool,
    /// Of the ring, in descriptors.
    pub(crate) size: u16,
}

/// A request as the driver queued it.
#[derive(Default)]
pub(crate) struct Chain {
    /// Head (split) or buffer id (packed).
    pub(crate) id: u16,
    /// How many descriptors of a packed ring it has.
    pub(crate) count: u16,
    /// Its first in-flight record (packed).
    pub(crate) slot: u16,
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    total: u64,
    /// A descriptor of the writable part was seen.
    turned: bool,
    /// Guest addresses and lengths written to.
    pub(crate) dirty: Vec<(u64, u64)>,
}

impl Chain {
    /// A chain with this name, of so many descriptors, as yet empty.
    pub(crate) fn new(id: u16, count: u16, slot: u16) -> Self {
        Self { id, count, slot, ..Self::default() }
    }

    /// Adds a descriptor that is not indirect.
    pub(crate) fn push(&mut self, walk: Walk<'_>, descriptor: Descriptor) -> Result<(), Bad> {
        let Descriptor { addr, len, .. } = descriptor;
        let writable = descriptor.has(WRITE);
        if self.turned && !writable && !walk.faults.has(Fault::AnyOrderAccepted) {
            return Err(format!("a readable buffer at {addr:#x} behind a writable one"));
        }
        self.turned |= writable;
        self.total += u64::from(len);
        if self.total > u64::from(u32::MAX) {
            return Err(format!("a chain of {:#x} bytes", self.total));
        }
        if len == 0 && walk.faults.has(Fault::EmptyBufferCrashes) {
            die();
        }
        if len == 0 && walk.faults.has(Fault::EmptyBufferRefused) {
            return Err("an empty buffer".to_owned());
        }
        if self.readable.len() + self.writable.len() >= 5 && walk.faults.has(Fault::LongChainsRefused) {
            return Err("a chain of more than five buffers".to_owned());
        }
        match walk.mem.of_guest(addr, len.into()) {
            Some(pieces) if walk.faults.has(Fault::StraddlingRefused) && pieces.len() > 1 => {
                Err(format!("a buffer at {addr:#x} in two regions"))
            }
            Some(pieces) if writable => {
                self.writable.extend(pieces);
                Ok(())
            }
            Some(pieces) => {
                self.readable.extend(pieces);
                Ok(())
            }
            None if walk.faults.has(Fault::BadAddressCrashes) => die(),
            None if walk.faults.has(Fault::BadAddressSkipped) => Ok(()),
            None => Err(format!("a buffer at {addr:#x} of {len:#x} bytes is not in guest memory")),
        }
    }

    /// Adds what an indirect descriptor points to (VIRTIO 1.3, 2.7.5.3 and 2.8.7).
    pub(crate) fn push_table(&mut self, walk: Walk<'_>, descriptor: Descriptor) -> Result<(), Bad> {
        let Descriptor { addr, len, .. } = descriptor;
        if walk.faults.has(Fault::IndirectTakenAsBuffer) {
            return self.push(walk, descriptor);
        }
        if !walk.indirect && !walk.faults.has(Fault::IndirectUnagreedAccepted) {
            return Err("an indirect descriptor without VIRTIO_F_INDIRECT_DESC".to_owned());
        }
        if descriptor.has(NEXT) && !walk.packed && !walk.faults.has(Fault::IndirectNextAccepted) {
            return Err("an indirect descriptor with a next one".to_owned());
        }
        if (len == 0 || len % 16 != 0) && !walk.faults.has(Fault::IndirectLengthIgnored) {
            return Err(format!("an indirect table of {len} bytes"));
        }
        if descriptor.has(WRITE) && walk.faults.has(Fault::IndirectWriteRefused) {
            return Err("an indirect table to be written".to_owned());
        }
        let entries = u64::from(len / 16);
        if entries > u64::from(walk.size) && walk.faults.has(Fault::IndirectLimitedToRing) {
            return Err(format!("an indirect table of {entries} entries"));
        }
        if walk.packed && entries > MAX_CHAIN {
            return Err(format!("an indirect table of {entries} entries"));
        }
        if !self.is_empty() && walk.faults.has(Fault::IndirectOnlyAlone) {
            return Err("an indirect descriptor behind another".to_owned());
        }
        let table = walk.mem.of_guest(addr, len.into());
        let table = table.ok_or_else(|| format!("the indirect table at {addr:#x} is not in guest memory"))?;
        let mut index = 0;
        let mut walked = 0;
        loop {
            let entry = entry(&table, index, walk.packed);
            if entry.has(INDIRECT) && walk.faults.has(Fault::IndirectNestedAccepted) {
                return self.push_table(walk, entry);
            }
            if entry.has(INDIRECT) {
                return Err("an indirect descriptor in an indirect table".to_owned());
            }
            self.push(walk, entry)?;
            walked += 1;
            index = match walk.packed {
                true => index + 1,
                false if entry.has(NEXT) => u64::from(entry.link),
                false => return Ok(()),
            };
            if walk.faults.has(Fault::IndirectFirstOnly) || (walk.packed && index >= entries) {
                return Ok(());
            }
            if index >= entries {
                return Err(format!("entry {index} of an indirect table of {entries}"));
            }
            if walked >= entries.min(MAX_CHAIN) && !walk.faults.has(Fault::LoopsForEver) {
                return Err("a loop in an indirect table".to_owned());
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.readable.is_empty() && self.writable.is_empty()
    }

    /// Bytes that the device may read.
    pub(crate) fn readable_len(&self) -> u64 {
        self.readable.iter().map(|piece| piece.len() as u64).sum()
    }

    /// How long the buffers are, those to read first, as far as each is in one piece.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.readable.iter().chain(&self.writable).map(Segment::len)
    }

    /// Bytes that the device may write.
    pub(crate) fn writable_len(&self) -> u64 {
        self.writable.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The pieces of the readable part from `at` on, as long as `len` bytes last.
    pub(crate) fn readable(&self, at: u64, len: u64) -> Vec<Segment> {
        part(&self.readable, at, len)
    }

    /// Reads from the readable part; false if it is too short.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> bool {
        let mut rest = into;
        for piece in self.readable(at, rest.len() as u64) {
            let (here, behind) = rest.split_at_mut(piece.len().min(rest.len()));
            let _ = piece.read_into(0, here);
            rest = behind;
        }
        rest.is_empty()
    }

    /// The pieces of the writable part from `at` on, which the caller writes to.
    pub(crate) fn writable(&mut self, at: u64, len: u64) -> Vec<Segment> {
        let pieces = part(&self.writable, at, len);
        self.dirty.extend(pieces.iter().map(|piece| (piece.gpa(), piece.len() as u64)));
        pieces
    }

    /// Writes to the writable part, as far as it goes.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.writable(at, bytes.len() as u64) {
            let (here, behind) = rest.split_at(piece.len().min(rest.len()));
            let _ = piece.write_from(0, here);
            rest = behind;
        }
    }
}

/// An entry of a table that may lie in several pieces.
fn entry(table: &[Segment], index: u64, packed: bool) -> Descriptor {
    let [word_low, word_high] = [0, 8].map(|offset| {
        let mut bytes = [0; 8];
        let mut rest = bytes.as_mut_slice();
        for piece in part(table, 16 * index + offset, 8) {
            let (here, behind) = rest.split_at_mut(piece.len().min(rest.len()));
            let _ = piece.read_into(0, here);
            rest = behind;
        }
        u64::from_le_bytes(bytes)
    });
    let (len, third, fourth) = (word_high as u32, (word_high >> 32) as u16, (word_high >> 48) as u16);
    let (flags, link) = if packed { (fourth, third) } else { (third, fourth) };
    Descriptor { addr: word_low, len, flags, link }
}

fn part(pieces: &[Segment], at: u64, len: u64) -> Vec<Segment> {
    let (mut skip, mut left) = (at, len);
    let mut found = Vec::new();
    for piece in pieces {
        let size = piece.len() as u64;
        let from = skip.min(size);
        skip -= from;
        let here = left.min(size - from);
        left -= here;
        if here > 0 {
            found.extend(piece.slice(from as usize, here as usize));
        }
    }
    found
}
