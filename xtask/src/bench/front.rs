//! The front ends that load the disks: fio, through libblkio, or `outboard bench`; and what they say.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::process::{Pins, Running};
use crate::peers::Fio;
use crate::workspace::Workspace;

/// Who drives the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FrontEnd {
    /// fio with libblkio
    Fio,
    /// `outboard bench`
    Outboard,
}

/// How the front end waits for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Wait {
    /// It sleeps until it is called
    Interrupt,
    /// It looks at the ring again and again
    Poll,
}

impl Wait {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Interrupt, Self::Poll];

    /// As on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Poll => "poll",
        }
    }
}

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) name: &'static str,
    rw: &'static str,
    block: &'static str,
    depth: u16,
    pub(super) queues: u16,
}

impl Job {
    /// Whether a front end that waits so runs it: two that poll have no CPU left for the back end where there
    /// are two CPUs.
    pub(super) fn is_for(self, wait: Wait) -> bool {
        self.queues == 1 || wait == Wait::Interrupt
    }

    fn writes(self) -> bool {
        self.rw.contains("write")
    }
}

/// All loads.
pub(super) const JOBS: [Job; 6] = [
    Job { name: "read 4k, depth 1", rw: "randread", block: "4k", depth: 1, queues: 1 },
    Job { name: "read 4k, depth 32", rw: "randread", block: "4k", depth: 32, queues: 1 },
    Job { name: "read 4k, depth 128", rw: "randread", block: "4k", depth: 128, queues: 1 },
    Job { name: "write 4k, depth 32", rw: "randwrite", block: "4k", depth: 32, queues: 1 },
    Job { name: "sequential read 128k, depth 8", rw: "read", block: "128k", depth: 8, queues: 1 },
    Job { name: "read 4k, depth 32, 2 queues", rw: "randread", block: "4k", depth: 32, queues: 2 },
];

/// What is loaded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject<'a> {
    /// A back end at this socket.
    Socket(&'a Path),
    /// A file, past the page cache or not.
    File(&'a Path, bool),
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Requests in a second.
    pub(super) rate: f64,
    /// Requests in all; none if they were not counted.
    pub(super) requests: f64,
    /// Mean latency in µs.
    pub(super) latency: f64,
    /// The latency in µs that one request in a hundred exceeds.
    pub(super) latency_p99: f64,
    /// CPU time of the back end in µs a request.
    pub(super) back: f64,
    /// CPU time of the front end in µs a request.
    pub(super) front: f64,
}

/// How a front end is started.
pub(super) struct Driver<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) front: FrontEnd,
    pub(super) fio: Option<&'a Fio>,
    pub(super) pins: Pins,
    pub(super) directory: &'a Path,
    pub(super) seconds: f64,
}

