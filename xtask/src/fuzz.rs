//! `cargo xtask fuzz`: every fuzz target for a while, two at a time, from the
//! seeds in the repository and what earlier runs found.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, on_path, run};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Which targets run, and how long.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Run only this target (may be repeated)
    #[arg(long, value_name = "TARGET")]
    pub(crate) only: Vec<String>,
}

/// Builds and runs the targets; an error if one found something.
pub(crate) fn fuzz(workspace: &Workspace, options: &Options) -> Result<()> {
    let tool = cargo_fuzz(workspace)?;
    let directory = workspace.root.join("fuzz");
    let build = workspace.target.join("fuzz");
    // Sanitizers are still behind a switch of the compiler, which works with
    // any version: no other toolchain is needed.
    run(Command::new(tool)
        .args(["fuzz", "build", "--target-dir"])
        .arg(&build)
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(&directory))?;
    let targets: Vec<String> = targets(&directory)?
        .into_iter()
        .filter(|target| options.only.is_empty() || options.only.contains(target))
        .collect();
    if targets.is_empty() {
        bail!("there is no such target");
    }

    let programs = build.join(TRIPLE).join("release");
    let queue = Mutex::new(targets.into_iter());
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                    let Some(target) = next else { break };
                    match run_target(&directory, &programs, &target, options.seconds) {
                        Ok(said) => println!("  {target}: {said}"),
                        Err(error) => {
                            println!("  {target}: {error:#}");
                            faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(target);
                        }
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !faults.is_empty() {
        bail!("{} found something", faults.join(", "));
    }
    Ok(())
}

/// Runs one target; its last line of statistics.
fn run_target(directory: &Path, programs: &Path, target: &str, seconds: u64) -> Result<String> {
    let corpus = directory.join("corpus").join(target);
    let artifacts = directory.join("artifacts").join(target);
    let seeds = directory.join("seeds").join(target);
    for path in [&corpus, &artifacts, &seeds] {
        std::fs::create_dir_all(path)?;
    }
    let log = artifacts.join("log");
    let mut child = Command::new(programs.join(target))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus)
        .arg(&seeds)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| format!("starting the target {target}"))?;
    // libFuzzer ends by itself; a target that hangs in the kernel does not.
    let limit = Duration::from_secs(seconds + 120);
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("did not end after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let bytes = std::fs::read(&log)?;
    let text = String::from_utf8_lossy(&bytes);
    if !status.success() {
        let tail: Vec<&str> = text.lines().rev().take(60).collect();
        for line in tail.iter().rev() {
            println!("  {target} | {line}");
        }
        bail!("{status}; the input is in {}", artifacts.display());
    }
    let runs = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or("?", str::trim);
    Ok(format!("{runs} inputs in {seconds} s, nothing found"))
}

/// The targets: the programs of the fuzzing package.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(directory.join("fuzz_targets")).context("fuzz/fuzz_targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// The program `cargo-fuzz`: the one on the path, or one built into the cache.
fn cargo_fuzz(workspace: &Workspace) -> Result<PathBuf> {
    if on_path("cargo-fuzz") {
        return Ok(PathBuf::from("cargo-fuzz"));
    }
    let root = workspace.cache.join("cargo-fuzz");
    let program = root.join("bin/cargo-fuzz");
    if !program.exists() {
        let target = workspace.target.join("cargo-fuzz");
        run(workspace
            .cargo()
            .args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"])
            .arg(&root)
            .env("CARGO_TARGET_DIR", target))?;
    }
    Ok(program)
}
