//! A queue of a file system under load. What it answers must be about the file that was asked for, and complete.

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::Error;
use outboard_frontend::drivers::{Answer, FsQueue};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::fs::ROOT;

use super::figures::Way;
use super::lane::{Lane, Outcome, Returned, over_one_queue};
use super::random::Random;

/// Which file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) node: u64,
    /// The inode that the node's attributes name.
    pub(super) ino: u64,
}

/// What is done to it.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Getattr,
    /// In the root.
    Lookup {
        name: String,
    },
    /// Whole blocks anywhere in the open file.
    Transfer {
        write: bool,
        fh: u64,
        bytes: u32,
        blocks: u64,
    },
}

/// A queue, and what it is loaded with.
pub(super) struct FsLane<'a> {
    queue: &'a mut FsQueue,
    /// By slot.
    buffers: Vec<Vec<Segment>>,
    random: Random,
    subject: Subject,
    act: &'a Act,
    lookups: u64,
}

impl<'a> FsLane<'a> {
    /// With a buffer for each slot.
    pub(super) fn new(
        queue: &'a mut FsQueue,
        buffers: Vec<Vec<Segment>>,
        random: Random,
        subject: Subject,
        act: &'a Act,
    ) -> Self {
        Self { queue, buffers, random, subject, act, lookups: 0 }
    }

    /// How often the file was found: the device counts that, too.
    pub(super) fn lookups(&self) -> u64 {
        self.lookups
    }

    /// Checks an answer; how many bytes of data were moved, and which way.
    #[inline]
    fn judge(&mut self, answer: Answer) -> Result<Outcome> {
        let Subject { node, ino } = self.subject;
        match (self.act, answer) {
            (Act::Getattr, Answer::Attr(answer)) => {
                let found = answer.attr.ino.get();
                ensure!(found == ino, "the attributes are those of inode {found}, not {ino}");
                Ok(Outcome::Moved(Way::In, 0))
            }
            (Act::Lookup { name }, Answer::Entry(entry)) => {
                let found = entry.nodeid.get();
                ensure!(found == node, "{name} is found as node {found}, before as {node}");
                self.lookups += 1;
                Ok(Outcome::Moved(Way::In, 0))
            }
            (&Act::Transfer { write: false, bytes, .. }, Answer::Read(len)) => {
                ensure!(len == bytes, "a read of {bytes} bytes within the file brought {len}");
                Ok(Outcome::Moved(Way::In, bytes))
            }
            (&Act::Transfer { write: true, bytes, .. }, Answer::Written(len)) => {
                ensure!(len == bytes, "of {bytes} bytes {len} were written");
                Ok(Outcome::Moved(Way::Out, bytes))
            }
            _ => bail!("the answer is to another request"),
        }
    }
}

impl Lane for FsLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let (node, token) = (self.subject.node, u64::from(slot));
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        match self.act {
            Act::Getattr => self.queue.getattr(node, token)?,
            Act::Lookup { name } => self.queue.lookup(ROOT, name, token)?,
            &Act::Transfer { write, fh, bytes, blocks } => {
                let offset = self.random.below(blocks) * u64::from(bytes);
                if write {
                    self.queue.write(node, fh, offset, buffer, token)?;
                } else {
                    self.queue.read(node, fh, offset, buffer, token)?;
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some(completion) = self.queue.poll()? else { return Ok(None) };
        let answer = completion.result.map_err(Error::Fs)?;
        Ok(Some(Returned { slot: completion.token as u16, what: self.judge(answer)? }))
    }

    over_one_queue!();
}
