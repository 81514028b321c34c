//! The scenarios: what is plugged into which machine, what the guest does with
//! it (a script in `scripts/`), and what is looked at from outside afterwards.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::bench::{Bench, Blk};
use super::{console, entropy, gpio, i2c, input, locks, migration, net, rss, scmi, switch, traced, vsock};
use crate::digest::{BLOCK, Digest, mix};
use crate::setup::Arch;
use crate::setup::prefix::Qemu;

/// A test with a name.
#[derive(Clone)]
pub(super) struct Scenario {
    /// Words joined by dashes: device, what about it, where.
    pub(super) name: String,
    pub(super) arch: Arch,
    pub(super) qemu: Qemu,
    /// Whether the device must use packed rings, which not every peer has.
    pub(super) packed: bool,
    /// Seconds after which it has failed.
    pub(super) limit: u64,
    pub(super) run: fn(&mut Bench) -> Result<()>,
}

/// How often the back end is killed in the `blk-kill` scenarios.
const KILLS: u64 = 50;

/// The same in `blk-trace-kill`.
const KILLS_TRACED: u64 = 10;

/// The same with a qcow2 image.
const KILLS_QCOW2: u64 = 10;

/// How many more there may be until one has caught a request in flight.
const KILLS_MORE: u64 = 60;

/// What a back end says that finds requests in flight.
const RESUMING: &str = "resuming requests in flight";

/// All of them, those that take longest first.
pub(super) fn all() -> Vec<Scenario> {
    use Arch::{Arm, X86};
    use Qemu::{V7, V10, V11};
    let mut list = List(Vec::new());
    list.both_formats("blk-kill", X86, &[V7, V10, V11], 400, blk_kill);
    list.split("blk-reboot", X86, &[V7, V10, V11], 180, blk_reboot);
    list.both_formats("blk", X86, &[V7, V10, V11], 180, blk);
    list.both_formats("blk-queues", X86, &[V10, V11], 180, blk_queues);
    list.both_formats("blk-trace", X86, &[V7, V10, V11], 180, blk_trace);
    list.both_formats("blk-trace-kill", X86, &[V10], 180, blk_trace_kill);
    list.split("blk-qcow2-kill", X86, &[V11], 240, blk_qcow2_kill);
    list.both_formats("blk-mmio", Arm, &[V10, V11], 240, blk);
    list.both_formats("net-switch", X86, &[V7, V10, V11], 150, switch::both);
    list.split("net-life", X86, &[V7, V10, V11], 150, switch::life);
    list.both_formats("net-migrate", X86, &[V10, V11], 150, migration::migrate);
    list.split("net-ports", X86, &[V10, V11], 150, switch::ports);
    list.split("net-vlans", X86, &[V11], 150, switch::vlans);
    list.split("net-generic", X86, &[V11], 150, switch::generic);
    list.split("net-rss", X86, &[V11], 150, rss::rss);
    list.both_formats("net-user", X86, &[V10, V11], 150, net::user);
    list.both_formats("net-tap", X86, &[V7, V10, V11], 120, net::tap);
    list.both_formats("net-tap-queues", X86, &[V11], 120, net::queues);
    list.split("net-tap-queues", X86, &[V10], 120, net::queues);
    list.split("net-tap-mmio", Arm, &[V10, V11], 150, net::mmio);
    list.split("net-user-passt", X86, &[V11], 150, net::passt);
    list.both_formats("net-tap-plain", X86, &[V10, V11], 120, net::tap_plain);
    list.split("vsock-test", X86, &[V11], 300, vsock::linux_tests);
    list.split("vsock-test-unix", X86, &[V11], 300, vsock::linux_tests_on_host);
    list.split("vsock", X86, &[V7, V10, V11], 120, vsock::vsock);
    list.split("vsock-host", X86, &[V11], 120, vsock::host);
    list.split("vsock-pause", X86, &[V10, V11], 120, vsock::pause);
    list.both_formats("vsock-generic", X86, &[V11], 120, vsock::generic);
    list.split("blk-read-only", X86, &[V7, V10, V11], 120, blk_read_only);
    list.split("blk-host", X86, &[V11], 120, blk_host);
    list.split("blk-zoned", X86, &[V11], 120, blk_zoned);
    list.split("blk-locks", X86, &[V10, V11], 120, locks::blk_locks);
    list.both_formats("gpio", X86, &[V10, V11], 120, gpio::simulated);
    list.split("gpio-host", X86, &[V11], 120, gpio::host);
    list.both_formats("i2c", X86, &[V10, V11], 120, i2c::simulated);
    list.split("i2c-host", X86, &[V11], 120, i2c::host);
    list.split("scmi", Arm, &[V10, V11], 240, scmi::scmi);
    list.packed("scmi-packed", Arm, &[V11], 240, scmi::scmi);
    list.split("scmi-host", X86, &[V11], 120, scmi::host);
    list.both_formats("console", X86, &[V11], 150, console::console);
    list.both_formats("console-reboot", X86, &[V11], 150, console::reboot);
    list.both_formats("input", X86, &[V10, V11], 120, input::input);
    list.split("input-inside", X86, &[V11], 120, input::inside);
    list.split("input-uinput", X86, &[V11], 120, input::uinput);
    list.split("rng", X86, &[V7, V10, V11], 120, rng);
    list.split("rng-mmio", Arm, &[V10, V11], 180, rng);
    list.split("rng-source", X86, &[V11], 120, rng_source);
    list.0
}

