//! The network device: packets of all lengths sent, and received again, over one pair of queues, and their rate; and the
//! same between two front ends, through a switch.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outboard_frontend::{
    Format, Frontend, Options, Wishes,
    drivers::{Net, NetOptions},
};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

/// Lengths of Ethernet frames, up to the usual longest.
const LENGTHS: std::ops::RangeInclusive<usize> = 60..=1514;
/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two interfaces, administered locally.
const LEFT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RIGHT: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let back_end = BackEnd::spawn(Device::Net, socket, &["--backend", "loop"])?;
    let mut net = open(socket, format)?;
    for len in LENGTHS {
        let packet = packet(LEFT, RIGHT, len);
        net.send(&packet)?;
        receive(&mut net, &packet)?;
    }
    report.verified("1455 packets of 60 to 1514 bytes sent and received: each as it was");

    let packet = packet(LEFT, RIGHT, *LENGTHS.start());
    let start = Instant::now();
    let mut packets = 0;
    while start.elapsed() < seconds {
        net.send(&packet)?;
        receive(&mut net, &packet)?;
        packets += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    report.measured("60 bytes there and back, depth 1, interrupts", packets, packet.len(), elapsed);
    drop(net);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    switch(report, socket, format)
}

/// Two ports of a switch, which one process serves.
fn switch(report: &mut Report, socket: &Path, format: Format) -> Result<()> {
    let other = socket.with_extension("right");
    let mut command = Command::new("/proc/self/exe");
    command.args(["run", Device::Net.name(), "--log-level=warn"]);
    for (name, path) in [("left", socket), ("right", &other)] {
        command.arg(format!("--device=name={name},backend=switch,socket-path={}", path.display()));
    }
    let back_end = BackEnd::spawn_command(command, "switch", socket)?;
    let (mut left, mut right) = (open(socket, format)?, open(&other, format)?);
    // The first makes the switch learn where the right one is.
    for len in LENGTHS {
        let [there, back] = [packet(LEFT, RIGHT, len), packet(RIGHT, LEFT, len)];
        right.send(&back)?;
        receive(&mut left, &back)?;
        left.send(&there)?;
        receive(&mut right, &there)?;
    }
    report.verified("1455 packets each way between two front ends, through a switch: each as it was");
    drop((left, right));
    back_end.terminate()
}

fn open(socket: &Path, format: Format) -> Result<Net> {
    let frontend = Frontend::connect(socket, Options::default())?;
    let defaults = NetOptions::default();
    let options = NetOptions { wishes: Wishes { format, ..defaults.wishes }, ..defaults };
    Ok(Net::open(frontend, &options)?)
}

/// Waits for this packet, and no other.
fn receive(net: &mut Net, packet: &[u8]) -> Result<()> {
    let mut received = [0; 2048];
    let len = net.receive(&mut received, PATIENCE)?.context("a packet did not come")?;
    ensure!(received.get(..len) == Some(packet), "a packet of {} bytes came otherwise", packet.len());
    Ok(())
}

/// Bytes that differ from one packet to the next, in a frame of an EtherType for experiments.
fn packet(from: [u8; 6], to: [u8; 6], len: usize) -> Vec<u8> {
    let front = [&to[..], &from, &[0x88, 0xb5]].concat();
    let body = (front.len()..len).map(|at| (len * 31 + at * 7 + at / 251) as u8);
    front.iter().copied().chain(body).collect()
}
