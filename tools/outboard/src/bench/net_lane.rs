//! A pair of queues of a network device under load: what sends, what receives, and both with a device that echoes.
//! What the device says has come is checked as far as it counts: which of our frames it was, and how long; all of it, if
//! that is wished. Networks may lose frames: those are counted.

use std::slice;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::drivers::{NetRx, NetTx, Received};
use outboard_frontend::{Error, Notifications, Waiting};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::net::HEADER_LEN;

use super::figures::Way;
use super::lane::{Lane, Outcome, Returned, over_one_queue};
use super::net_frame::{HEAD, Shape, TAG_LEN};

/// A frame that is away for so long while nothing comes is lost.
const LOST: Duration = Duration::from_millis(100);

/// Sends.
pub(super) struct Tx<'a> {
    queue: &'a mut NetTx,
    frames: Vec<Segment>,
}

impl<'a> Tx<'a> {
    /// Sends `frames`, one of each slot, over and over.
    pub(super) fn new(queue: &'a mut NetTx, frames: Vec<Segment>) -> Self {
        Self { queue, frames }
    }
}

impl Lane for Tx<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let frame = self.frames.get(usize::from(slot)).context("a slot")?;
        Ok(self.queue.transmit_framed(slice::from_ref(frame), slot.into())?)
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some(token) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let frame = self.frames.get(usize::from(slot)).context("a slot")?;
        let bytes = (frame.len() - HEADER_LEN) as u32;
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::Out, bytes) }))
    }

    over_one_queue!();
}

/// Receives. Its slots are the receive buffers, which the driver posts itself at first.
pub(super) struct Rx<'a> {
    queue: &'a mut NetRx,
    /// Packets to be given back, by slot.
    held: Vec<Option<Received>>,
    spare: Vec<u16>,
    verify: bool,
    /// What came.
    bytes: Vec<u8>,
}

impl<'a> Rx<'a> {
    /// Takes what comes. If that is to be verified, it is what a back end of ours makes up: bytes that count, behind
    /// the Ethernet header.
    pub(super) fn new(queue: &'a mut NetRx, verify: bool) -> Self {
        let size = queue.queue().size();
        let (held, spare) = ((0..size).map(|_| None).collect(), Vec::with_capacity(size.into()));
        Self { queue, held, spare, verify, bytes: Vec::new() }
    }

    fn is_whole(&mut self, packet: &Received) -> bool {
        self.bytes.resize(packet.len(), 0);
        let copied = self.queue.copy(packet, &mut self.bytes);
        let counts = self.bytes.iter().skip(14).zip((0..=u8::MAX).cycle()).all(|(byte, at)| *byte == at);
        copied == packet.len() && counts
    }
}

impl Lane for Rx<'_> {
    fn slots(&self, _: u16) -> u16 {
        self.held.len() as u16
    }

    fn is_asked(&self) -> bool {
        false
    }

    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        if let Some(packet) = self.held.get_mut(usize::from(slot)).and_then(Option::take) {
            self.queue.recycle(packet)?;
        }
        self.spare.push(slot);
        Ok(())
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some(packet) = self.queue.poll()? else { return Ok(None) };
        ensure!(!self.verify || self.is_whole(&packet), "a frame came that is not what it was made as");
        let bytes = packet.len() as u32;
        let slot = self.spare.pop().context("more packets than buffers")?;
        *self.held.get_mut(usize::from(slot)).context("a slot")? = Some(packet);
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, bytes) }))
    }

    over_one_queue!();
}

/// A slot of the loop: its frame is free again when the device has read it, and has sent it back.
#[derive(Clone, Copy, Default)]
struct Trip {
    /// How often it was sent.
    number: u64,
    sent: bool,
    back: bool,
    /// The last time that it was lost. It may come yet.
    lost: u64,
}

/// Sends, and receives the same: on the same interface, or on another one of the network.
pub(super) struct Loop<'a> {
    rx: &'a mut NetRx,
    tx: &'a mut NetTx,
    frames: Vec<Segment>,
    shape: Shape,
    /// What all of a frame is to be, but for its tag, if that is looked at.
    expected: Option<Vec<u8>>,
    /// What came.
    bytes: Vec<u8>,
    trips: Vec<Trip>,
    /// Frames that the device has not sent back.
    away: u32,
    /// Slots of frames that are given up.
    given_up: Vec<u16>,
    /// How long nothing has come.
    quiet: Duration,
    /// Receive buffers were given back that the device has not been shown.
    recycled: bool,
}

impl<'a> Loop<'a> {
    /// Sends `frames`, one of each slot, over and over.
    pub(super) fn new(
        rx: &'a mut NetRx,
        tx: &'a mut NetTx,
        frames: Vec<Segment>,
        shape: Shape,
        verify: bool,
    ) -> Self {
        let trips = vec![Trip::default(); frames.len()];
        let expected = verify.then(|| shape.frame());
        let (bytes, given_up) = (Vec::new(), Vec::with_capacity(frames.len()));
        let (away, quiet, recycled) = (0, Duration::ZERO, false);
        Self { rx, tx, frames, shape, expected, bytes, trips, away, given_up, quiet, recycled }
    }

