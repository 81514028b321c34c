//! The GPIO controller: that its simulated lines do what they are told, and that an edge is an interrupt.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outboard_frontend::drivers::Gpio;
use outboard_frontend::{Format, Frontend, Options, Wishes};
use outboard_virtio_defs::gpio::{DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, IRQ_EDGE_BOTH, IRQ_NONE};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

/// An output and the input that it is wired to.
const OUTPUT: u16 = 0;
const INPUT: u16 = 1;
/// How long an interrupt may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let options = ["--lines=0=relay,1=sense,2-7", "--wire=0:1"];
    let back_end = BackEnd::spawn(Device::Gpio, socket, &options)?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let mut gpio = Gpio::open(frontend, &Wishes { format, ..Wishes::default() })?;

    let names = gpio.names()?;
    ensure!(names == ["relay", "sense", "", "", "", "", "", ""], "the lines are called {names:?}");
    ensure!(gpio.direction(OUTPUT)? == DIRECTION_NONE, "a line that nobody uses goes somewhere");
    gpio.set_value(OUTPUT, true)?;
    gpio.set_direction(OUTPUT, DIRECTION_OUT)?;
    gpio.set_direction(INPUT, DIRECTION_IN)?;
    ensure!(gpio.value(INPUT)?, "an output does not begin with its level");
    for level in [false, true, false] {
        gpio.set_value(OUTPUT, level)?;
        ensure!(gpio.value(INPUT)? == level, "an input does not follow its output");
    }
    report.verified("names, directions, and levels from an output to an input");

    gpio.set_trigger(INPUT, IRQ_EDGE_BOTH)?;
    for level in [true, false, true, false] {
        gpio.unmask(INPUT)?;
        gpio.set_value(OUTPUT, level)?;
        ensure!(gpio.interrupt(PATIENCE)? == Some((INPUT, true)), "an edge is no interrupt");
    }
    gpio.unmask(INPUT)?;
    gpio.set_trigger(INPUT, IRQ_NONE)?;
    ensure!(gpio.interrupt(PATIENCE)? == Some((INPUT, false)), "a line without a trigger keeps its buffer");
    report.verified("edges are interrupts; a buffer comes back when its trigger goes");

    let start = Instant::now();
    let (mut requests, mut level) = (0, false);
    while start.elapsed() < seconds {
        level = !level;
        gpio.set_value(OUTPUT, level)?;
        ensure!(gpio.value(INPUT)? == level, "an input does not follow its output any more");
        requests += 2;
    }
    report.measured("set and get a line, interrupts", requests, 1, start.elapsed().as_secs_f64());
    drop(gpio);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}
