//! The rings that an AF_XDP socket shares with the kernel (Documentation/networking/af_xdp.rst): one side produces, the
//! other consumes. The memory is changed by the kernel meanwhile; whatever is in it, nothing beyond a ring is touched.
//!
//! Theory of operation. Both sides count entries without end, in 32 bits that wrap around. The producer writes entries
//! first and its count second (release), the consumer reads the count first and entries second (acquire), and the other
//! way round for the count of what was consumed. Each side keeps a copy of the other's count, and looks at the count
//! itself when it has come to the end of what it knows. Counts are shown once a batch.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use rustix::net::xdp::{XdpDesc, XdpDescOptions, XdpRingFlags, XdpRingOffset};

use super::memory::Mapping;

/// What rings have entries of.
pub(super) trait Entry: Sized {
    /// Of one entry, in bytes.
    const LEN: usize;
    /// Reads the one at an offset.
    fn read(mapping: &Mapping, offset: usize) -> Option<Self>;
    /// Writes it there.
    fn write(&self, mapping: &Mapping, offset: usize) -> Option<()>;
}

/// The address of a frame.
impl Entry for u64 {
    const LEN: usize = 8;

    fn read(mapping: &Mapping, offset: usize) -> Option<Self> {
        mapping.u64(offset).map(|value| value.load(Ordering::Relaxed))
    }

    fn write(&self, mapping: &Mapping, offset: usize) -> Option<()> {
        mapping.u64(offset).map(|value| value.store(*self, Ordering::Relaxed))
    }
}

impl Entry for XdpDesc {
    const LEN: usize = 16;

    fn read(mapping: &Mapping, offset: usize) -> Option<Self> {
        let addr = mapping.u64(offset)?.load(Ordering::Relaxed);
        let len = mapping.u32(offset + 8)?.load(Ordering::Relaxed);
        let options = XdpDescOptions::from_bits_retain(mapping.u32(offset + 12)?.load(Ordering::Relaxed));
        Some(Self { addr, len, options })
    }

    fn write(&self, mapping: &Mapping, offset: usize) -> Option<()> {
        mapping.u64(offset)?.store(self.addr, Ordering::Relaxed);
        mapping.u32(offset + 8)?.store(self.len, Ordering::Relaxed);
        mapping.u32(offset + 12)?.store(self.options.bits(), Ordering::Relaxed);
        Some(())
    }
}

/// Where things are in a ring's memory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    mapping: Arc<Mapping>,
    produced: usize,
    consumed: usize,
    flags: Option<usize>,
    entries: usize,
    /// Of entries, a power of two.
    count: u32,
}

impl Layout {
    /// How many bytes are to be mapped for a ring with so many entries.
    pub(super) const fn bytes<E: Entry>(at: &XdpRingOffset, count: u32) -> usize {
        at.desc as usize + count as usize * E::LEN
    }

    /// A ring of `count` entries, a power of two.
    pub(super) const fn new(mapping: Arc<Mapping>, at: &XdpRingOffset, count: u32) -> Self {
        let flags = match at.flags {
            Some(flags) => Some(flags as usize),
            None => None,
        };
        let (produced, consumed) = (at.producer as usize, at.consumer as usize);
        Self { mapping, produced, consumed, flags, entries: at.desc as usize, count }
    }

    /// A place that there is not is taken for an idle ring.
    fn load(&self, offset: usize) -> u32 {
        self.mapping.u32(offset).map_or(0, |value| value.load(Ordering::Acquire))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(place) = self.mapping.u32(offset) {
            place.store(value, Ordering::Release);
        }
    }

    const fn place(&self, number: u32, len: usize) -> usize {
        self.entries + (number & (self.count - 1)) as usize * len
    }
}

/// Our end of a ring that the kernel consumes.
#[derive(Debug)]
pub(super) struct Producer {
    ring: Layout,
    /// Written, and shown, and seen to be consumed.
    written: u32,
    shown: u32,
    consumed: u32,
}

impl Producer {
    pub(super) fn new(ring: Layout) -> Self {
        let (written, consumed) = (ring.load(ring.produced), ring.load(ring.consumed));
        Self { ring, written, shown: written, consumed }
    }

    /// Writes an entry, which the kernel does not see yet. False if there is no room.
    pub(super) fn push<E: Entry>(&mut self, entry: &E) -> bool {
        if self.written.wrapping_sub(self.consumed) >= self.ring.count {
            self.consumed = self.ring.load(self.ring.consumed);
            if self.written.wrapping_sub(self.consumed) >= self.ring.count {
                return false;
            }
        }
        if entry.write(&self.ring.mapping, self.ring.place(self.written, E::LEN)).is_none() {
            return false;
        }
        self.written = self.written.wrapping_add(1);
        true
    }

    /// How many entries the kernel does not see yet.
    pub(super) const fn hidden(&self) -> u32 {
        self.written.wrapping_sub(self.shown)
    }

    /// Shows the kernel what was written. True if it wants to be told of it.
    pub(super) fn show(&mut self) -> bool {
        if self.hidden() > 0 {
            self.ring.store(self.ring.produced, self.written);
            self.shown = self.written;
            // Whoever says that it goes to sleep, and we: one sees the other.
            fence(Ordering::SeqCst);
        }
        self.wants_to_be_told()
    }

    /// How many entries the kernel has seen, or could have, and has not consumed.
    pub(super) fn unconsumed(&mut self) -> u32 {
        self.consumed = self.ring.load(self.ring.consumed);
        self.shown.wrapping_sub(self.consumed)
    }

    /// The kernel sleeps. One that knows of no such flag always has to be told.
    fn wants_to_be_told(&self) -> bool {
        let flags = self.ring.flags.map(|at| XdpRingFlags::from_bits_retain(self.ring.load(at)));
        flags.is_none_or(|flags| flags.contains(XdpRingFlags::XDP_RING_NEED_WAKEUP))
    }
}

