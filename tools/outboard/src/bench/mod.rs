//! `outboard bench`: how fast a back end is, anybody's, and what it takes for that.
//!
//! Read downhill: a [`Job`](versus::Job) (`blk`, `console`, `fs`, `gpio`, `i2c`, `input`, `net`, `rng`, `scmi`, `vsock`) connects
//! to each back end in turn ([`versus`]), makes a [`Lane`](lane::Lane) of each queue, and has them loaded and counted ([`load`]);
//! [`report`] and [`plot`] show the [`Figures`](figures::Figures).
//!
//! The back end is not trusted: what it does wrong ends the measurement with an error, and nothing waits for ever.

mod bare;
mod baseline;
mod blk;
mod blk_lane;
mod bytes;
mod command;
mod console;
mod far;
mod figures;
mod fs;
mod fs_lane;
mod gpio;
mod i2c;
mod input;
mod input_drive;
mod lane;
mod load;
mod net;
mod net_frame;
mod net_lane;
mod null;
mod options;
mod pattern;
mod ping;
mod plot;
mod process;
mod progress;
mod random;
mod report;
mod rng;
mod scmi;
mod versus;
mod vsock;
mod vsock_host;
mod vsock_lane;
mod words;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::Value;

use versus::Job;

/// Measure how fast a back end is, and what it takes for that
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Blk(Box<blk::Args>),
    Console(Box<console::Args>),
    Fs(Box<fs::Args>),
    Gpio(Box<gpio::Args>),
    I2c(Box<i2c::Args>),
    Input(Box<input::Args>),
    Net(Box<net::Args>),
    Rng(Box<rng::Args>),
    Scmi(Box<scmi::Args>),
    Vsock(Box<vsock::Args>),
    Baseline(baseline::Args),
    Null(null::Args),
    /// Answer on eventfds, for the baseline
    #[command(hide = true)]
    Pong,
}

/// Measures. The status is 1 if that was not possible.
pub(crate) fn run(args: Args) -> ExitCode {
    let done = match args.what {
        What::Blk(args) => measure(&*args, "blk", args.title(), args.json()),
        What::Console(args) => measure(&*args, "console", args.title(), args.json()),
        What::Fs(args) => measure(&*args, "fs", args.title(), args.json()),
        What::Gpio(args) => measure(&*args, "gpio", args.title(), args.json()),
        What::I2c(args) => measure(&*args, "i2c", args.title(), args.json()),
        What::Input(args) => measure(&*args, "input", args.title(), args.json()),
        What::Net(args) => measure(&*args, "net", args.title(), args.json()),
        What::Rng(args) => measure(&*args, "rng", args.title(), args.json()),
        What::Scmi(args) => measure(&*args, "scmi", args.title(), args.json()),
        What::Vsock(args) => measure(&*args, "vsock", args.title(), args.json()),
        What::Baseline(args) => baseline::run(&args),
        What::Null(args) => Ok(null::run(args)),
        What::Pong => Ok(ping::pong()),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outboard bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(job: &dyn Job, device: &str, title: Result<String>, json: Result<Value>) -> Result<ExitCode> {
    let (title, json) = (title?, json?);
    let all = versus::measure(job)?;
    if job.shared().json {
        report::print_json(device, &json, &all);
    } else {
        report::print(device, &title, &all);
    }
    // Last: what was measured is not lost where it cannot be drawn.
    if let Some(path) = &job.shared().plot {
        plot::draw(path, &title, &all)?;
    }
    Ok(ExitCode::SUCCESS)
}
