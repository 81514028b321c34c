//! The SCMI device: that a guest finds what there is, reads a sensor, and sets a clock.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use outboard_frontend::{Format, Frontend, Options, Wishes, drivers::Scmi};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

const BASE: u32 = 0x10;
const CLOCK: u32 = 0x14;
const SENSOR: u32 = 0x15;
/// Bytes of a reading's answer: header, status, value, time.
const READING: usize = 24;

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let back_end = BackEnd::spawn::<&str>(Device::Scmi, socket, &[])?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let mut scmi = Scmi::open(frontend, &Wishes { format, ..Wishes::default() })?;

    let list = ask(&mut scmi, BASE, 6, &[0])?;
    let count = list.first().copied().unwrap_or_default();
    ensure!(count == 7, "there are {count} protocols, not 7");
    report.verified("the protocols power, system, performance, clock, sensor, reset, voltage are found");

    let reading = ask(&mut scmi, SENSOR, 6, &[0, 0])?;
    ensure!(reading.first() == Some(&40_000), "the sensor reads {reading:?}");
    ask(&mut scmi, CLOCK, 5, &[0, 0, 48_000_000, 0])?;
    let rate = ask(&mut scmi, CLOCK, 6, &[0])?;
    ensure!(rate == [48_000_000, 0], "the clock has {rate:?}");
    report.verified("a sensor is read, and a clock has the rate that it was set to");

    let start = Instant::now();
    let mut commands = 0;
    while start.elapsed() < seconds {
        ask(&mut scmi, SENSOR, 6, &[0, 0])?;
        commands += 1;
    }
    report.measured("read a sensor, depth 1, interrupts", commands, READING, start.elapsed().as_secs_f64());
    drop(scmi);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// Gives a command that has to succeed, and returns the words behind the status.
fn ask(scmi: &mut Scmi, protocol: u32, message: u32, params: &[u32]) -> Result<Vec<u32>> {
    let sent = message | protocol << 10;
    let command: Vec<u8> = std::iter::once(&sent).chain(params).flat_map(|word| word.to_le_bytes()).collect();
    let answer = scmi.ask(&command)?;
    let (words, _) = answer.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (header, rest) = words.split_first().context("an answer without a header")?;
    let (status, rest) = rest.split_first().context("an answer without a status")?;
    ensure!((*header, *status) == (sent, 0), "{protocol:#x}/{message}: {words:x?}");
    Ok(rest.to_vec())
}