/// Our end of a ring that the kernel produces.
#[derive(Debug)]
pub(super) struct Consumer {
    ring: Layout,
    /// Read, and shown to be, and known to be produced.
    read: u32,
    shown: u32,
    produced: u32,
}

impl Consumer {
    pub(super) fn new(ring: Layout) -> Self {
        let (read, produced) = (ring.load(ring.consumed), ring.load(ring.produced));
        Self { ring, read, shown: read, produced }
    }

    /// Reads an entry, if there is one. Its place is the kernel's again when that is shown.
    pub(super) fn pop<E: Entry>(&mut self) -> Option<E> {
        if self.read == self.produced {
            self.produced = self.ring.load(self.ring.produced);
            if self.read == self.produced {
                return None;
            }
        }
        let entry = E::read(&self.ring.mapping, self.ring.place(self.read, E::LEN))?;
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Whether there is an entry.
    pub(super) fn is_empty(&self) -> bool {
        self.read == self.produced && self.read == self.ring.load(self.ring.produced)
    }

    /// Gives the kernel the places of what was read.
    pub(super) fn show(&mut self) {
        if self.shown != self.read {
            self.ring.store(self.ring.consumed, self.read);
            self.shown = self.read;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// As the kernel has them today.
    const AT: XdpRingOffset = XdpRingOffset { producer: 0, consumer: 64, desc: 128, flags: Some(72) };

    fn ring(count: u32, begin: u32) -> (Layout, Arc<Mapping>) {
        let mapping = Arc::new(Mapping::anonymous(Layout::bytes::<XdpDesc>(&AT, count)).unwrap());
        let ring = Layout::new(Arc::clone(&mapping), &AT, count);
        ring.store(ring.produced, begin);
        ring.store(ring.consumed, begin);
        (ring, mapping)
    }

    proptest! {
        #[test]
        fn ring_gives_what_was_put_in_its_order_across_the_end_of_numbers(
            begin in prop_oneof![Just(0), (u32::MAX - 20)..=u32::MAX, any::<u32>()],
            steps in proptest::collection::vec((0_u8..4, 1_usize..12), 0..200),
        ) {
            let (ring, _) = ring(8, begin);
            let (mut ours, mut theirs) = (Producer::new(ring.clone()), Consumer::new(ring));
            // Written and not shown, shown and not read, read and not given back.
            let (mut hidden, mut shown, mut read) = (VecDeque::new(), VecDeque::new(), 0_usize);
            let mut next = 0_u64;
            for (what, times) in steps {
                match what {
                    0 => for _ in 0..times {
                        let has_room = hidden.len() + shown.len() + read < 8;
                        prop_assert_eq!(ours.push(&next), has_room);
                        if has_room {
                            hidden.push_back(next);
                            next += 1;
                        }
                    },
                    1 => {
                        prop_assert_eq!(ours.hidden() as usize, hidden.len());
                        ours.show();
                        shown.append(&mut hidden);
                        prop_assert_eq!(ours.unconsumed() as usize, shown.len() + read);
                    }
                    2 => for _ in 0..times {
                        prop_assert_eq!(theirs.is_empty(), shown.is_empty());
                        let expected = shown.pop_front();
                        read += usize::from(expected.is_some());
                        prop_assert_eq!(theirs.pop::<u64>(), expected);
                    },
                    _ => {
                        theirs.show();
                        read = 0;
                    }
                }
            }
        }
    }

    #[test]
    fn descriptors_come_out_as_they_went_in() {
        let (ring, mapping) = ring(4, u32::MAX);
        let (mut ours, mut theirs) = (Producer::new(ring.clone()), Consumer::new(ring));
        let desc = |number: u32| XdpDesc {
            addr: u64::from(number) << 32 | 7,
            len: number,
            options: XdpDescOptions::from_bits_retain(number ^ 1),
        };
        (0..4).for_each(|number| assert!(ours.push(&desc(number))));
        assert!(!ours.push(&desc(4)));
        assert!(!ours.show(), "the kernel is awake");
        mapping.u32(72).unwrap().store(1, Ordering::Relaxed);
        assert!(ours.show(), "and has to be told now");
        assert_eq!(
            [(); 5].map(|()| theirs.pop()),
            [0, 1, 2, 3].map(desc).map(Some).iter().copied().chain([None]).collect::<Vec<_>>()[..]
        );
    }

    /// The kernel is trusted, but nothing is touched beyond the ring whatever it writes there.
    #[test]
    fn counts_that_make_no_sense_stay_within_the_ring() {
        let (ring, mapping) = ring(4, 0);
        let (mut ours, mut theirs) = (Producer::new(ring.clone()), Consumer::new(ring));
        mapping.u32(0).unwrap().store(0x8000_0000, Ordering::Relaxed);
        for _ in 0..100 {
            assert_eq!(theirs.pop::<u64>(), Some(0));
        }
        mapping.u32(64).unwrap().store(77, Ordering::Relaxed);
        for _ in 0..100 {
            ours.push(&u64::MAX);
        }
        assert!(
            (128 + 4 * 8..4096).step_by(8).all(|at| mapping.u64(at).unwrap().load(Ordering::Relaxed) == 0)
        );
        let beyond =
            XdpRingOffset { producer: u64::MAX, consumer: 1 << 40, desc: 1 << 41, flags: Some(1 << 42) };
        let lost = Layout::new(mapping, &beyond, 4);
        assert!(!Producer::new(lost.clone()).push(&1_u64));
        assert_eq!(Consumer::new(lost).pop::<u64>(), None);
    }
}
