//! `cargo xtask guests`: the back ends under real guests. Each scenario starts a
//! machine of its own; two run at a time.

mod bench;
mod console;
mod cpio;
mod entropy;
mod fdt;
mod gpio;
mod i2c;
mod initramfs;
mod input;
mod inside;
mod locks;
mod migration;
mod net;
mod process;
mod qmp;
mod rss;
mod scenario;
mod scmi;
mod switch;
mod torture;
mod traced;
mod vm;
mod vsock;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Result, bail};

use self::bench::{Bench, Shared};
pub(crate) use self::inside::{Inside, Told, inside};
use self::scenario::Scenario;
pub(crate) use self::torture::torture;
use crate::setup::kernel::Kernel;
use crate::setup::prefix::Qemu;
use crate::setup::{Arch, announced, vsock_test};
use crate::workspace::{Workspace, on_path, run};

/// Whose back ends are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peers {
    /// The project's.
    Ours,
    /// Independent ones (qemu-storage-daemon, vhost-device-rng): shows whether a
    /// failure is the tests' fault.
    Others,
}

/// Which scenarios run, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Print the names of the scenarios and stop
    #[arg(long)]
    list: bool,
    /// Run only scenarios whose name contains this (may be repeated)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Run only on this version of QEMU: 7, 10 or 11 (may be repeated)
    #[arg(long, value_name = "VERSION", value_parser = parse_qemu)]
    qemu: Vec<Qemu>,
    /// Keep the scenarios' directories also when they pass
    #[arg(long)]
    keep: bool,
    /// Whose back ends are tried
    #[arg(long, value_enum, default_value = "ours")]
    peers: Peers,
    /// Machines that run at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    jobs: u8,
    /// Try the programs that are there instead of building ours first
    #[arg(long)]
    no_build: bool,
    /// Let the processor run x86 guests (KVM) instead of translating them
    #[arg(long)]
    kvm: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            list: false,
            only: Vec::new(),
            qemu: Vec::new(),
            keep: false,
            peers: Peers::Ours,
            jobs: 2,
            no_build: false,
            kvm: false,
        }
    }
}

fn parse_qemu(text: &str) -> Result<Qemu, String> {
    text.parse().ok().and_then(Qemu::from_major).ok_or_else(|| "7, 10 and 11 are known".to_owned())
}

