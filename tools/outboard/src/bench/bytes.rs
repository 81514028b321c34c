//! Lanes of queues that carry bytes of no form: what is sent, what comes, and what comes back of what was sent. The device is not
//! trusted: of what comes back every byte is compared.

use std::collections::VecDeque;
use std::slice;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::{Error, Frontend, Notifications, Queue, Waiting};
use outboard_guest_memory::{Piece, Segment};

use super::figures::Way;
use super::lane::{Lane, Outcome, Returned, over_one_queue};

/// Bytes that say which request it is, at its front.
const TAG_LEN: usize = 8;

/// Memory of so many bytes, so many times.
pub(super) fn slots(frontend: &mut Frontend, count: u16, len: usize) -> Result<Vec<Segment>> {
    let slot = |_| {
        let room = frontend.allocate(len)?;
        room.slice(0, len).context("memory is shorter than was asked for")
    };
    (0..count).map(slot).collect()
}

/// Sends, each slot as it is.
pub(super) struct Outward<'a> {
    queue: &'a mut Queue,
    slots: Vec<Segment>,
}

impl<'a> Outward<'a> {
    pub(super) fn new(queue: &'a mut Queue, slots: Vec<Segment>) -> Self {
        Self { queue, slots }
    }
}

impl Lane for Outward<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        send(self.queue, &self.slots, slot)
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some((token, _)) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let bytes = self.slots.get(usize::from(slot)).context("a slot")?.len() as u32;
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::Out, bytes) }))
    }

    over_one_queue!();
}

/// Takes what comes.
pub(super) struct Inward<'a> {
    queue: &'a mut Queue,
    buffers: Vec<Segment>,
}

impl<'a> Inward<'a> {
    pub(super) fn new(queue: &'a mut Queue, buffers: Vec<Segment>) -> Self {
        Self { queue, buffers }
    }
}

impl Lane for Inward<'_> {
    fn is_asked(&self) -> bool {
        false
    }

    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        offer(self.queue, &self.buffers, slot)
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some((token, len)) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let room = self.buffers.get(usize::from(slot)).context("a slot")?.len();
        ensure!(
            (1..=room).contains(&(len as usize)),
            "the device returned a buffer of {room} bytes with {len}"
        );
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, len) }))
    }

    over_one_queue!();
}

/// Sends, and takes back the same, cut however the device cuts it. A slot is free again when the device has read it, and all of
/// it is back.
pub(super) struct Echoed<'a> {
    tx: &'a mut Queue,
    rx: &'a mut Queue,
    slots: Vec<Segment>,
    buffers: Vec<Segment>,
    /// How many requests were sent.
    sent: u64,
    expected: Series,
    /// By slot: which halves of its way are behind it.
    halves: Vec<u8>,
    /// Slots of which not all is back, oldest first.
    away: VecDeque<u16>,
    done: VecDeque<u16>,
    /// What came.
    bytes: Vec<u8>,
    /// Buffers were given back that the device has not been shown.
    refilled: bool,
}

impl<'a> Echoed<'a> {
    /// Of a queue each way, with as many slots as buffers, of one length.
    ///
    /// # Errors
    /// The ring has no room for all buffers.
    pub(super) fn new(
        tx: &'a mut Queue,
        rx: &'a mut Queue,
        slots: Vec<Segment>,
        buffers: Vec<Segment>,
    ) -> Result<Self> {
        let len = slots.first().map_or(0, Segment::len);
        let expected = Series::new(len);
        for slot in &slots {
            slot.write_from(0, &expected.request)?;
        }
        for slot in 0..buffers.len() as u16 {
            offer(rx, &buffers, slot)?;
        }
        let (count, bytes) = (slots.len(), vec![0; len]);
        let room = || VecDeque::with_capacity(count);
        let (halves, away, done) = (vec![0; count], room(), room());
        Ok(Self { tx, rx, slots, buffers, sent: 0, expected, halves, away, done, bytes, refilled: true })
    }

    /// Half of a slot's way is behind it.
    #[inline]
    fn half(&mut self, slot: u16) -> Result<()> {
        let halves = self.halves.get_mut(usize::from(slot)).context("a slot")?;
        *halves += 1;
        if *halves == 2 {
            self.done.push_back(slot);
        }
        Ok(())
    }

    /// Takes what is in a buffer, and gives it back.
    #[inline]
    fn take(&mut self, slot: u16, len: u32) -> Result<()> {
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        let room = buffer.len();
        let came = self.bytes.get_mut(..len as usize).filter(|came| !came.is_empty());
        let came =
            came.with_context(|| format!("the device returned a buffer of {room} bytes with {len}"))?;
        buffer.read_into(0, came)?;
        let Some(whole) = self.expected.follow(came) else { bail!("other bytes came back than were sent") };
        offer(self.rx, &self.buffers, slot)?;
        self.refilled = true;
        for _ in 0..whole {
            let slot = self.away.pop_front().context("more came back than was sent")?;
            self.half(slot)?;
        }
        Ok(())
    }

