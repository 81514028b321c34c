//! `cargo xtask torture blk`: a disk in use for as long as asked for, while everything happens to it that may
//! happen: its process is killed and started again, front ends die, the image grows, limits change. Every byte is
//! verified, by fio through libblkio and by fio in a real guest; and the process may not grow.

mod change;
mod disk;
mod load;
mod phases;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::digest::mix;
use crate::peers::Fio;
use crate::workspace::{Workspace, run};

pub(crate) use self::change::Changes;
pub(crate) use self::disk::resident;

/// What is put to the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Device {
    /// The disk
    Blk,
}

/// By what front end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// fio with libblkio
    Fio,
    /// fio in a guest
    Guest,
}

/// How long, and by what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// What is put to the test
    #[arg(value_enum)]
    device: Device,
    /// How long each part takes, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Only this part
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Leave the process alone: shows whether it grows
    #[arg(long)]
    no_kills: bool,
    /// Use the program that is there instead of building it first
    #[arg(long)]
    no_build: bool,
    /// Where chance starts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Does something in a directory of its own, which stays if that fails.
fn in_directory(act: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("outboard-").tempdir()?;
    let outcome = act(directory.path());
    if outcome.is_err() {
        println!("the files are in {}", directory.keep().display());
    }
    outcome
}

/// Tortures; an error if anything was not as it must be.
pub(crate) fn torture(workspace: &Workspace, options: &Options) -> Result<()> {
    let Device::Blk = options.device;
    if !options.no_build {
        run(workspace.cargo().args(["build", "--quiet", "--release", "-p", "outboard-blk"]))?;
    }
    let fio = Fio::find(workspace).context("there is no fio: `cargo xtask peers --only fio`")?;
    let plan = Plan {
        time: Duration::from_secs(options.minutes * 60),
        kills: !options.no_kills,
        seed: options.seed,
    };
    if options.part != Some(Part::Guest) {
        in_directory(|directory| phases::torture(workspace, &fio, &plan, directory))
            .context("fio with libblkio")?;
    }
    if options.part != Some(Part::Fio) {
        in_directory(|directory| crate::guest::torture(workspace, &fio, &plan, directory))
            .context("fio in a guest")?;
    }
    Ok(())
}

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) time: Duration,
    pub(crate) kills: bool,
    pub(crate) seed: u64,
}

/// Numbers that look random, the same ones each time.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % end.max(1)
    }
}

/// Resident memory of a process, without what it shares, over its life.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    /// In KiB, one after the other.
    samples: Vec<u64>,
}

/// So much may be added between the first and the last part of a life, in KiB: less than a leak of one byte a
/// request comes to.
const MOST_GROWTH: u64 = 1024;

impl Growth {
    /// Takes in another one, in KiB.
    pub(crate) fn sample(&mut self, resident: u64) {
        self.samples.push(resident);
    }

    /// The most in the first quarter, and in the last; an error if that has grown.
    pub(crate) fn judged(&self) -> Result<Option<(u64, u64)>> {
        let quarter = self.samples.len() / 4;
        let (Some(first), Some(last)) = (
            self.samples.get(..quarter).and_then(|part| part.iter().max()),
            self.samples.get(self.samples.len() - quarter..).and_then(|part| part.iter().max()),
        ) else {
            return Ok(None);
        };
        ensure!(*last <= first + MOST_GROWTH, "the process has grown from {first} KiB to {last} KiB");
        Ok(Some((*first, *last)))
    }
}

impl std::fmt::Display for Growth {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.judged() {
            Ok(Some((first, last))) => {
                write!(out, "{first} KiB of memory in the beginning, {last} KiB in the end")
            }
            Ok(None) => write!(out, "too short to tell whether it grows"),
            Err(error) => write!(out, "{error}"),
        }
    }
}

/// How far it is.
pub(crate) struct Clock {
    start: Instant,
    time: Duration,
}

impl Clock {
    /// It begins now.
    pub(crate) fn new(time: Duration) -> Self {
        Self { start: Instant::now(), time }
    }

    /// Whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.start.elapsed() >= self.time
    }

    /// The last third, in which the process lives on, so that its memory can be watched.
    pub(crate) fn is_calm(&self) -> bool {
        self.start.elapsed() >= self.time * 2 / 3
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn growth_of_a_leak_is_an_error() {
        let steady = Growth { samples: vec![3000, 3400, 3400, 3390, 3400, 3410, 3400, 3400] };
        assert_eq!(steady.judged().unwrap(), Some((3400, 3400)));
        let leak = Growth { samples: (0..20).map(|step| 3000 + step * 200).collect() };
        assert!(leak.judged().is_err());
        assert_eq!(Growth { samples: vec![1, 2, 3] }.judged().unwrap(), None);
    }
}
