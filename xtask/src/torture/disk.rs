//! The disk under torture, as a process: started, killed, started again, commanded.

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long it may take to make its socket, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that serves an image.
pub(super) struct Disk {
    program: PathBuf,
    directory: PathBuf,
    child: Option<Child>,
}

impl Disk {
    /// Nothing runs yet. Its files are in `directory`.
    pub(super) fn new(program: &Path, directory: &Path, size: u64) -> Result<Self> {
        let disk = Self { program: program.to_path_buf(), directory: directory.to_path_buf(), child: None };
        fs::File::create(disk.image())?.set_len(size)?;
        Ok(disk)
    }

    /// Its content.
    pub(super) fn image(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    /// Where front ends connect.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("disk.sock")
    }

    /// Starts it, and waits until it answers commands.
    pub(super) fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&self.program);
        command.arg("--socket-path").arg(self.socket()).arg("--control").arg(self.control());
        command.arg("--blk-file").arg(self.image()).args(["--num-queues", "4", "--log-level", "warn"]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.child = Some(child);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if UnixStream::connect(self.control()).is_ok() && self.socket().exists() {
                return Ok(());
            }
            self.require_alive()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("it takes no commands")
    }

    /// Whether it runs.
    pub(super) fn is_alive(&mut self) -> Result<bool> {
        let child = self.child.as_mut().context("it does not run")?;
        Ok(child.try_wait()?.is_none())
    }

    /// An error if it has ended by itself.
    pub(super) fn require_alive(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it does not run")?;
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("the disk ended by itself: {status}; its last words: {}", self.last_words())
            }
        }
    }

    /// Its process.
    pub(super) fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    /// Kills it, unless it was killed already.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        let status = child.wait()?;
        ensure!(status.signal() == Some(9), "not killed, but ended: {status}; {}", self.last_words());
        Ok(())
    }

    /// Resident memory of its own in KiB.
    pub(super) fn resident(&self) -> Result<u64> {
        resident(self.pid()?)
    }

    /// Where it takes commands.
    pub(super) fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("disk.log")
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().last().unwrap_or("none").to_owned()
    }

    /// What it said of itself that is worth a look: nothing, as a rule.
    pub(super) fn complaints(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Resident memory of a process in KiB, without what it shares: front ends lend it theirs.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the disk is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.context("the kernel does not tell its memory")
}
