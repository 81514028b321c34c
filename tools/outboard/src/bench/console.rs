//! `outboard bench console`: bytes of a console by the second, each way, and there and back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use outboard_frontend::{Queue, Waiting};
use outboard_guest_memory::{Piece, Segment};
use serde_json::{Value, json};

use super::bytes::{Echoed, Inward, Outward, slots};
use super::far::{Far, GREETING, Habit};
use super::figures::Figures;
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::size::Size;
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  outboard bench console -- vhost-user-console --console null
  outboard bench console --direction loop --bs 1 --depth 1 -- vhost-user-console --console echo
  outboard bench console --direction in --far /tmp/far.sock -- vhost-user-console --console unix:/tmp/far.sock

It is port 0 that is measured, without messages about ports. With --far, the program at the far end is this one; what it takes
of the CPU is not counted.";

/// Measure a console: bytes each way, or there and back
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Which way the bytes go
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Direction::Out, help_heading = "Console")]
    direction: Direction,

    /// Bytes of each buffer: 1 to 64K
    #[arg(long, value_name = "SIZE", default_value = "4K", help_heading = "Console")]
    bs: Size,

    /// Be the client of this UNIX socket, the far end of the console [default: what is there takes what is sent, or sends it back]
    #[arg(long, value_name = "SOCKET", help_heading = "Console")]
    far: Option<PathBuf>,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// The guest sends
    Out,
    /// It takes what comes from the far end
    In,
    /// It sends, and takes back what the far end sends back, every byte compared
    Loop,
}

impl Args {
    fn way(&self) -> &'static str {
        match self.direction {
            Direction::Out => "out",
            Direction::In => "in",
            Direction::Loop => "loop",
        }
    }

    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let shared = self.shared.title(self.shared.queue_size(1)?);
        Ok(format!("console {}, {}, {shared}", self.way(), self.bs))
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.shared.queue_size(1)?);
        if let Some(job) = job.as_object_mut() {
            job.insert("direction".to_owned(), json!(self.way()));
            job.insert("bs".to_owned(), json!(self.bs.0));
            job.insert("far".to_owned(), json!(self.far));
        }
        Ok(job)
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!((1..=64 << 10).contains(&self.bs.0), "--bs is at least 1 and at most 64K");
        ensure!(self.shared.queues == 1, "a console has one queue each way");
        ensure!(
            self.direction != Direction::In || self.far.is_some(),
            "--direction in needs --far SOCKET: somebody has to send"
        );
        Ok(())
    }

    fn data(&self) -> u64 {
        2 * u64::from(self.shared.depth) * self.bs.0.next_multiple_of(4096)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { mut frontend, back } = session;
        let size = self.shared.queue_size(1)?;
        frontend.agree(&self.shared.wishes(2, size))?;
        let (mut rx, mut tx) = (frontend.start(0, size)?, frontend.start(1, size)?);
        frontend.driver_ok()?;
        let (depth, len) = (self.shared.depth, self.bs.0 as usize);
        let (sent, came) = (slots(&mut frontend, depth, len)?, slots(&mut frontend, depth, len)?);
        let timeout = load.pace.timeout;
        let mut far = self.far.as_deref().map(|path| Far::connect(path, timeout)).transpose()?;
        if let Some(far) = &mut far {
            meet(&mut rx, came.first().context("a buffer")?, timeout)?;
            far.start(match self.direction {
                Direction::Out => Habit::Takes,
                Direction::In => Habit::Sends,
                Direction::Loop => Habit::SendsBack,
            })?;
        }
        let figures = match self.direction {
            Direction::Out => run(&mut [Outward::new(&mut tx, sent)], load, back, progress)?,
            Direction::In => run(&mut [Inward::new(&mut rx, came)], load, back, progress)?,
            Direction::Loop => {
                let lane = Echoed::new(&mut tx, &mut rx, sent, came)?;
                run(&mut [lane], load, back, progress)?
            }
        };
        frontend.reset([rx, tx])?;
        Ok(figures)
    }
}

/// Takes what comes until the far end's greeting does: before that, the device has nobody for what is sent. What a client before
/// this one has left behind comes first.
fn meet(rx: &mut Queue, buffer: &Segment, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let mut bytes = vec![0; buffer.len()];
    while !bytes.contains(&GREETING) {
        rx.add::<Piece, Piece>(&[], &[buffer.piece()], 0)?;
        rx.publish()?;
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(rx.wait(Waiting::Interrupt, left)?, "nothing comes from the far end within {timeout:?}");
        let (_, len) = rx.poll()?.context("a buffer that was returned")?;
        bytes.resize(buffer.len().min(len as usize), 0);
        buffer.read_into(0, &mut bytes)?;
    }
    Ok(())
}
