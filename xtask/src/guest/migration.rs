//! A guest that moves from one machine to another one, which is on another port of the same switch, while it sends and
//! receives.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, Nic};
use super::net::card_settings;
use super::switch::start_ports;
use super::vm::Vm;
use crate::control::command_for;

/// How long the move may take, and the address to be known at its new port.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes a second: the guest does something meanwhile.
const BANDWIDTH: u64 = 24 << 20;

/// How long the guest may stand still, in milliseconds. It changes its memory all the time.
const DOWNTIME: u64 = 1000;

/// Bytes that are compared at once.
const PIECE: usize = 1 << 20;

/// The address of the card that moves.
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 2];

/// In one half of the runs, the guest tells its neighbours where it is now, in the other the front end has us do it.
pub(super) fn migrate(bench: &mut Bench) -> Result<()> {
    let announces = !bench.packed();
    let seen = bench.socket("left.pcap");
    let mirror = format!(",mirror={}", seen.display());
    let sockets = start_ports(bench, [("left", &mirror), ("right", ""), ("next", "")], &[])?;
    bench.nic(&Nic { number: 1, ..Nic::default() }, &sockets[0]);
    let mut left = bench.boot_as("left", "net-left", card_settings(bench, None))?;
    let moving = Nic { number: MAC[5], announces, ..Nic::default() };
    bench.nic(&moving, &sockets[1]);
    let mut right = bench.boot_as("right", "net-migrate", card_settings(bench, None))?;
    let way = bench.socket("migration.sock");
    bench.nic(&moving, &sockets[2]);
    bench.incoming(&way);
    let mut next = bench.boot_as("next", "net-migrate", card_settings(bench, None))?;

    right.await_value("passes")?;
    let before = right.await_value("passes")?.parse::<u64>()?;
    move_over(&right, &way)?;
    // Both stand still: all that the back end has written has come along, or was not written.
    await_state(&next, "paused")?;
    same_memory(&right.memory()?, &next.memory()?)?;
    next.qmp()?.execute("cont")?;
    let after = next.await_value("passes")?.parse::<u64>()?;
    ensure!(after > before + 1, "the guest had nothing from its neighbour while it moved");
    right.qmp()?.execute("quit")?;
    // The guest counts on.
    next.passed += right.passed;
    drop(right);
    await_port(bench, "next")?;
    next.await_value("passes")?;
    next.type_line("stop")?;
    next.finish()?;
    left.type_line("stop")?;
    left.finish()?;
    bench.stop_back_ends()?;
    let told = announcements(&std::fs::read(&seen)?)?;
    ensure!(told == [announces, !announces], "told by ARP and by RARP: {told:?}");
    Ok(())
}

/// Moves a machine's state, and waits for its end.
fn move_over(from: &Vm, way: &Path) -> Result<()> {
    let mut qmp = from.qmp()?;
    let limits = json!({ "max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME });
    qmp.execute_with("migrate-set-parameters", &limits)?;
    qmp.execute_with("migrate", &json!({ "uri": format!("unix:{}", way.display()) }))?;
    let begun = Instant::now();
    loop {
        let state = qmp.execute("query-migrate")?;
        match state.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => bail!("the machine did not move: {state}"),
            _ if begun.elapsed() > PATIENCE => bail!("the machine is still on its way: {state}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn await_state(vm: &Vm, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let state = vm.qmp()?.execute("query-status")?;
        if state.get("status").and_then(Value::as_str) == Some(wanted) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the machine is not {wanted}: {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the switch knows the guest's address at this port.
fn await_port(bench: &Bench, port: &str) -> Result<()> {
    let address = MAC.map(|byte| format!("{byte:02x}")).join(":");
    let begun = Instant::now();
    loop {
        let known = command_for(&bench.control(), port, "fdb", &json!({}))?;
        let entries = known.as_array().map(Vec::as_slice).unwrap_or_default();
        let is =
            |entry: &&Value, key: &str, value: &str| entry.get(key).and_then(Value::as_str) == Some(value);
        let at = entries.iter().find(|entry| is(entry, "mac", &address));
        if at.is_some_and(|entry| is(&entry, "port", port)) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the address is not at {port}: {known}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All bytes of both are the same.
fn same_memory(one: &File, other: &File) -> Result<()> {
    let len = one.metadata()?.len();
    ensure!(other.metadata()?.len() == len, "memories of two sizes");
    let (mut of_one, mut of_other) = (vec![0; PIECE], vec![0; PIECE]);
    let mut differ = Vec::new();
    for at in (0..len).step_by(PIECE) {
        one.read_exact_at(&mut of_one, at)?;
        other.read_exact_at(&mut of_other, at)?;
        let pages = of_one.chunks(4096).zip(of_other.chunks(4096)).zip((at..).step_by(4096));
        differ.extend(pages.filter(|((one, other), _)| one != other).map(|(_, at)| at));
    }
    ensure!(
        differ.is_empty(),
        "{} pages were not moved as they are, from {:#x?} on",
        differ.len(),
        differ.first()
    );
    Ok(())
}

/// Whether the guest has told its neighbours by ARP (asking for its own address), and whether somebody has for it by a
/// reverse ARP: of a capture file of this machine's byte order.
fn announcements(capture: &[u8]) -> Result<[bool; 2]> {
    let mut told = [false; 2];
    let mut rest = capture.get(24..).context("no capture file")?;
    while let Some(length) = rest.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes) {
        let end = 16 + usize::try_from(length)?;
        let frame = rest.get(16..end).context("half a frame")?;
        let is_own = frame.get(6..12) == Some(&MAC[..]);
        match frame.get(12..14) {
            Some([8, 6]) if is_own && frame.get(28..32) == frame.get(38..42) => told[0] = true,
            Some([0x80, 0x35]) if is_own => told[1] = true,
            _ => {}
        }
        rest = rest.get(end..).unwrap_or_default();
    }
    Ok(told)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn frame(kind: [u8; 2], asked: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame.splice(6..14, MAC.into_iter().chain(kind));
        frame.splice(38..42, [0, 0, 0, asked]);
        let len = (frame.len() as u32).to_ne_bytes();
        [&[0; 8][..], &len, &len, &frame].concat()
    }

    #[test]
    fn announcements_of_both_kinds_are_told_apart() {
        let frames = |frames: &[Vec<u8>]| announcements(&[&[0; 24][..], &frames.concat()].concat()).unwrap();
        assert_eq!(frames(&[frame([8, 0], 0), frame([8, 6], 1)]), [false, false]);
        assert_eq!(frames(&[frame([8, 6], 1), frame([8, 6], 0)]), [true, false]);
        assert_eq!(frames(&[frame([0x80, 0x35], 0)]), [false, true]);
    }
}
