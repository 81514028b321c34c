//! A back end as a process of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::lifeline;
use crate::run::Device;

/// How long a program may take until it listens, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK: Duration = Duration::from_millis(2);

/// A running back end. Ended, with force if need be, when dropped, and when this program ends in any other way.
#[derive(Debug)]
pub(crate) struct BackEnd {
    name: String,
    child: Child,
    socket: PathBuf,
}

impl BackEnd {
    /// Starts the program of `device`, which is this very program, and waits until it listens at `socket`. Its log
    /// goes to our standard error.
    pub(crate) fn spawn<S: AsRef<OsStr>>(device: Device, socket: &Path, options: &[S]) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["run", device.name(), "--log-level", "warn", "--socket-path"])
            .arg(socket)
            .args(options);
        Self::spawn_command(command, device.name(), socket)
    }

    /// Starts a program that is to listen at `socket`, and waits until it does. `name` is what messages call it.
    ///
    /// # Errors
    /// It cannot be started, ends at once, or does not listen in time.
    pub(crate) fn spawn_command(mut command: Command, name: &str, socket: &Path) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = lifeline::tie(&mut command, Signal::KILL)
            .spawn()
            .with_context(|| format!("cannot start the back end {name}"))?;
        let mut this = Self { name: name.to_owned(), child, socket: socket.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while !listens(socket) {
            if let Some(status) = this.ended()? {
                bail!("the back end {name} ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("the back end {name} does not listen at {}", socket.display());
            }
            std::thread::sleep(LOOK);
        }
        Ok(this)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The host refuses to tell.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// The host refuses.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It did not end well, or not at all.
    pub(crate) fn terminate(mut self) -> Result<()> {
        kill_process(self.pid(), Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the back end {} ended with {status}", self.name);
            }
            std::thread::sleep(LOOK);
        }
        bail!("the back end {} did not end when asked to", self.name);
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens at `path`, by the kernel's list of sockets (proc(5)): between `bind` and `listen` a
/// socket is there, but nobody can connect. Without the list, whether there is a socket.
pub(crate) fn listens(path: &Path) -> bool {
    /// `__SO_ACCEPTCON` in the column of flags.
    const LISTENING: &str = "00010000";
    let Ok(list) = std::fs::read("/proc/net/unix") else { return path.exists() };
    let end = [b" ", path.as_os_str().as_encoded_bytes()].concat();
    list.split(|&byte| byte == b'\n').any(|line| {
        let mut columns = line.splitn(8, |&byte| byte == b' ').map(<[u8]>::trim_ascii);
        columns.nth(3) == Some(LISTENING.as_bytes()) && line.ends_with(&end)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn listens_of_a_path_follows_its_socket() {
        let dir = tempfile::Builder::new().prefix("with a space ").tempdir().unwrap();
        let path = dir.path().join("x.sock");
        assert!(!listens(&path));
        let listener = UnixListener::bind(&path).unwrap();
        assert!(listens(&path));
        assert!(!listens(&dir.path().join("x.soc")));
        drop(listener);
        assert!(!listens(&path));
    }
}