struct List(Vec<Scenario>);

impl List {
    fn split(&mut self, name: &str, arch: Arch, on: &[Qemu], limit: u64, run: fn(&mut Bench) -> Result<()>) {
        for &qemu in on {
            let name = format!("{name}-qemu{qemu}");
            self.0.push(Scenario { name, arch, qemu, packed: false, limit, run });
        }
    }

    fn packed(&mut self, name: &str, arch: Arch, on: &[Qemu], limit: u64, run: fn(&mut Bench) -> Result<()>) {
        for &qemu in on {
            let name = format!("{name}-qemu{qemu}");
            self.0.push(Scenario { name, arch, qemu, packed: true, limit, run });
        }
    }

    fn both_formats(
        &mut self,
        name: &str,
        arch: Arch,
        on: &[Qemu],
        limit: u64,
        run: fn(&mut Bench) -> Result<()>,
    ) {
        for &qemu in on {
            for packed in [false, true] {
                let name = format!("{name}-{}-qemu{qemu}", if packed { "packed" } else { "split" });
                self.0.push(Scenario { name, arch, qemu, packed, limit, run });
            }
        }
    }
}

/// Random bytes that look it.
fn rng(bench: &mut Bench) -> Result<()> {
    bench.rng(None)?;
    let mut vm = bench.boot("rng", vec![("OUTBOARD_KIB", "16".to_owned())])?;
    vm.finish()?;
    let first = vm.data.get("first").context("no bytes arrived")?;
    let second = vm.data.get("second").context("no bytes arrived")?;
    ensure!(first.len() == 16 * 1024 && second.len() == 1024, "bytes were lost on the way");
    entropy::judge(first)?;
    ensure!(!first.starts_with(second), "two reads gave the same bytes");
    Ok(())
}

/// Bytes of a file arrive as they stand in it, in order.
fn rng_source(bench: &mut Bench) -> Result<()> {
    let path = bench.directory().join("source");
    let content: Vec<u8> = (0..1_u32 << 18).flat_map(|index| mix(u64::from(index)).to_le_bytes()).collect();
    std::fs::write(&path, &content)?;
    bench.rng(Some(path))?;
    let mut vm = bench.boot("rng", vec![("OUTBOARD_KIB", "4".to_owned())])?;
    vm.finish()?;
    let read = vm.data.get("first").context("no bytes arrived")?;
    // The kernel hands on what it has buffered, in pieces: each 32 bytes are
    // somewhere in the file, and later pieces are later in it.
    let mut from = 0;
    for piece in read.chunks_exact(32) {
        let rest = content.get(from..).unwrap_or_default();
        let Some(at) = rest.windows(32).position(|window| window == piece) else {
            bail!("bytes arrived that are not in the file after offset {from}");
        };
        from += at + 32;
    }
    Ok(())
}

/// A disk in full use, and the image looked at from outside.
fn blk(bench: &mut Bench) -> Result<()> {
    blk_in_full_use(bench, &Blk::default())
}

/// The same with `outboard trace` in the middle, which shows all of it and changes nothing.
fn blk_trace(bench: &mut Bench) -> Result<()> {
    blk_in_full_use(bench, &Blk { traced: true, ..Blk::default() })?;
    traced::whole_dialogue(&bench.traced()?, bench.packed())
}

fn blk_in_full_use(bench: &mut Bench, blk: &Blk) -> Result<()> {
    let image = bench.blk(blk)?;
    let settings = bench.blk_settings(blk);
    let mut vm = bench.boot("blk", settings)?;
    vm.finish()?;
    bench.stop_back_ends()?;
    bench.check_file_system(&image)?;
    for name in ["large", "second"] {
        let inside = vm.value(&format!("file-{name}"))?;
        let outside = bench.digest_of_file_in(&image, name)?;
        ensure!(inside == outside, "file {name} is {inside} in the guest, {outside} in the image");
    }
    Ok(())
}

/// Four queues, four processors, four writers.
fn blk_queues(bench: &mut Bench) -> Result<()> {
    let blk = Blk { queues: 4, ..Blk::default() };
    let image = bench.blk(&blk)?;
    let mut vm = bench.boot_writer(&blk)?;
    vm.await_progress(50)?;
    vm.type_line("stop")?;
    vm.finish()?;
    bench.stop_back_ends()?;
    same_bytes(&image, vm.value("digest")?)
}

/// Nothing can be written, everything can be read.
fn blk_read_only(bench: &mut Bench) -> Result<()> {
    let blk = Blk { read_only: true, ..Blk::default() };
    let image = bench.blk(&blk)?;
    let before = bench.digest_of(&image)?;
    let settings = bench.blk_settings(&blk);
    let mut vm = bench.boot("blk-read-only", settings)?;
    vm.finish()?;
    bench.stop_back_ends()?;
    let inside = vm.value("content")?;
    ensure!(inside == before, "the guest read other bytes than the image has");
    ensure!(bench.digest_of(&image)? == before, "the image was changed");
    Ok(())
}

