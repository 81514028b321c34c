//! The console device: what is put out is read from its ring, what is typed comes in, and a port with a name gives back every byte.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outboard_frontend::{Format, Frontend, Options, Wishes, drivers::Console};
use outboard_virtio_defs::console::{
    CONSOLE_PORT, DEVICE_ADD, DEVICE_READY, F_EMERG_WRITE, F_MULTIPORT, F_SIZE, PORT_NAME, PORT_OPEN,
    PORT_READY, RESIZE,
};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are echoed at a time.
const PIECE: usize = 4096;
/// Bytes that are echoed in all.
const ALL: usize = 4 << 20;
/// The port with a name.
const ECHO: usize = 1;

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let options = ["--console=echo", "--size=132x43", "--port=name=org.outboard.demo,to=echo"];
    let back_end = BackEnd::spawn(Device::Console, socket, &options)?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let features = F_SIZE | F_MULTIPORT | F_EMERG_WRITE;
    let wishes = Wishes { format, device_features: features, ..Wishes::default() };
    let mut console = Console::open(frontend, &wishes)?;

    console.say(0, DEVICE_READY, 1)?;
    for port in [0, 1] {
        hear(&mut console, port, DEVICE_ADD, b"")?;
    }
    console.say(0, PORT_READY, 1)?;
    hear(&mut console, 0, CONSOLE_PORT, b"")?;
    hear(&mut console, 0, RESIZE, &[132, 0, 43, 0])?;
    hear(&mut console, 0, PORT_OPEN, b"")?;
    console.say(1, PORT_READY, 1)?;
    hear(&mut console, 1, PORT_NAME, b"org.outboard.demo")?;
    hear(&mut console, 1, PORT_OPEN, b"")?;
    console.say(1, PORT_OPEN, 1)?;
    report.verified("a console with its size, and a port with its name");

    console.frontend().write_config(8, &u32::from(b'!').to_le_bytes())?;
    ensure!(console.receive(0, PATIENCE)?.as_deref() == Some(b"!"), "a character in an emergency is lost");
    report.verified("a character written by the configuration space is put out");

    for at in 0..ALL / PIECE {
        echo(&mut console, at)?;
    }
    report.verified("4 MiB through the port and back, every byte compared");

    let (start, mut pieces) = (Instant::now(), 0);
    while start.elapsed() < seconds {
        echo(&mut console, pieces)?;
        pieces += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    report.measured("4 KiB through a port and back, interrupts", pieces as u64, PIECE, elapsed);
    drop(console);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// Sends a piece, and compares what comes back.
fn echo(console: &mut Console, seed: usize) -> Result<()> {
    let piece: Vec<u8> = (0..PIECE).map(|at| ((at * 7) ^ (at >> 8) ^ seed) as u8).collect();
    console.send(ECHO, &piece)?;
    let mut back = Vec::new();
    while back.len() < PIECE {
        back.extend(console.receive(ECHO, PATIENCE)?.context("bytes are missing")?);
    }
    ensure!(back == piece, "other bytes came back");
    Ok(())
}

/// Hears what the device has to say next.
fn hear(console: &mut Console, port: u32, event: u16, more: &[u8]) -> Result<()> {
    let (message, behind) = console.hear(PATIENCE)?.context("the device says nothing")?;
    let said = (message.id.get(), message.event.get(), message.value.get());
    ensure!(said == (port, event, 1) && behind == more, "the device says {said:?} {behind:?}");
    Ok(())
}
