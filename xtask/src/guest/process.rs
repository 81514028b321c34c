//! A back end as a process of its own: started, waited for, killed, started
//! again, ended. Processes are ended by their own handle only, and none outlives
//! its value.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Peers;

/// How long a back end may take to make its socket, and to end when asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running back end.
pub(super) struct BackEnd {
    child: Child,
    command: Box<dyn Fn() -> Result<Command> + Send>,
    socket: PathBuf,
    log: PathBuf,
}

impl BackEnd {
    /// Starts what `command` makes and waits until its socket exists. What it
    /// writes goes to `log`.
    pub(super) fn start(
        command: impl Fn() -> Result<Command> + Send + 'static,
        socket: &Path,
        log: &Path,
    ) -> Result<Self> {
        let command: Box<dyn Fn() -> Result<Command> + Send> = Box::new(command);
        let child = spawn(command()?, log)?;
        let mut back_end = Self { child, command, socket: socket.to_path_buf(), log: log.to_path_buf() };
        back_end.await_socket(None)?;
        Ok(back_end)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process as nothing else does (SIGKILL).
    pub(super) fn kill(&mut self) -> Result<()> {
        self.require_alive()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts the process that was killed anew.
    pub(super) fn restart(&mut self) -> Result<()> {
        let before = inode(&self.socket);
        self.child = spawn((self.command)()?, &self.log)?;
        self.await_socket(before)
    }

    /// An error if the process has ended by itself.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the back end ended by itself: {}", describe(status)),
            None => Ok(()),
        }
    }

    /// Asks the process to end (SIGTERM). Ours must exit with status 0 and take
    /// their socket away; others may do as they like.
    pub(super) fn stop(mut self, peers: Peers) -> Result<()> {
        match self.require_alive() {
            // Some end with their one connection.
            Err(_) if peers == Peers::Others => return Ok(()),
            other => other?,
        }
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process without id")?;
        let asked = Instant::now();
        kill_process(pid, Signal::TERM)?;
        while asked.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                if peers == Peers::Others {
                    return Ok(());
                }
                if !status.success() {
                    bail!("asked to end, the back end left with {}", describe(status));
                }
                if self.socket.exists() {
                    bail!("asked to end, the back end left its socket behind");
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("asked to end, the back end still ran after {PATIENCE:?}")
    }

    /// Waits for the socket: nobody connects to it to see, since that would be
    /// the one connection that some back ends take. After a kill the old
    /// process's socket is still there, so a new file is waited for.
    fn await_socket(&mut self, old: Option<u64>) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if inode(&self.socket).is_some_and(|inode| Some(inode) != old) {
                return Ok(());
            }
            self.require_alive()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the back end made no socket in {PATIENCE:?}")
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        // Already gone after `stop`; either way there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file's identity: number and, as numbers are used again, time of birth.
fn inode(path: &Path) -> Option<u64> {
    let metadata = path.symlink_metadata().ok()?;
    let born = u64::try_from(metadata.ctime_nsec()).unwrap_or(0) ^ (metadata.ctime().cast_unsigned() << 30);
    Some(metadata.ino().rotate_left(32) ^ born)
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log: File = OpenOptions::new().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))
}

fn describe(status: ExitStatus) -> String {
    match status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => status.to_string(),
    }
}