/// A zoned disk, and what is left of it outside.
fn blk_zoned(bench: &mut Bench) -> Result<()> {
    let image = bench.blk_zoned()?;
    let mut vm = bench.boot("blk-zoned", bench.zoned_settings())?;
    vm.finish()?;
    bench.stop_back_ends()?;
    let table = std::fs::metadata(image.with_extension("img.zones"))?;
    ensure!(table.len() > 4096, "no write pointers are kept beside the image");
    Ok(())
}

/// The back end over block devices that a kernel has: it runs inside the guest.
fn blk_host(bench: &mut Bench) -> Result<()> {
    bench.blk_ram()?;
    let mut vm = bench.boot("blk-host", Vec::new())?;
    vm.finish()
}

/// Three starts of one machine, each by the firmware first.
fn blk_reboot(bench: &mut Bench) -> Result<()> {
    let blk = Blk::default();
    bench.blk(&blk)?;
    bench.may_reboot();
    let settings = bench.blk_settings(&blk);
    let mut vm = bench.boot("blk-reboot", settings)?;
    vm.finish()?;
    bench.stop_back_ends()?;
    ensure!(vm.value("start")? == "3", "the guest started {} times, not 3", vm.value("start")?);
    let firmware = std::fs::read_to_string(bench.directory().join("firmware.log"))?;
    let seen = firmware.matches("found virtio-blk").count();
    ensure!(seen >= 3, "the firmware saw the disk {seen} times, not 3");
    Ok(())
}

/// The back end is killed over and over while the guest writes and verifies:
/// after each kill every writer goes on, so no request is lost.
fn blk_kill(bench: &mut Bench) -> Result<()> {
    blk_killed(bench, &Blk { queues: 2, reconnect: true, ..Blk::default() }, KILLS)
}

/// The same behind `outboard trace`, which lets QEMU come back as if it were not there.
fn blk_trace_kill(bench: &mut Bench) -> Result<()> {
    blk_killed(bench, &Blk { queues: 2, reconnect: true, traced: true, ..Blk::default() }, KILLS_TRACED)
}

/// The same with a qcow2 image over a raw one, both made by QEMU, which finds the image sound after every kill, and all
/// that completed in it.
fn blk_qcow2_kill(bench: &mut Bench) -> Result<()> {
    let blk = Blk { queues: 2, reconnect: true, qcow2: true, ..Blk::default() };
    let digest = killed(bench, &blk, KILLS_QCOW2)?;
    bench.qemu_img(&["convert", "-O", "raw", "disk.img", "whole.img"])?;
    same_bytes(&bench.directory().join("whole.img"), &digest)
}

fn blk_killed(bench: &mut Bench, blk: &Blk, kills: u64) -> Result<()> {
    let digest = killed(bench, blk, kills)?;
    same_bytes(&bench.directory().join("disk.img"), &digest)
}

/// What the guest's writer knows of at the end.
fn killed(bench: &mut Bench, blk: &Blk, kills: u64) -> Result<String> {
    bench.blk(blk)?;
    let mut vm = bench.boot_writer(blk)?;
    vm.await_progress(4)?;
    let mut kill = 0;
    // A fast back end has little in flight at a time: it is killed until a request was caught, however that goes.
    while kill < kills || kill < kills + KILLS_MORE && bench.said(RESUMING)? == Some(0) {
        kill += 1;
        std::thread::sleep(std::time::Duration::from_millis(mix(kill) % 120));
        bench.back_end()?.kill().with_context(|| format!("kill {kill}"))?;
        vm.await_standstill()?;
        if blk.qcow2 {
            // Space may be lost, and nothing else.
            bench.qemu_img(&["check", "-r", "leaks", "disk.img"]).with_context(|| format!("kill {kill}"))?;
        }
        bench.back_end()?.restart().with_context(|| format!("start after kill {kill}"))?;
        vm.await_progress(2).with_context(|| format!("after kill {kill}"))?;
    }
    vm.type_line("stop")?;
    vm.finish()?;
    bench.stop_back_ends()?;
    if let Some(connections) = bench.said("front end connected")? {
        ensure!(connections as u64 == kill + 1, "{kill} kills, but {connections} connections");
    }
    if let Some(resumed) = bench.said(RESUMING)? {
        ensure!(resumed > 0, "no kill hit a request in flight: nothing was tested");
    }
    Ok(vm.value("digest")?.to_owned())
}

/// The image has just the bytes that the guest's writer knows of.
fn same_bytes(image: &Path, expected: &str) -> Result<()> {
    let mut digest = Digest::new();
    let content = std::fs::read(image)?;
    for block in content.chunks(BLOCK) {
        digest.update(block);
    }
    let found = format!("{:016x}", digest.value());
    ensure!(found == expected, "the image's digest is {found}, the guest's {expected}");
    Ok(())
}
