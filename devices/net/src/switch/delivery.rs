//! What goes from port to port: packets that were lent, and copies of those that go to several.

use std::sync::{Arc, Mutex, PoisonError};

use outboard_device::{Chain, Parcel};
use outboard_frames::Offload;
use outboard_switch::PortId;

use crate::backlog::Place;

/// The most frames of a port that are kept for later.
const FRAMES: usize = 128;
/// The longest of them: others are rare, and give their memory back.
const LONGEST: usize = 16 << 10;
/// The most vectors that are kept for later.
const SPARES: usize = 32;

/// What one port's thread has for another's.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Packets that are for one port alone.
    Batch(Batch),
    /// One that others get as well.
    Frame {
        from: PortId,
        frame: Arc<Frame>,
        /// Among those that wait for the port, and among those of the sender.
        _places: [Place; 2],
    },
}

impl Delivery {
    /// Who has sent it.
    pub(super) const fn from(&self) -> PortId {
        match self {
            Self::Batch(batch) => batch.from,
            Self::Frame { from, .. } => *from,
        }
    }

    /// How many packets it has.
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.papers.len(),
            Self::Frame { .. } => 1,
        }
    }
}

/// Packets of one sender, for one port.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) from: PortId,
    /// What is behind the fronts of the packets that are lent, still to be read.
    pub(super) parcel: Option<Parcel>,
    pub(super) papers: Papers,
    /// Where the papers go afterwards.
    pub(super) home: Arc<Spares>,
    pub(super) _place: Place,
}

impl Batch {
    /// Each packet: what is left to do for it, its front, and its chain if it is lent.
    pub(super) fn packets(&mut self) -> impl Iterator<Item = (&Offload, &[u8], Option<&mut Chain>)> {
        let mut chains = self.parcel.as_mut().map(Parcel::chains).unwrap_or_default().iter_mut();
        self.papers.iter().map(move |(packet, front)| {
            (&packet.offload, front, if packet.is_lent { chains.next() } else { None })
        })
    }
}

/// What is known of the packets of a batch: the chains of those that are lent are in the same order.
#[derive(Debug, Default)]
pub(super) struct Papers {
    packets: Vec<Packet>,
    /// The fronts of all packets, one behind the other.
    fronts: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    offload: Offload,
    /// It goes on in a chain. Else its front is all of it.
    is_lent: bool,
    /// Where its front ends.
    end: usize,
}

impl Papers {
    /// Adds a packet whose front is written by `front`.
    pub(super) fn push(&mut self, offload: Offload, is_lent: bool, front: impl FnOnce(&mut Vec<u8>)) {
        front(&mut self.fronts);
        self.packets.push(Packet { offload, is_lent, end: self.fronts.len() });
    }

    pub(super) const fn len(&self) -> usize {
        self.packets.len()
    }

    fn iter(&self) -> impl Iterator<Item = (&Packet, &[u8])> {
        let mut start = 0;
        self.packets.iter().map(move |packet| {
            let front = self.fronts.get(start..packet.end).unwrap_or_default();
            start = packet.end;
            (packet, front)
        })
    }
}

/// Papers that have come home: nothing is allocated for a batch.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Papers>>);

impl Spares {
    pub(super) fn take(&self) -> Papers {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(super) fn put(&self, mut papers: Papers) {
        papers.packets.clear();
        papers.fronts.clear();
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES {
            spares.push(papers);
        }
    }
}

/// A packet in memory of our own.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) offload: Offload,
    pub(super) bytes: Vec<u8>,
}

/// The frames of one sender, used again when all receivers are done with them. How many there may be is the receivers' to
/// say ([`Backlog`]).
#[derive(Debug, Default)]
pub(super) struct Pool {
    frames: Vec<Arc<Frame>>,
    /// The one that was given out longest ago.
    next: usize,
}

impl Pool {
    /// A frame that `fill` has filled.
    pub(super) fn make(&mut self, fill: impl FnOnce(&mut Frame)) -> Arc<Frame> {
        let at = self.next;
        if let Some(frame) = self.frames.get_mut(at)
            && let Some(free) = Arc::get_mut(frame)
        {
            free.bytes.clear();
            free.bytes.shrink_to(LONGEST);
            fill(free);
            let frame = Arc::clone(frame);
            self.next = (at + 1) % self.frames.len();
            return frame;
        }
        let mut frame = Frame::default();
        fill(&mut frame);
        let frame = Arc::new(frame);
        if self.frames.len() == FRAMES {
            // Its receivers have it as long as they need it.
            self.frames.swap_remove(at);
            self.frames.push(Arc::clone(&frame));
            self.frames.swap(at, FRAMES - 1);
        } else {
            self.frames.insert(at, Arc::clone(&frame));
        }
        self.next = (at + 1) % self.frames.len();
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_used_again_when_nobody_has_them() {
        let mut pool = Pool::default();
        let mut make = |byte: usize| pool.make(|frame| frame.bytes.push(byte as u8));
        let out: Vec<_> = (0..2 * FRAMES).map(&mut make).collect();
        assert!(out.iter().enumerate().all(|(byte, frame)| frame.bytes == [byte as u8]));
        let addresses: Vec<_> = out[FRAMES..].iter().map(Arc::as_ptr).collect();
        drop(out);
        for byte in 0..3 * FRAMES {
            let frame = make(byte);
            assert_eq!(frame.bytes, [byte as u8]);
            assert!(addresses.contains(&Arc::as_ptr(&frame)));
        }
    }

    #[test]
    fn few_frames_at_a_time_need_few() {
        let mut pool = Pool::default();
        for byte in 0..100 {
            let out = [byte, byte + 1].map(|byte| pool.make(|frame| frame.bytes.push(byte)));
            assert_eq!([&out[0].bytes[..], &out[1].bytes], [[byte], [byte + 1]]);
        }
        assert!(pool.frames.len() < 5, "{}", pool.frames.len());
    }

    #[test]
    fn long_frames_do_not_keep_their_memory() {
        let mut pool = Pool::default();
        for _ in 0..3 {
            drop(pool.make(|frame| frame.bytes.resize(65_000, 0)));
        }
        drop(pool.make(|frame| frame.bytes.push(0)));
        assert!(pool.frames.iter().all(|frame| frame.bytes.capacity() <= 65_000));
        assert_eq!(pool.frames.iter().filter(|frame| frame.bytes.capacity() > LONGEST).count(), 0);
    }
}
