//! `outboard`: runs, drives, shows, checks and measures vhost-user devices. A module per subcommand.

mod back_end;
mod bench;
mod check;
mod completions;
mod control;
mod demo;
mod discovery;
mod i2c_address;
mod lifeline;
mod man;
mod peer;
mod probe;
mod run;
mod seconds;
mod size;
mod socket_dir;
mod stdout;
mod target;
mod trace;
mod vm;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum as _};

/// Run, drive, show, check and measure vhost-user devices
#[derive(Debug, Parser)]
#[command(name = "outboard", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Args),
    Check(check::Args),
    Completions(completions::Args),
    Control(control::Args),
    Demo(demo::Args),
    Discovery(discovery::Args),
    Man(man::Args),
    Probe(probe::Args),
    Replay(trace::replay::Args),
    Run(run::Args),
    Trace(trace::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    stdout::tolerated(std::panic::AssertUnwindSafe(|| run(command)))
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Bench(args) => bench::run(args),
        Command::Check(args) => check::run(&args),
        Command::Completions(args) => completions::run(&args, programs()),
        Command::Control(args) => control::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Discovery(args) => discovery::run(&args),
        Command::Man(args) => man::run(&args, programs()),
        Command::Probe(args) => probe::run(&args),
        Command::Replay(args) => trace::replay::run(&args),
        Command::Run(args) => run::run(args),
        Command::Trace(args) => trace::run(&args),
        Command::Vm(args) => vm::run(&args),
    }
}

/// The command lines of all programs: this one and the back ends.
fn programs() -> Vec<clap::Command> {
    let back_ends = run::Device::value_variants().iter().map(|device| device.command());
    std::iter::once(Cli::command()).chain(back_ends).collect()
}
