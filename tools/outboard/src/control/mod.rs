//! `outboard control`: commands to a running back end, over its control socket.
//!
//! The program behind the socket is not trusted: each wait has an end, an answer has a bound, and what it says is
//! shown without control characters.

mod text;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::seconds::seconds;
use crate::stdout;

/// The longest answer, in bytes.
const ANSWER_MAX: u64 = 16 << 20;

/// Ask a running back end what it does, or have it do something
///
/// The back end is one that was started with --control SOCKET. Commands of every back end: devices (which there are),
/// status (what they do, the default), refresh (look at the host's side again), add (one more device, with the keys of
/// --device), remove (one of them). Other commands are those of the device: a disk has resize. The status is 1 if the
/// back end refuses, or does not answer.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The socket that was given to the back end with --control
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,

    /// What it is to do
    #[arg(value_name = "COMMAND", default_value = "status")]
    command: String,

    /// Arguments of the command. A value is a number, true, false, null, or a text
    #[arg(value_name = "KEY=VALUE", value_parser = argument)]
    arguments: Vec<(String, Value)>,

    /// Which device is meant, where there are several
    #[arg(long, value_name = "NAME")]
    device: Option<String>,

    /// How long the answer may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Print the answer as JSON instead of text
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  vhost-user-blk --control /run/blk.ctl --socket-path /run/blk.sock --blk-file disk.img &
  outboard control /run/blk.ctl
  outboard control /run/blk.ctl resize size=20G
  outboard control /run/blk.ctl status --json | jq '.[0].queues'";

/// Asks and shows.
pub(crate) fn run(args: &Args) -> ExitCode {
    match control(args) {
        Ok(text) => {
            stdout::show(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ =
                writeln!(std::io::stderr(), "outboard control: {}", text::printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn control(args: &Args) -> Result<String> {
    let mut arguments = Map::new();
    for (key, value) in &args.arguments {
        if arguments.insert(key.clone(), value.clone()).is_some() {
            bail!("{key} is given twice");
        }
    }
    let mut request = json!({ "command": args.command, "arguments": arguments });
    if let (Some(device), Some(request)) = (&args.device, request.as_object_mut()) {
        request.insert("device".to_owned(), device.as_str().into());
    }
    let answer = ask(&args.socket, &request, args.timeout.max(Duration::from_millis(1)))?;
    Ok(if args.json { serde_json::to_string_pretty(&answer)? + "\n" } else { text::show(&answer) })
}

/// One question, one answer.
fn ask(path: &Path, request: &Value, timeout: Duration) -> Result<Value> {
    let shown = path.display();
    let mut stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {shown}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream
        .write_all(format!("{request}\n").as_bytes())
        .with_context(|| format!("{shown} takes no request"))?;
    let mut line = String::new();
    let read = BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut line);
    match read {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {
            bail!("no answer from {shown} within {} seconds", timeout.as_secs_f64())
        }
        Err(error) => return Err(error).with_context(|| format!("no answer from {shown}")),
        Ok(_) if !line.ends_with('\n') => {
            bail!("{shown} closed the connection without an answer: is it a control socket?")
        }
        Ok(_) => {}
    }
    let mut answer: Value =
        serde_json::from_str(&line).with_context(|| format!("what {shown} says is not JSON"))?;
    match (answer.get_mut("return").map(Value::take), answer.get("error").and_then(Value::as_str)) {
        (Some(value), None) => Ok(value),
        (_, Some(reason)) => bail!("{reason}"),
        (None, None) => bail!("{shown} gives neither a result nor an error"),
    }
}

/// A number, true, false or null as such; anything else is a text.
fn argument(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("KEY=VALUE".to_owned()),
        Some((key, value)) => {
            let parsed = serde_json::from_str(value).ok();
            let parsed =
                parsed.filter(|value: &Value| value.is_number() || value.is_boolean() || value.is_null());
            Ok((key.to_owned(), parsed.unwrap_or_else(|| value.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_is_a_number_a_truth_or_a_text() {
        let value = |text: &str| argument(text).unwrap().1;
        assert_eq!(argument("size=10").unwrap(), ("size".to_owned(), json!(10)));
        assert_eq!((value("a=true"), value("a=20G"), value("a=")), (json!(true), json!("20G"), json!("")));
        assert_eq!(
            (value("a=[1]"), value("a=null"), value("a=b=c")),
            (json!("[1]"), Value::Null, json!("b=c"))
        );
        assert!(argument("size").is_err() && argument("=1").is_err());
    }
}
