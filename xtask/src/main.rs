//! The project's own tasks: `cargo xtask help` lists them.

// A program for a terminal: printing is its interface.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod digest;
mod guest;

mod setup;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch what the guest tests need: QEMU, kernels, guest programs
    Setup {
        /// Fetch everything again
        #[arg(long)]
        refresh: bool,
        /// Fetch Debian's kernels even where prebuilt ones exist
        #[arg(long)]
        debian_kernels: bool,
    },
    /// Run the back ends under real guests
    Guests(guest::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup { refresh, debian_kernels } => {
            setup::setup(&workspace, setup::Options { refresh, debian_kernels })
        }
        Task::Guests(options) => guest::guests(&workspace, &options),
    }
}
