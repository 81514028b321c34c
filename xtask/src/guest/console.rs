//! Scenarios of the console device: somebody logs in at its console, also after the guest has started again, and its ports carry
//! bytes, come and go.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::bench::Bench;
use crate::control::command_to;

const OPTIONS: [&str; 3] = [
    "--console=unix:hvc0.sock,record=hvc0.cast",
    "--port=name=org.outboard.echo,to=unix:echo.sock",
    "--max-ports=3",
];
/// Two for each port, and those for messages.
const QUEUES: u16 = 8;
/// Bytes that are sent and come back.
const BYTES: usize = 1 << 20;
/// How long an answer of the guest may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// All of it.
pub(super) fn console(bench: &mut Bench) -> Result<()> {
    bench.plug_generic("console", &OPTIONS.map(str::to_owned), 3, QUEUES, 12)?;
    let mut vm = bench.boot("console", vec![("OUTBOARD_PACKED", u8::from(bench.packed()).to_string())])?;

    vm.await_value("port")?;
    let echo = connect(bench, "echo.sock")?;
    // A machine that stands still for a moment loses nothing.
    let mut qmp = vm.qmp()?;
    echo_back(&echo, |done| {
        if done == BYTES / 2 {
            qmp.execute("stop")?;
            std::thread::sleep(Duration::from_millis(300));
            qmp.execute("cont")?;
        }
        Ok(())
    })?;

    let kernel = vm.await_value("login")?;
    log_in(bench, &kernel).context("at the console")?;
    vm.type_line("go on")?;

    let control = bench.control();
    vm.await_value("add")?;
    let added = command_to(&control, "add-port", &json!({ "port": "name=org.outboard.late,to=echo" }))?;
    ensure!(added == json!({ "port": 2 }), "the new port is {added}");
    vm.await_value("remove")?;
    command_to(&control, "remove-port", &json!({ "port": 2 }))?;
    vm.finish()?;
    let cast = std::fs::read_to_string(bench.directory().join("hvc0.cast"))?;
    for part in ["\"width\":80", "login: ", "\"r\",\"100x30\""] {
        ensure!(cast.contains(part), "{part} is not in the recording");
    }
    ensure!(!cast.contains("outboard"), "the password is in the recording");
    bench.stop_back_ends()
}

/// The guest starts again while somebody is logged in: whoever is at the console stays there, and logs in again.
pub(super) fn reboot(bench: &mut Bench) -> Result<()> {
    bench.may_reboot();
    bench.plug_generic("console", &["--console=unix:hvc0.sock".to_owned()], 3, 4, 12)?;
    let settings = vec![("OUTBOARD_PACKED", u8::from(bench.packed()).to_string())];
    let mut vm = bench.boot("console-reboot", settings)?;
    vm.await_value("login")?;
    let mut terminal = Terminal::open(bench)?;
    terminal.log_in()?;
    terminal.say("kept=$((40 + 2)); echo now:$kept.\n")?;
    terminal.expect("now:42.")?;
    vm.type_line("reboot")?;
    vm.await_value("login").context("after its second start")?;
    terminal.log_in().context("after the guest's second start")?;
    terminal.say("echo now:$kept.\n")?;
    terminal.expect("now:.")?;
    vm.type_line("end")?;
    vm.finish()?;
    let connections = bench.said("front end connected")?;
    ensure!(connections == Some(1), "{connections:?} connections of one machine");
    bench.stop_back_ends()
}

fn connect(bench: &Bench, name: &str) -> Result<UnixStream> {
    let stream = UnixStream::connect(bench.directory().join(name)).context(name.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends back all that comes, and tells how much that was by and by.
fn echo_back(mut stream: &UnixStream, mut told: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let (mut done, mut bytes) = (0, [0; 1 << 12]);
    while done < BYTES {
        let len = stream.read(&mut bytes).context("what the guest sends")?;
        ensure!(len > 0, "the port is closed after {done} bytes");
        stream.write_all(bytes.get(..len).unwrap_or(&bytes))?;
        let half = done < BYTES / 2 && done + len >= BYTES / 2;
        done += len;
        if half {
            told(BYTES / 2)?;
        }
    }
    Ok(())
}

/// Logs in as on any terminal, and looks at its size.
fn log_in(bench: &Bench, kernel: &str) -> Result<()> {
    // Kernels before 6.15 take the first number of a size for the rows, whatever VIRTIO says.
    let mut numbers = kernel.split('.').map(|number| number.parse().unwrap_or(0));
    let turned = (numbers.next(), numbers.next()) < (Some(6), Some(15));
    let shown = |cols, rows| if turned { format!("{cols} {rows}") } else { format!("{rows} {cols}") };
    let mut terminal = Terminal::open(bench)?;
    terminal.log_in()?;
    terminal.say("stty size\n")?;
    terminal.expect(&shown(80, 24))?;
    terminal.expect("# ")?;
    resize(&bench.control(), 100, 30)?;
    // The kernel tells the terminal in its own time.
    let wait = format!("until stty size | grep -q '{}'; do sleep 0.1; done; echo done:$?\n", shown(100, 30));
    terminal.say(&wait)?;
    terminal.expect("done:0")?;
    // More than a ring of buffers has room for at once.
    terminal.say("seq 1 400; echo all:$?\n")?;
    for line in ["\r\n1\r\n2\r\n", "\r\n399\r\n400\r\n", "all:0"] {
        terminal.expect(line)?;
    }
    terminal.say("exit\n")
}

fn resize(control: &Path, cols: u16, rows: u16) -> Result<Value> {
    command_to(control, "resize", &json!({ "cols": cols, "rows": rows }))
}

struct Terminal {
    stream: UnixStream,
    /// What nobody has waited for yet.
    seen: String,
}

impl Terminal {
    fn open(bench: &Bench) -> Result<Self> {
        Ok(Self { stream: connect(bench, "hvc0.sock")?, seen: String::new() })
    }

    fn log_in(&mut self) -> Result<()> {
        for (said, expected) in [("\n", "login: "), ("root\n", "Password: "), ("outboard\n", "# ")] {
            self.say(said)?;
            self.expect(expected)?;
        }
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.write_all(text.as_bytes())?)
    }

    /// Reads until `text` has come.
    fn expect(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut bytes = [0; 4096];
        while Instant::now() < end {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            let len = self.stream.read(&mut bytes).with_context(|| format!("{text:?}; {:?}", self.seen))?;
            ensure!(len > 0, "the terminal is closed: {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(bytes.get(..len).unwrap_or(&bytes)));
        }
        bail!("{text:?} has not come: {:?}", self.seen)
    }
}
