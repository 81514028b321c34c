//! `outboard bench net`: packets by the second, each way.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use outboard_frontend::drivers::{Net, NetOptions};
use outboard_frontend::{Error, Frontend};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::net::{F_MRG_RXBUF, HEADER_LEN, SMALL_BUFFER_LEN};
use serde_json::{Value, json};

use super::figures::Figures;
use super::load::{Load, run};
use super::net_lane::{Loop, Rx, Tx, frame};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::target::Target;

/// The shortest frame of Ethernet, without its check sequence, and the longest that fits any header.
const FRAMES: std::ops::RangeInclusive<usize> = 60..=65_000;

const EXAMPLES: &str = "\
Examples:
  outboard bench net --direction tx --frame-size 1514 /run/net.sock
  outboard bench net --direction loop --wait poll --format packed --in-order /run/echo.sock

Frames go from 02:00:00:00:00:01 to 02:00:00:00:00:02, with the EtherType 0x88b5 for local experiments. Sizes count
the Ethernet header, not the check sequence; bits are those of whole frames.";

/// Measure a network device
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Which way the packets go
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Direction::Tx, help_heading = "Network")]
    direction: Direction,

    /// Bytes of each frame that is sent
    #[arg(long, value_name = "BYTES", default_value_t = 60, help_heading = "Network")]
    frame_size: usize,

    /// Receive a packet into several small buffers, if the device can (VIRTIO_NET_F_MRG_RXBUF)
    #[arg(long, help_heading = "Network")]
    mergeable: bool,

    /// Bytes of each receive buffer [default: 2048 if mergeable, else what the longest packet needs]
    #[arg(long, value_name = "BYTES", help_heading = "Network")]
    buffer_size: Option<usize>,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// The front end sends
    Tx,
    /// The front end takes what comes, if something comes
    Rx,
    /// The front end sends, and takes back what the device echoes
    Loop,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let merged = if self.mergeable { ", mergeable buffers" } else { "" };
        let common = self.shared.title(self.queue_size()?);
        Ok(match self.direction {
            Direction::Rx => format!("net rx{merged}, {common}"),
            _ => format!(
                "net {}, frames of {} bytes{merged}, {common}",
                self.direction_name(),
                self.frame_size
            ),
        })
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.queue_size()?);
        if let Some(job) = job.as_object_mut() {
            job.insert("direction".to_owned(), json!(self.direction_name()));
            job.insert("frame_size".to_owned(), json!(self.frame_size));
            job.insert("mergeable".to_owned(), json!(self.mergeable));
        }
        Ok(job)
    }

    fn direction_name(&self) -> &'static str {
        match self.direction {
            Direction::Tx => "tx",
            Direction::Rx => "rx",
            Direction::Loop => "loop",
        }
    }

    fn queue_size(&self) -> Result<u16> {
        self.shared.queue_size(1)
    }

    fn buffer_len(&self) -> usize {
        self.buffer_size.unwrap_or(if self.mergeable { 2048 } else { SMALL_BUFFER_LEN })
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        let (first, last) = (FRAMES.start(), FRAMES.end());
        ensure!(FRAMES.contains(&self.frame_size), "--frame-size is at least {first} and at most {last}");
        ensure!(
            (HEADER_LEN + 60..=1 << 20).contains(&self.buffer_len()),
            "--buffer-size is at least {} and at most 1 MiB",
            HEADER_LEN + 60
        );
        Ok(())
    }

    fn data(&self) -> u64 {
        let ring = self.queue_size().map_or(0, u64::from);
        let sent = u64::from(self.shared.depth) * (self.frame_size as u64 + 8192);
        u64::from(self.shared.queues) * (sent + ring * (self.buffer_len() as u64 + 64))
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { frontend, back } = session;
        let mut wishes = self.shared.wishes();
        wishes.device_features = NetOptions::FEATURES & !F_MRG_RXBUF | NetOptions::MULTIQUEUE;
        if self.mergeable {
            wishes.device_features |= F_MRG_RXBUF;
        }
        let queue_size = self.queue_size()?;
        wishes.inflight = self.shared.inflight.then_some((2 * self.shared.queues, queue_size));
        let pairs = self.shared.queues;
        let options =
            NetOptions { wishes, pairs, queue_size, buffer_len: self.buffer_len(), ..NetOptions::default() };
        let mut net = Net::open(frontend, &options)?;
        ensure!(!self.mergeable || net.has(F_MRG_RXBUF), "the device cannot merge receive buffers");
        let mut frames = Vec::new();
        for _ in 0..self.shared.queues {
            let lane: Result<Vec<_>> =
                (0..self.shared.depth).map(|_| self.prepared(net.frontend())).collect();
            frames.push(lane?);
        }
        let pairs = net.pairs().iter_mut().zip(frames);
        let figures = match self.direction {
            Direction::Tx => {
                let mut lanes: Vec<_> = pairs.map(|(pair, frames)| Tx::new(pair.tx(), frames)).collect();
                run(&mut lanes, load, back, progress)?
            }
            Direction::Rx => {
                let mut lanes: Vec<_> = pairs.map(|(pair, _)| Rx::new(pair.rx())).collect();
                run(&mut lanes, load, back, progress)?
            }
            Direction::Loop => {
                let mut lanes: Vec<_> = pairs.map(|(pair, frames)| Loop::new(pair, frames)).collect();
                run(&mut lanes, load, back, progress)?
            }
        };
        net.close()?;
        Ok(figures)
    }
}

impl Args {
    /// A frame in guest memory, behind the header of the device.
    fn prepared(&self, frontend: &mut Frontend) -> Result<Segment> {
        let frame = frame(self.frame_size);
        let segment = frontend.allocate(HEADER_LEN + frame.len())?;
        let segment =
            segment.slice(0, HEADER_LEN + frame.len()).ok_or(Error::OutOfMemory { len: frame.len() })?;
        segment.fill(0);
        segment.write_from(HEADER_LEN, &frame)?;
        Ok(segment)
    }
}