    fn show_recycled(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.recycled) { self.rx.publish() } else { Ok(()) }
    }

    /// Notes that one half of a trip is over; the frame, if that was the second one.
    #[inline]
    fn half(&mut self, slot: u16, note: impl FnOnce(&mut Trip)) -> Result<Option<Returned>> {
        let trip = self.trips.get_mut(usize::from(slot)).context("a slot")?;
        note(trip);
        if !(trip.sent && trip.back) {
            return Ok(None);
        }
        let bytes = self.shape.len as u32;
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::Out, bytes) }))
    }

    /// The slot of a packet that came; `None` for one that is not ours, or was given up.
    fn slot_of(&mut self, packet: &Received) -> Result<Option<u16>> {
        let mut head = [0; HEAD];
        let len = self.rx.copy(packet, &mut head);
        let head = head.get(..len).unwrap_or_default();
        let tag = head.get(self.shape.tag()..).and_then(<[u8]>::first_chunk::<TAG_LEN>);
        let Some(tag) = tag.filter(|_| self.shape.is_ours(head)) else { return Ok(None) };
        let [slot_low, slot_high, number @ ..] = *tag;
        let (slot, number) = (u16::from_le_bytes([slot_low, slot_high]), u64::from_le_bytes(number));
        let trip = self.trips.get(usize::from(slot));
        if trip.is_some_and(|trip| trip.lost == number) {
            return Ok(None);
        }
        if trip.is_none_or(|trip| trip.number != number || trip.back) {
            bail!("the device sent a frame that it was not given, or sent it twice");
        }
        let (sent, came) = (self.shape.len, packet.len());
        ensure!(sent == came, "the device sent a frame of {sent} bytes back with {came}");
        if let Some(expected) = &self.expected {
            self.bytes.resize(came, 0);
            self.rx.copy(packet, &mut self.bytes);
            let (front, behind) = (self.shape.tag(), self.shape.tag() + TAG_LEN);
            let same = self.bytes.get(..front) == expected.get(..front)
                && self.bytes.get(behind..) == expected.get(behind..);
            ensure!(same, "the device sent a frame back otherwise than it was given it");
        }
        Ok(Some(slot))
    }

    /// Gives up what is away.
    #[cold]
    fn give_up(&mut self) {
        for (slot, trip) in (0..).zip(&mut self.trips) {
            if trip.sent && !trip.back && trip.number != trip.lost {
                trip.lost = trip.number;
                self.given_up.push(slot);
            }
        }
        self.away = self.away.saturating_sub(self.given_up.len() as u32);
    }
}

impl Lane for Loop<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let trip = self.trips.get_mut(usize::from(slot)).context("a slot")?;
        *trip = Trip { number: trip.number + 1, sent: false, back: false, ..*trip };
        let mut tag = [0; TAG_LEN];
        let (place, number) = tag.split_at_mut(2);
        place.copy_from_slice(&slot.to_le_bytes());
        number.copy_from_slice(&trip.number.to_le_bytes());
        let frame = self.frames.get(usize::from(slot)).context("a slot")?;
        frame.write_from(HEADER_LEN + self.shape.tag(), &tag)?;
        self.away += 1;
        Ok(self.tx.transmit_framed(slice::from_ref(frame), slot.into())?)
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        self.show_recycled()?;
        self.tx.publish()
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        if let Some(slot) = self.given_up.pop() {
            return Ok(Some(Returned { slot, what: Outcome::Lost }));
        }
        while let Some(token) = self.tx.poll()? {
            if let Some(returned) = self.half(token as u16, |trip| trip.sent = true)? {
                return Ok(Some(returned));
            }
        }
        while let Some(packet) = self.rx.poll()? {
            let slot = self.slot_of(&packet)?;
            self.rx.recycle(packet)?;
            self.recycled = true;
            let Some(slot) = slot else { continue };
            self.away = self.away.saturating_sub(1);
            self.quiet = Duration::ZERO;
            if let Some(returned) = self.half(slot, |trip| trip.back = true)? {
                return Ok(Some(returned));
            }
        }
        Ok(None)
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        // Others may send, too: then there is nothing of ours to publish.
        self.show_recycled()?;
        if self.away == 0 || self.quiet >= timeout {
            return self.tx.wait(how, timeout);
        }
        if !self.rx.wait(how, LOST.min(timeout))? {
            self.quiet += LOST;
            // A device from which nothing ever comes loses nothing: it does not loop.
            if self.quiet >= timeout {
                return Ok(false);
            }
            self.give_up();
        }
        Ok(true)
    }

    fn notifications(&self) -> Notifications {
        let (rx, tx) = (self.rx.notifications(), self.tx.notifications());
        Notifications { kicks: rx.kicks + tx.kicks, calls: rx.calls + tx.calls }
    }
}
