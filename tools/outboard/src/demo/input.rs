//! The input device: a simulated keyboard types, and every event is compared; a light that is switched on is seen by who drives.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use outboard_frontend::{Format, Frontend, Options, Wishes, drivers::Input};
use outboard_virtio_defs::input::{CFG_ID_NAME, Event};
use serde_json::{Value, json};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

/// What is typed: characters of the rows of keys whose codes follow one another.
const TEXT: &str = "qwertyuiop";
/// The code of its first key.
const FIRST: u16 = 16;
/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who drives what is simulated.
struct Driver(BufReader<UnixStream>);

impl Driver {
    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "command": command, "arguments": arguments });
        self.0.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let answer = self.hear()?;
        answer.get("return").cloned().with_context(|| format!("{command}: {answer}"))
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the driving socket says {line:?}"))
    }
}

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let drive = socket.with_extension("drive");
    let options = ["--synthetic=keyboard".to_owned(), format!("--drive={}", drive.display())];
    let back_end = BackEnd::spawn(Device::Input, socket, &options)?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let mut input = Input::open(frontend, &Wishes { format, ..Wishes::default() }, 64)?;
    ensure!(input.config(CFG_ID_NAME, 0)? == b"Outboard keyboard", "the device has another name");

    let stream = UnixStream::connect(&drive)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut driver = Driver(BufReader::new(stream));
    type_once(&mut input, &mut driver)?;
    report.verified("a text typed: every key down and up, in order, each with its report");

    driver.ask("watch", &json!({}))?;
    input.send(Event { kind: 0x11.into(), code: 1.into(), value: 1.into() })?;
    let heard = driver.hear()?;
    ensure!(
        heard == json!({ "event": "led", "code": "LED_CAPSL", "value": 1 }),
        "a light switched on is told as {heard}"
    );
    report.verified("a light switched on by the guest: seen by who drives");

    let (start, mut events) = (Instant::now(), 0);
    while start.elapsed() < seconds {
        events += type_once(&mut input, &mut driver)?;
    }
    report.measured(
        "events of typed text, interrupts",
        events,
        size_of::<Event>(),
        start.elapsed().as_secs_f64(),
    );
    drop(input);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// Types the text and compares what comes. How many events those were.
fn type_once(input: &mut Input, driver: &mut Driver) -> Result<u64> {
    driver.ask("type", &json!({ "text": TEXT }))?;
    let mut events = 0;
    for (code, _) in (FIRST..).zip(TEXT.chars()) {
        for value in [1, 0] {
            for expected in [(1, code, value), (0, 0, 0)] {
                let event = input.next(PATIENCE)?.context("an event is missing")?;
                let event = (event.kind.get(), event.code.get(), event.value.get());
                ensure!(event == expected, "the event {event:?} came for {expected:?}");
                events += 1;
            }
        }
    }
    Ok(events)
}
