//! Children that do not outlive this program, however it ends: a machine without its back ends, or the other way
//! round, is of no use to anybody.
#![allow(unsafe_code)] // What runs between fork and exec has no safe interface.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Makes the kernel send `signal` to the process when the thread that starts it ends: the main thread, that is.
pub(crate) fn tie(command: &mut Command, signal: Signal) -> &mut Command {
    // SAFETY: the closure is async-signal-safe: one prctl(2), without an allocation or a lock.
    unsafe { command.pre_exec(move || Ok(set_parent_process_death_signal(Some(signal))?)) }
}
