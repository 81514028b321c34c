//! Commands to our programs on their control sockets. Trusts the programs that we started.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the process behind a control socket answers to a command, if it has one device, or for all of them.
pub(crate) fn command_to(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    ask(socket, &json!({ "command": command, "arguments": arguments }))
}

/// The same of one device of several.
pub(crate) fn command_for(socket: &Path, device: &str, command: &str, arguments: &Value) -> Result<Value> {
    ask(socket, &json!({ "command": command, "device": device, "arguments": arguments }))
}

fn ask(socket: &Path, request: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket).context("connecting to the control socket")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    (&stream).write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    let mut answer: Value =
        serde_json::from_str(&answer).with_context(|| format!("{request}: {answer:?}"))?;
    match (answer.get_mut("return").map(Value::take), answer.get("error")) {
        (Some(value), None) => Ok(value),
        (_, error) => bail!("{request}: {}", error.unwrap_or(&Value::Null)),
    }
}