impl Driver<'_> {
    /// Runs a job once. The back end's share is left for the caller with fio, which does not know of it.
    pub(super) fn run(&self, job: Job, wait: Wait, subject: Subject<'_>) -> Result<Sample> {
        match (self.front, subject, self.fio) {
            (FrontEnd::Outboard, Subject::Socket(socket), _) => self.outboard(job, wait, socket),
            (_, _, Some(fio)) => {
                let said = self.ended(job.queues, self.fio(fio, job, wait, subject)?)?;
                fio_sample(job, &said)
            }
            _ => bail!("there is no fio"),
        }
    }

    /// One request in a second for so many seconds: as good as idle.
    pub(super) fn idle(&self, socket: &Path, seconds: u32) -> Result<()> {
        let fio = self.fio.context("there is no fio")?;
        let job = Job { name: "idle", rw: "randread", block: "4k", depth: 1, queues: 1 };
        let mut command = self.fio(fio, job, Wait::Interrupt, Subject::Socket(socket))?;
        command.args(["--rate_iops=1", &format!("--runtime={seconds}s")]);
        self.ended(job.queues, command)?;
        Ok(())
    }

    fn fio(&self, fio: &Fio, job: Job, wait: Wait, subject: Subject<'_>) -> Result<Command> {
        let mut command = fio.command()?;
        command.args(["--name=bench", "--thread", "--group_reporting", "--time_based", "--norandommap"]);
        command.args(["--randrepeat=0", "--clocksource=cpu", "--output-format=json"]);
        command.args([format!("--rw={}", job.rw), format!("--bs={}", job.block)]);
        command.args([format!("--iodepth={}", job.depth), format!("--numjobs={}", job.queues)]);
        command.arg(format!("--runtime={}ms", (self.seconds * 1e3).round()));
        match subject {
            Subject::Socket(socket) => command.args([
                "--ioengine=libblkio".to_owned(),
                "--libblkio_driver=virtio-blk-vhost-user".to_owned(),
                format!("--libblkio_path={}", socket.display()),
                format!("--hipri={}", u8::from(wait == Wait::Poll)),
            ]),
            Subject::File(file, direct) => command.args([
                "--ioengine=io_uring".to_owned(),
                format!("--filename={}", file.display()),
                format!("--direct={}", u8::from(direct)),
                "--registerfiles=1".to_owned(),
                "--fixedbufs=1".to_owned(),
                "--invalidate=0".to_owned(),
            ]),
        };
        Ok(command)
    }

    fn outboard(&self, job: Job, wait: Wait, socket: &Path) -> Result<Sample> {
        let mut command = Command::new(self.workspace.release_binary("outboard"));
        command.args(["bench", "blk", "--json", "--warmup", "0.2", "--rw", job.rw, "--bs", job.block]);
        command.args(["--depth", &job.depth.to_string(), "--queues", &job.queues.to_string()]);
        command.args(["--time", &self.seconds.to_string(), "--wait", wait.name()]);
        if job.writes() {
            command.arg("--destroy-data");
        }
        command.arg(socket);
        let said = self.ended(job.queues, command)?;
        outboard_sample(&said)
    }

    /// What a front end says in JSON until its end.
    fn ended(&self, queues: u16, command: Command) -> Result<Value> {
        let log = self.directory.join("front-end.log");
        let cpu = (queues == 1).then_some(self.pins.front);
        let mut running = Running::start(self.pins.command(cpu, command), &log)?;
        let status = running.await_end(Duration::from_secs_f64(self.seconds * 4.0 + 30.0));
        let text = fs::read_to_string(&log)?;
        let status = status.with_context(|| format!("the front end: {}", last_line(&text)))?;
        if !status.success() {
            bail!("the front end ended with {status}: {}", last_line(&text));
        }
        // Notes may stand before and after it.
        let start = text.find('{').context("the front end said nothing")?;
        let mut values =
            serde_json::Deserializer::from_str(text.get(start..).unwrap_or_default()).into_iter();
        values.next().context("the front end said nothing")?.context("what the front end said")
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("fio says nothing of {pointer}"))
}

fn fio_sample(job: Job, said: &Value) -> Result<Sample> {
    let about = said.pointer("/jobs/0").context("fio says nothing of its job")?;
    if let Some(error) = about.get("error").and_then(Value::as_i64).filter(|&error| error != 0) {
        bail!("fio met error {error}");
    }
    let way =
        about.get(if job.writes() { "write" } else { "read" }).context("fio says nothing of its job")?;
    let requests = number(way, "/total_ios")?;
    if requests < 1.0 {
        bail!("no request was done");
    }
    let micros = number(way, "/runtime")? * 1e3;
    // Shares of a CPU are of one job; the jobs are threads beside each other.
    let share = (number(about, "/usr_cpu")? + number(about, "/sys_cpu")?) / 100.0;
    Ok(Sample {
        rate: number(way, "/iops")?,
        requests,
        latency: number(way, "/lat_ns/mean")? / 1e3,
        latency_p99: number(way, "/clat_ns/percentile/99.000000").unwrap_or(0.0) / 1e3,
        back: 0.0,
        front: share * micros * f64::from(job.queues) / requests,
    })
}

fn outboard_sample(said: &Value) -> Result<Sample> {
    let median = said.pointer("/targets/0/median").context("outboard bench says nothing")?;
    let figure = |name: &str| median.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    Ok(Sample {
        rate: figure("requests_per_second"),
        requests: 0.0,
        latency: figure("latency_mean_us"),
        latency_p99: figure("latency_p99_us"),
        back: figure("back_end_cpu_us"),
        front: figure("front_end_cpu_us"),
    })
}
