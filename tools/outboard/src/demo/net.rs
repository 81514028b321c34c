//! The network device: packets of all lengths sent, and received again, over one pair of queues, and their rate.

use std::{
    path::Path,
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

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let back_end = BackEnd::spawn(Device::Net, socket, &["--backend", "loop"])?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let defaults = NetOptions::default();
    let options = NetOptions { wishes: Wishes { format, ..defaults.wishes }, ..defaults };
    let mut net = Net::open(frontend, &options)?;

    for len in LENGTHS {
        exchange(&mut net, &packet(len))?;
    }
    report.verified("1455 packets of 60 to 1514 bytes sent and received: each as it was");

    let packet = packet(*LENGTHS.start());
    let start = Instant::now();
    let mut packets = 0;
    while start.elapsed() < seconds {
        exchange(&mut net, &packet)?;
        packets += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    report.measured("60 bytes there and back, depth 1, interrupts", packets, packet.len(), elapsed);
    drop(net);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// Sends a packet, and waits until it is back.
fn exchange(net: &mut Net, packet: &[u8]) -> Result<()> {
    net.send(packet)?;
    let mut received = [0; 2048];
    let len = net.receive(&mut received, PATIENCE)?.context("a packet did not come back")?;
    ensure!(received.get(..len) == Some(packet), "a packet of {} bytes came back otherwise", packet.len());
    Ok(())
}

/// Bytes that differ from one packet to the next.
fn packet(len: usize) -> Vec<u8> {
    (0..len).map(|at| (len * 31 + at * 7 + at / 251) as u8).collect()
}
