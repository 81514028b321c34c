//! `outboard bench vsock`: bytes over a connection by the second, and round trips.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use outboard_frontend::drivers::{MAX_DATA, Vsock, VsockOptions};
use outboard_virtio_defs::vsock::{F_SEQPACKET, F_STREAM, HEADER_LEN};
use serde_json::{Value, json};

use super::figures::Figures;
use super::load::{Load, run};
use super::options::Shared;
use super::progress::Progress;
use super::versus::{Job, Session};
use super::vsock_host::Program;
use super::vsock_lane::VsockLane;
use crate::size::Size;
use crate::target::Target;

/// Places for packets without data, beside those of the depth.
const MORE_PLACES: u16 = 8;
/// Room for what comes by the connection, in bytes: as Linux announces.
const ROOM: u32 = 256 << 10;

const EXAMPLES: &str = "\
Examples:
  outboard bench vsock -- outboard run vsock --guest-cid 3 --service 7=echo
  outboard bench vsock --direction send --bs 64K --at /run/vm_9 /run/vsock.sock
  outboard bench vsock --direction receive -- outboard run vsock --guest-cid 3 --service 19=chargen

The far end is whoever listens at that port of the host, or, with --at, this program: it listens where the device looks for
that port, and gives back, takes, or sends without end. What is sent counts when the device has taken it.";

/// Measure a socket device: round trips of a connection, or bytes that go one way
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    shared: Shared,

    /// Which way the bytes go
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Direction::Echo, help_heading = "Sockets")]
    direction: Direction,

    /// Bytes of each packet that is sent, or of each piece that --at sends: 1 to 64K
    #[arg(long, value_name = "SIZE", default_value = "4K", help_heading = "Sockets")]
    bs: Size,

    /// Connect to this port of the host [default: 7, 9 and 19 for echo, send and receive]
    #[arg(long, value_name = "N", help_heading = "Sockets")]
    port: Option<u32>,

    /// Be the program at that port: listen at this UNIX socket. With --vs, one for each back end, in their order
    #[arg(long, value_name = "PATH", help_heading = "Sockets")]
    at: Vec<PathBuf>,

    /// Send messages (SEQPACKET)
    #[arg(long, help_heading = "Sockets")]
    messages: bool,

    /// Look at every byte of what comes back
    #[arg(long, help_heading = "Sockets")]
    verify: bool,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Direction {
    /// To somebody who gives them back: a round trip each
    Echo,
    /// To somebody who takes them
    Send,
    /// From somebody who sends without end
    Receive,
}

impl Args {
    /// What is done, in one line.
    pub(super) fn title(&self) -> Result<String> {
        let common = self.shared.title(self.queue_size()?);
        let kind = if self.messages { ", messages" } else { "" };
        Ok(match self.direction {
            Direction::Receive => format!("vsock receive{kind}, {common}"),
            _ => format!("vsock {}, {}{kind}, {common}", self.name(), self.bs),
        })
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Result<Value> {
        let mut job = self.shared.json(self.queue_size()?);
        if let Some(job) = job.as_object_mut() {
            job.insert("direction".to_owned(), json!(self.name()));
            job.insert("bs".to_owned(), json!(self.bs.0));
            job.insert("port".to_owned(), json!(self.port()));
            job.insert("messages".to_owned(), json!(self.messages));
            job.insert("verify".to_owned(), json!(self.verify));
        }
        Ok(job)
    }

    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Echo => "echo",
            Direction::Send => "send",
            Direction::Receive => "receive",
        }
    }

    fn port(&self) -> u32 {
        // Those of RFC 862, 863 and 864.
        self.port.unwrap_or(match self.direction {
            Direction::Echo => 7,
            Direction::Send => 9,
            Direction::Receive => 19,
        })
    }

    fn queue_size(&self) -> Result<u16> {
        self.shared.queue_size(1)
    }

    fn options(&self) -> Result<VsockOptions> {
        let size = self.queue_size()?;
        let mut wishes = self.shared.wishes(2, size);
        wishes.device_features = if self.messages { F_STREAM | F_SEQPACKET } else { F_STREAM };
        let places = self.shared.depth.saturating_add(MORE_PLACES).next_power_of_two().max(size);
        let data = self.bs.0 as usize;
        Ok(VsockOptions { wishes, buffers: size, room: ROOM, places, data, ..VsockOptions::default() })
    }
}

impl Job for Args {
    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn permit(&self, _: &Target) -> Result<()> {
        ensure!((1..=MAX_DATA as u64).contains(&self.bs.0), "--bs is at least 1 and at most 64K");
        ensure!(self.shared.queues == 1, "a socket device has one queue each way");
        ensure!(!self.verify || self.direction == Direction::Echo, "--verify goes with --direction echo");
        let wanted = 1 + self.shared.vs.len();
        ensure!(self.at.is_empty() || self.at.len() == wanted, "--at is needed once for each back end");
        Ok(())
    }

    fn data(&self) -> u64 {
        let options = self.options().unwrap_or_default();
        let sent = u64::from(options.places) * (HEADER_LEN as u64 + self.bs.0);
        sent + u64::from(options.buffers) * options.buffer_len as u64 + (1 << 20)
    }

    fn measure(&self, session: Session, load: &Load, progress: &Progress) -> Result<Figures> {
        let Session { frontend, back } = session;
        let programs = self.at.iter().map(|path| {
            Program::start(
                path,
                self.direction,
                self.messages,
                self.bs.0 as usize,
                load.cpus.first().copied(),
            )
        });
        let _programs = programs.collect::<Result<Vec<_>>>()?;
        let mut vsock = Vsock::open(frontend, &self.options()?)?;
        let port = self.port();
        let connection = vsock.connect(port, self.messages)?;
        let connection = connection.with_context(|| format!("a connection to port {port} is refused"))?;
        let mut lanes =
            [VsockLane::new(&mut vsock, connection, self.direction, self.bs.0 as usize, self.verify)?];
        let figures = run(&mut lanes, load, back, progress)?;
        vsock.close()?;
        Ok(figures)
    }
}
