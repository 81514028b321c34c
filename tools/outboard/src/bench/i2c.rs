//! `outboard bench i2c`: messages to a chip by the second.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::{Error, Notifications, Queue, Waiting};
use outboard_guest_memory::{Piece, Segment};
use outboard_virtio_defs::i2c::{F_ZERO_LENGTH_REQUEST, M_RD, OK, OutHdr, seven_bit};
use serde_json::{Value, json};
use zerocopy::IntoBytes as _;

use super::figures::{Figures, Way};
use super::lane::{Lane, Outcome, Returned};
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::i2c_address::i2c_address;
use crate::size::Size;
use crate::target::Target;

/// Bytes of a header.
const HEADER: usize = size_of::<OutHdr>();

/// Measure an I2C adapter: messages that read
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Bytes of each message: 1 to 8K
    #[arg(long, value_name = "SIZE", default_value = "1", help_heading = "I2C")]
    bs: Size,

    /// Read from the chip at this address, of 7 bits
    #[arg(long, value_name = "N", default_value = "0x50", value_parser = i2c_address, help_heading = "I2C")]
    address: u8,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let shared = self.shared.title(self.shared.queue_size(2)?);
        Ok(format!("i2c, {} from {:#04x}, {shared}", self.bs, self.address))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(2)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("bs".to_owned(), json!(self.bs.0));
            job.insert("address".to_owned(), json!(self.address));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!((1..=8 << 10).contains(&self.bs.0), "--bs is at least 1 and at most 8K");
        ensure!(self.shared.queues == 1, "an I2C adapter has one queue");
        Ok(())
    }

    fn data(&self) -> u64 {
        u64::from(self.shared.depth) * (self.bs.0 + 64).next_multiple_of(4096)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { mut frontend, back } = session;
        let size = self.shared.queue_size(2)?;
        let mut wishes = self.shared.wishes();
        wishes.inflight = self.shared.inflight.then_some((1, size));
        wishes.device_features |= F_ZERO_LENGTH_REQUEST;
        frontend.agree(&wishes)?;
        let mut queue = frontend.start(0, size)?;
        frontend.driver_ok()?;
        let header = OutHdr { addr: seven_bit(self.address).into(), padding: 0.into(), flags: M_RD.into() };
        let len = HEADER + self.bs.0 as usize + 1;
        let mut slots = Vec::new();
        for _ in 0..self.shared.depth {
            let slot = frontend.allocate(len)?;
            slot.write_from(0, header.as_bytes())?;
            slots.push(slot);
        }
        let mut lanes = [I2cLane { queue: &mut queue, slots, len: self.bs.0 as u32 + 1 }];
        let figures = run(&mut lanes, load, back, progress)?;
        frontend.reset([queue])?;
        Ok(figures)
    }
}

/// The queue of an I2C adapter.
struct I2cLane<'a> {
    queue: &'a mut Queue,
    /// Header, data, status.
    slots: Vec<Segment>,
    /// Bytes of data and status.
    len: u32,
}

impl Lane for I2cLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let piece = self.slots.get(usize::from(slot)).context("a slot")?.piece();
        let (header, answer) = (piece.slice(0, HEADER), piece.slice(HEADER, self.len as usize));
        let (header, answer) = (header.context("a header")?, answer.context("an answer")?);
        Ok(self.queue.add::<Piece, Piece>(&[header], &[answer], slot.into())?)
    }

    #[inline]
    fn publish(&mut self) -> Result<(), Error> {
        self.queue.publish()
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some((token, len)) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let memory = self.slots.get(usize::from(slot)).context("a slot")?;
        let mut status = [0];
        memory.read_into(HEADER + self.len as usize - 1, &mut status)?;
        if status != [OK] || len != self.len {
            bail!("a message of {} bytes has status {} and length {len}", self.len - 1, status[0]);
        }
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, self.len - 1) }))
    }

    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }
}
