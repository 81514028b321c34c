//! Looks at an input device, one word after the other. Try it:
//! `vhost-user-input --socket-path /tmp/input.sock --drive /tmp/keys.sock &
//! cargo run -p outboard-frontend --example input /tmp/input.sock name events:4 led:1=1`
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::{path::Path, time::Duration};

use outboard_frontend::drivers::Input;
use outboard_frontend::{Error, Frontend, Options, Wishes};
use outboard_virtio_defs::input::{
    CFG_ABS_INFO, CFG_EV_BITS, CFG_ID_DEVIDS, CFG_ID_NAME, CFG_ID_SERIAL, CFG_PROP_BITS, Event,
};

const USAGE: Error = Error::Invalid(
    "usage: input SOCKET {name | serial | ids | props | bits:TYPE | abs:AXIS | events:COUNT | until:TYPE/CODE/VALUE | led:CODE=VALUE}...",
);
/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(30);
const EV_LED: u16 = 0x11;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or(USAGE)?;
    let frontend = Frontend::connect(Path::new(&socket), Options::default())?;
    let mut input = Input::open(frontend, &Wishes::default(), 64)?;
    for word in arguments {
        match execute(&mut input, &word) {
            Ok(said) if said.is_empty() => {}
            Ok(said) => println!("{said}"),
            Err(error) => println!("{word}: {error}"),
        }
    }
    Ok(())
}

/// Does what a word says; what there is to say.
fn execute(input: &mut Input, word: &str) -> Result<String, Error> {
    let (what, rest) = word.split_once(':').unwrap_or((word, ""));
    let (number, value) = rest.split_once('=').unwrap_or((rest, ""));
    let number = || number.parse::<u16>().map_err(|_| USAGE);
    let byte = || rest.parse::<u8>().map_err(|_| USAGE);
    let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(match what {
        "name" => String::from_utf8_lossy(&input.config(CFG_ID_NAME, 0)?).into_owned(),
        "serial" => String::from_utf8_lossy(&input.config(CFG_ID_SERIAL, 0)?).into_owned(),
        "ids" => hex(input.config(CFG_ID_DEVIDS, 0)?),
        "props" => hex(input.config(CFG_PROP_BITS, 0)?),
        "bits" => hex(input.config(CFG_EV_BITS, byte()?)?),
        "abs" => hex(input.config(CFG_ABS_INFO, byte()?)?),
        "events" => {
            let count = usize::from(number()?);
            listen(input, |events| events.len() == count)?
        }
        "until" => listen(input, |events| events.last().is_some_and(|event| event == rest))?,
        "led" => {
            let value = value.parse::<u32>().map_err(|_| USAGE)?.into();
            input.send(Event { kind: EV_LED.into(), code: number()?.into(), value })?;
            String::new()
        }
        _ => return Err(USAGE),
    })
}

/// The events that come, until it is enough.
fn listen(input: &mut Input, mut is_enough: impl FnMut(&[String]) -> bool) -> Result<String, Error> {
    // That somebody listens can be waited for.
    println!("listening");
    let mut events = Vec::new();
    while !is_enough(&events) {
        let Some(event) = input.next(PATIENCE)? else {
            return Err(Error::Timeout { what: "tell an event".to_owned(), after: PATIENCE });
        };
        let value = event.value.get().cast_signed();
        events.push(format!("{:x}/{:x}/{value}", event.kind, event.code));
    }
    Ok(events.join(" "))
}
