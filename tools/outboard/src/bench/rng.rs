//! `outboard bench rng`: entropy by the second.

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::{Error, Queue};
use outboard_guest_memory::{Piece, Segment};
use serde_json::{Value, json};

use super::figures::{Figures, Way};
use super::lane::{Lane, Outcome, Returned, over_one_queue};
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::size::Size;
use crate::target::Target;

/// Measure an entropy device
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Bytes of each request: 1 to 16M
    #[arg(long, value_name = "SIZE", default_value = "4K", help_heading = "Entropy")]
    bs: Size,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        Ok(format!("rng, {}, {}", self.bs, self.shared.title(self.shared.queue_size(1)?)))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(1)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("bs".to_owned(), json!(self.bs.0));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!((1..=16 << 20).contains(&self.bs.0), "--bs is at least 1 and at most 16M");
        ensure!(self.shared.queues == 1, "an entropy device has one queue");
        Ok(())
    }

    fn data(&self) -> u64 {
        u64::from(self.shared.depth) * self.bs.0.next_multiple_of(4096)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { mut frontend, back } = session;
        let size = self.shared.queue_size(1)?;
        frontend.agree(&self.shared.wishes(1, size))?;
        let mut queue = frontend.start(0, size)?;
        frontend.driver_ok()?;
        let len = self.bs.0 as usize;
        let buffers: Result<Vec<Segment>, Error> =
            (0..self.shared.depth).map(|_| frontend.allocate(len)).collect();
        let buffers = buffers?;
        let pieces = buffers.iter().map(Segment::piece).collect();
        let mut lanes = [RngLane { queue: &mut queue, buffers: pieces }];
        let figures = run(&mut lanes, load, back, progress)?;
        frontend.reset([queue])?;
        Ok(figures)
    }
}

/// The queue of an entropy device.
struct RngLane<'a> {
    queue: &'a mut Queue,
    buffers: Vec<Piece>,
}

impl Lane for RngLane<'_> {
    #[inline]
    fn stage(&mut self, slot: u16) -> Result<()> {
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        Ok(self.queue.add::<Piece, _>(&[], std::slice::from_ref(buffer), slot.into())?)
    }

    #[inline]
    fn poll(&mut self) -> Result<Option<Returned>> {
        let Some((token, len)) = self.queue.poll()? else { return Ok(None) };
        let slot = token as u16;
        let buffer = self.buffers.get(usize::from(slot)).context("a slot")?;
        if len == 0 || len as usize > buffer.len() {
            bail!("the device returned a request of {} bytes with {len}", buffer.len());
        }
        Ok(Some(Returned { slot, what: Outcome::Moved(Way::In, len) }))
    }

    over_one_queue!();
}
