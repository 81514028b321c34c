//! `outboard`: runs, drives and shows vhost-user devices. One file per subcommand.

mod back_end;
mod demo;
mod run;

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
    Demo(demo::Args),
    Run(run::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(args),
    }
}
