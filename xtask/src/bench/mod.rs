//! `cargo xtask bench`: our disks and other people's under one front end, in turn, in a table.
//!
//! Every measurement starts a back end of its own on the same file, and each round goes through all back ends
//! before the next one begins, so that what the machine does meanwhile hits all alike. Only ratios are worth
//! anything on a machine that is not idle; on a virtual one, whose processors may be near to each other or far,
//! only those within one placement (see [`placement`]). Trusted: whoever runs it; what is measured is other
//! people's programs, which may fail, hang, or be absent, and then their cells stay empty.

mod contender;
pub(crate) mod fields;
mod front;
pub(crate) mod measure;
pub(crate) mod placement;
pub(crate) mod process;
mod report;
mod startup;
mod target;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use self::front::{FrontEnd, Wait};
use self::process::Pins;
use self::target::{Files, Target};
use crate::peers::Fio;
use crate::workspace::{Workspace, run};

/// What to measure, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Measure only with this behind the disk (may be repeated)
    #[arg(long, value_name = "TARGET", value_enum)]
    target: Vec<Target>,
    /// Measure only back ends whose name contains this; ours is always among them (may be repeated)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only jobs whose name contains this (may be repeated)
    #[arg(long, value_name = "JOB")]
    job: Vec<String>,
    /// Only with a front end that waits so (may be repeated)
    #[arg(long, value_name = "HOW", value_enum)]
    wait: Vec<Wait>,
    /// How often each back end is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.5, value_parser = seconds)]
    seconds: f64,
    /// The front end [default: fio where `cargo xtask peers` built it, else ours]
    #[arg(long, value_enum)]
    front_end: Option<FrontEnd>,
    /// Another back end, or another way to start one, started by a shell: {socket}, {file}, {queues} and {size}
    /// (of a disk in memory) are replaced; with @TARGET only for that, else for all that are files (may be repeated)
    #[arg(long, value_name = "NAME[@TARGET]=COMMAND")]
    peer: Vec<String>,
    /// Where a known program is, if not on the PATH: cloud-hypervisor, spdk or ubiblk (may be repeated)
    #[arg(long, value_name = "NAME=PATH")]
    program: Vec<String>,
    /// Run front and back ends in the real-time class (`chrt -r`): needs the right to do so
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(1..=99))]
    real_time: Option<u8>,
    /// Keep the front end on this CPU, but for jobs of several queues
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    cpu_front: usize,
    /// Keep the back end on this CPU, but for jobs of several queues
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    cpu_back: usize,
    /// Show what was measured while the two CPUs were so [default: whatever most measurements were made in]
    #[arg(long, value_enum)]
    placement: Option<placement::Class>,
    /// Size of the files in MiB, on tmpfs and on the disk
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(16..))]
    file_size: u64,
    /// Where the files on the disk are made [default: the target directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Leave out start-up, memory and what an idle disk costs
    #[arg(long)]
    no_startup: bool,
    /// Measure the programs that are there instead of building ours first
    #[arg(long)]
    no_build: bool,
    /// Write the tables to this file, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write every single measurement to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .ok_or_else(|| "0.1 to 3600".to_owned())
}

/// Measures, and prints the tables.
pub(crate) fn bench(workspace: &Workspace, options: &Options) -> Result<()> {
    if !options.no_build {
        let programs = ["-p", "outboard", "-p", "outboard-blk"];
        run(workspace.cargo().args(["build", "--quiet", "--release"]).args(programs))?;
    }
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(
        options.cpu_front != options.cpu_back && options.cpu_front.max(options.cpu_back) < cpus,
        "front and back end need a CPU each: this machine lets us have {cpus}"
    );
    let pins = Pins { front: options.cpu_front, back: options.cpu_back, real_time: options.real_time };
    pins.require()?;
    let fio = Fio::find(workspace);
    let front = match (options.front_end, &fio) {
        (Some(FrontEnd::Fio), None) => bail!("there is no fio: `cargo xtask peers --only fio`"),
        (Some(front), _) => front,
        (None, Some(_)) => FrontEnd::Fio,
        (None, None) => FrontEnd::Outboard,
    };
    let chosen = if options.target.is_empty() { Target::ALL.to_vec() } else { options.target.clone() };
    let on_disk = match &options.directory {
        Some(directory) => directory.clone(),
        None => workspace.target.join("bench"),
    };
    let files = Files::create(&on_disk, options.file_size << 20, &chosen)?;
    let mut contenders = contender::known(workspace, options)?;
    if !options.only.is_empty() {
        let is_wanted = |name: &str| options.only.iter().any(|part| name.contains(part));
        contenders.retain(|contender| contender.is_ours() || is_wanted(&contender.name));
    }
    let jobs: Vec<_> = front::JOBS
        .into_iter()
        .filter(|job| options.job.is_empty() || options.job.iter().any(|part| job.name.contains(part)))
        .collect();
    if jobs.is_empty() {
        let names = front::JOBS.map(|job| job.name);
        bail!("no job has such a name: there are {}", names.join(", "));
    }
    let waits = if options.wait.is_empty() { Wait::ALL.to_vec() } else { options.wait.clone() };
    let seconds = options.seconds;
    let bench = measure::Bench { workspace, front, fio, contenders, jobs, waits, seconds, pins, files };

    let mut report = report::Report::open(&bench, options)?;
    for target in chosen {
        let runs = bench.measure(target, options.rounds);
        report.target(&bench, target, &runs);
    }
    if !options.no_startup {
        report.startup(&startup::measure(&bench));
    }
    report.close()?;
    if let Some(path) = &options.json {
        std::fs::write(path, report.json().to_string()).with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &options.out {
        std::fs::write(path, report.text()).with_context(|| path.display().to_string())?;
    }
    println!("{}", report.text());
    Ok(())
}
