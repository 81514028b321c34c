//! A lane of devices that answer commands: the same command over and over, each in a buffer with room for its answer behind it.

use anyhow::{Context, Result, bail};
use outboard_frontend::Queue;
use outboard_guest_memory::{Piece, Segment};

use super::figures::{Figures, Way};
use super::lane::{Lane, Outcome, Returned, over_one_queue};
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::Session;

/// A command, and what a right answer is.
pub(super) struct Command {
    pub(super) bytes: Vec<u8>,
    /// The length of its answer: all that there is room for.
    pub(super) answer: u32,
    /// What stands in each right answer, and where.
    pub(super) status: (usize, &'static [u8]),
    /// How much of the answer is data.
    pub(super) data: u32,
}

impl Command {
    /// The memory that so many of them need.
    pub(super) fn memory(depth: u16, len: u64) -> u64 {
        u64::from(depth) * (len + 64).next_multiple_of(4096)
    }

    /// Gives it to the first queue of a device, which has to agree to these features.
    pub(super) fn measure(
        &self,
        shared: &Shared,
        features: u64,
        session: Session,
        load: &Load,
        progress: &Progress,
    ) -> Result<Figures> {
        let Session { mut frontend, back } = session;
        let size = shared.queue_size(2)?;
        let mut wishes = shared.wishes(1, size);
        wishes.device_features |= features;
        frontend.agree(&wishes)?;
        let mut queue = frontend.start(0, size)?;
        frontend.driver_ok()?;
        let mut slots = Vec::new();
        for _ in 0..shared.depth {
            let slot = frontend.allocate(self.bytes.len() + self.answer as usize)?;
            slot.write_from(0, &self.bytes)?;
            slots.push(slot);
        }
        let seen = vec![0; self.status.1.len()];
        let mut lanes = [CommandLane { queue: &mut queue, slots, command: self, seen }];
        let figures = run(&mut lanes, load, back, progress)?;
        frontend.reset([queue])?;
        Ok(figures)
    }
}

/// The queue that takes them.
struct CommandLane<'a> {
    queue: &'a mut Queue,
    slots: Vec<Segment>,
    command: &'a Command,
    /// Room for what stands where the status should.
    seen: Vec<u8>,
}

impl Lane for CommandLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let piece = self.slots.get(usize::from(slot)).context("a slot")?.piece();
        let len = self.command.bytes.len();
        let (command, answer) = (piece.slice(0, len), piece.slice(len, self.command.answer as usize));
        let (command, answer) = (command.context("a command")?, answer.context("an answer")?);
        Ok(self.queue.add::<Piece, Piece>(&[command], &[answer], slot.into())?)
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some((token, len)) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let Command { bytes, answer, status: (at, expected), data } = self.command;
        let memory = self.slots.get(usize::from(slot)).context("a slot")?;
        memory.read_into(bytes.len() + at, &mut self.seen)?;
        if self.seen != *expected || len != *answer {
            bail!("a command is answered with {:?} in {len} bytes", self.seen);
        }
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, *data) }))
    }

    over_one_queue!();
}