enum Outcome {
    Passed,
    Skipped(&'static str),
    Failed(anyhow::Error, PathBuf),
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Runs the chosen scenarios; an error if one failed.
pub(crate) fn guests(workspace: &Workspace, options: &Options) -> Result<()> {
    let chosen: Vec<Scenario> = scenario::all()
        .into_iter()
        .filter(|scenario| options.qemu.is_empty() || options.qemu.contains(&scenario.qemu))
        .filter(|scenario| {
            options.only.is_empty() || options.only.iter().any(|part| scenario.name.contains(part))
        })
        .collect();
    if options.list {
        for scenario in chosen {
            println!("{}", scenario.name);
        }
        return Ok(());
    }
    if chosen.is_empty() {
        bail!("no scenario has such a name; `--list` shows them");
    }
    crate::setup::setup(workspace, crate::setup::Options::default())?;
    if chosen.iter().any(|scenario| scenario.name.starts_with("vsock-test")) && on_path("cc") {
        announced("the kernel's tests of sockets", || vsock_test::prepare(workspace, false))?;
    }
    let packages: &[&str] = match options.peers {
        Peers::Ours => &[
            "-p",
            "outboard-rng",
            "-p",
            "outboard-scmi",
            "-p",
            "outboard-blk",
            "-p",
            "outboard-net",
            "-p",
            "outboard-gpio",
            "-p",
            "outboard-i2c",
            "-p",
            "outboard-input",
            "-p",
            "outboard-console",
            "-p",
            "outboard-vsock",
            "-p",
            "outboard",
        ],
        Peers::Others => &["-p", "outboard"],
    };
    if !options.no_build {
        run(workspace.cargo().args(["build", "--release"]).args(packages))?;
        let examples = [
            "build",
            "--release",
            "-p",
            "outboard-frontend",
            "--example",
            "zones",
            "--example",
            "i2c",
            "--example",
            "gpio",
            "--example",
            "input",
            "--example",
            "scmi",
            "--example",
            "vsock",
        ];
        run(workspace.cargo().args(examples))?;
    }
    if options.peers == Peers::Ours {
        bench::require_programs(workspace)?;
    }

    let directory = tempfile::Builder::new().prefix("outboard-").tempdir()?;
    let mut boot = Vec::new();
    for arch in Arch::ALL {
        let kernel = Kernel::open(workspace, arch)?;
        let initramfs = initramfs::build(workspace, arch, &kernel, directory.path())?;
        boot.push((arch, kernel, initramfs));
    }
    let accel = if options.kvm { "kvm" } else { "tcg" };
    let more_modules = more_modules(workspace, &boot, directory.path())?;
    let shared = Shared { workspace: workspace.clone(), peers: options.peers, accel, boot, more_modules };

    let queue = Mutex::new(chosen.into_iter());
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while let Some(scenario) = take(&queue) {
                    let start = Instant::now();
                    let outcome = attempt(&shared, &scenario, directory.path());
                    // One scenario's lines stay together.
                    let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    tell(&scenario, &outcome, start.elapsed().as_secs_f64(), &mut tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if options.keep || tally.failed > 0 {
        println!("the scenarios' files are in {}", directory.keep().display());
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed > 0 {
        bail!("{} scenarios failed", tally.failed);
    }
    Ok(())
}

/// The kernel for x86 with all modules, and its initial file system.
fn more_modules(
    workspace: &Workspace,
    boot: &[(Arch, Kernel, PathBuf)],
    directory: &Path,
) -> Result<(Kernel, PathBuf)> {
    let kernel = Kernel::with_vlans(workspace)?;
    if let Some((_, same, initramfs)) = boot.iter().find(|(_, other, _)| other.image == kernel.image) {
        return Ok((same.clone(), initramfs.clone()));
    }
    let directory = directory.join("more-modules");
    std::fs::create_dir(&directory)?;
    let initramfs = initramfs::build(workspace, Arch::X86, &kernel, &directory)?;
    Ok((kernel, initramfs))
}

fn take(queue: &Mutex<std::vec::IntoIter<Scenario>>) -> Option<Scenario> {
    queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next()
}

fn attempt(shared: &Shared, scenario: &Scenario, directory: &Path) -> Outcome {
    if let Some(reason) = bench::obstacle(shared, scenario) {
        return Outcome::Skipped(reason);
    }
    let directory = directory.join(&scenario.name);
    let attempted = std::fs::create_dir(&directory).map_err(Into::into).and_then(|()| {
        let mut bench = Bench::new(shared, scenario, &directory);
        (scenario.run)(&mut bench)?;
        bench.stop_back_ends()
    });
    match attempted {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(error, directory),
    }
}

fn tell(scenario: &Scenario, outcome: &Outcome, seconds: f64, tally: &mut Tally) {
    let name = &scenario.name;
    match outcome {
        Outcome::Passed => {
            tally.passed += 1;
            println!("ok      {name} ({seconds:.1} s)");
        }
        Outcome::Skipped(reason) => {
            tally.skipped += 1;
            println!("skipped {name}: {reason}");
        }
        Outcome::Failed(error, directory) => {
            tally.failed += 1;
            println!("FAILED  {name} ({seconds:.1} s): {error:#}");
            let logs = [
                ("qemu.command", 1),
                ("firmware.log", 8),
                ("serial.log", 60),
                ("qemu.log", 20),
                (bench::BACK_END_LOG, 60),
                (bench::TRACE_LOG, 20),
            ];
            for (log, lines) in logs {
                show_end(&directory.join(log), log, lines);
                for machine in switch::MACHINES {
                    show_end(&directory.join(machine).join(log), &format!("{machine}/{log}"), lines);
                }
            }
        }
    }
}

/// The last `most` lines of a log.
fn show_end(path: &Path, name: &str, most: usize) {
    let Ok(bytes) = std::fs::read(path) else { return };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("OUTBOARD-DATA")).collect();
    if lines.is_empty() {
        return;
    }
    println!("  --- {name}");
    for line in lines.iter().skip(lines.len().saturating_sub(most)) {
        println!("  {line}");
    }
}
