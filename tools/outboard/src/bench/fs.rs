//! `outboard bench fs`: FUSE requests to a shared directory.

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use outboard_frontend::Frontend;
use outboard_frontend::drivers::{Fs, FsOptions};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::fs::{EntryOut, ROOT};
use serde_json::{Value, json};

use super::figures::Figures;
use super::fs_lane::{Act, FsLane, Subject};
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::random::Random;
use super::versus::{Job, Session};
use crate::size::Size;
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  outboard bench fs /run/fs.sock
  outboard bench fs --op read --path data --bs 64K --depth 16 -- virtiofsd --shared-dir /srv/share
  outboard bench fs --op lookup --path data --vs /run/other.sock /run/fs.sock

Writing destroys what is in the file: without COMMAND, which starts a back end for the purpose, it needs
--destroy-data.";

/// Measure a file system
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// What to do
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Op::Getattr, help_heading = "File system")]
    op: Op,

    /// What to do it to: a name in the root of what is shared [default: the root itself, with getattr]
    #[arg(long, value_name = "NAME", help_heading = "File system")]
    path: Option<String>,

    /// Bytes of each read or write: 1 to 16M; the file is at least as long, and only whole blocks of it are used
    #[arg(long, value_name = "SIZE", default_value = "4K", help_heading = "File system")]
    bs: Size,

    /// Yes, destroy what is in the file
    #[arg(long, help_heading = "File system")]
    destroy_data: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Op {
    /// Read the attributes, as stat does
    Getattr,
    /// Find the name
    Lookup,
    /// Read blocks anywhere in the file
    Read,
    /// Write blocks anywhere in the file
    Write,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Self::Getattr => "getattr",
            Self::Lookup => "lookup",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    fn moves_data(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let path = self.path.as_deref().unwrap_or("the root");
        let bs = if self.op.moves_data() { format!(", {}", self.bs) } else { String::new() };
        Ok(format!("fs {} of {path}{bs}, {}", self.op.name(), self.shared.title(self.queue_size()?)))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.queue_size()?);
        if let Some(job) = job.as_object_mut() {
            job.insert("op".to_owned(), json!(self.op.name()));
            job.insert("path".to_owned(), json!(self.path));
            job.insert("bs".to_owned(), json!(self.op.moves_data().then_some(self.bs.0)));
        }
        Ok(job)
    }

    /// Request, data and answer.
    fn queue_size(&self) -> Result<u16> {
        self.shared.queue_size(3)
    }

    /// Finds the file, and opens it if it is to be read or written.
    fn prepare(&self, fs: &mut Fs) -> Result<(Act, Option<EntryOut>)> {
        let Some(path) = &self.path else { return Ok((Act::Getattr, None)) };
        let entry = fs.lookup(ROOT, path).with_context(|| format!("cannot find {path}"))?;
        let act = match self.op {
            Op::Getattr => Act::Getattr,
            Op::Lookup => Act::Lookup { name: path.clone() },
            Op::Read | Op::Write => {
                let is_file = entry.attr.mode.get() & libc::S_IFMT == libc::S_IFREG;
                ensure!(is_file, "{path} is not a file");
                let size = entry.attr.size.get();
                let blocks = size / self.bs.0;
                ensure!(
                    blocks > 0,
                    "there is not one block of {} in {path}, which has {}",
                    self.bs,
                    Size(size)
                );
                let (most, flags) = match self.op {
                    Op::Write => (fs.write_max(), libc::O_WRONLY),
                    _ => (fs.read_max(), libc::O_RDONLY),
                };
                let most = u64::from(most);
                ensure!(self.bs.0 <= most, "the file system takes at most {} at once", Size(most));
                let opened = fs.open_file(entry.nodeid.get(), flags.cast_unsigned());
                let fh = opened.with_context(|| format!("cannot open {path}"))?;
                Act::Transfer { write: self.op == Op::Write, fh, bytes: self.bs.0 as u32, blocks }
            }
        };
        Ok((act, Some(entry)))
    }

    /// What one request reads or writes.
    fn buffer(&self, frontend: &mut Frontend, random: &mut Random) -> Result<Vec<Segment>> {
        if !self.op.moves_data() {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; self.bs.0 as usize];
        let buffer = frontend.allocate(bytes.len())?;
        // Not zeroes, which file systems may treat specially.
        random.fill(&mut bytes);
        buffer.write_from(0, &bytes)?;
        Ok(vec![buffer])
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, target: &Target) -> Result<()> {
        ensure!((1..=16 << 20).contains(&self.bs.0), "--bs is at least 1 and at most 16M");
        ensure!(self.path.is_some() || self.op == Op::Getattr, "--op {} needs --path", self.op.name());
        if self.op == Op::Write && !self.destroy_data && !target.is_ours() {
            bail!(
                "--op write destroys what is in the file behind {}: it needs --destroy-data",
                target.name()
            );
        }
        Ok(())
    }

    fn data(&self) -> u64 {
        let requests = u64::from(self.shared.queues) * u64::from(self.shared.depth);
        if self.op.moves_data() { requests * self.bs.0.next_multiple_of(4096) } else { 0 }
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { frontend, back } = session;
        let (queues, queue_size) = (self.shared.queues, self.queue_size()?);
        let wishes = self.shared.wishes(queues.saturating_add(1), queue_size);
        let mut fs = Fs::open(frontend, &FsOptions { wishes, queues, queue_size })?;
        let (act, entry) = self.prepare(&mut fs)?;
        let subject = match entry {
            Some(entry) => Subject { node: entry.nodeid.get(), ino: entry.attr.ino.get() },
            None => Subject { node: ROOT, ino: fs.getattr(ROOT)?.ino.get() },
        };
        let mut all = Vec::new();
        for nth in 0..queues {
            let mut random = Random::new(self.shared.seed, nth.into());
            let buffers: Result<Vec<_>> =
                (0..self.shared.depth).map(|_| self.buffer(fs.frontend(), &mut random)).collect();
            all.push((buffers?, random));
        }
        let queues = fs.queues().iter_mut().zip(all);
        let mut lanes: Vec<_> = queues
            .map(|(queue, (buffers, random))| FsLane::new(queue, buffers, random, subject, &act))
            .collect();
        let figures = run(&mut lanes, load, back, progress)?;
        let lookups: u64 = lanes.iter().map(FsLane::lookups).sum();
        drop(lanes);
        if let Act::Transfer { fh, .. } = act {
            fs.release(subject.node, fh)?;
        }
        if self.path.is_some() {
            fs.forget(subject.node, lookups + 1)?;
        }
        fs.close()?;
        Ok(figures)
    }
}
