//! `outboard`: runs, drives and shows vhost-user devices. One file per subcommand.

mod back_end;
mod bench;
mod check;
mod demo;
mod discovery;
mod probe;
mod run;
mod target;
mod trace;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Run, drive and show vhost-user devices
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
    Demo(demo::Args),
    Discovery(discovery::Args),
    Probe(probe::Args),
    Run(run::Args),
    Trace(trace::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Bench(args) => bench::run(args),
        Command::Check(args) => check::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Discovery(args) => discovery::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Run(args) => run::run(args),
        Command::Trace(args) => trace::run(&args),
        Command::Vm(args) => vm::run(&args),
    }
}
