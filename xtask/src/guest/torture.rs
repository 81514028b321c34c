//! Torture by fio in a guest, whose machine connects again when the disk is gone: everything happens in the middle
//! of its requests.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::bench::{Bench, Blk, DISK, Shared};
use super::initramfs;
use super::scenario::Scenario;
use super::vm::Vm;
use crate::peers::Fio;
use crate::setup::Arch;
use crate::setup::kernel::Kernel;
use crate::setup::prefix::Qemu;
use crate::torture::{Chance, Changes, Clock, Growth, Plan, resident};
use crate::workspace::Workspace;

/// How long the guest may take to start and to come to its end, besides the time that was asked for.
const AROUND: Duration = Duration::from_secs(400);

/// How long a disk may take to listen for commands.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done to the disk until the time is over; then the guest tells what it saw.
pub(crate) fn torture(workspace: &Workspace, fio: &Fio, plan: &Plan, directory: &Path) -> Result<()> {
    crate::setup::setup(workspace, crate::setup::Options::default())?;
    let kernel = Kernel::open(workspace, Arch::X86)?;
    let programs = vec![("programs/fio".to_owned(), initramfs::read(&fio.for_guests())?)];
    let initramfs = initramfs::build_with(workspace, Arch::X86, &kernel, directory, programs)?;
    let shared = Shared::alone(workspace, kernel, initramfs);
    let scenario = Scenario {
        name: "torture".to_owned(),
        arch: Arch::X86,
        qemu: Qemu::V10,
        packed: plan.seed.is_multiple_of(2),
        limit: (plan.time + AROUND).as_secs(),
        run: |_| Ok(()),
    };
    let mut bench = Bench::new(&shared, &scenario, directory);
    let blk = Blk { queues: 2, reconnect: true, controlled: true, ..Blk::default() };
    let image = bench.blk(&blk)?;
    let mut settings = bench.blk_settings(&blk);
    settings.push(("OUTBOARD_HALF", (DISK / 2).to_string()));
    let mut vm = bench.boot("blk-torture", settings)?;
    vm.await_progress(4)?;
    let told = happen(&mut bench, &mut vm, &image, plan)?;
    vm.type_line("stop")?;
    vm.finish()?;
    bench.stop_back_ends()?;
    let sectors: u64 = vm.value("sectors")?.parse().context("the guest's sectors")?;
    let bytes = image.metadata()?.len();
    ensure!(sectors * 512 == bytes, "the image has {bytes} bytes, the guest sees {}", sectors * 512);
    println!(
        "ok      fio in a guest: {} passes over the disk, {} requests; {told}",
        vm.value("passes")?,
        vm.progress
    );
    Ok(())
}

/// Kills and changes; what happened, in words.
fn happen(bench: &mut Bench<'_>, vm: &mut Vm, image: &Path, plan: &Plan) -> Result<String> {
    let control = bench.control();
    let mut chance = Chance(plan.seed);
    let (mut changes, mut growth, mut kills) = (Changes::default(), Growth::default(), 0_u32);
    let clock = Clock::new(plan.time);
    while !clock.is_over() {
        std::thread::sleep(Duration::from_millis(50 + chance.below(800)));
        let calm = clock.is_calm() || !plan.kills;
        if !calm && chance.below(2) == 0 {
            kills += 1;
            bench.back_end()?.kill().with_context(|| format!("kill {kills}"))?;
            std::thread::sleep(Duration::from_millis(chance.below(300)));
            bench.back_end()?.restart().with_context(|| format!("start after kill {kills}"))?;
            vm.await_progress(2).with_context(|| format!("after kill {kills}"))?;
            await_control(&control)?;
        } else {
            changes.one(&control, image, &mut chance)?;
        }
        let back_end = bench.back_end()?;
        back_end.require_alive()?;
        if calm {
            growth.sample(resident(back_end.pid())?);
            vm.await_progress(1)?;
        }
    }
    growth.judged()?;
    changes.free(&control)?;
    changes.grow(&control, image, &mut chance)?;
    Ok(format!(
        "the disk was killed {kills} times; {} changes of size, {} of limits; {growth}",
        changes.sizes, changes.limits
    ))
}

fn await_control(control: &Path) -> Result<()> {
    let start = Instant::now();
    while UnixStream::connect(control).is_err() {
        if start.elapsed() > PATIENCE {
            bail!("it takes no commands");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
