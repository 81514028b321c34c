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
    /// User and system time of all its threads, those that ended included.
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
        // A process's clock has what its threads took up to the last tick or switch of each; to read a thread's own
        // brings that thread's share up to now.
        self.threads().filter_map(|thread| time_of(thread_clock(thread))).for_each(drop);
        let mut clock = 0;
        // SAFETY: writes one clock id.
        let found = unsafe { libc::clock_getcpuclockid(self.number(), &raw mut clock) };
        let cpu = if found == 0 { time_of(clock)? } else { return None };
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

/// The clock of the CPU time of a thread of any process, as the kernel numbers them (`CPUCLOCK_PERTHREAD_MASK` with
/// `CPUCLOCK_SCHED`; libc names it for threads of one's own only).
fn thread_clock(thread: i32) -> libc::clockid_t {
    (!thread << 3) | 4 | 2
}

/// The time that a clock shows; `None` when what it belongs to is gone.
fn time_of(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec; a clock that does not exist (any more) is an error.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) } == 0;
    read.then_some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
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
    use std::time::Instant;

    use super::*;

    #[test]
    fn switches_of_both_kinds_add_up() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches_in(status), 42);
    }

    #[test]
    fn thread_that_runs_is_counted_up_to_now_and_not_to_the_last_tick() {
        let mut child = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let process = Process::of(&child);
        let look = || (Instant::now(), process.usage().unwrap());
        let start = Instant::now();
        // Three looks that differ within less than a tick (1 ms at least), without a switch in between.
        let seen = std::iter::repeat_with(|| [look(), look(), look()])
            .take_while(|_| start.elapsed() < Duration::from_secs(30))
            .any(|[(begun, first), (_, second), (_, third)]| {
                let short = begun.elapsed() < Duration::from_micros(900);
                let grew = first.cpu < second.cpu && second.cpu < third.cpu;
                short && grew && first.switches == third.switches
            });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen);
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
