//! SIGTERM and SIGINT: the first asks the program to stop, the second ends it on the spot. SIGHUP: the device is to
//! look at its host side again, and so is every other device of the process. SIGXFSZ is ignored.
//!
//! Theory of operation: the handler of the first signal raises [`Stop`], which every waiting thread polls, and sets
//! an alarm. If the program has not ended by then (a host file hangs, say), the alarm ends it with status 1: a
//! manager that asked for an end gets one. Requests in flight are then in the in-flight record of the front end,
//! as after a crash. Everything that a handler does here is async-signal-safe.
#![allow(unsafe_code)] // Signal handlers and the signal mask have no safe interface.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use outboard_backend::{Notice, Stop};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::logging;

/// How long the program may take to stop, in seconds.
const GRACE_SECONDS: u32 = 5;

/// Catches the signals, for the rest of the process's life.
///
/// # Errors
/// When the kernel refuses a handler.
pub(crate) fn install(stop: &Stop, refresh: Vec<Notice>) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: at the first signal the flag is not set yet when the shutdown looks at it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
        let stop = stop.clone();
        // SAFETY: the closure is async-signal-safe. `Stop::trigger` is one atomic store and one write to a
        // non-blocking descriptor; alarm(2) is on POSIX's list; no clone of `stop` is dropped in it.
        unsafe {
            low_level::register(signal, move || {
                stop.trigger();
                libc::alarm(GRACE_SECONDS);
            })?;
        }
    }
    // SAFETY: the closure is async-signal-safe: `Notice::give` is an atomic swap and a write to a non-blocking
    // descriptor. The list of them is only read.
    unsafe {
        low_level::register(SIGHUP, move || refresh.iter().for_each(Notice::give))?;
    }
    // A file that may not grow is an error of that write (EFBIG), not the end of the program.
    // SAFETY: to ignore a signal has no preconditions.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    // SAFETY: the closure is async-signal-safe: poll(2), write(2) and _exit(2) on static data.
    unsafe {
        low_level::register(SIGALRM, || {
            logging::write_now(b"not stopped within 5 seconds of the signal, giving up\n");
            low_level::exit(1);
        })?;
    }
    unblock()
}

/// Lets the signals through even if the program was started by a thread that blocked them.
fn unblock() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises `set`, sigaddset gets valid signal numbers, pthread_sigmask reads `set` and
    // is not asked for the old mask.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGALRM] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}
