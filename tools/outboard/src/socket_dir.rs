//! Directories for sockets, which do not outlive this program, even where a signal ends it.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};
use tempfile::TempDir;

/// What a signal leaves to be done.
#[derive(Debug)]
struct Left {
    caught: bool,
    dirs: BTreeSet<PathBuf>,
}

static LEFT: Mutex<Left> = Mutex::new(Left { caught: false, dirs: BTreeSet::new() });

/// A directory, removed when dropped, or when SIGTERM, SIGINT or SIGHUP ends the program.
#[derive(Debug)]
pub(crate) struct SocketDir(TempDir);

impl SocketDir {
    /// Makes one.
    ///
    /// # Errors
    /// The host refuses.
    pub(crate) fn new() -> Result<Self> {
        let mut left = left();
        if !left.caught {
            catch().context("cannot catch signals")?;
            left.caught = true;
        }
        let dir = tempfile::tempdir().context("cannot make a directory for the socket")?;
        left.dirs.insert(dir.path().to_owned());
        Ok(Self(dir))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        left().dirs.remove(self.path());
    }
}

fn left() -> MutexGuard<'static, Left> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a thread of its own wait for a signal, tidy up, and end the program as the signal does.
fn catch() -> Result<()> {
    let (mut told, raised) = UnixStream::pair()?;
    let which = Arc::new(AtomicUsize::new(0));
    for signal in [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| !is_ignored(*signal)) {
        flag::register_usize(signal, Arc::clone(&which), usize::try_from(signal)?)?;
        low_level::pipe::register(signal, raised.try_clone()?)?;
    }
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // `raised` stays open: this ends with a signal only.
        if told.read_exact(&mut [0]).is_err() {
            return;
        }
        for dir in &left().dirs {
            // What cannot be removed stays; nobody is there to be told.
            let _ = std::fs::remove_dir_all(dir);
        }
        let signal = i32::try_from(which.load(Ordering::SeqCst)).unwrap_or(SIGTERM);
        let _ = low_level::emulate_default_handler(signal);
        low_level::exit(128 + signal);
    })?;
    Ok(())
}

/// Was this program started with `signal` ignored (nohup(1))? Then it stays so.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
}
