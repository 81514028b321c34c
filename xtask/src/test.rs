//! `cargo xtask test`: everything that has to hold, step by step, stopping at
//! the first that does not.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::workspace::{Workspace, on_path, run};
use crate::{checks, fuzz, guest, setup, storage};

/// Cargo features that are off in the programs as they are shipped, and need nothing to be built.
const FEATURES: &str = "outboard-net/af-xdp";

/// A step of the whole, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Step {
    /// Fetch what the guest tests need
    Setup,
    /// The source is formatted
    Fmt,
    /// No lint complains
    Clippy,
    /// Crates use only crates above them
    Graph,
    /// Every message, flag and feature has its tests
    Coverage,
    /// Devices stay small
    Lines,
    /// No device says again what another says
    Repeats,
    /// What threads share, in every order in which it can happen
    Models,
    /// Unit, property and interop tests
    Unit,
    /// Disks on other people's servers
    Storage,
    /// Every fuzz target for a minute
    Fuzz,
    /// The programs as they are shipped
    Build,
    /// The programs under real guests
    Guests,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Setup,
        Self::Fmt,
        Self::Clippy,
        Self::Graph,
        Self::Coverage,
        Self::Lines,
        Self::Repeats,
        Self::Models,
        Self::Unit,
        Self::Storage,
        Self::Fuzz,
        Self::Build,
        Self::Guests,
    ];

    fn run(self, workspace: &Workspace) -> Result<()> {
        let cargo = |arguments: &[&str]| run(workspace.cargo().args(arguments));
        match self {
            Self::Setup => setup::setup(workspace, setup::Options::default()),
            Self::Fmt => {
                cargo(&["fmt", "--all", "--check"])?;
                cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"])
            }
            Self::Clippy => {
                let rest = ["--quiet", "--all-targets", "--", "-D", "warnings"];
                cargo(&[&["clippy", "--workspace", "--features", FEATURES], &rest[..]].concat())?;
                cargo(&[&["clippy", "--package", "outboard-net"], &rest[..]].concat())
            }
            Self::Graph => checks::graph::graph(workspace),
            Self::Coverage => checks::coverage::coverage(workspace),
            Self::Lines => checks::lines::lines(workspace),
            Self::Repeats => checks::repeats::repeats(workspace),
            Self::Models => models(workspace),
            Self::Unit => unit(workspace),
            Self::Storage => storage::storage(workspace),
            Self::Fuzz => fuzz::fuzz(workspace, &fuzz::Options { seconds: 60, only: Vec::new() }),
            Self::Build => cargo(&["build", "--quiet", "--release", "--workspace", "--exclude", "xtask"]),
            Self::Guests => guest::guests(workspace, &guest::Options::default()),
        }
    }
}

/// Which steps run.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Run only this step (may be repeated)
    #[arg(long, value_name = "STEP", value_enum)]
    only: Vec<Step>,
    /// Leave this step out (may be repeated)
    #[arg(long, value_name = "STEP", value_enum)]
    skip: Vec<Step>,
}

/// Runs the chosen steps.
pub(crate) fn test(workspace: &Workspace, options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut done = Vec::new();
    for step in Step::ALL {
        let chosen = options.only.is_empty() || options.only.contains(&step);
        if !chosen || options.skip.contains(&step) {
            continue;
        }
        let name = format!("{step:?}").to_lowercase();
        println!("== {name}");
        let began = Instant::now();
        if let Err(error) = step.run(workspace) {
            println!("== {name} FAILED after {}", shown(began.elapsed()));
            bail!("step {name}: {error:#}");
        }
        println!("== {name}: {}", shown(began.elapsed()));
        done.push(name);
    }
    println!("== all {} steps passed in {}: {}", done.len(), shown(start.elapsed()), done.join(", "));
    Ok(())
}

/// All tests of the workspace, by nextest where it is installed, which leaves
/// the examples in the documentation to cargo.
fn unit(workspace: &Workspace) -> Result<()> {
    let all = ["--workspace", "--features", FEATURES];
    if !on_path("cargo-nextest") {
        return run(workspace.cargo().args(["test", "--quiet"]).args(all));
    }
    let nextest = ["nextest", "run", "--no-fail-fast", "--status-level=fail"];
    run(workspace.cargo().args(nextest).args(all))?;
    run(workspace.cargo().args(["test", "--quiet", "--doc"]).args(all))
}

/// The models of loom, which need everything that they look at built for them.
fn models(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["test", "--quiet", "--lib", "--package=outboard-device", "--package=outboard-switch"]);
    command.arg("--target-dir").arg(workspace.target.join("models"));
    run(command.args(["--", "model::"]).env("RUSTFLAGS", "--cfg loom"))
}

fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}
