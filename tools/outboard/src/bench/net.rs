//! `outboard bench net`: packets by the second, each way.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use outboard_frontend::drivers::{Net, NetOptions};
use outboard_frontend::{Error, Frontend};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_HOST_TSO4, F_MRG_RXBUF, HEADER_LEN, SMALL_BUFFER_LEN,
};
use serde_json::{Value, json};
use zerocopy::IntoBytes as _;

use super::figures::Figures;
use super::load::{Load, run};
use super::net_frame::{HEAD, Shape};
use super::net_lane::{Loop, Rx, Tx};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use crate::peer;
use crate::target::Target;

/// The shortest frame of Ethernet, without its check sequence, and the longest that fits any header.
const FRAMES: std::ops::RangeInclusive<usize> = 60..=65_000;
/// A receive buffer for any packet, its header included.
const LARGE: usize = HEADER_LEN + 14 + 40 + 65535;

const EXAMPLES: &str = "\
Examples:
  outboard bench net --direction tx --frame-size 1514 /run/net.sock
  outboard bench net --direction loop --wait poll --format packed --in-order /run/echo.sock
  outboard bench net --direction loop --mergeable --gso 1448 --frame-size 65000 --verify /run/echo.sock
  outboard bench net --to /run/right.sock /run/left.sock

Frames go from 02:00:00:00:00:01 to 02:00:00:00:00:02, with the EtherType 0x88b5 for local experiments. Sizes count
the Ethernet header, not the check sequence; bits are those of whole frames. Frames that do not come back within 100 ms in
which nothing does are counted as lost.";

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

    /// Send TCP over IPv4, for the device to cut into segments of so many bytes; a device that loops leaves that to us
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(8..), help_heading = "Network")]
    gso: Option<u16>,

    /// Look at every byte of what comes: of our own frames, or of those that `vhost-user-net --generate` makes up
    #[arg(long, help_heading = "Network")]
    verify: bool,

    /// Take the frames from this other socket: both are of one network, as a switch
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["direction", "vs", "queues"], help_heading = "Network")]
    to: Option<PathBuf>,
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
        let mut merged = if self.mergeable { ", mergeable buffers".to_owned() } else { String::new() };
        if let Some(size) = self.gso {
            merged += &format!(", in segments of {size}");
        }
        let common = self.shared.title(self.queue_size()?);
        Ok(match self.direction {
            Direction::Rx if self.to.is_none() => format!("net rx{merged}, {common}"),
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
            job.insert("gso".to_owned(), json!(self.gso));
            job.insert("verify".to_owned(), json!(self.verify));
        }
        Ok(job)
    }

    fn direction_name(&self) -> &'static str {
        match self.direction {
            _ if self.to.is_some() => "to",
            Direction::Tx => "tx",
            Direction::Rx => "rx",
            Direction::Loop => "loop",
        }
    }

    fn shape(&self) -> Shape {
        Shape { len: self.frame_size, segments: self.gso }
    }

    fn queue_size(&self) -> Result<u16> {
        self.shared.queue_size(1)
    }

    fn buffer_len(&self) -> usize {
        let whole =
            if self.gso.is_some() { LARGE } else { SMALL_BUFFER_LEN.max(HEADER_LEN + self.frame_size) };
        self.buffer_size.unwrap_or(if self.mergeable { 2048 } else { whole })
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        let (first, last) = (FRAMES.start(), FRAMES.end());
        ensure!(FRAMES.contains(&self.frame_size), "--frame-size is at least {first} and at most {last}");
        let tagged = self.gso.is_some() || self.to.is_some() || self.direction == Direction::Loop;
        ensure!(
            self.gso.is_none() || self.frame_size >= HEAD || !tagged,
            "--frame-size is at least {HEAD} with --gso"
        );
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
        u64::from(self.shared.queues) * (sent + ring * (self.buffer_len() as u64 + 64)) + (1 << 20)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { frontend, back } = session;
        let mut net = self.open(frontend)?;
        let mut other = self.to.as_deref().map(|path| self.opposite(path)).transpose()?;
        let received = other.as_ref().unwrap_or(&net);
        if self.gso.is_some() {
            ensure!(net.has(F_CSUM | F_HOST_TSO4), "the device makes no segments of TCP over IPv4");
            let takes = received.has(F_GUEST_CSUM | F_GUEST_TSO4);
            ensure!(takes || self.direction_name() == "tx", "the device does not leave segments to us");
        }
        let mut frames = Vec::new();
        for _ in 0..self.shared.queues {
            let lane: Result<Vec<_>> =
                (0..self.shared.depth).map(|_| self.prepared(net.frontend())).collect();
            frames.push(lane?);
        }
        let (shape, verify) = (self.shape(), self.verify);
        let pairs = net.pairs().iter_mut().zip(frames);
        let figures = match (&mut other, self.direction) {
            (Some(other), _) => {
                let others = other.pairs().iter_mut();
                let lanes = pairs
                    .zip(others)
                    .map(|((pair, frames), other)| Loop::new(other.rx(), pair.tx(), frames, shape, verify));
                run(&mut lanes.collect::<Vec<_>>(), load, back, progress)?
            }
            (None, Direction::Tx) => {
                let mut lanes: Vec<_> = pairs.map(|(pair, frames)| Tx::new(pair.tx(), frames)).collect();
                run(&mut lanes, load, back, progress)?
            }
            (None, Direction::Rx) => {
                let mut lanes: Vec<_> = pairs.map(|(pair, _)| Rx::new(pair.rx(), verify)).collect();
                run(&mut lanes, load, back, progress)?
            }
            (None, Direction::Loop) => {
                let lanes = pairs.map(|(pair, frames)| {
                    let (rx, tx) = pair.halves();
                    Loop::new(rx, tx, frames, shape, verify)
                });
                run(&mut lanes.collect::<Vec<_>>(), load, back, progress)?
            }
        };
        net.close()?;
        if let Some(other) = other {
            other.close()?;
        }
        Ok(figures)
    }
}

