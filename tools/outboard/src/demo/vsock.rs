//! The socket device: connections of both forms to a service of the device that gives everything back, one to a program
//! of the host, and one that is refused.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use outboard_frontend::drivers::{Vsock, VsockOptions};
use outboard_frontend::{Format, Frontend, Options, Wishes};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

const ECHO: u32 = 7;
const PROGRAM: u32 = 1234;
/// What is sent and compared, in bytes.
const SAMPLE: usize = 1 << 20;
/// A message, in bytes.
const MESSAGE: usize = 1000;

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let path = socket.with_extension("vsock");
    let mut at = OsString::from("--uds-path=");
    at.push(&path);
    let arguments = ["--guest-cid=3".into(), format!("--service={ECHO}=echo").into(), at];
    let back_end = BackEnd::spawn(Device::Vsock, socket, &arguments)?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let options = VsockOptions::default();
    let wishes = Wishes { format, ..options.wishes };
    let mut vsock = Vsock::open(frontend, &VsockOptions { wishes, ..options })?;
    ensure!(vsock.cid() == 3, "the guest has another context id");

    let sample: Vec<u8> = (0..SAMPLE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    echo(&mut vsock, &sample)?;
    report.verified("1 MiB to a service of the device and back: every byte");
    messages(&mut vsock, &sample)?;
    report.verified("messages: each as it was sent");
    program(&mut vsock, &path, &sample)?;
    report.verified("1 MiB to a program of the host and back: every byte");
    ensure!(vsock.connect(PROGRAM + 1, false)?.is_none(), "a connection to nobody was accepted");
    report.verified("nobody listens: refused at once");

    let mut connection = vsock.connect(ECHO, false)?.context("the echo service refuses")?;
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < seconds {
        vsock.send(&mut connection, &[7; 64])?;
        let mut got = 0;
        while got < 64 {
            got += vsock.receive(&mut connection)?.len();
        }
        rounds += 1;
    }
    report.measured("64 bytes there and back, interrupts", rounds, 64, start.elapsed().as_secs_f64());
    vsock.close_connection(connection)?;
    drop(vsock);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

fn echo(vsock: &mut Vsock, sample: &[u8]) -> Result<()> {
    let mut connection = vsock.connect(ECHO, false)?.context("the echo service refuses")?;
    let mut got = Vec::new();
    for part in sample.chunks(100_000) {
        vsock.send(&mut connection, part)?;
        let whole = got.len() + part.len();
        while got.len() < whole {
            let more = vsock.receive(&mut connection)?;
            ensure!(!more.is_empty(), "the connection ends after {} bytes", got.len());
            got.extend(more);
        }
    }
    ensure!(got == sample, "the service gave back something else");
    Ok(vsock.close_connection(connection)?)
}

fn messages(vsock: &mut Vsock, sample: &[u8]) -> Result<()> {
    let mut connection = vsock.connect(ECHO, true)?.context("the echo service takes no messages")?;
    for (at, message) in sample.chunks(MESSAGE).take(100).enumerate() {
        let message = message.get(..at * 10 + 1).context("a message")?;
        vsock.send(&mut connection, message)?;
        ensure!(vsock.receive(&mut connection)? == message, "a message is not what it was");
    }
    Ok(vsock.close_connection(connection)?)
}

/// A program that reads everything and then says it.
fn program(vsock: &mut Vsock, path: &Path, sample: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{PROGRAM}"));
    let listener = UnixListener::bind(PathBuf::from(name))?;
    let len = sample.len();
    let program = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut all = vec![0; len];
        stream.read_exact(&mut all)?;
        stream.write_all(&all)
    });
    let mut connection = vsock.connect(PROGRAM, false)?.context("the program is not reached")?;
    vsock.send(&mut connection, sample)?;
    let mut got = Vec::new();
    while got.len() < len {
        let more = vsock.receive(&mut connection)?;
        ensure!(!more.is_empty(), "the connection ends after {} bytes", got.len());
        got.extend(more);
    }
    ensure!(got == sample, "the program gave back something else");
    vsock.close_connection(connection)?;
    program.join().ok().context("the program failed")??;
    Ok(())
}
