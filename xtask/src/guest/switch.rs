//! Networks of several real guests, joined by the switch: what they send and receive is compared byte by byte on both
//! sides.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, Nic};
use super::net::card_settings;
use super::vm::Vm;
use crate::control::{command_for, command_to};
use crate::digest::mix;

/// What the machines of a scenario with several are called.
pub(super) const MACHINES: [&str; 3] = ["left", "right", "next"];

/// How long a port may take to come and to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two guests on the switch: the right one asks the left one in all ways.
pub(super) fn both(bench: &mut Bench) -> Result<()> {
    // Jumbo packets in half of the runs.
    let mtu = bench.packed().then_some(9000);
    let sockets = start_switch(bench, mtu, "")?;
    let [mut left, mut right] = boot_both(bench, &sockets, mtu, "net-right")?;
    finish_both(bench, &mut left, &mut right)
}

/// How often the switch is killed.
const KILLS: u64 = 4;

/// The same, while links, the left guest, and the switch come and go.
pub(super) fn life(bench: &mut Bench) -> Result<()> {
    let sockets = start_switch(bench, None, "")?;
    bench.may_reboot();
    let [mut left, mut right] = boot_both(bench, &sockets, None, "net-life")?;
    for (step, up) in [("link-off", false), ("link-on", true)] {
        right.await_value(step)?;
        right.qmp()?.execute_with("set_link", &json!({ "name": "card0", "up": up }))?;
    }
    right.await_value("reboot")?;
    left.await_value("ready")?;
    left.qmp()?.execute("system_reset")?;
    left.await_value("ready")?;
    right.type_line("on")?;
    right.await_value("kill")?;
    for kill in 1..=KILLS {
        std::thread::sleep(Duration::from_millis(100 + mix(kill) % 400));
        bench.back_end()?.kill().with_context(|| format!("kill {kill}"))?;
        bench.back_end()?.restart().with_context(|| format!("start after kill {kill}"))?;
        // Both are to be back, or there was nothing to kill.
        std::thread::sleep(Duration::from_millis(1500));
    }
    right.type_line("stop")?;
    finish_both(bench, &mut left, &mut right)?;
    let connections = bench.said("front end connected")?.unwrap_or_default() as u64;
    ensure!(connections > 2 * KILLS, "{KILLS} kills, but {connections} connections of two guests");
    Ok(())
}

/// The right guest has the VLANs 10 and 20 with tags, and the left one is in one of them and does not know.
pub(super) fn vlans(bench: &mut Bench) -> Result<()> {
    bench.more_modules();
    let sockets = start_ports(bench, [("left", ",vlan=10"), ("right", ",trunk=10,,20")], &[])?;
    let [mut left, mut right] = boot_both(bench, &sockets, None, "net-vlans")?;
    let control = bench.control();
    for (step, port, settings) in [
        ("move", "left", json!({ "vlan": 20 })),
        ("no-vlan", "left", json!({ "vlan": 30 })),
        ("native", "right", json!({ "trunk": "10,20,native=30" })),
    ] {
        right.await_value(step)?;
        command_for(&control, port, "set", &settings)?;
        right.type_line("on")?;
    }
    finish_both(bench, &mut left, &mut right)
}

/// Ports go and come back while guests talk: one by its file, one by command.
pub(super) fn ports(bench: &mut Bench) -> Result<()> {
    let (files, side) = (bench.socket("ports"), bench.socket("side.sock"));
    std::fs::create_dir(&files)?;
    let file = files.join("side.toml");
    let port = format!("backend = \"switch\"\nsocket-path = \"{}\"\n", side.display());
    std::fs::write(&file, &port)?;
    let arguments = ["--device-dir".to_owned(), files.display().to_string()];
    let sockets = start_ports(bench, [("left", ""), ("right", "")], &arguments)?;
    await_socket(&side, true)?;
    bench.nic(&Nic { reconnect: true, number: 1, ..Nic::default() }, &sockets[0]);
    let mut left = bench.boot_as("left", "net-left", card_settings(bench, None))?;
    bench.nic(&Nic { reconnect: true, number: 2, ..Nic::default() }, &sockets[1]);
    bench.nic(&Nic { reconnect: true, number: 3, ..Nic::default() }, &side);
    let mut right = bench.boot_as("right", "net-ports", card_settings(bench, None))?;
    right.await_value("file-goes")?;
    std::fs::remove_file(&file)?;
    await_socket(&side, false)?;
    right.type_line("on")?;
    right.await_value("file-comes")?;
    std::fs::write(&file, &port)?;
    await_socket(&side, true)?;
    right.type_line("on")?;
    right.await_value("command")?;
    let control = bench.control();
    command_for(&control, "left", "remove", &json!({}))?;
    await_socket(&sockets[0], false)?;
    // Long enough to be missed.
    std::thread::sleep(Duration::from_millis(500));
    let left_again = json!({ "name": "left", "backend": "switch", "socket-path": sockets[0] });
    command_to(&control, "add", &left_again)?;
    right.type_line("on")?;
    finish_both(bench, &mut left, &mut right)
}

