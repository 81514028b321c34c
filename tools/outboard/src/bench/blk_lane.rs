//! A queue of a disk under load. What the disk returns is compared where the user wants that, and trusted nowhere.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use outboard_frontend::Waiting;
use outboard_frontend::drivers::BlkQueue;
use outboard_guest_memory::Segment;
use outboard_virtio_defs::blk::SECTOR_SIZE;

use super::figures::Way;
use super::lane::{Lane, Outcome, Returned, over_one_queue};
use super::pattern::{Expected, Pattern};
use super::random::Random;

/// How long one request of the last look may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A range of the disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// In sectors.
    pub(super) first: u64,
    /// How many blocks.
    pub(super) blocks: u64,
}

/// What to do with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Of a block, whole sectors.
    pub(super) bytes: u32,
    pub(super) random: bool,
    /// Percent of the requests.
    pub(super) reads: u8,
    /// Writes between flushes; 0: never flush.
    pub(super) flush_every: u64,
    pub(super) verify: bool,
    pub(super) seed: u64,
}

/// What a slot's request does.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Read { block: u64 },
    Write { block: u64 },
    Flush,
}

/// What is known of the blocks, for comparing.
struct Memory {
    pattern: Pattern,
    /// How often each block was written.
    generations: Vec<u32>,
    /// Blocks that a request is out for: nobody knows what they hold.
    busy: Vec<bool>,
    /// A block in our own memory.
    block: Vec<u8>,
}

/// A queue, and what it is loaded with.
pub(super) struct BlkLane<'a> {
    queue: &'a mut BlkQueue,
    /// By slot.
    buffers: Vec<Vec<Segment>>,
    sent: Vec<Sent>,
    part: Part,
    work: Work,
    random: Random,
    next: u64,
    unflushed: u64,
    memory: Option<Memory>,
}

impl<'a> BlkLane<'a> {
    /// Lane `nth`, with a buffer for each slot.
    pub(super) fn new(
        queue: &'a mut BlkQueue,
        buffers: Vec<Vec<Segment>>,
        part: Part,
        work: Work,
        nth: u64,
    ) -> Result<Self> {
        let mut random = Random::new(work.seed, nth);
        let blocks = usize::try_from(part.blocks).unwrap_or(usize::MAX);
        let memory = work.verify.then(|| Memory {
            pattern: Pattern::new(work.seed),
            generations: vec![0; blocks],
            busy: vec![false; blocks],
            block: vec![0; work.bytes as usize],
        });
        if memory.is_none() {
            // Not zeroes, for disks that treat them specially.
            let mut bytes = vec![0; work.bytes as usize];
            for buffer in &buffers {
                random.fill(&mut bytes);
                write_to(buffer, &bytes)?;
            }
        }
        let sent = vec![Sent::Flush; buffers.len()];
        Ok(Self { queue, buffers, sent, part, work, random, next: 0, unflushed: 0, memory })
    }

    /// The block for the next request.
    #[inline]
    fn choose(&mut self) -> u64 {
        let blocks = self.part.blocks;
        if self.work.random {
            let chosen = self.random.below(blocks);
            return match &self.memory {
                // There are at least as many blocks as requests can be out, so one is not busy.
                Some(memory) => memory.idle_from(chosen),
                None => chosen,
            };
        }
        let block = self.next;
        self.next = if block + 1 < blocks { block + 1 } else { 0 };
        match &self.memory {
            Some(memory) => memory.idle_from(block),
            None => block,
        }
    }

    #[inline]
    fn sector(&self, block: u64) -> u64 {
        self.part.first + block * (u64::from(self.work.bytes) / SECTOR_SIZE)
    }

    fn send(&mut self, slot: u16, sent: Sent) -> Result<()> {
        let token = u64::from(slot);
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        match sent {
            Sent::Read { block } => self.queue.read(self.sector(block), buffer, token)?,
            Sent::Write { block } => {
                let sector = self.sector(block);
                if let Some(memory) = &mut self.memory {
                    memory.compose(block, sector)?;
                    write_to(buffer, &memory.block)?;
                }
                self.queue.write(sector, buffer, token)?;
            }
            Sent::Flush => self.queue.flush(token)?,
        }
        if let (Some(memory), Sent::Read { block } | Sent::Write { block }) = (&mut self.memory, sent) {
            memory.set_busy(block, true);
        }
        *self.sent.get_mut(usize::from(slot)).context("a slot")? = sent;
        Ok(())
    }

