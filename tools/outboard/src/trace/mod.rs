//! `outboard trace`: sits between a front end and a back end, passes everything on, and shows it. Neither is trusted.
//!
//! [`wire`] passes on, message borders known to it by [`flow`]; [`witness`] keeps and shows. The decorators of
//! `outboard_vhost_user::transport` are of no use here: they carry frames that were accepted, and what is malformed
//! has to get to the other side as it is.

mod back_channel;
mod descriptors;
mod flow;
mod json;
pub(crate) mod replay;
mod text;
mod wire;
mod witness;

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use outboard_daemon::SocketFile;
use outboard_vhost_user::recording::{Recorder, Recording};
use outboard_virtio_defs::DeviceId;
use signal_hook::consts::{SIGINT, SIGTERM};

use wire::{Clock, Wire};
use witness::{Event, Style, Teller, Witness, complain};

/// Show what a front end and a back end say to each other
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The socket to make, for the front end to connect to
    #[arg(required_unless_present = "read")]
    listen: Option<PathBuf>,
    /// The socket where the back end listens
    #[arg(required_unless_present = "read")]
    connect: Option<PathBuf>,
    /// Keep what goes by in this file, for `outboard replay` or --read
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Show a recording instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "connect", "record", "wait"])]
    read: Option<PathBuf>,
    /// The device's type, by name or number: names its own feature bits
    #[arg(long, value_name = "TYPE")]
    device: Option<DeviceId>,
    /// How many seconds the first front ends are held while the back end is not there yet
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args) -> ExitCode {
    let style = Style { json: args.json, device: args.device };
    let done = match (&args.listen, &args.connect, &args.read) {
        (_, _, Some(path)) => show(path, style),
        (Some(listen), Some(connect), None) => trace(args, listen, connect, style),
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn trace(args: &Args, listen: &Path, connect: &Path, style: Style) -> Result<()> {
    let stop = signals().context("cannot catch signals")?;
    let recorder = args.record.as_deref().map(create).transpose()?;
    let socket = SocketFile::listen(listen)?;
    let (witness, report) = Witness::start(style, recorder).context("cannot start a thread")?;
    let patience = Duration::from_secs(args.wait.into());
    let traced = Wire::new(connect, patience, Clock::start(), witness).run(socket.listener(), stop.as_fd());
    drop(socket);
    report.finish();
    traced
}

/// Readable once SIGTERM or SIGINT has come.
fn signals() -> Result<UnixStream> {
    let (stop, raised) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, raised.try_clone()?)?;
    }
    Ok(stop)
}

/// Each message is written at once: what was recorded stays, however this program ends.
fn create(path: &Path) -> Result<Recorder<File>> {
    let recorder = File::create(path).and_then(Recorder::new);
    recorder.with_context(|| format!("cannot record to {}", path.display()))
}

/// Opens a recording.
fn open(path: &Path) -> Result<Recording<impl Read + use<>>> {
    let shown = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(shown)?;
    Recording::open(BufReader::new(file)).with_context(shown)
}

fn show(path: &Path, style: Style) -> Result<()> {
    let mut recording = open(path)?;
    let mut teller = Teller::new(style, None);
    loop {
        match recording.next_message() {
            Ok(Some(seen)) => teller.tell(&Event::Message { seen, lost: false }),
            Ok(None) => {
                teller.flush();
                return Ok(());
            }
            Err(error) => {
                teller.flush();
                return Err(error).with_context(|| format!("cannot read on in {}", path.display()));
            }
        }
    }
}
