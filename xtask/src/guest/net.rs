//! Networks of real guests: what they send and receive is compared byte by byte on both sides, and counted.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, Nic};
use super::vm::Vm;
use crate::control::command_for;
use crate::digest::mix;
use crate::namespace::Interface;
use crate::workspace::output;

/// What the machines of a scenario with several are called.
pub(super) const MACHINES: [&str; 2] = ["left", "right"];

/// The tap interface.
const TAP: &str = "guest0";

/// The longest packet of Ethernet, its header included.
const ETHERNET: u64 = 1514;

/// Frames go through as the guest's kernel likes it: long, and without checksums.
pub(super) fn tap(bench: &mut Bench) -> Result<()> {
    let used = over_tap(bench, &[], None)?;
    let (from, to) = (used.received_bytes / used.received, used.sent_bytes / used.sent);
    ensure!(
        from > 2 * ETHERNET && to > 2 * ETHERNET,
        "segmentation is not left for later: frames of {from} bytes from the guest, of {to} to it"
    );
    Ok(())
}

/// Frames go through as on a wire, but jumbo ones.
pub(super) fn tap_plain(bench: &mut Bench) -> Result<()> {
    let used = over_tap(bench, &["--offload=none"], Some(9000))?;
    let (from, to) = (used.received_bytes / used.received, used.sent_bytes / used.sent);
    for (way, bytes) in [("from the guest", from), ("to the guest", to)] {
        ensure!(bytes > ETHERNET, "no jumbo frames {way}: {bytes} bytes");
        ensure!(bytes <= 9014, "frames {way} are longer than any: {bytes} bytes");
    }
    Ok(())
}

/// A guest on a tap interface, in a network of its own; what went over the interface.
fn over_tap(bench: &mut Bench, options: &[&str], mtu: Option<u16>) -> Result<Interface> {
    let namespace = bench.namespace()?;
    let socket = bench.socket("net.sock");
    let mut program = bench.net_program();
    program.arg("--socket-path").arg(&socket).args(["--backend=tap", "--tap", TAP]).args(options);
    if let Some(mtu) = mtu {
        program.arg(format!("--mtu={mtu}"));
    }
    bench.start_net(&socket, namespace.command(&program))?;
    if let Some(mtu) = mtu {
        namespace.ip(&format!("link set {TAP} mtu {mtu}"))?;
    }
    namespace.ip(&format!("link set {TAP} up"))?;
    namespace.ip(&format!("addr add 192.0.2.1/24 dev {TAP}"))?;
    namespace.ip(&format!("addr add fd00::1/64 dev {TAP}"))?;
    bench.serve("guest-net", namespace.command(&bench.guest_net(&["serve", "7000"])))?;
    let mut iperf = bench.host_program("bin/iperf3")?;
    iperf.arg("-s");
    bench.serve("iperf3", namespace.command(&iperf))?;

    bench.nic(&Nic { mtu, ..Nic::default() }, &socket);
    let offloads = u8::from(options.is_empty());
    let mut settings = card_settings(bench, mtu);
    settings.push(("OUTBOARD_OFFLOADS", offloads.to_string()));
    let mut vm = bench.boot("net-tap", settings)?;
    vm.finish()?;
    for file in ["snmp", "snmp6"] {
        let told = namespace.told(file)?;
        ensure!(checksum_errors(&told) == 0, "the host found wrong checksums: {told}");
    }
    let used = namespace.interface(TAP)?;
    ensure!(used.received > 0 && used.sent > 0, "nothing went over the interface");
    bench.stop_back_ends()?;
    Ok(used)
}

/// Two guests on the switch: the right one asks the left one in all ways.
pub(super) fn switch(bench: &mut Bench) -> Result<()> {
    // Jumbo packets in half of the runs.
    let mtu = bench.packed().then_some(9000);
    let sockets = start_switch(bench, mtu, "")?;
    let [mut left, mut right] = boot_both(bench, &sockets, mtu, "net-right")?;
    right.finish()?;
    left.type_line("stop")?;
    left.finish()?;
    bench.stop_back_ends()
}

/// How often the switch is killed.
const KILLS: u64 = 4;

/// The same, while links, the left guest, and the switch come and go.
pub(super) fn switch_life(bench: &mut Bench) -> Result<()> {
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
    right.finish()?;
    left.type_line("stop")?;
    left.finish()?;
    bench.stop_back_ends()?;
    let connections = bench.said("front end connected")?.unwrap_or_default() as u64;
    ensure!(connections > 2 * KILLS, "{KILLS} kills, but {connections} connections of two guests");
    Ok(())
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
        let status = command_for(&control, "right", "status", &json!({}))?;
        let found = status.pointer("/device/pairs_in_use").and_then(Value::as_u64);
        ensure!(found == Some(pairs), "{pairs} pairs are in use, but we think: {status}");
        let passed_on = status.pointer("/device/control_queue").and_then(Value::as_bool);
        ensure!(passed_on == Some(true), "the control queue is not passed on: {status}");
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
    right.finish()?;
    left.type_line("stop")?;
    left.finish()?;
    bench.stop_back_ends()
}

