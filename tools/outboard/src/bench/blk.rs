//! `outboard bench blk`: reads and writes of a disk.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use outboard_frontend::drivers::{Blk, BlkOptions, BlkQueue};
use outboard_frontend::{Error, Frontend};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::blk::{F_FLUSH, F_RO, F_SEG_MAX, SECTOR_SIZE};
use serde_json::{Value, json};

use super::blk_lane::{BlkLane, Part, Work};
use super::figures::Figures;
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::size::Size;
use crate::target::Target;

/// The most blocks of which --verify remembers what was written.
const REMEMBERED: u64 = 1 << 26;

const EXAMPLES: &str = "\
Examples:
  outboard bench blk /run/disk.sock
  outboard bench blk --rw randrw --bs 16K --depth 64 --queues 4 --verify -- vhost-user-blk --ram 1G
  outboard bench blk --wait poll --vs /run/other.sock --rounds 5 --cpu-front 0 --cpu-back 1 /run/disk.sock

Writing destroys what is on the disk: without COMMAND, which starts a back end for the purpose, it needs
--destroy-data.";

/// Measure a disk
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// What to do
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Access::Randread, help_heading = "Disk")]
    rw: Access,

    /// With --rw randrw: how many percent of the requests read
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100),
          help_heading = "Disk")]
    rwmixread: u8,

    /// Bytes of each request: 512 to 16M, whole sectors
    #[arg(long, value_name = "SIZE", default_value = "4K", help_heading = "Disk")]
    bs: Size,

    /// Where on the disk to begin
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Disk")]
    offset: Size,

    /// How much of the disk to use [default: the rest of it]
    #[arg(long, value_name = "SIZE", help_heading = "Disk")]
    size: Option<Size>,

    /// Write what can be recognized, and compare whatever is read; writing ends with reading all of it back
    ///
    /// Reading alone needs a disk that was written so before, with the same seed. Each queue has a part of the disk
    /// of its own. Comparing costs time: the figures are not those of the back end alone.
    #[arg(long, help_heading = "Disk")]
    verify: bool,

    /// Flush after every N writes; flushes are not counted as requests
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, help_heading = "Disk")]
    flush_every: u64,

    /// Yes, destroy what is on the disk
    #[arg(long, help_heading = "Disk")]
    destroy_data: bool,
}

