//! A real guest whose driver spreads what it receives over its queues (RSS): each flow comes on the queue that the driver's
//! table has for its hash. The hashes are computed here once more, by their definition.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, Nic};
use super::net::card_settings;
use super::switch::start_ports;
use super::vm::Vm;
use crate::control::command_for;

/// So many flows there are.
const FLOWS: usize = 48;

/// Packets of each that come, at least, and of others (neighbour discovery) that may come meanwhile.
const OWN: u64 = 20;
const OTHERS: u64 = 8;

/// Where the left machine answers.
const SERVER: u16 = 7000;

/// The left machine sends, and the right one has all features of its back end.
pub(super) fn rss(bench: &mut Bench) -> Result<()> {
    let sockets = start_ports(bench, [("left", ""), ("right", ",pairs=2,rss,mac=52:54:00:12:34:02")], &[])?;
    bench.nic(&Nic { number: 1, ..Nic::default() }, &sockets[0]);
    let mut left = bench.boot_as("left", "net-left", card_settings(bench, None))?;
    bench.bare_nic(2, &sockets[1]);
    bench.processors(2);
    // It hides no feature of ours, and so takes packed rings.
    let settings = vec![("OUTBOARD_MTU", "1500".to_owned()), ("OUTBOARD_PACKED", "1".to_owned())];
    let mut right = bench.boot_as("right", "net-rss", settings)?;
    let mut of_queue = [0; 2];
    for _ in 0..FLOWS {
        right.await_value("begins")?;
        let before = received(bench)?;
        right.type_line("on")?;
        let flow = right.await_value("ends")?;
        let after = received(bench)?;
        right.type_line("on")?;
        let more = [after[0] - before[0], after[1] - before[1]];
        let queue = judge(&right, &flow, more).with_context(|| flow.clone())?;
        if let Some(flows) = of_queue.get_mut(queue) {
            *flows += 1;
        }
    }
    ensure!(of_queue.iter().all(|&flows| flows >= 6), "not both queues are in use: {of_queue:?} flows");
    right.finish()?;
    left.type_line("stop")?;
    left.finish()?;
    bench.stop_back_ends()
}

/// Packets on each queue of the right machine so far.
fn received(bench: &Bench) -> Result<[u64; 2]> {
    let status = command_for(&bench.control(), "right", "status", &json!({}))?;
    let of = |pair: usize| {
        let count = status.pointer(&format!("/device/pairs/{pair}/rx/packets"));
        count.and_then(Value::as_u64).with_context(|| format!("no packets in {status}"))
    };
    Ok([of(0)?, of(1)?])
}

/// The queue that a flow should be on, by the driver's table; and so many packets came on each.
fn judge(right: &Vm, flow: &str, more: [u64; 2]) -> Result<usize> {
    let words: Vec<&str> = flow.split_whitespace().collect();
    let [table, protocol, from, port] = words.as_slice() else {
        anyhow::bail!("not a flow");
    };
    let key: Option<Vec<u8>> = right
        .value(&format!("key-{table}"))?
        .split(':')
        .map(|byte| u8::from_str_radix(byte.trim(), 16).ok())
        .collect();
    let key = key.filter(|key| key.len() == 40).context("no key")?;
    let table: Result<Vec<usize>, _> =
        right.value(&format!("table-{table}"))?.split_whitespace().map(str::parse).collect();
    let table = table?;
    ensure!(table.len() == 128, "a table of {} entries", table.len());
    let from: IpAddr = from.parse()?;
    let ports = (*protocol != "ip").then_some((SERVER, port.parse::<u16>()?));
    let hash = toeplitz(&key, &hashed(from, ports)?);
    let queue = *table.get(hash as usize % table.len()).context("no such entry")?;
    for (at, &count) in more.iter().enumerate() {
        let is_right = if at == queue { count >= OWN } else { count <= OTHERS };
        ensure!(is_right, "by its hash {hash:#010x} it is on queue {queue}, but {more:?} packets came");
    }
    Ok(queue)
}

/// What is hashed of a packet to the right machine: both addresses, and both ports (VIRTIO 1.3, 5.1.6.4.3.1).
fn hashed(from: IpAddr, ports: Option<(u16, u16)>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match from {
        IpAddr::V4(from) => {
            let [first, second, third, _] = from.octets();
            bytes.extend(from.octets());
            bytes.extend([first, second, third, 2]);
        }
        IpAddr::V6(from) => {
            bytes.extend(from.octets());
            bytes.extend("fd00::2".parse::<std::net::Ipv6Addr>()?.octets());
        }
    }
    for port in ports.into_iter().flat_map(|(from, to)| [from, to]) {
        bytes.extend(port.to_be_bytes());
    }
    Ok(bytes)
}

/// Of each bit that is set, the 32 bits of the key that begin where it stands.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    let window = |at: usize| (at..at + 32).fold(0_u32, |window, at| window << 1 | u32::from(bit(key, at)));
    (0..8 * input.len()).filter(|&at| bit(input, at)).fold(0, |hash, at| hash ^ window(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the definition of RSS in Microsoft's documentation of NDIS.
    #[test]
    fn toeplitz_of_the_published_example_is_the_published_hash() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
            0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
            0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let addresses = [66, 9, 149, 187, 161, 142, 100, 80];
        assert_eq!(toeplitz(&key, &addresses), 0x323e_8fc2);
        let with_ports = [&addresses[..], &2794_u16.to_be_bytes(), &1766_u16.to_be_bytes()].concat();
        assert_eq!(toeplitz(&key, &with_ports), 0x51cc_c178);
    }

    #[test]
    fn hashed_is_from_the_sender_to_the_right_machine() {
        let bytes = hashed("10.0.1.1".parse().unwrap(), Some((7000, 40001))).unwrap();
        assert_eq!(bytes, [10, 0, 1, 1, 10, 0, 1, 2, 0x1b, 0x58, 0x9c, 0x41]);
    }
}
