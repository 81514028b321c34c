//! A process seen from outside: the CPU time it takes, how often it is switched, and where it may run. Needs nothing
//! of it but its number, which the kernel tells of whoever listens at a socket.
#![allow(unsafe_code)] // the CPU clock of another process has no safe wrapper

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::peer;

/// What a process took of the CPUs so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// User and system time of all its threads, those that ended included, up to the last tick or switch of each.
    pub(super) cpu: Duration,
    /// How often a thread of it left its CPU, of those that run.
    pub(super) switches: u64,
}

impl Usage {
    /// What was added since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process(Pid);

impl Process {
    /// Who listens at the other end, as the kernel tells: the process that called listen(2). `None` where it is
    /// outside of our PID namespace, or gone.
    pub(super) fn behind(stream: &UnixStream) -> Option<Self> {
        let pid = peer::pid(stream).ok().flatten();
        pid.map(Self).filter(|process| process.usage().is_some())
    }

    /// A child of ours.
    pub(super) fn of(child: &Child) -> Self {
        Self(Pid::from_child(child))
    }

    /// Its number.
    pub(super) fn number(self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// What it took so far; `None` when it is gone.
    pub(super) fn usage(self) -> Option<Usage> {
        let mut clock = 0;
        // SAFETY: writes one clock id.
        let found = unsafe { libc::clock_getcpuclockid(self.number(), &raw mut clock) };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes one timespec; a clock that does not exist (any more) is an error.
        if found != 0 || unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
            return None;
        }
        let cpu = Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
        Some(Usage { cpu, switches: self.switches() })
    }

    fn switches(self) -> u64 {
        let statuses = self.threads().filter_map(|thread| {
            fs::read_to_string(format!("/proc/{}/task/{thread}/status", self.number())).ok()
        });
        statuses.map(|status| switches_in(&status)).sum()
    }

    fn threads(self) -> impl Iterator<Item = i32> {
        let entries = fs::read_dir(format!("/proc/{}/task", self.number())).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
    }

    /// Keeps all its threads, and those that they start, on these CPUs.
    ///
    /// # Errors
    /// There is no such CPU; the process belongs to somebody else.
    pub(super) fn pin(self, cpus: &[usize]) -> Result<()> {
        for thread in self.threads() {
            let pinned = sched_setaffinity(Pid::from_raw(thread), &set_of(cpus));
            pinned.with_context(|| format!("cannot put process {} on CPU {cpus:?}", self.number()))?;
        }
        Ok(())
    }
}

/// Keeps the calling thread on these CPUs.
///
/// # Errors
/// There is no such CPU.
pub(super) fn pin_this_thread(cpus: &[usize]) -> Result<()> {
    sched_setaffinity(None, &set_of(cpus)).with_context(|| format!("cannot run on CPU {cpus:?}"))
}

/// The CPUs that this thread may run on.
pub(super) fn cpus() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
}

fn set_of(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU).for_each(|&cpu| set.set(cpu));
    set
}

/// Both kinds of context switches in a `/proc/PID/task/TID/status` (proc_pid_status(5)).
fn switches_in(status: &str) -> u64 {
    let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    lines.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_of_both_kinds_add_up() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), 42);
    }

    #[test]
    fn process_at_the_other_end_of_a_pair_is_this_one_and_takes_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let process = Process::behind(&ours).unwrap();
        assert_eq!(process.number(), std::process::id() as i32);
        let before = process.usage().unwrap();
        let spun = (0..2_000_000_u64).fold(1, |sum, number| std::hint::black_box(sum ^ number));
        assert_ne!(spun, 0);
        assert!(process.usage().unwrap().since(before).cpu > Duration::ZERO);
    }
}