/// What is done to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Access {
    /// Read from the start to the end, over and over
    Read,
    /// Write from the start to the end, over and over
    Write,
    /// Read anywhere
    Randread,
    /// Write anywhere
    Randwrite,
    /// Read and write anywhere
    Randrw,
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
            Self::Randrw => "randrw",
        }
    }

    fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Randread)
    }
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let mix =
            if self.rw == Access::Randrw { format!(" ({} % reads)", self.rwmixread) } else { String::new() };
        let verify = if self.verify { ", verified" } else { "" };
        let common = self.shared.title(self.queue_size()?);
        Ok(format!("blk {}{mix}, {}{verify}, {common}", self.rw.name(), self.bs))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.queue_size()?);
        if let Some(job) = job.as_object_mut() {
            job.insert("rw".to_owned(), json!(self.rw.name()));
            job.insert("bs".to_owned(), json!(self.bs.0));
            job.insert("verify".to_owned(), json!(self.verify));
            job.insert("flush_every".to_owned(), json!(self.flush_every));
            if self.rw == Access::Randrw {
                job.insert("rwmixread".to_owned(), json!(self.rwmixread));
            }
        }
        Ok(job)
    }

    /// Header, data and status.
    fn queue_size(&self) -> Result<u16> {
        self.shared.queue_size(3)
    }

    fn check(&self) -> Result<()> {
        let Size(bs) = self.bs;
        ensure!((SECTOR_SIZE..=16 << 20).contains(&bs), "--bs is at least 512 and at most 16M");
        ensure!(bs.is_multiple_of(SECTOR_SIZE), "--bs is not a whole number of sectors");
        ensure!(self.offset.0.is_multiple_of(SECTOR_SIZE), "--offset is not a whole number of sectors");
        Ok(())
    }

    /// The blocks of the disk to use.
    fn blocks(&self, disk: &Blk) -> Result<u64> {
        let bytes = disk.capacity().saturating_mul(SECTOR_SIZE);
        let Some(rest) = bytes.checked_sub(self.offset.0) else {
            bail!("--offset {} is beyond the end of a disk of {}", self.offset, Size(bytes));
        };
        let wanted = self.size.map_or(rest, |size| size.0);
        ensure!(wanted <= rest, "--offset and --size go beyond the end of a disk of {}", Size(bytes));
        let blocks = wanted / self.bs.0;
        ensure!(blocks > 0, "there is not one block of {} in {}", self.bs, Size(wanted));
        Ok(blocks)
    }

    /// The buffer of one request, in segments as the device wants them.
    fn buffer(&self, frontend: &mut Frontend, segment: usize) -> Result<Vec<Segment>, Error> {
        let len = self.bs.0 as usize;
        let whole = frontend.allocate(len)?;
        (0..len)
            .step_by(segment)
            .map(|at| whole.slice(at, segment.min(len - at)).ok_or(Error::OutOfMemory { len }))
            .collect()
    }

    /// What each queue is to do, in its part of the disk if it is to know what is there.
    fn parts(&self, blocks: u64) -> Result<Vec<Part>> {
        let queues = u64::from(self.shared.queues);
        let first = self.offset.0 / SECTOR_SIZE;
        if self.verify {
            ensure!(
                blocks <= REMEMBERED,
                "--verify with so many blocks: say a smaller --size, or a larger --bs"
            );
        }
        let shared = !self.verify && !matches!(self.rw, Access::Read | Access::Write);
        if shared {
            return Ok((0..queues).map(|_| Part { first, blocks }).collect());
        }
        let each = blocks / queues;
        let depth = u64::from(self.shared.depth);
        let enough = if self.verify { each >= depth } else { each > 0 };
        ensure!(enough, "{blocks} blocks are too few for {queues} queues of depth {depth}");
        let sectors = self.bs.0 / SECTOR_SIZE;
        Ok((0..queues).map(|nth| Part { first: first + nth * each * sectors, blocks: each }).collect())
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, target: &Target) -> Result<()> {
        self.check()?;
        if self.rw.writes() && !self.destroy_data && !target.is_ours() {
            bail!(
                "--rw {} destroys what is on the disk behind {}: it needs --destroy-data",
                self.rw.name(),
                target.name()
            );
        }
        Ok(())
    }

    fn data(&self) -> u64 {
        let requests = u64::from(self.shared.queues) * u64::from(self.shared.depth);
        requests * self.bs.0.next_multiple_of(4096)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { frontend, back } = session;
        let (queues, queue_size) = (self.shared.queues, self.queue_size()?);
        let mut wishes = self.shared.wishes(queues, queue_size);
        wishes.device_features = BlkOptions::FEATURES;
        let options = BlkOptions { wishes, queues, queue_size, recoverable: self.shared.inflight };
        let mut disk = Blk::open(frontend, &options)?;
        ensure!(!self.rw.writes() || !disk.has(F_RO), "the disk is read-only");
        ensure!(self.flush_every == 0 || disk.has(F_FLUSH), "the disk cannot be flushed");
        let segment = disk.segment_max();
        let segments = (self.bs.0 as usize).div_ceil(segment);
        let most = if disk.has(F_SEG_MAX) { disk.config().seg_max.get() as usize } else { usize::MAX };
        ensure!(segments <= most.max(1), "the disk takes at most {most} segments of {segment} bytes");

        let work = Work {
            bytes: self.bs.0 as u32,
            random: !matches!(self.rw, Access::Read | Access::Write),
            reads: match self.rw {
                Access::Read | Access::Randread => 100,
                Access::Write | Access::Randwrite => 0,
                Access::Randrw => self.rwmixread,
            },
            flush_every: self.flush_every,
            verify: self.verify,
            seed: self.shared.seed,
        };
        let parts = self.parts(self.blocks(&disk)?)?;
        let mut buffers = Vec::new();
        for _ in &parts {
            let lane: Result<Vec<_>, Error> =
                (0..self.shared.depth).map(|_| self.buffer(disk.frontend(), segment)).collect();
            buffers.push(lane?);
        }
        let queues: &mut [BlkQueue] = disk.queues();
        let mut lanes = Vec::new();
        for ((queue, buffers), (part, nth)) in queues.iter_mut().zip(buffers).zip(parts.into_iter().zip(0..))
        {
            lanes.push(BlkLane::new(queue, buffers, part, work, nth)?);
        }
        let figures = run(&mut lanes, load, back, progress)?;
        drop(lanes);
        disk.close()?;
        Ok(figures)
    }
}
