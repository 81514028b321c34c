//! The processes of a measurement: where they run, what they take of the CPUs, and their end. They are ended by
//! their own handle only.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::fields;
use crate::workspace::on_path;

/// Where front and back end run, and in which class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pins {
    pub(crate) front: usize,
    pub(crate) back: usize,
    pub(crate) real_time: Option<u8>,
}

impl Pins {
    /// The programs that do it must be there, and the class be allowed.
    pub(crate) fn require(&self) -> Result<()> {
        if !on_path("taskset") {
            bail!("`taskset` is missing: it keeps the programs on their CPUs");
        }
        if self.real_time.is_some() {
            let status = self.command(None, Command::new("true")).status().context("starting chrt")?;
            if !status.success() {
                bail!("the real-time class is not allowed: {status}");
            }
        }
        Ok(())
    }

    /// The same program with the same arguments and environment, kept on a CPU, and in the class.
    pub(crate) fn command(&self, cpu: Option<usize>, program: Command) -> Command {
        let mut words = Vec::new();
        if let Some(priority) = self.real_time {
            words.extend(["chrt".to_owned(), "-r".to_owned(), priority.to_string()]);
        }
        if let Some(cpu) = cpu {
            words.extend(["taskset".to_owned(), "-c".to_owned(), cpu.to_string()]);
        }
        let Some((first, rest)) = words.split_first() else { return program };
        let mut command = Command::new(first);
        command.args(rest).arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(directory) = program.get_current_dir() {
            command.current_dir(directory);
        }
        command
    }
}

/// A process that runs; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts `command`, whose output goes to `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let log = File::create(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// How it ended; an error if it does not within `patience`.
    pub(crate) fn await_end(&mut self, patience: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("it still ran after {:.1} s", patience.as_secs_f64())
    }

    /// CPU time of the process with all its threads, those of the kernel that work for it included, and of what
    /// it started, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        tree(self.pid()).into_iter().filter_map(fields::cpu_seconds).sum()
    }

    /// The process that does the work: itself, or what it started in the end.
    pub(crate) fn worker(&self) -> u32 {
        tree(self.pid()).last().copied().unwrap_or(self.pid())
    }

    /// Asks it to end, and says how it did; an error if it does not within `patience`.
    pub(crate) fn ask_to_end(mut self, patience: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            bail!("it has ended by itself: {status}");
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process without a number")?, Signal::TERM)?;
        self.await_end(patience)
    }

    /// Asks it to end, and makes it end if it does not.
    pub(crate) fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // One that is gone already is as good as one that obeys.
        if pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok()) {
            let _ = self.await_end(Duration::from_secs(3));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone after `stop`; either way there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and its descendants, oldest first.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    all
}
