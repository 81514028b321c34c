//! The options that all measurements have.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use outboard_frontend::{Format, Layout, Options, RegionSpec, Waiting, Wishes};
use serde_json::{Value, json};

use super::lane::Pace;
use super::load::Load;
use crate::seconds::seconds;
use crate::target::TargetArgs;

/// What to measure, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Shared {
    #[command(flatten)]
    pub(super) target: TargetArgs,

    /// Measure this back end, too, in turn with the first one, and print the ratio of the figures: a socket, or a
    /// command in one argument; may be repeated
    #[arg(long, value_name = "TARGET", help_heading = "Comparison")]
    pub(super) vs: Vec<String>,

    /// With --vs: how often each back end is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000),
          help_heading = "Comparison")]
    pub(super) rounds: u32,

    /// Requests out at once, of each queue
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=16384),
          help_heading = "Load")]
    pub(super) depth: u16,

    /// Queues, each driven by a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256),
          help_heading = "Load")]
    pub(super) queues: u16,

    /// Send requests N at a time: when so many have come back
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..),
          help_heading = "Load")]
    batch: u16,

    /// How long to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds, help_heading = "Load")]
    time: Duration,

    /// Measure until so many requests are done, however long it takes
    #[arg(long, value_name = "N", conflicts_with = "time", value_parser = clap::value_parser!(u64).range(1..),
          help_heading = "Load")]
    requests: Option<u64>,

    /// Load the device for so long before anything is counted, in seconds [default: 0.5; 0 with --requests]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Load")]
    warmup: Option<Duration>,

    /// Where random numbers start
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    pub(super) seed: u64,

    /// What the front end does while it waits for requests
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Wait::Interrupt, help_heading = "Ring")]
    wait: Wait,

    /// Format of the rings
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = RingFormat::Split, help_heading = "Ring")]
    format: RingFormat,

    /// Entries of each ring [default: 256, or what the depth needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32768), help_heading = "Ring")]
    queue_size: Option<u16>,

    /// Do not accept VIRTIO_F_EVENT_IDX
    #[arg(long, help_heading = "Ring")]
    no_event_idx: bool,

    /// Do not accept VIRTIO_F_INDIRECT_DESC
    #[arg(long, help_heading = "Ring")]
    no_indirect: bool,

    /// Accept VIRTIO_F_IN_ORDER, if it is offered
    #[arg(long, help_heading = "Ring")]
    in_order: bool,

    /// Have the back end keep the record of requests in flight, if it can
    #[arg(long, help_heading = "Ring")]
    pub(super) inflight: bool,

    /// Run the front end's threads on these CPUs, one after the other: 0 or 0,2
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Measurement")]
    cpu_front: Vec<usize>,

    /// Keep the back end on these CPUs
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Measurement")]
    pub(super) cpu_back: Vec<usize>,

    /// Time one in N requests [default: all, or about 200000 a second; with --warmup 0 all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Measurement")]
    timed_every: Option<u64>,

    /// How long the back end may take for anything, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, help_heading = "Measurement")]
    timeout: Duration,

    /// Show what a back end that is started says itself
    #[arg(long, short, help_heading = "Output")]
    pub(super) verbose: bool,

    /// Print one JSON object instead of text
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,

    /// Draw the rate over time, and the distribution of latencies, as SVG
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) plot: Option<PathBuf>,
}

/// What a driver does while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Asks for a call, and sleeps
    Interrupt,
    /// Looks at the ring again and again
    Poll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RingFormat {
    Split,
    Packed,
}

impl Shared {
    /// The ring format.
    pub(super) fn format(&self) -> Format {
        match self.format {
            RingFormat::Split => Format::Split,
            RingFormat::Packed => Format::Packed,
        }
    }

    /// Entries of each ring, for requests of `buffers` at most.
    ///
    /// # Errors
    /// So many requests at once do not fit in any ring, or not in the one asked for.
    pub(super) fn queue_size(&self, buffers: usize) -> Result<u16> {
        let needed = usize::from(self.depth) * if self.no_indirect { buffers } else { 1 };
        match self.queue_size {
            Some(size) if usize::from(size) < needed => {
                bail!("{} requests need a ring of {needed} entries", self.depth)
            }
            Some(size) if self.format == RingFormat::Split && !size.is_power_of_two() => {
                bail!("the size of a split ring is a power of two")
            }
            Some(size) => Ok(size),
            // A back end that takes no indirect descriptors needs the whole.
            None => match (usize::from(self.depth) * buffers).next_power_of_two().max(256) {
                size @ ..=32768 => Ok(size as u16),
                _ if needed <= 32768 => Ok(32768),
                _ => bail!("{} requests of {buffers} buffers do not fit in a ring", self.depth),
            },
        }
    }

    /// What the driver of so many queues of that size wants, device bits apart.
    pub(super) fn wishes(&self, queues: u16, size: u16) -> Wishes {
        Wishes {
            inflight: self.inflight.then_some((queues, size)),
            format: self.format(),
            event_idx: !self.no_event_idx,
            indirect: !self.no_indirect,
            in_order: self.in_order,
            ..Wishes::default()
        }
    }

    /// How to connect, with guest memory for `data` bytes and the rings.
    pub(super) fn connection(&self, data: u64) -> Options {
        /// For rings with their indirect tables, and for what drivers want for themselves.
        const PER_QUEUE: u64 = 12 << 20;
        let queues = u64::from(self.queues) + 1;
        let size = (data + queues * PER_QUEUE).next_multiple_of(2 << 20);
        Options {
            timeout: self.timeout,
            memory: Layout { regions: vec![RegionSpec::new(0x4000_0000, size)] },
            ..Options::default()
        }
    }

    /// How long and how hard.
    pub(super) fn load(&self) -> Load {
        let usual = if self.requests.is_some() { Duration::ZERO } else { Duration::from_millis(500) };
        let pace = Pace {
            depth: self.depth,
            batch: self.batch.min(self.depth),
            waiting: match self.wait {
                Wait::Interrupt => Waiting::Interrupt,
                Wait::Poll => Waiting::Polling,
            },
            timeout: self.timeout,
            limit: None,
            timed_every: self.timed_every.unwrap_or(0),
        };
        Load {
            pace,
            warm_up: self.warmup.unwrap_or(usual),
            time: self.time,
            requests: self.requests,
            cpus: self.cpu_front.clone(),
        }
    }

    /// One line of what is measured, behind what the device's own part says.
    pub(super) fn title(&self, size: u16) -> String {
        let queues = if self.queues == 1 { "queue" } else { "queues" };
        let format = match self.format {
            RingFormat::Split => "split",
            RingFormat::Packed => "packed",
        };
        let wait = match self.wait {
            Wait::Interrupt => "interrupts",
            Wait::Poll => "polling",
        };
        let batch = if self.batch > 1 { format!(", batches of {}", self.batch) } else { String::new() };
        format!("depth {}{batch}, {} {format} {queues} of {size}, {wait}", self.depth, self.queues)
    }

    /// The same for programs.
    pub(super) fn json(&self, size: u16) -> Value {
        json!({
            "depth": self.depth,
            "batch": self.batch,
            "queues": self.queues,
            "queue_size": size,
            "format": if self.format == RingFormat::Split { "split" } else { "packed" },
            "wait": if self.wait == Wait::Interrupt { "interrupt" } else { "poll" },
            "event_idx": !self.no_event_idx,
            "indirect": !self.no_indirect,
            "in_order": self.in_order,
            "inflight": self.inflight,
            "seed": self.seed,
        })
    }
}
