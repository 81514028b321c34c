//! A network behind one real guest: what they send and receive is compared byte by byte on both sides, and counted.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, Nic};
use crate::control::command_to;
use crate::digest::mix;
use crate::namespace::{Interface, Namespace};
use crate::workspace::output;

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
    let mtu_option = mtu.map(|mtu| format!("--mtu={mtu}"));
    let options: Vec<&str> = options.iter().copied().chain(mtu_option.as_deref()).collect();
    let (namespace, socket) = start_tap(bench, &options, mtu)?;
    bench.nic(&Nic { mtu, ..Nic::default() }, &socket);
    let mut settings = card_settings(bench, mtu);
    settings.push(("OUTBOARD_OFFLOADS", u8::from(!options.contains(&"--offload=none")).to_string()));
    let mut vm = bench.boot("net-tap", settings)?;
    vm.finish()?;
    used_well(bench, &namespace)
}

/// Two pairs of queues, and the interface has as many: each is used, and what the driver has switched off is not.
pub(super) fn queues(bench: &mut Bench) -> Result<()> {
    let control = bench.control();
    let path = control.display().to_string();
    let (namespace, socket) = start_tap(bench, &["--pairs=2", "--control", &path], None)?;
    bench.nic(&Nic { pairs: 2, ..Nic::default() }, &socket);
    bench.processors(2);
    let mut vm = bench.boot("net-queues", card_settings(bench, None))?;
    let mut before = [[0; 2]; 2];
    for (step, in_use) in [("at-first", 2), ("one", 1), ("two", 2)] {
        vm.await_value(step)?;
        let status = command_to(&control, "status", &json!({}))?;
        let found = status.pointer("/0/device/pairs_in_use").and_then(Value::as_u64);
        ensure!(found == Some(in_use), "{step}: {in_use} pairs are in use, but we think: {status}");
        let mut packets = [[0; 2]; 2];
        for (pair, packets) in packets.iter_mut().enumerate() {
            for (way, packets) in ["rx", "tx"].iter().zip(packets) {
                let count = status.pointer(&format!("/0/device/pairs/{pair}/{way}/packets"));
                *packets =
                    count.and_then(Value::as_u64).with_context(|| format!("no packets in {status}"))?;
            }
        }
        for (pair, (after, before)) in packets.iter().zip(&before).enumerate() {
            let more: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
            let used = (pair as u64) < in_use;
            ensure!(more.iter().all(|&more| (more > 20) == used), "{step}: pair {pair} had {more:?} packets");
        }
        before = packets;
        vm.type_line("on")?;
    }
    vm.finish()?;
    used_well(bench, &namespace).map(drop)
}

/// A card on virtio-mmio. Our own program for copies is not built for its processor.
pub(super) fn mmio(bench: &mut Bench) -> Result<()> {
    let (namespace, socket) = start_tap(bench, &[], None)?;
    let file = serve_file(bench, &namespace, "192.0.2.1")?;
    bench.nic(&Nic::default(), &socket);
    let mut settings = card_settings(bench, None);
    let digest = bench.digest_of(&file)?;
    settings.push(("OUTBOARD_DIGEST", digest.clone()));
    let mut vm = bench.boot("net-mmio", settings)?;
    vm.await_value("serving")?;
    let (back, mut fetch) = (bench.socket("back"), Command::new(namespace.busybox()));
    fetch.args(["wget", "-q", "-O"]).arg(&back).arg("http://192.0.2.2:8000/file");
    output(&mut namespace.command(&fetch)).context("fetching from the guest")?;
    ensure!(bench.digest_of(&back)? == digest, "the file came back with other bytes");
    vm.type_line("stop")?;
    vm.finish()?;
    used_well(bench, &namespace).map(drop)
}

/// A back end with a tap interface in a network of its own, and who answers there; its socket.
fn start_tap(bench: &mut Bench, options: &[&str], mtu: Option<u16>) -> Result<(Namespace, PathBuf)> {
    let namespace = bench.namespace()?;
    let socket = bench.socket("net.sock");
    let mut program = bench.net_program();
    program.arg("--socket-path").arg(&socket).args(["--backend=tap", "--tap", TAP]).args(options);
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
    Ok((namespace, socket))
}

/// What went over the interface, with right checksums.
fn used_well(bench: &mut Bench, namespace: &Namespace) -> Result<Interface> {
    for file in ["snmp", "snmp6"] {
        let told = namespace.told(file)?;
        ensure!(checksum_errors(&told) == 0, "the host found wrong checksums: {told}");
    }
    let used = namespace.interface(TAP)?;
    ensure!(used.received > 0 && used.sent > 0, "nothing went over the interface");
    bench.stop_back_ends()?;
    Ok(used)
}

/// A guest with user-mode networking, which nobody has any privileges for.
pub(super) fn user(bench: &mut Bench) -> Result<()> {
    let namespace = bench.namespace()?;
    bench.serve("dns", namespace.command(&bench.guest_net(&["dns", "5300", "192.0.2.99"])))?;
    user_mode(bench, &namespace, "net-user", &["--dns=127.0.0.1:5300"])
}

/// The same with passt as the network, which finds no interface but the loopback one, and so has addresses of its own.
pub(super) fn passt(bench: &mut Bench) -> Result<()> {
    let namespace = bench.namespace()?;
    let passt = bench.host_script("bin/passt")?;
    let passt = format!("--passt={}", passt.display());
    user_mode(bench, &namespace, "net-passt", &[&passt])
}

fn user_mode(bench: &mut Bench, namespace: &Namespace, script: &str, options: &[&str]) -> Result<()> {
    let socket = bench.socket("net.sock");
    let ours = bench.net_program();
    let mut program = Command::new("setpriv");
    program.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]).arg(ours.get_program());
    program.arg("--socket-path").arg(&socket).arg("--backend=user").args(options);
    program.args(["--host-forward=tcp:127.0.0.1:7100-:7000", "--host-forward=udp:127.0.0.1:7100-:7000"]);
    bench.start_net(&socket, namespace.command(&program))?;
    bench.serve("guest-net", namespace.command(&bench.guest_net(&["serve", "7000"])))?;
    let file = serve_file(bench, namespace, "127.0.0.1")?;

    bench.nic(&Nic::default(), &socket);
    let mut settings = card_settings(bench, None);
    settings.push(("OUTBOARD_DIGEST", bench.digest_of(&file)?));
    let mut vm = bench.boot(script, settings)?;
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

/// Serves a file over HTTP, on port 8000 of an address; where it is.
fn serve_file(bench: &mut Bench, namespace: &Namespace, address: &str) -> Result<PathBuf> {
    let files = bench.directory().join("files");
    std::fs::create_dir(&files)?;
    let file = files.join("file");
    let content: Vec<u8> = (0..FILE / 8).flat_map(|word| mix(word + 1).to_le_bytes()).collect();
    std::fs::write(&file, content)?;
    let mut httpd = Command::new(namespace.busybox());
    httpd.args(["httpd", "-f", "-p", &format!("{address}:8000"), "-h"]).arg(&files);
    bench.serve("httpd", namespace.command(&httpd))?;
    Ok(file)
}

/// Bytes of the file that is fetched.
const FILE: u64 = 16 << 20;

/// What the guest's scripts have to know about its card.
pub(super) fn card_settings(bench: &Bench, mtu: Option<u16>) -> Vec<(&'static str, String)> {
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
