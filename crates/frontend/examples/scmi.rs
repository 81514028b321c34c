//! Sends messages to an SCMI device, and prints status and words of each answer. Try it:
//! `vhost-user-scmi --socket-path /tmp/scmi.sock &
//! cargo run -p outboard-frontend --example scmi /tmp/scmi.sock 0x10.0 0x15.6:0,0`
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::path::Path;
use std::time::Duration;

use outboard_frontend::drivers::Scmi;
use outboard_frontend::{Error, Frontend, Options, Wishes};

const USAGE: Error =
    Error::Invalid("usage: scmi SOCKET {PROTOCOL.MESSAGE[:WORD,WORD..] | event | say=TEXT}...");
/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or(USAGE)?;
    let frontend = Frontend::connect(Path::new(&socket), Options::default())?;
    let mut scmi = Scmi::open(frontend, &Wishes::default())?;
    for word in arguments {
        match execute(&mut scmi, &word) {
            Ok(said) => println!("{said}"),
            Err(error) => println!("{word}: {error}"),
        }
    }
    scmi.close().map(drop)
}

/// Does what a word says; what there is to say.
fn execute(scmi: &mut Scmi, word: &str) -> Result<String, Error> {
    if let Some(text) = word.strip_prefix("say=") {
        return Ok(text.to_owned());
    }
    if word == "event" {
        let event = scmi.event(PATIENCE)?;
        return Ok(event.map_or_else(|| "nothing".to_owned(), |event| words(&event)));
    }
    let message = message(word).ok_or(USAGE)?;
    Ok(words(&scmi.ask(&message)?))
}

/// A command: its header (DEN0056, 4.1.1), and its words.
fn message(word: &str) -> Option<Vec<u8>> {
    let (message, words) = word.split_once(':').unwrap_or((word, ""));
    let (protocol, message) = message.split_once('.')?;
    let protocol = u8::from_str_radix(protocol.strip_prefix("0x")?, 16).ok()?;
    let header = u32::from(message.parse::<u8>().ok()?) | u32::from(protocol) << 10;
    let words = words.split(',').filter(|word| !word.is_empty()).map(|word| word.parse::<u32>().ok());
    let words: Option<Vec<u32>> = std::iter::once(Some(header)).chain(words).collect();
    Some(words?.into_iter().flat_map(u32::to_le_bytes).collect())
}

/// What stands behind a header: the first word of an answer is its status.
fn words(bytes: &[u8]) -> String {
    let words = bytes.as_chunks().0.iter().skip(1).map(|&word| i32::from_le_bytes(word).to_string());
    words.collect::<Vec<_>>().join(" ")
}