/// A guest with user-mode networking, which nobody has any privileges for.
pub(super) fn user(bench: &mut Bench) -> Result<()> {
    let namespace = bench.namespace()?;
    let socket = bench.socket("net.sock");
    let ours = bench.net_program();
    let mut program = Command::new("setpriv");
    program.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]).arg(ours.get_program());
    program.arg("--socket-path").arg(&socket).args(["--backend=user", "--dns=127.0.0.1:5300"]);
    program.args(["--host-forward=tcp:127.0.0.1:7100-:7000", "--host-forward=udp:127.0.0.1:7100-:7000"]);
    bench.start_net(&socket, namespace.command(&program))?;
    bench.serve("guest-net", namespace.command(&bench.guest_net(&["serve", "7000"])))?;
    bench.serve("dns", namespace.command(&bench.guest_net(&["dns", "5300", "192.0.2.99"])))?;
    let files = bench.directory().join("files");
    std::fs::create_dir(&files)?;
    let content: Vec<u8> = (0..FILE / 8).flat_map(|word| mix(word + 1).to_le_bytes()).collect();
    std::fs::write(files.join("file"), content)?;
    let mut httpd = Command::new(namespace.busybox());
    httpd.args(["httpd", "-f", "-p", "127.0.0.1:8000", "-h"]).arg(&files);
    bench.serve("httpd", namespace.command(&httpd))?;

    bench.nic(&Nic::default(), &socket);
    let mut settings = card_settings(bench, None);
    settings.push(("OUTBOARD_DIGEST", bench.digest_of(&files.join("file"))?));
    let mut vm = bench.boot("net-user", settings)?;
    vm.await_value("serving")?;
    for words in [
        &["copy", "tcp", "127.0.0.1", "7100", "8388608", "1"][..],
        &["copy", "udp", "127.0.0.1", "7100", "500", "2", "1400"],
    ] {
        output(&mut namespace.command(&bench.guest_net(words))).context("to a forwarded port")?;
    }
    vm.type_line("stop")?;
    vm.finish()?;
    bench.stop_back_ends()
}

/// Bytes of the file that is fetched.
const FILE: u64 = 16 << 20;

/// One process with a port for each machine, the right one's with these options, too; their sockets.
fn start_switch(bench: &mut Bench, mtu: Option<u16>, right: &str) -> Result<[PathBuf; 2]> {
    let sockets = MACHINES.map(|name| bench.socket(&format!("{name}.sock")));
    let mut program = bench.net_program();
    program.arg("--control").arg(bench.control());
    for ((name, socket), options) in MACHINES.iter().zip(&sockets).zip(["", right]) {
        let mut device = format!("name={name},backend=switch,socket-path={}{options}", socket.display());
        if let Some(mtu) = mtu {
            device.push_str(&format!(",mtu={mtu}"));
        }
        program.arg("--device").arg(device);
    }
    // The last one that is made.
    bench.start_net(&sockets[1], program)?;
    Ok(sockets)
}

/// The left machine answers; the right one runs `script`.
fn boot_both(bench: &mut Bench, sockets: &[PathBuf; 2], mtu: Option<u16>, script: &str) -> Result<[Vm; 2]> {
    let settings = card_settings(bench, mtu);
    bench.nic(&Nic { mtu, reconnect: true, number: 1 }, &sockets[0]);
    let left = bench.boot_as("left", "net-left", settings.clone())?;
    bench.nic(&Nic { mtu, reconnect: true, number: 2 }, &sockets[1]);
    let right = bench.boot_as("right", script, settings)?;
    Ok([left, right])
}

/// What the guest's scripts have to know about its card.
fn card_settings(bench: &Bench, mtu: Option<u16>) -> Vec<(&'static str, String)> {
    vec![
        ("OUTBOARD_MTU", mtu.unwrap_or(1500).to_string()),
        ("OUTBOARD_PACKED", u8::from(bench.packed()).to_string()),
    ]
}

/// How many packets had wrong checksums, by `/proc/net/snmp` or `/proc/net/snmp6`.
fn checksum_errors(told: &str) -> u64 {
    let mut errors = 0;
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    // Pairs of lines with names and values, or a name and a value in each.
    for (names, values) in lines.iter().zip(lines.iter().skip(1)) {
        if names.first() == values.first() {
            let named = names.iter().zip(values).filter(|(name, _)| name.contains("InCsumErrors"));
            errors += named.filter_map(|(_, value)| value.parse::<u64>().ok()).sum::<u64>();
        }
    }
    for line in &lines {
        if let [name, value] = line.as_slice()
            && name.contains("InCsumErrors")
        {
            errors += value.parse::<u64>().unwrap_or(0);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_errors_of_both_formats_are_found() {
        let four = "Tcp: InSegs InCsumErrors\nTcp: 9 2\nUdp: InCsumErrors NoPorts\nUdp: 3 8\n";
        let six = "Udp6InErrors \t 7\nUdp6InCsumErrors   \t4\n";
        assert_eq!((checksum_errors(four), checksum_errors(six)), (5, 4));
    }
}