/// Waits for a socket to be there, or to be gone.
fn await_socket(socket: &Path, there: bool) -> Result<()> {
    let begun = Instant::now();
    while socket.exists() != there {
        ensure!(
            begun.elapsed() < PATIENCE,
            "{} is {}",
            socket.display(),
            if there { "missing" } else { "left" }
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The right machine comes to its end by itself, and then everything does.
fn finish_both(bench: &mut Bench, left: &mut Vm, right: &mut Vm) -> Result<()> {
    right.finish()?;
    left.type_line("stop")?;
    left.finish()?;
    bench.stop_back_ends()
}

/// The right guest's control queue is passed on to us: what its driver sets is set here.
pub(super) fn generic(bench: &mut Bench) -> Result<()> {
    let sockets = start_switch(bench, None, ",pairs=2,mac=52:54:00:12:34:02")?;
    bench.nic(&Nic { number: 1, ..Nic::default() }, &sockets[0]);
    let mut left = bench.boot_as("left", "net-left", card_settings(bench, None))?;
    bench.bare_nic(2, &sockets[1]);
    // It hides no feature of ours, and so takes packed rings.
    let settings = vec![("OUTBOARD_MTU", "1500".to_owned()), ("OUTBOARD_PACKED", "1".to_owned())];
    let mut right = bench.boot_as("right", "net-generic", settings)?;
    let control = bench.control();
    for (step, pairs) in [("two", 2), ("one", 1)] {
        right.await_value(step)?;
        await_pairs(&control, pairs)?;
        // What the driver has set is set afterwards, too.
        right.qmp()?.execute("stop")?;
        await_pairs(&control, 0)?;
        right.qmp()?.execute("cont")?;
        await_pairs(&control, pairs)?;
        right.type_line("on")?;
    }
    right.await_value("other-address")?;
    let status = command_for(&control, "right", "status", &json!({}))?;
    let mac = status.pointer("/device/mac").and_then(Value::as_str);
    ensure!(mac == Some("52:54:00:12:34:77"), "the driver has another address than {mac:?}");
    right.type_line("on")?;
    for (step, up) in [("link-off", false), ("link-on", true)] {
        right.await_value(step)?;
        command_for(&control, "right", "link", &json!({ "up": up }))?;
    }
    right.await_value("announce")?;
    command_for(&control, "right", "announce", &json!({}))?;
    right.type_line("on")?;
    finish_both(bench, &mut left, &mut right)
}

/// Waits until so many pairs are in use at the right port, whose control queue is passed on.
fn await_pairs(control: &Path, pairs: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = command_for(control, "right", "status", &json!({}))?;
        let passed_on = status.pointer("/device/control_queue").and_then(Value::as_bool);
        ensure!(passed_on == Some(true), "the control queue is not passed on: {status}");
        if status.pointer("/device/pairs_in_use").and_then(Value::as_u64) == Some(pairs) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{pairs} pairs are in use, but we think: {status}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One process with a port for each machine, the right one's with these options, too; their sockets.
fn start_switch(bench: &mut Bench, mtu: Option<u16>, right: &str) -> Result<[PathBuf; 2]> {
    let mtu = mtu.map(|mtu| format!(",mtu={mtu}")).unwrap_or_default();
    start_ports(bench, [("left", &mtu), ("right", &format!("{right}{mtu}"))], &[])
}

/// One process with these ports, named, with options; their sockets.
pub(super) fn start_ports<const COUNT: usize>(
    bench: &mut Bench,
    ports: [(&str, &str); COUNT],
    arguments: &[String],
) -> Result<[PathBuf; COUNT]> {
    let sockets = ports.map(|(name, _)| bench.socket(&format!("{name}.sock")));
    let mut program = bench.net_program();
    program.arg("--control").arg(bench.control()).args(arguments);
    for ((name, options), socket) in ports.iter().zip(&sockets) {
        let socket = socket.display();
        program.arg("--device").arg(format!("name={name},backend=switch,socket-path={socket}{options}"));
    }
    // The last one that is made.
    bench.start_net(sockets.last().context("no port")?, program)?;
    Ok(sockets)
}

/// The left machine answers; the right one runs `script`.
pub(super) fn boot_both(
    bench: &mut Bench,
    sockets: &[PathBuf; 2],
    mtu: Option<u16>,
    script: &str,
) -> Result<[Vm; 2]> {
    let settings = card_settings(bench, mtu);
    bench.nic(&Nic { mtu, reconnect: true, number: 1, ..Nic::default() }, &sockets[0]);
    let left = bench.boot_as("left", "net-left", settings.clone())?;
    bench.nic(&Nic { mtu, reconnect: true, number: 2, ..Nic::default() }, &sockets[1]);
    let right = bench.boot_as("right", script, settings)?;
    Ok([left, right])
}
