//! Connects by a socket device, and compares. Try it:
//! `vhost-user-vsock --socket-path /tmp/vsock.sock --guest-cid 3 --service 7=echo &
//! cargo run -p outboard-frontend --example vsock /tmp/vsock.sock copy:7:1000000 messages:7:1000000 refused:8`
//!
//! - `copy:PORT:BYTES`, `messages:PORT:BYTES`: sends so many bytes to a port of the host, which gives them back.
//! - `refused:PORT`: nobody listens at that port.
//! - `echo`: waits for a connection, and gives back what it brings until its end.
//! - `gather`: the same when that has come to its end.
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::path::Path;

use outboard_frontend::drivers::{Vsock, VsockConnection, VsockOptions};
use outboard_frontend::{Error, Frontend, Options};

const USAGE: Error = Error::Invalid(
    "usage: vsock SOCKET {copy:PORT:BYTES | messages:PORT:BYTES | refused:PORT | echo | gather}...",
);
/// Bytes that are sent at once, or in one message.
const PIECE: usize = 60_000;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments.next().ok_or(USAGE)?;
    let frontend = Frontend::connect(Path::new(&socket), Options::default())?;
    let mut vsock = Vsock::open(frontend, &VsockOptions::default())?;
    for word in arguments {
        let words: Vec<&str> = word.split(':').collect();
        let said = match words.as_slice() {
            ["copy", port, bytes] => copy(&mut vsock, number(port)?, number(bytes)? as usize, false)?,
            ["messages", port, bytes] => copy(&mut vsock, number(port)?, number(bytes)? as usize, true)?,
            ["refused", port] => match vsock.connect(number(port)?, false)? {
                None => "refused".to_owned(),
                Some(_) => "accepted".to_owned(),
            },
            ["echo"] => give_back(&mut vsock, false)?,
            ["gather"] => give_back(&mut vsock, true)?,
            _ => return Err(USAGE),
        };
        println!("{said}");
    }
    vsock.close().map(drop)
}

fn number(text: &str) -> Result<u32, Error> {
    text.parse().map_err(|_| USAGE)
}

fn copy(vsock: &mut Vsock, port: u32, bytes: usize, messages: bool) -> Result<String, Error> {
    let Some(mut connection) = vsock.connect(port, messages)? else { return Ok("refused".to_owned()) };
    let all: Vec<u8> = (0..bytes as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for piece in all.chunks(PIECE) {
        vsock.send(&mut connection, piece)?;
        let mut rest = piece;
        while !rest.is_empty() {
            let came = vsock.receive(&mut connection)?;
            if came.is_empty() {
                return Ok("the end came too soon".to_owned());
            }
            match rest.strip_prefix(came.as_slice()) {
                Some(behind) if !messages || behind.is_empty() => rest = behind,
                _ => return Ok(format!("{} bytes that are others, or no message", came.len())),
            }
        }
    }
    vsock.close_connection(connection)?;
    Ok(format!("{bytes} bytes the same"))
}

fn give_back(vsock: &mut Vsock, when_whole: bool) -> Result<String, Error> {
    let mut connection: VsockConnection = vsock.accept()?;
    let (mut all, mut bytes) = (Vec::new(), 0);
    loop {
        let came = vsock.receive(&mut connection)?;
        if came.is_empty() {
            break;
        }
        bytes += came.len();
        if when_whole {
            all.extend(came);
        } else {
            vsock.send(&mut connection, &came)?;
        }
    }
    if when_whole {
        vsock.send(&mut connection, &all)?;
    }
    vsock.close_connection(connection)?;
    Ok(format!("{bytes} bytes given back"))
}
