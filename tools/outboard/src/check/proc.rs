//! What the kernel tells of a back end's process (proc(5)). A process of somebody else tells nothing: then the check
//! is skipped.

use std::fs;

use rustix::process::Pid;

use super::verdict::{Checked, Stop};

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    /// Open descriptors.
    pub(crate) fds: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Mappings of files that others share.
    pub(crate) shared: usize,
}

/// What it holds now.
pub(crate) fn held(pid: Pid) -> Checked<Held> {
    let dir = format!("/proc/{}", pid.as_raw_nonzero());
    let entries = |name: &str| -> Checked<usize> {
        let entries = fs::read_dir(format!("{dir}/{name}"));
        Ok(entries.map_err(|error| unreadable(&error))?.count())
    };
    let maps = fs::read_to_string(format!("{dir}/maps")).map_err(|error| unreadable(&error))?;
    let shared = maps.lines().filter(|line| line.contains("/memfd:") || line.contains("(deleted)")).count();
    Ok(Held { fds: entries("fd")?, threads: entries("task")?, shared })
}

/// The most address space it has ever had, in bytes.
pub(crate) fn peak(pid: Pid) -> Checked<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let status = status.map_err(|error| unreadable(&error))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| Stop::Skip("its size is not known".to_owned()))
}

fn unreadable(error: &std::io::Error) -> Stop {
    Stop::Skip(format!("its process cannot be looked at: {error}"))
}

/// Whether it does something of its own when it gets this signal.
pub(crate) fn catches(pid: Pid, signal: rustix::process::Signal) -> Checked<bool> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()));
    let status = status.map_err(|error| unreadable(&error))?;
    let line = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = line.and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    let mask = mask.ok_or_else(|| Stop::Skip("its signals are not known".to_owned()))?;
    Ok(mask & 1 << (signal.as_raw() - 1) != 0)
}
