//! A back end as a process of its own: this very program, told to `run` a device.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::run::Device;

/// How long a program may take until it listens, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK: Duration = Duration::from_millis(2);

/// A running back end. Ended, with force if need be, when dropped.
#[derive(Debug)]
pub(crate) struct BackEnd {
    device: Device,
    child: Child,
    socket: PathBuf,
}

impl BackEnd {
    /// Starts the program of `device` and waits until it listens at `socket`. Its log goes to our standard error.
    pub(crate) fn spawn<S: AsRef<OsStr>>(device: Device, socket: &Path, options: &[S]) -> Result<Self> {
        let child = Command::new("/proc/self/exe")
            .args(["run", device.name(), "--log-level", "warn", "--socket-path"])
            .arg(socket)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start the back end of {}", device.name()))?;
        let mut this = Self { device, child, socket: socket.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while !this.socket.exists() {
            if let Some(status) = this.child.try_wait()? {
                bail!("the back end of {} ended at once: {status}", device.name());
            }
            if Instant::now() > deadline {
                bail!("the back end of {} does not listen", device.name());
            }
            std::thread::sleep(LOOK);
        }
        Ok(this)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It did not end well, or not at all.
    pub(crate) fn terminate(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the back end of {} ended with {status}", self.device.name());
            }
            std::thread::sleep(LOOK);
        }
        bail!("the back end of {} did not end when asked to", self.device.name());
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
