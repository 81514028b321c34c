//! Torture by fio through libblkio, which does not connect again when the disk is gone: so in phases, each with a
//! process of fio of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::change::Changes;
use super::disk::Disk;
use super::load::{Load, STRETCH};
use super::{Chance, Clock, Growth, Plan};
use crate::peers::Fio;
use crate::workspace::Workspace;

/// The disk in the beginning, in bytes.
const SIZE: u64 = STRETCH + (32 << 20);

struct Torture<'a> {
    disk: Disk,
    load: Load<'a>,
    control: std::path::PathBuf,
    chance: Chance,
    changes: Changes,
    growth: Growth,
    kills: u32,
    dead_front_ends: u32,
    requests: u64,
}

/// Phases until the time is over.
pub(super) fn torture(workspace: &Workspace, fio: &Fio, plan: &Plan, directory: &Path) -> Result<()> {
    let mut disk = Disk::new(&workspace.release_binary("vhost-user-blk"), directory, SIZE)?;
    disk.start()?;
    let load = Load { fio, socket: disk.socket(), directory };
    let mut torture = Torture {
        control: disk.control(),
        disk,
        load,
        chance: Chance(plan.seed),
        changes: Changes::default(),
        growth: Growth::default(),
        kills: 0,
        dead_front_ends: 0,
        requests: 0,
    };
    let clock = Clock::new(plan.time);
    let mut phase = 0_u64;
    while !clock.is_over() {
        phase += 1;
        let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(phase) & 0x7fff_ffff;
        torture.phase(seed, plan.kills && !clock.is_calm()).with_context(|| format!("phase {phase}"))?;
    }
    torture.growth.judged()?;
    // Libraries that write to the log know why.
    let complaints = torture.disk.complaints();
    ensure!(!complaints.contains("panicked"), "the disk says: {complaints}");
    println!(
        "ok      fio with libblkio: {phase} phases, {} requests; the disk was killed {} times, its front end {} \
         times; {} changes of size, {} of limits; {}",
        torture.requests,
        torture.kills,
        torture.dead_front_ends,
        torture.changes.sizes,
        torture.changes.limits,
        torture.growth
    );
    Ok(())
}

impl Torture<'_> {
    fn phase(&mut self, seed: u64, kills: bool) -> Result<()> {
        if kills {
            self.survive_kill(seed).context("written, killed, compared")?;
        }
        self.change_in_use(seed ^ 0x4000_0000, !kills).context("written and compared while things change")?;
        self.lose_front_end().context("a front end that dies")?;
        self.disk.require_alive()
    }

    /// The disk is killed while it is written to: what it has said to be done is there afterwards.
    fn survive_kill(&mut self, seed: u64) -> Result<()> {
        let after = Duration::from_millis(300 + self.chance.below(2500));
        self.load.write_until_killed(seed, after, self.disk.pid()?)?.finish_killed(&mut self.disk)?;
        // All may have been written before the time came.
        self.disk.kill()?;
        self.kills += 1;
        let done = self.load.surely_done()?;
        self.disk.start()?;
        if done > 0 {
            self.requests += self.load.verify(seed, done)?.finish()?;
        }
        Ok(())
    }

    /// Size and limits change while all is written, trimmed, and compared.
    fn change_in_use(&mut self, seed: u64, is_watched: bool) -> Result<()> {
        let rate = (8 + self.chance.below(40)) << 20;
        let mut run = self.load.write_and_verify(seed, rate)?;
        while !run.is_over()? {
            std::thread::sleep(Duration::from_millis(20 + self.chance.below(200)));
            self.changes.one(&self.control, &self.disk.image(), &mut self.chance)?;
            if is_watched {
                self.growth.sample(self.disk.resident()?);
            }
        }
        self.requests += run.finish()?;
        self.changes.free(&self.control)
    }

    /// The front end dies in the middle of its requests.
    fn lose_front_end(&mut self) -> Result<()> {
        let run = self.load.read()?;
        std::thread::sleep(Duration::from_millis(200 + self.chance.below(500)));
        run.kill()?;
        self.dead_front_ends += 1;
        Ok(())
    }
}
