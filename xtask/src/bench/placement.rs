//! How near the two CPUs are to each other: on a virtual machine the host moves them, between one core's siblings
//! and different sockets, and what two polling threads reach changes by a factor of ten with it. A cache line is
//! sent to and fro between two threads; how long that takes tells which it is.
//!
//! The look is taken by a process of its own (`cargo xtask placement`), so that it runs in the same scheduling
//! class as what is measured.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::process::Pins;
use crate::workspace::output;

/// Round trips that are timed together.
const BATCH: u64 = 64;

/// Batches; the middle one counts.
const BATCHES: usize = 300;

/// A look ends after this, however far it is: another program has the CPU.
const PATIENCE: Duration = Duration::from_millis(500);

/// How near two CPUs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Class {
    /// A round trip takes less than 0.3 µs: threads of one core, as a rule
    Near,
    /// A round trip takes longer
    Far,
}

impl Class {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }

    fn of(nanoseconds: u64) -> Self {
        if nanoseconds < 300 { Self::Near } else { Self::Far }
    }
}

/// Looks at the two CPUs; `None` when nothing can be told.
pub(crate) fn look(pins: &Pins) -> Option<Class> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(["placement", &pins.front.to_string(), &pins.back.to_string()]);
    let said = output(&mut pins.command(None, command)).ok()?;
    let nanoseconds = String::from_utf8_lossy(&said).trim().parse().ok()?;
    Some(Class::of(nanoseconds))
}

/// The two CPUs of `cargo xtask placement`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Cpus {
    first: usize,
    second: usize,
}

/// Prints what a round trip of a cache line between the two takes, in nanoseconds.
pub(crate) fn print(cpus: Cpus) -> Result<()> {
    println!("{}", round_trip(cpus).context("the two CPUs did not run at the same time")?);
    Ok(())
}

/// A line of its own, and its neighbour, which processors fetch along.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

fn round_trip(cpus: Cpus) -> Option<u64> {
    let (ball, end) = (Line::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            keep_on(cpus.second);
            let mut expected = 1;
            while !end.load(Ordering::Relaxed) {
                if ball.0.load(Ordering::Acquire) == expected {
                    ball.0.store(expected + 1, Ordering::Release);
                    expected += 2;
                }
                std::hint::spin_loop();
            }
        });
        keep_on(cpus.first);
        let start = Instant::now();
        let mut times = Vec::with_capacity(BATCHES);
        let mut sent = 0;
        'look: while times.len() < BATCHES {
            let batch = Instant::now();
            for _ in 0..BATCH {
                sent += 2;
                ball.0.store(sent - 1, Ordering::Release);
                let mut spins = 0_u32;
                while ball.0.load(Ordering::Acquire) != sent {
                    spins = spins.wrapping_add(1);
                    if spins.is_multiple_of(4096) && start.elapsed() > PATIENCE {
                        break 'look;
                    }
                    std::hint::spin_loop();
                }
            }
            times.push(batch.elapsed().as_nanos() / u128::from(BATCH));
        }
        end.store(true, Ordering::Relaxed);
        times.sort_unstable();
        times.get(times.len() / 2).and_then(|&time| u64::try_from(time).ok())
    })
}

/// Keeps this thread on a CPU. Where that is not allowed, the look says how near others are.
fn keep_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}
