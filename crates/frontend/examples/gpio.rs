//! Works on the lines of a GPIO controller, one word after the other. Try it:
//! `vhost-user-gpio --socket-path /tmp/gpio.sock --wire 0:1 &
//! cargo run -p outboard-frontend --example gpio /tmp/gpio.sock names out:0=1 in:1 get:1`
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::{path::Path, time::Duration};

use outboard_frontend::drivers::Gpio;
use outboard_frontend::{Error, Frontend, Options, Wishes};
use outboard_virtio_defs::gpio::{
    DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, IRQ_EDGE_BOTH, IRQ_EDGE_FALLING, IRQ_EDGE_RISING,
    IRQ_LEVEL_HIGH, IRQ_LEVEL_LOW, IRQ_NONE,
};

const USAGE: Error = Error::Invalid(
    "usage: gpio SOCKET {names | out:N=V | in:N | free:N | set:N=V | get:N | irq:N=none|rising|falling|both|high|low \
     | unmask:N | wait:N}...",
);
/// How long an interrupt may take.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or(USAGE)?;
    let frontend = Frontend::connect(Path::new(&socket), Options::default())?;
    let mut gpio = Gpio::open(frontend, &Wishes::default())?;
    for word in arguments {
        match execute(&mut gpio, &word) {
            Ok(said) if said.is_empty() => {}
            Ok(said) => println!("{said}"),
            Err(error) => println!("{word}: {error}"),
        }
    }
    gpio.close().map(drop)
}

/// Does what a word says; what there is to say.
fn execute(gpio: &mut Gpio, word: &str) -> Result<String, Error> {
    if word == "names" {
        return Ok(gpio.names()?.join(","));
    }
    let (what, rest) = word.split_once(':').ok_or(USAGE)?;
    let (line, value) = rest.split_once('=').unwrap_or((rest, ""));
    let line = line.parse().map_err(|_| USAGE)?;
    match what {
        "out" => {
            gpio.set_value(line, value == "1")?;
            gpio.set_direction(line, DIRECTION_OUT)?;
        }
        "in" => gpio.set_direction(line, DIRECTION_IN)?,
        "free" => gpio.set_direction(line, DIRECTION_NONE)?,
        "set" => gpio.set_value(line, value == "1")?,
        "get" => return Ok(u8::from(gpio.value(line)?).to_string()),
        "irq" => {
            let trigger = match value {
                "none" => IRQ_NONE,
                "rising" => IRQ_EDGE_RISING,
                "falling" => IRQ_EDGE_FALLING,
                "both" => IRQ_EDGE_BOTH,
                "high" => IRQ_LEVEL_HIGH,
                "low" => IRQ_LEVEL_LOW,
                _ => return Err(USAGE),
            };
            gpio.set_trigger(line, trigger)?;
        }
        "unmask" => gpio.unmask(line)?,
        "wait" => {
            return Ok(match gpio.interrupt(PATIENCE)? {
                Some((of, true)) if of == line => "interrupt".to_owned(),
                Some((of, true)) => format!("interrupt of {of}"),
                Some((of, false)) => format!("line {of} is masked"),
                None => "no interrupt".to_owned(),
            });
        }
        _ => return Err(USAGE),
    }
    Ok(String::new())
}
