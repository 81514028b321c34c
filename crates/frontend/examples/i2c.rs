//! Makes a transfer on an I2C bus, and prints what was read. Try it:
//! `vhost-user-i2c --socket-path /tmp/i2c.sock &
//! cargo run -p outboard-frontend --example i2c /tmp/i2c.sock w0x50=00,01 r0x50=2`
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::path::Path;

use outboard_frontend::drivers::{I2c, I2cAddress, I2cMessage};
use outboard_frontend::{Error, Frontend, Options, Wishes};

const USAGE: Error = Error::Invalid("usage: i2c SOCKET {wADDRESS=[BYTE,BYTE..] | rADDRESS=COUNT}...");

/// A message, before there is room for what it reads.
enum Word {
    Write(I2cAddress, Vec<u8>),
    Read(I2cAddress, Vec<u8>),
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or(USAGE)?;
    let mut words: Vec<Word> = arguments.map(|word| parse(&word)).collect::<Option<_>>().ok_or(USAGE)?;
    let frontend = Frontend::connect(Path::new(&socket), Options::default())?;
    let mut i2c = I2c::open(frontend, &Wishes::default())?;
    let mut messages: Vec<I2cMessage<'_>> = words
        .iter_mut()
        .map(|word| match word {
            Word::Write(address, bytes) => I2cMessage::Write(*address, bytes),
            Word::Read(address, room) => I2cMessage::Read(*address, room),
        })
        .collect();
    let good = i2c.transfer(&mut messages)?;
    println!("{good} of {}", messages.len());
    for word in words.iter().take(good) {
        if let Word::Read(_, bytes) = word {
            let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            println!("{}", bytes.join(" "));
        }
    }
    i2c.close().map(drop)
}

fn parse(word: &str) -> Option<Word> {
    let (to, what) = word.split_once('=')?;
    let address = |text: &str| {
        let bits = u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
        Some(if bits < 0x80 { I2cAddress::Seven(bits as u8) } else { I2cAddress::Ten(bits) })
    };
    if let Some(chip) = to.strip_prefix('r') {
        return Some(Word::Read(address(chip)?, vec![0; what.parse().ok().filter(|count| *count <= 8192)?]));
    }
    let bytes = what.split(',').filter(|byte| !byte.is_empty());
    let bytes: Option<Vec<u8>> = bytes.map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(Word::Write(address(to.strip_prefix('w')?)?, bytes?))
}
