//! The project's own tasks: `cargo xtask help` lists them.

// A program for a terminal: printing is its interface.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod ceph;
mod checks;
mod control;
mod digest;
mod discovery;
mod fuzz;
mod guest;
mod interop;
mod namespace;
mod packets;
mod peers;
mod setup;
mod storage;
mod test;
mod torture;
mod workspace;

use std::path::PathBuf;
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
    /// Check that crates use only crates above them
    Graph,
    /// Check that every message, flag and feature has its tests
    Coverage,
    /// Check that devices stay small
    Lines,
    /// Check that no device says again what another says
    Repeats,
    /// Write the files by which management software finds the back ends
    Discovery {
        /// Where to write them
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Where the programs are installed
        #[arg(long, value_name = "DIR", default_value = "/usr/libexec/outboard")]
        bindir: PathBuf,
    },
    /// Fetch the back ends of others that ours are compared with
    Peers(peers::Options),
    /// Run the tools on our back ends and on others, and write docs/interop.md
    Interop(interop::Options),
    /// Measure our disks beside other people's
    Bench(Box<bench::Options>),
    /// Print how near two CPUs are to each other
    #[command(hide = true)]
    Placement(bench::placement::Cpus),
    /// Send and receive packets with DPDK's testpmd as the front end, and count and compare every one
    Packets(Box<packets::Options>),
    /// Use a disk while everything happens to it, and verify every byte
    Torture(torture::Options),
    /// Run the tests of disks on other people's NBD servers
    Storage,
    /// A Ceph cluster of one node, to try disks in it
    Ceph {
        #[command(subcommand)]
        action: ceph::Action,
    },
    /// Run the fuzz targets for a while
    Fuzz(fuzz::Options),
    /// Run all checks and tests
    Test(test::Options),
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
        Task::Graph => checks::graph::graph(&workspace),
        Task::Coverage => checks::coverage::coverage(&workspace),
        Task::Lines => checks::lines::lines(&workspace),
        Task::Repeats => checks::repeats::repeats(&workspace),
        Task::Discovery { out, bindir } => discovery::discovery(&workspace, &out, &bindir),
        Task::Peers(options) => peers::install(&workspace, &options),
        Task::Interop(options) => interop::interop(&workspace, &options),
        Task::Bench(options) => bench::bench(&workspace, &options),
        Task::Placement(cpus) => bench::placement::print(cpus),
        Task::Packets(options) => packets::packets(&workspace, &options),
        Task::Torture(options) => torture::torture(&workspace, &options),
        Task::Storage => storage::storage(&workspace),
        Task::Ceph { action } => ceph::ceph(&workspace, action),
        Task::Fuzz(options) => fuzz::fuzz(&workspace, &options),
        Task::Test(options) => test::test(&workspace, &options),
    }
}
