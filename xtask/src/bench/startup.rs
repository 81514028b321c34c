//! What a disk costs before it is used: time to its first connection, memory, and the CPU while nothing happens.

use std::time::Duration;

use anyhow::Result;

use super::contender::Contender;
use super::fields::{self, Memory};
use super::measure::{Bench, median, told};
use super::target::Target;

/// Starts that are timed.
const STARTS: usize = 7;

/// How long an idle disk is watched, in seconds.
const IDLE: u32 = 5;

/// What was found of one contender.
pub(super) struct Startup {
    pub(super) name: String,
    /// From exec to the first connection that was taken, in ms: the middle one and the least.
    pub(super) ready: (f64, f64),
    pub(super) memory: Memory,
    pub(super) threads: u64,
    /// Of the program, in KiB.
    pub(super) size: u64,
    /// Share of a CPU while one request comes in a second, in percent.
    pub(super) idle: Option<f64>,
}

/// Of all contenders on a file of tmpfs, or of whatever they have.
pub(super) fn measure(bench: &Bench<'_>) -> Vec<Startup> {
    let mut all = Vec::new();
    for contender in &bench.contenders {
        let targets = [Target::Tmpfs, Target::Cached, Target::Direct, Target::Ram];
        let has = |target: &Target| {
            contender.start(*target).is_some() && bench.files.path(*target).is_none_or(|path| path.exists())
        };
        let Some(target) = targets.into_iter().find(has) else { continue };
        eprintln!("start-up: {}", contender.name);
        match one(bench, contender, target) {
            Ok(startup) => all.push(startup),
            Err(error) => eprintln!("  {}: {error:#}", contender.name),
        }
    }
    all
}

fn one(bench: &Bench<'_>, contender: &Contender, target: Target) -> Result<Startup> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        if let Some(back_end) = bench.start(target, 1, contender, true)? {
            times.push(back_end.ready.as_secs_f64() * 1e3);
            back_end.stop();
        }
    }
    let back_end = bench.start(target, 1, contender, false)?;
    let back_end = told("memory", back_end)?;
    std::thread::sleep(Duration::from_millis(500));
    let pid = back_end.worker();
    let memory = told("memory", Memory::of(pid))?;
    let threads = told("number of threads", fields::threads(pid))?;
    let size = std::fs::metadata(format!("/proc/{pid}/exe"))?.len() / 1024;
    let before = back_end.cpu();
    let idle = match bench.driver().idle(back_end.socket(), IDLE) {
        Ok(()) => Some((back_end.cpu() - before) * 100.0 / f64::from(IDLE)),
        Err(error) => {
            eprintln!("  {}, idle: {error:#}", contender.name);
            None
        }
    };
    back_end.stop();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let ready = (median(times).unwrap_or(f64::NAN), least);
    Ok(Startup { name: contender.name.clone(), ready, memory, threads, size, idle })
}
