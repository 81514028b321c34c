//! The I2C adapter: that its simulated chips keep what they are given, and what is not there does not answer.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outboard_frontend::drivers::{I2c, I2cAddress, I2cMessage};
use outboard_frontend::{Format, Frontend, Options, Wishes};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

const EEPROM: I2cAddress = I2cAddress::Seven(0x50);
const THERMOMETER: I2cAddress = I2cAddress::Seven(0x48);
const ABSENT: I2cAddress = I2cAddress::Ten(0x250);
/// Bytes of the EEPROM, and of a page of it.
const SIZE: usize = 256;
const PAGE: usize = 8;

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let back_end = BackEnd::spawn::<&str>(Device::I2c, socket, &[])?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let mut i2c = I2c::open(frontend, &Wishes { format, ..Wishes::default() })?;

    let text: Vec<u8> = (0..SIZE).map(|at| (at * 7 + 3) as u8).collect();
    for (nth, page) in text.chunks(PAGE).enumerate() {
        let bytes = [&[(nth * PAGE) as u8], page].concat();
        let good = i2c.transfer(&mut [I2cMessage::Write(EEPROM, &bytes)])?;
        ensure!(good == 1, "page {nth} was not written");
    }
    let mut read = vec![0; SIZE];
    ensure!(
        read_from(&mut i2c, EEPROM, 0, &mut read)? && read == text,
        "the EEPROM has not what was written"
    );
    report.verified("an EEPROM written page by page and read back");

    let mut temperature = [0; 2];
    ensure!(
        read_from(&mut i2c, THERMOMETER, 0, &mut temperature)? && temperature == [25, 0],
        "the thermometer says {temperature:?}"
    );
    let mut byte = [0];
    let mut group = [
        I2cMessage::Write(EEPROM, &[0, !3]),
        I2cMessage::Write(ABSENT, &[]),
        I2cMessage::Write(EEPROM, &[0, 9]),
    ];
    ensure!(i2c.transfer(&mut group)? == 1, "a chip answers that is not there");
    ensure!(
        read_from(&mut i2c, EEPROM, 0, &mut byte)? && byte == [!3],
        "what came behind a failure was carried out"
    );
    report.verified("a failure takes along what is behind it in its group, and nothing else");

    let start = Instant::now();
    let mut transfers = 0;
    while start.elapsed() < seconds {
        ensure!(read_from(&mut i2c, EEPROM, 0, &mut byte)?, "the EEPROM does not answer any more");
        transfers += 1;
    }
    report.measured("read a register, depth 1, interrupts", transfers, 1, start.elapsed().as_secs_f64());
    drop(i2c);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// Writes a register's number, and reads from there on; false if the chip does not answer.
fn read_from(i2c: &mut I2c, chip: I2cAddress, register: u8, into: &mut [u8]) -> Result<bool> {
    let good = i2c.transfer(&mut [I2cMessage::Write(chip, &[register]), I2cMessage::Read(chip, into)])?;
    Ok(good == 2)
}
