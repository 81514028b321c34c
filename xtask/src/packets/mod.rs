//! `cargo xtask packets`: DPDK's testpmd as the front end of our interface, packet after packet, in every kind of ring. What
//! both have counted must agree to the last packet, and every byte must come back as it was sent. With `--rates` it is
//! measured how fast that goes, in turn with DPDK's own back end.
//!
//! Trusted: whoever runs it, and the testpmd that `cargo xtask peers` fetched from Debian.

mod bytes;
mod cell;
mod ours;
mod rates;
mod testpmd;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use self::cell::{Cell, Way};
use crate::workspace::{Workspace, run};

/// What is tried, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Print the names of what would be tried, and stop
    #[arg(long)]
    list: bool,
    /// Only what has this in its name (may be repeated: all of them)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// How long packets go in each kind of ring, each way, in seconds
    #[arg(long, value_name = "N", default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Measure how many packets go by the second, in turn with DPDK's back end, instead of counting them
    #[arg(long)]
    rates: bool,
    /// With --rates: how often each back end is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// With --rates: where another back end is, to be measured on a tap interface: cloud-hypervisor-net
    #[arg(long, value_name = "NAME=PATH")]
    program: Vec<String>,
    /// With --rates: the CPU of the front end's packets
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    cpu_front: usize,
    /// With --rates: the CPU of the back end
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    cpu_back: usize,
    /// With --rates: another of our back end's options (may be repeated)
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    ours: Vec<String>,
    /// Use the programs that are there instead of building ours first
    #[arg(long)]
    no_build: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .ok_or_else(|| "0.1 to 3600".to_owned())
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.iter().all(|part| name.contains(part))
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// What everything here needs.
struct Rig<'a> {
    workspace: &'a Workspace,
    /// For sockets and logs.
    directory: &'a Path,
}

impl Rig<'_> {
    fn socket(&self, number: u16) -> PathBuf {
        self.directory.join(format!("{number}.sock"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Our program with one device, at the first socket.
    fn one(&self, pairs: u16, arguments: &[String]) -> Command {
        let mut command = Command::new(self.workspace.release_binary("vhost-user-net"));
        command.arg("--socket-path").arg(self.socket(0)).arg("--control").arg(self.control());
        command.arg("--log-level=warn");
        if pairs > 1 {
            command.arg(format!("--pairs={pairs}"));
        }
        command.args(arguments);
        command
    }

    /// Our program with so many ports of a switch.
    fn switch(&self, ports: u16, arguments: &[String]) -> Command {
        let mut command = Command::new(self.workspace.release_binary("vhost-user-net"));
        command.arg("--control").arg(self.control()).arg("--log-level=warn").args(arguments);
        for port in 0..ports {
            let socket = self.socket(port);
            command
                .arg("--device")
                .arg(format!("backend=switch,poll=always,socket-path={}", socket.display()));
        }
        command
    }
}

/// Tries, or measures.
pub(crate) fn packets(workspace: &Workspace, options: &Options) -> Result<()> {
    let cells: Vec<Cell> = Cell::all().into_iter().filter(|cell| options.wants(&cell.to_string())).collect();
    if options.list {
        for cell in cells {
            println!("{cell}");
        }
        return Ok(());
    }
    crate::peers::install_testpmd(workspace)?;
    if !options.no_build {
        let mut build = workspace.cargo();
        build.args(["build", "--quiet", "--release", "-p", "outboard-net"]);
        if options.rates {
            build.args(["--features", "outboard-net/af-xdp"]);
        }
        run(&mut build)?;
    }
    let directory = tempfile::Builder::new().prefix("outboard-").tempdir()?;
    let rig = Rig { workspace, directory: directory.path() };
    if options.rates {
        return rates::rates(&rig, options);
    }
    if cells.is_empty() {
        bail!("nothing has such a name; `--list` shows what there is");
    }
    let mut failed = 0;
    for cell in &cells {
        let outcome = match cell.way {
            Way::Bytes => bytes::compare(&rig, cell, options.duration()),
            _ => cell::count(&rig, cell, options.duration()),
        };
        match outcome {
            Ok(done) => println!("ok      {cell}: {done}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {cell}: {error:#}");
            }
        }
    }
    println!("{} passed, {failed} failed", cells.len() - failed);
    if failed > 0 {
        println!("the last one's files are in {}", directory.keep().display());
        bail!("{failed} kinds of rings and ways failed");
    }
    Ok(())
}