    #[inline]
    fn show_refilled(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.refilled) { self.rx.publish() } else { Ok(()) }
    }
}

impl Lane for Echoed<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let memory = self.slots.get(usize::from(slot)).context("a slot")?;
        memory.write_from(0, tag(self.sent).get(..memory.len().min(TAG_LEN)).unwrap_or_default())?;
        self.sent += 1;
        *self.halves.get_mut(usize::from(slot)).context("a slot")? = 0;
        self.away.push_back(slot);
        send(self.tx, &self.slots, slot)
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        self.show_refilled()?;
        self.tx.publish()
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        loop {
            if let Some(slot) = self.done.pop_front() {
                let what = Outcome::Moved(Way::Out, self.expected.request.len() as u32);
                return Ok(Some(Returned { slot, what }));
            }
            if let Some((token, _)) = self.tx.poll()? {
                self.half(token as u16)?;
            } else if let Some((token, len)) = self.rx.poll()? {
                self.take(token as u16, len)?;
            } else {
                return Ok(None);
            }
        }
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.show_refilled()?;
        // What is away comes back after it was taken.
        if self.away.is_empty() { self.tx.wait(how, timeout) } else { self.rx.wait(how, timeout) }
    }

    fn notifications(&self) -> Notifications {
        let (rx, tx) = (self.rx.notifications(), self.tx.notifications());
        Notifications { kicks: rx.kicks + tx.kicks, calls: rx.calls + tx.calls }
    }
}

/// Adds a slot's bytes to the ring.
#[inline]
fn send(queue: &mut Queue, slots: &[Segment], slot: u16) -> Result<()> {
    let piece = slots.get(usize::from(slot)).context("a slot")?.piece();
    Ok(queue.add::<Piece, Piece>(slice::from_ref(&piece), &[], slot.into())?)
}

/// Adds a buffer to the ring.
#[inline]
pub(super) fn offer(queue: &mut Queue, buffers: &[Segment], slot: u16) -> Result<()> {
    let piece = buffers.get(usize::from(slot)).context("a slot")?.piece();
    Ok(queue.add::<Piece, Piece>(&[], slice::from_ref(&piece), slot.into())?)
}

/// What a request begins with, as far as it is that long.
fn tag(number: u64) -> [u8; TAG_LEN] {
    number.to_le_bytes()
}

/// Requests of one length, as bytes one behind the other.
struct Series {
    /// The one that is expected.
    request: Vec<u8>,
    number: u64,
    /// How much of it has come.
    at: usize,
}

impl Series {
    fn new(len: usize) -> Self {
        let request = (0..len).map(|at| (at % 251) as u8).collect();
        let mut this = Self { request, number: 0, at: 0 };
        this.begin(0);
        this
    }

    fn begin(&mut self, number: u64) {
        (self.number, self.at) = (number, 0);
        self.request.iter_mut().zip(tag(number)).for_each(|(place, byte)| *place = byte);
    }

    /// Compares what comes next: how many requests are whole with it. `None`: it is something else.
    fn follow(&mut self, mut bytes: &[u8]) -> Option<usize> {
        let mut whole = 0;
        while !bytes.is_empty() {
            let left = self.request.get(self.at..)?;
            let (now, later) = bytes.split_at(left.len().min(bytes.len()));
            if now.is_empty() || left.get(..now.len()) != Some(now) {
                return None;
            }
            (self.at, bytes) = (self.at + now.len(), later);
            if self.at == self.request.len() {
                self.begin(self.number + 1);
                whole += 1;
            }
        }
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first requests of a length.
    fn requests(len: usize, count: u64) -> Vec<u8> {
        let mut series = Series::new(len);
        let request = |number| {
            series.begin(number);
            series.request.clone()
        };
        (0..count).flat_map(request).collect()
    }

    #[test]
    fn series_is_followed_however_it_is_cut() {
        for len in [1, 5, 8, 9, 300] {
            let all = requests(len, 40);
            for cut in [1, 3, len, 7 * len + 1, all.len()] {
                let mut series = Series::new(len);
                let whole: Option<usize> = all.chunks(cut).map(|bytes| series.follow(bytes)).sum();
                assert_eq!(whole, Some(40), "{len} in pieces of {cut}");
            }
        }
    }

    #[test]
    fn series_with_a_byte_lost_changed_or_twice_is_another() {
        for len in [9, 300] {
            let all = requests(len, 3);
            for at in [0, len - 1, len, 2 * len] {
                let (front, rest) = all.split_at(at);
                let changed = [front, &[rest[0] ^ 0x40], &rest[1..]].concat();
                let lost = [front, &rest[1..]].concat();
                let twice = [front, &rest[..1], rest].concat();
                for other in [changed, lost, twice] {
                    assert!(Series::new(len).follow(&other).is_none_or(|whole| whole < 2), "{len}, {at}");
                }
            }
            assert_eq!(Series::new(len).follow(&all[len..]), None, "it begins with the second");
        }
    }
}