impl Args {
    fn open(&self, frontend: Frontend) -> Result<Net> {
        let (pairs, queue_size) = (self.shared.queues, self.queue_size()?);
        let mut wishes = self.shared.wishes(2 * pairs, queue_size);
        wishes.device_features = NetOptions::FEATURES & !F_MRG_RXBUF | NetOptions::MULTIQUEUE;
        if self.mergeable {
            wishes.device_features |= F_MRG_RXBUF;
        }
        if self.gso.is_some() {
            wishes.device_features |= F_CSUM | F_HOST_TSO4 | F_GUEST_CSUM | F_GUEST_TSO4;
        }
        let buffer_len = self.buffer_len();
        let options = NetOptions { wishes, pairs, queue_size, buffer_len, ..NetOptions::default() };
        let net = Net::open(frontend, &options)?;
        ensure!(!self.mergeable || net.has(F_MRG_RXBUF), "the device cannot merge receive buffers");
        Ok(net)
    }

    /// The interface where frames are to arrive. The network is told that it is there.
    fn opposite(&self, path: &Path) -> Result<Net> {
        let options = self.shared.connection(self.data());
        let stream = peer::connect(path, options.timeout);
        let stream = stream.with_context(|| format!("cannot connect to {}", path.display()))?;
        let mut net = self.open(Frontend::from_stream(stream, options)?)?;
        net.send(&Shape::greeting())?;
        Ok(net)
    }

    /// A frame in guest memory, behind the header of the device.
    fn prepared(&self, frontend: &mut Frontend) -> Result<Segment> {
        let frame = self.shape().frame();
        let segment = frontend.allocate(HEADER_LEN + frame.len())?;
        let segment =
            segment.slice(0, HEADER_LEN + frame.len()).ok_or(Error::OutOfMemory { len: frame.len() })?;
        segment.write_from(0, self.shape().header().as_bytes())?;
        segment.write_from(HEADER_LEN, &frame)?;
        Ok(segment)
    }
}
