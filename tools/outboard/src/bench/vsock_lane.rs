//! A connection of a socket device under load: packets that are given back, packets that are taken, or what comes without
//! being asked for. The device and the far end are not trusted: what comes back is no more than was sent, and, if that is
//! wished, every byte of it the same.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use outboard_frontend::drivers::{Vsock, VsockConnection};
use outboard_frontend::{Error, Notifications, Waiting};

use super::figures::Way;
use super::lane::{Lane, Outcome, Returned};
use super::vsock::Direction;

/// A place whose packet is of no slot.
const NOBODY: u16 = u16::MAX;
/// The most data of a packet that comes, in bytes: as much as a receive buffer has room for.
const MOST: usize = 4096;

/// The connection.
pub(super) struct VsockLane<'a> {
    vsock: &'a mut Vsock,
    connection: VsockConnection,
    direction: Direction,
    /// Bytes of each packet.
    len: usize,
    verify: bool,
    /// Slots that are to be sent when there is credit, and a place.
    waiting: VecDeque<u16>,
    /// Slots whose bytes are to come back; or, of what is not asked for, those that nothing has come for.
    away: VecDeque<u16>,
    /// Whose packet is in each place.
    owners: Vec<u16>,
    /// Bytes that have come back of the slots that are away.
    back: usize,
    /// Bytes that were sent, and that came, in all.
    sent: u64,
    came: u64,
    /// Data of a packet: on their way out, and in.
    out: Vec<u8>,
    room: Vec<u8>,
    /// The device was asked for credit.
    asked: bool,
}

impl<'a> VsockLane<'a> {
    pub(super) fn new(
        vsock: &'a mut Vsock,
        connection: VsockConnection,
        direction: Direction,
        len: usize,
        verify: bool,
    ) -> Result<Self> {
        let mut out = vec![0; len];
        fill(&mut out, 0);
        let room = if verify { vec![0; MOST] } else { Vec::new() };
        let mut place = 0;
        while vsock.fill(place, &out).is_ok() {
            place += 1;
        }
        Ok(Self {
            vsock,
            connection,
            direction,
            len,
            verify,
            waiting: VecDeque::new(),
            away: VecDeque::new(),
            owners: vec![NOBODY; place.into()],
            back: 0,
            sent: 0,
            came: 0,
            out,
            room,
            asked: false,
        })
    }

    /// Adds packets to the ring, as far as there are places for them, and credit.
    #[inline]
    fn push(&mut self) -> Result<(), Error> {
        while let Some(&slot) = self.waiting.front()
            && self.connection.credit() as usize >= self.len
            && let Some(place) = self.vsock.vacant()
        {
            if self.verify {
                fill(&mut self.out, self.sent);
                self.vsock.fill(place, &self.out)?;
            }
            self.vsock.stage(&mut self.connection, self.len)?;
            if let Some(owner) = self.owners.get_mut(usize::from(place)) {
                *owner = slot;
            }
            self.sent += self.len as u64;
            self.waiting.pop_front();
            self.asked = false;
            if self.direction == Direction::Echo {
                self.away.push_back(slot);
            }
        }
        Ok(())
    }

    /// Takes the next packet that has come; how many bytes it brings.
    #[inline]
    fn arrived(&mut self) -> Result<Option<usize>> {
        let Some(len) = self.vsock.arrived(&mut self.connection, &mut self.room)? else { return Ok(None) };
        ensure!(self.connection.heard() == 0, "the other end has ended the connection");
        if self.verify {
            let got = self.room.get(..len).unwrap_or_default();
            let wrong = got.iter().zip(self.came..).find(|(byte, at)| **byte != content(*at));
            if let Some((_, at)) = wrong {
                bail!("byte {at} of what came back is another");
            }
        }
        self.came += len as u64;
        Ok(Some(len))
    }

    fn moved(&self, slot: u16, way: Way, bytes: usize) -> Returned {
        Returned { slot, what: Outcome::Moved(way, bytes as u32) }
    }
}

/// The byte at a place of all that is sent.
#[inline]
fn content(at: u64) -> u8 {
    ((at as u32).wrapping_mul(2_654_435_761) >> 13) as u8
}

fn fill(bytes: &mut [u8], from: u64) {
    bytes.iter_mut().zip(from..).for_each(|(byte, at)| *byte = content(at));
}

impl Lane for VsockLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let slots = if self.direction == Direction::Receive { &mut self.away } else { &mut self.waiting };
        slots.push_back(slot);
        Ok(())
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        self.push()?;
        self.vsock.publish()
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        loop {
            match self.direction {
                Direction::Echo if self.back >= self.len => {
                    self.back -= self.len;
                    let Some(slot) = self.away.pop_front() else { bail!("more came back than was sent") };
                    return Ok(Some(self.moved(slot, Way::Out, self.len)));
                }
                Direction::Send => {
                    while let Some(place) = self.vsock.taken()? {
                        let owner = self.owners.get_mut(usize::from(place));
                        let slot = owner.map_or(NOBODY, |owner| std::mem::replace(owner, NOBODY));
                        if slot != NOBODY {
                            return Ok(Some(self.moved(slot, Way::Out, self.len)));
                        }
                    }
                }
                Direction::Receive if self.away.is_empty() => return Ok(None),
                Direction::Echo | Direction::Receive => while self.vsock.taken()?.is_some() {},
            }
            let Some(len) = self.arrived()? else {
                // What has come may be of use for more.
                self.publish()?;
                return Ok(None);
            };
            match self.direction {
                Direction::Echo => self.back += len,
                Direction::Receive if len > 0 => {
                    let slot = self.away.pop_front().unwrap_or(NOBODY);
                    return Ok(Some(self.moved(slot, Way::In, len)));
                }
                Direction::Send | Direction::Receive => {}
            }
        }
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        let lacks = !self.waiting.is_empty() && (self.connection.credit() as usize) < self.len;
        if lacks && !self.asked {
            self.asked = self.vsock.stage_credit_request(&mut self.connection)?;
            self.vsock.publish()?;
        }
        let (rx, tx) = self.vsock.queues();
        let sends = self.direction == Direction::Send && !lacks;
        if sends { tx.wait(how, timeout) } else { rx.wait(how, timeout) }
    }

    fn notifications(&self) -> Notifications {
        self.vsock.notifications()
    }

    fn is_asked(&self) -> bool {
        self.direction != Direction::Receive
    }
}
