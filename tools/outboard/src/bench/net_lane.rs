//! A pair of queues of a network device under load: what sends, what receives, and both with a device that echoes.
//! What the device says has come is checked as far as it counts: which of our frames it was, and how long.

use std::slice;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::drivers::{NetQueue, NetRx, NetTx, Received};
use outboard_frontend::{Error, Notifications, Waiting};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::net::HEADER_LEN;

use super::figures::Way;
use super::lane::{Lane, Outcome, Returned};

/// Addresses that nobody was assigned, and the EtherType for experiments on one's own network (IEEE 802, 10.8).
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
/// Where in a frame the loop writes which slot it is of, and the how-manieth of it.
const TAG: usize = ETHERNET.len();
/// Bytes of that.
const TAG_LEN: usize = 10;

/// A frame of `len` bytes, at least 60.
pub(super) fn frame(len: usize) -> Vec<u8> {
    let body = (0..len.saturating_sub(ETHERNET.len())).map(|at| at as u8);
    ETHERNET.into_iter().chain(body).collect()
}

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
    fn publish(&mut self) -> Result<(), Error> {
        self.queue.publish()
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some(token) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let frame = self.frames.get(usize::from(slot)).context("a slot")?;
        let bytes = (frame.len() - HEADER_LEN) as u32;
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::Out, bytes) }))
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }
}

/// Receives. Its slots are the receive buffers, which the driver posts itself at first.
pub(super) struct Rx<'a> {
    queue: &'a mut NetRx,
    /// Packets to be given back, by slot.
    held: Vec<Option<Received>>,
    spare: Vec<u16>,
}

impl<'a> Rx<'a> {
    /// Takes what comes.
    pub(super) fn new(queue: &'a mut NetRx) -> Self {
        let size = queue.queue().size();
        Self { queue, held: (0..size).map(|_| None).collect(), spare: Vec::with_capacity(size.into()) }
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
    fn publish(&mut self) -> Result<(), Error> {
        self.queue.publish()
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some(packet) = self.queue.poll()? else { return Ok(None) };
        let bytes = packet.len() as u32;
        let slot = self.spare.pop().context("more packets than buffers")?;
        *self.held.get_mut(usize::from(slot)).context("a slot")? = Some(packet);
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, bytes) }))
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }
}

/// A slot of the loop: its frame is free again when the device has read it, and has sent it back.
#[derive(Clone, Copy, Default)]
struct Trip {
    /// How often it was sent.
    number: u64,
    sent: bool,
    back: bool,
}

/// Sends, and receives the same.
pub(super) struct Loop<'a> {
    rx: &'a mut NetRx,
    tx: &'a mut NetTx,
    frames: Vec<Segment>,
    trips: Vec<Trip>,
    /// Frames that the device has not sent back.
    away: u32,
    /// Receive buffers were given back that the device has not been shown.
    recycled: bool,
}

impl<'a> Loop<'a> {
    /// Sends `frames`, one of each slot, over and over.
    pub(super) fn new(pair: &'a mut NetQueue, frames: Vec<Segment>) -> Self {
        let (rx, tx) = pair.halves();
        let trips = vec![Trip::default(); frames.len()];
        Self { rx, tx, frames, trips, away: 0, recycled: false }
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
        let frame = self.frames.get(usize::from(slot)).context("a slot")?;
        let bytes = (frame.len() - HEADER_LEN) as u32;
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::Out, bytes) }))
    }

    /// The slot of a packet that came; `None` for one that is not ours.
    fn slot_of(&self, packet: &Received) -> Result<Option<u16>> {
        let mut head = [0; TAG + TAG_LEN];
        if self.rx.copy(packet, &mut head) < head.len() || !head.starts_with(&ETHERNET) {
            return Ok(None);
        }
        let [slot_low, slot_high, number @ ..] = *head.last_chunk::<TAG_LEN>().context("a tag")?;
        let (slot, number) = (u16::from_le_bytes([slot_low, slot_high]), u64::from_le_bytes(number));
        let known = self.trips.get(usize::from(slot)).zip(self.frames.get(usize::from(slot)));
        let Some((_, frame)) = known.filter(|(trip, _)| trip.number == number && !trip.back) else {
            bail!("the device sent a frame that it was not given, or sent it twice");
        };
        let (sent, came) = (frame.len() - HEADER_LEN, packet.len());
        ensure!(sent == came, "the device sent a frame of {sent} bytes back with {came}");
        Ok(Some(slot))
    }
}

impl Lane for Loop<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let trip = self.trips.get_mut(usize::from(slot)).context("a slot")?;
        *trip = Trip { number: trip.number + 1, sent: false, back: false };
        let mut tag = [0; TAG_LEN];
        let (place, number) = tag.split_at_mut(2);
        place.copy_from_slice(&slot.to_le_bytes());
        number.copy_from_slice(&trip.number.to_le_bytes());
        let frame = self.frames.get(usize::from(slot)).context("a slot")?;
        frame.write_from(HEADER_LEN + TAG, &tag)?;
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
            if let Some(returned) = self.half(slot, |trip| trip.back = true)? {
                return Ok(Some(returned));
            }
        }
        Ok(None)
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        // Others may send, too: then there is nothing of ours to publish.
        self.show_recycled()?;
        if self.away > 0 { self.rx.wait(how, timeout) } else { self.tx.wait(how, timeout) }
    }

    fn notifications(&self) -> Notifications {
        let (rx, tx) = (self.rx.notifications(), self.tx.notifications());
        Notifications { kicks: rx.kicks + tx.kicks, calls: rx.calls + tx.calls }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_has_its_size_and_the_type_for_experiments() {
        for len in [60, 1514, 65_000] {
            let frame = frame(len);
            assert_eq!((frame.len(), &frame[12..14]), (len, [0x88, 0xb5].as_slice()));
        }
    }
}