    /// Compares what a read brought.
    fn compare(&mut self, slot: u16, block: u64, sector: u64) -> Result<()> {
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        let Some(memory) = &mut self.memory else { return Ok(()) };
        let expected = match memory.generations.get(block as usize) {
            Some(0) | None if self.work.reads == 100 => Expected::Any,
            // Not written yet: it may hold anything.
            Some(0) | None => return Ok(()),
            Some(&generation) => Expected::Generation(generation),
        };
        read_from(buffer, &mut memory.block)?;
        Ok(memory.pattern.check(&memory.block, sector, expected)?)
    }
}

impl Lane for BlkLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        if self.work.flush_every != 0 && self.unflushed >= self.work.flush_every {
            self.unflushed = 0;
            return self.send(slot, Sent::Flush);
        }
        let block = self.choose();
        let reads = match self.work.reads {
            100 => true,
            0 => false,
            percent => self.random.below(100) < percent.into(),
        };
        if reads {
            return self.send(slot, Sent::Read { block });
        }
        self.unflushed += 1;
        self.send(slot, Sent::Write { block })
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some(completion) = self.queue.poll()? else { return Ok(None) };
        let slot = completion.token as u16;
        let sent = self.sent.get(usize::from(slot)).copied().context("a slot")?;
        let what = match sent {
            Sent::Read { .. } => Outcome::Moved(Way::In, self.work.bytes),
            Sent::Write { .. } => Outcome::Moved(Way::Out, self.work.bytes),
            Sent::Flush => Outcome::Flushed,
        };
        if let Err(failure) = completion.result {
            match sent {
                Sent::Read { block } => {
                    bail!("the disk cannot read sector {}: {failure}", self.sector(block))
                }
                Sent::Write { block } => {
                    bail!("the disk cannot write sector {}: {failure}", self.sector(block))
                }
                Sent::Flush => bail!("the disk cannot flush: {failure}"),
            }
        }
        if let (Some(memory), Sent::Read { block } | Sent::Write { block }) = (&mut self.memory, sent) {
            memory.set_busy(block, false);
            if let Sent::Read { .. } = sent {
                self.compare(slot, block, self.sector(block))?;
            }
        }
        Ok(Some(Returned { slot, what }))
    }

    over_one_queue!();

    /// Reads back everything that was written.
    fn finish(&mut self) -> Result<()> {
        if self.memory.is_none() || self.work.reads == 100 {
            return Ok(());
        }
        let mut next = 0;
        let mut free: Vec<u16> = (0..self.buffers.len() as u16).collect();
        loop {
            while let Some(slot) = free.pop() {
                let Some(block) = self.memory.as_ref().and_then(|memory| memory.written_from(next)) else {
                    break;
                };
                next = block + 1;
                self.send(slot, Sent::Read { block })?;
            }
            self.publish()?;
            if self.queue.outstanding() == 0 {
                return Ok(());
            }
            if !self.wait(Waiting::Interrupt, PATIENCE)? {
                bail!("the disk did not return a read within {PATIENCE:?}");
            }
            while let Some(returned) = self.poll()? {
                free.push(returned.slot);
            }
        }
    }
}

impl Memory {
    /// The first block from `block` on, around the end, that no request is out for.
    fn idle_from(&self, block: u64) -> u64 {
        let after = self.busy.iter().skip(block as usize).position(|busy| !busy);
        let before = || self.busy.iter().position(|busy| !busy);
        after.map(|at| block + at as u64).or_else(|| before().map(|at| at as u64)).unwrap_or(block)
    }

    /// The first block from `block` on that was written.
    fn written_from(&self, block: u64) -> Option<u64> {
        let found = self.generations.iter().skip(block as usize).position(|&generation| generation != 0);
        found.map(|at| block + at as u64)
    }

    fn set_busy(&mut self, block: u64, busy: bool) {
        if let Some(place) = self.busy.get_mut(block as usize) {
            *place = busy;
        }
    }

    /// Puts what is to be written next on a block into our own copy.
    fn compose(&mut self, block: u64, sector: u64) -> Result<()> {
        let generation = self.generations.get_mut(block as usize).context("a block")?;
        *generation = generation.wrapping_add(1).max(1);
        self.pattern.fill(&mut self.block, sector, *generation);
        Ok(())
    }
}

fn write_to(buffer: &[Segment], mut bytes: &[u8]) -> Result<()> {
    for segment in buffer {
        let (piece, rest) = bytes.split_at_checked(segment.len()).context("a buffer of another size")?;
        segment.write_from(0, piece)?;
        bytes = rest;
    }
    Ok(())
}

fn read_from(buffer: &[Segment], mut bytes: &mut [u8]) -> Result<()> {
    for segment in buffer {
        let (piece, rest) = bytes.split_at_mut_checked(segment.len()).context("a buffer of another size")?;
        segment.read_into(0, piece)?;
        bytes = rest;
    }
    Ok(())
}
