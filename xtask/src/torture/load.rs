//! fio's runs on the disk: what it writes is known by its seed, so that a later run can tell each block of it from
//! all others and from what was there before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::disk::Disk;
use crate::peers::Fio;

/// Requests out at once.
const DEPTH: usize = 32;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The stretch that is written, in bytes: the beginning of the disk.
pub(super) const STRETCH: u64 = 64 << 20;

/// Starts fio's runs.
pub(super) struct Load<'a> {
    pub(super) fio: &'a Fio,
    pub(super) socket: PathBuf,
    /// For fio's own files.
    pub(super) directory: &'a Path,
}

/// A run under way; killed when it is dropped.
pub(super) struct Run {
    child: Child,
    start: Instant,
    said: PathBuf,
}

impl Load<'_> {
    fn command(&self, seed: u64) -> Result<Command> {
        let mut command = self.fio.command()?;
        command.current_dir(self.directory);
        command.args(["--name=torture", "--thread", "--output-format=json", "--eta=never"]);
        command.args(["--ioengine=libblkio", "--libblkio_driver=virtio-blk-vhost-user"]);
        command.arg(format!("--libblkio_path={}", self.socket.display()));
        command.args(["--bsrange=4k-128k", "--verify=crc32c", "--fsync=20", &format!("--iodepth={DEPTH}")]);
        // The seed of each block is in its header: without a look at it, an older block would pass.
        command.args(["--rw=randwrite", "--verify_header_seed=1", &format!("--randseed={seed}")]);
        Ok(command)
    }

    /// Writes the stretch slowly, until `process` is killed after some time: fio notes what is written, and kills.
    pub(super) fn write_until_killed(&self, seed: u64, after: Duration, process: u32) -> Result<Run> {
        let mut command = self.command(seed)?;
        command.args([format!("--size={STRETCH}"), "--do_verify=0".to_owned(), "--rate=12M".to_owned()]);
        command.args(["--verify_state_save=1", &format!("--trigger-timeout={}ms", after.as_millis())]);
        command.arg(format!("--trigger=kill -9 {process}"));
        self.start(command)
    }

    /// Compares the first `writes` of what was written with that seed.
    pub(super) fn verify(&self, seed: u64, writes: u64) -> Result<Run> {
        let mut command = self.command(seed)?;
        command.args([format!("--size={STRETCH}"), format!("--number_ios={writes}")]);
        command.arg("--verify_only");
        self.start(command)
    }

    /// Two jobs, on two queues, write the whole stretch, take back some of it (which must read as zeroes
    /// afterwards), and compare all of it.
    pub(super) fn write_and_verify(&self, seed: u64, rate: u64) -> Result<Run> {
        let mut command = self.command(seed)?;
        let half = STRETCH / 2;
        command.args([format!("--size={half}"), format!("--offset_increment={half}")]);
        command.args(["--numjobs=2", "--group_reporting", &format!("--rate={rate}")]);
        // By itself fio does not wait for a write before it trims the same block; nor does a disk.
        command.arg("--serialize_overlap=1");
        command.args(["--trim_percentage=10", "--trim_verify_zero=1", "--trim_backlog=16"]);
        self.start(command)
    }

    /// Reads until it is killed.
    pub(super) fn read(&self) -> Result<Run> {
        let mut command = self.fio.command()?;
        command.current_dir(self.directory).args(["--name=reader", "--thread", "--rw=randread"]);
        command.args(["--ioengine=libblkio", "--libblkio_driver=virtio-blk-vhost-user"]);
        command.args([format!("--libblkio_path={}", self.socket.display()), format!("--iodepth={DEPTH}")]);
        command.args(["--bs=16k", "--time_based", "--runtime=60s", "--output-format=json", "--eta=never"]);
        self.start(command)
    }

    fn start(&self, mut command: Command) -> Result<Run> {
        let said = self.directory.join("fio.log");
        let log = fs::File::create(&said)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Run { child, start: Instant::now(), said })
    }

    /// How many writes of a run that killed were done for sure: all before the first that was still under way.
    pub(super) fn surely_done(&self) -> Result<u64> {
        let path = self.directory.join("local-torture-0-verify.state");
        let state = fs::read(&path).context("fio left no state")?;
        fs::remove_file(&path)?;
        surely_done(&state).context("fio's state is not as expected")
    }
}

/// A state of version 5: a header of 24 bytes, the depth, how many writes were begun, and, at the end, which of them
/// are under way.
fn surely_done(state: &[u8]) -> Option<u64> {
    const VERSION: u64 = 5;
    let number = |at: usize| Some(u64::from_le_bytes(state.get(at..at + 8)?.try_into().ok()?));
    if number(0)? != VERSION {
        return None;
    }
    let depth = usize::try_from(number(24)? & 0xffff_ffff).ok()?;
    let begun = number(32)?;
    let list = state.get(state.len().checked_sub(depth.checked_mul(8)?)?..)?;
    let under_way = list.chunks_exact(8).filter_map(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    // Places that are free hold the largest number.
    Some(under_way.fold(begun, u64::min))
}

impl Run {
    /// Whether it is over.
    pub(super) fn is_over(&mut self) -> Result<bool> {
        if self.start.elapsed() > PATIENCE {
            bail!("fio does not come to an end");
        }
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end, which must be good; the requests that were done.
    pub(super) fn finish(mut self) -> Result<u64> {
        while !self.is_over()? {
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = self.child.wait()?;
        let said = fs::read_to_string(&self.said)?;
        let wrong = || said.lines().find(|line| line.contains("verify:") || line.starts_with("fio: pid="));
        if !status.success() || wrong().is_some() {
            bail!("fio ended with {status}: {}", wrong().unwrap_or("without a word"));
        }
        requests(&said).with_context(|| "what fio said is not as expected".to_owned())
    }

    /// Waits until it has killed the disk, or has come to its end before that. After a kill, some of its requests
    /// never come back: it is not waited for.
    pub(super) fn finish_killed(mut self, disk: &mut Disk) -> Result<()> {
        while !self.is_over()? && disk.is_alive()? {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill()
    }

    /// Kills it.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Already gone after `finish`; either way there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads, writes and trims of all jobs.
fn requests(said: &str) -> Option<u64> {
    let said: Value = serde_json::from_str(said.get(said.find('{')?..)?).ok()?;
    let ways = ["read", "write", "trim"];
    let of =
        |job: &Value| ways.iter().filter_map(|way| job.get(way)?.get("total_ios")?.as_u64()).sum::<u64>();
    Some(said.get("jobs")?.as_array()?.iter().map(of).sum())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn state(begun: u64, under_way: &[u64]) -> Vec<u8> {
        let mut state = vec![0; 160];
        state[..8].copy_from_slice(&5_u64.to_le_bytes());
        state[24..32].copy_from_slice(&(under_way.len() as u64).to_le_bytes());
        state[32..40].copy_from_slice(&begun.to_le_bytes());
        state.extend(under_way.iter().flat_map(|number| number.to_le_bytes()));
        state
    }

    #[test]
    fn surely_done_ends_at_the_first_under_way() {
        assert_eq!(surely_done(&state(273, &[u64::MAX, 256, 242, 257])), Some(242));
        assert_eq!(surely_done(&state(273, &[u64::MAX; 4])), Some(273));
    }

    #[test]
    fn surely_done_of_another_version_is_unknown() {
        let mut other = state(273, &[1]);
        other[0] = 6;
        assert_eq!(surely_done(&other), None);
        assert_eq!(surely_done(&[]), None);
    }
}
