//! The round trip that nothing can beat which sleeps: two processes that wake each other through eventfds.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::figures::Tally;
use super::process::Process;

/// The other process, which answers; ended when dropped.
pub(super) struct Ponger {
    child: Child,
    ping: OwnedFd,
    pong: OwnedFd,
}

impl Ponger {
    /// Starts this program once more, to answer on `cpus`.
    ///
    /// # Errors
    /// The host refuses.
    pub(super) fn start(cpus: &[usize]) -> Result<Self> {
        let ping = eventfd(0, EventfdFlags::CLOEXEC)?;
        let pong = eventfd(0, EventfdFlags::CLOEXEC)?;
        let child = Command::new("/proc/self/exe")
            .args(["bench", "pong"])
            .stdin(Stdio::from(ping.try_clone()?))
            .stdout(Stdio::from(pong.try_clone()?))
            .spawn()
            .context("cannot start the process that answers")?;
        let this = Self { child, ping, pong };
        if !cpus.is_empty() {
            Process::of(&this.child).pin(cpus)?;
        }
        Ok(this)
    }

    /// Goes back and forth for `time`; how long each round trip took, in nanoseconds.
    ///
    /// # Errors
    /// The other process is gone.
    pub(super) fn measure(&self, time: Duration) -> Result<Histogram<u64>> {
        let mut trips = Tally::new().latency;
        let start = Instant::now();
        let mut last = start;
        while last.duration_since(start) < time {
            write(&self.ping)?;
            read(&self.pong)?;
            let now = Instant::now();
            trips.saturating_record(now.duration_since(last).as_nanos() as u64);
            last = now;
        }
        Ok(trips)
    }
}

impl Drop for Ponger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `outboard bench pong`: answers, from standard input to standard output, until it is killed.
pub(super) fn pong() -> ExitCode {
    // Nobody else would tell: an eventfd does not hang up.
    let tied = set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    let answer = || read(io::stdin()).and_then(|()| write(io::stdout()));
    let mut going = tied;
    while going.is_ok() {
        going = answer();
    }
    ExitCode::FAILURE
}

fn write(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::write(fd, &1_u64.to_ne_bytes()).map(drop)?)
}

fn read(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::read(fd, &mut [0; 8]).map(drop)?)
}
