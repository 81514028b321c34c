//! `outboard check`: does a back end, anybody's, do what the specification says and what front ends rely on?
//!
//! Read downhill: [`catalogue`] says what a check is; [`groups`] has them all; [`runner`] runs them with what [`cx`]
//! gives; [`wire`] (messages), [`session`] and [`ring`] are what they drive a back end with, step by step and past
//! every rule; [`sample`] knows a request of each device type, and [`places`] where it lies. The back end is not trusted at all.

mod catalogue;
mod config;
mod cx;
mod flow;
mod groups;
mod out;
mod places;
mod proc;
mod report;
mod ring;
mod runner;
mod sample;
mod session;
mod verdict;
mod wire;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::i2c_address::i2c_address;
use crate::seconds::seconds;
use crate::target::{Target, TargetArgs};
use catalogue::Check;
use cx::Cx;
use sample::Kind;
use verdict::{Stop, Verdict};

/// Check whether a back end keeps the specification, and survives front ends that do not
///
/// The status is 0 if nothing failed, 1 if something did, 2 if the checks could not be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,

    /// List the checks instead of running them
    #[arg(long)]
    list: bool,

    /// Only these checks: an id, a group, or a pattern with *; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    only: Vec<String>,

    /// Leave these checks out; may be repeated
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    skip: Vec<String>,

    /// The type of the device [default: guessed]
    #[arg(long, value_name = "TYPE")]
    device: Option<Kind>,

    /// I2C: a chip that keeps what is written to its first bytes, which are written to, behind a byte that says where
    #[arg(long, value_name = "ADDRESS", value_parser = i2c_address)]
    i2c_chip: Option<u8>,

    /// GPIO: a line that may be driven, and the one that it is wired to
    #[arg(long, value_name = "OUT:IN", value_parser = wired)]
    gpio_wired: Option<(u16, u16)>,

    /// Input: a socket that takes what the driving socket of vhost-user-input takes, to press keys
    #[arg(long, value_name = "PATH")]
    input_drive: Option<PathBuf>,

    /// Sockets: a port of the host that gives back what it is sent
    #[arg(long, value_name = "PORT")]
    vsock_echo: Option<u32>,

    /// How long the back end may take for an answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    /// Write a JUnit report, too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Show what was noticed beside the verdicts, and what the back end itself says
    #[arg(long, short)]
    verbose: bool,
}

/// Two lines.
fn wired(text: &str) -> Result<(u16, u16), String> {
    let lines = text.split_once(':').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    lines.ok_or_else(|| "two lines: 0:1".to_owned())
}

/// Runs the checks.
pub(crate) fn run(args: &Args) -> ExitCode {
    match try_run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // With standard error closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "outboard check: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing failed.
fn try_run(args: &Args) -> Result<bool> {
    let checks = chosen(args)?;
    if args.list {
        report::list(&checks, args.json)?;
        return Ok(true);
    }
    let junit = args.junit.as_deref().map(create).transpose()?;
    let target = Target::open(&args.target, args.verbose)?;
    let name = target.name();
    let mut cx = Cx::new(target, args.device, args.timeout).map_err(|stop| match stop {
        Stop::Fail(what) | Stop::Skip(what) | Stop::NotApplicable(what) => {
            anyhow::anyhow!("{name} cannot be asked what it offers: {what}")
        }
    })?;
    (cx.chip, cx.wired, cx.drive) = (args.i2c_chip, args.gpio_wired, args.input_drive.clone());
    cx.echo = args.vsock_echo;
    let mut outcomes = Vec::new();
    for check in checks {
        let outcome = runner::run(&mut cx, check);
        if !args.json {
            report::line(&outcome, args.verbose);
        }
        outcomes.push(outcome);
    }
    if args.json {
        report::json(&name, cx.kind.name(), &outcomes)?;
    } else {
        report::summary(&outcomes);
    }
    if let Some(file) = junit {
        report::junit(file, &name, &outcomes)?;
    }
    Ok(!outcomes.iter().any(|outcome| matches!(outcome.verdict, Verdict::Fail(_))))
}

/// A file for a report: made before the checks, which are not to be run for nothing.
fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// The checks that were asked for.
fn chosen(args: &Args) -> Result<Vec<&'static Check>> {
    let patterns = args.only.iter().chain(&args.skip);
    for pattern in patterns {
        if !catalogue::all().any(|check| catalogue::matches(pattern, check.id)) {
            bail!("no check is named by {pattern:?}; --list shows them");
        }
    }
    let named = |patterns: &[String], check: &Check| {
        patterns.iter().any(|pattern| catalogue::matches(pattern, check.id))
    };
    let wanted = |check: &&Check| args.only.is_empty() || named(&args.only, check);
    Ok(catalogue::all().filter(wanted).filter(|check| !named(&args.skip, check)).collect())
}
