//! Our interface, as a process, and what it says that it has done.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::bench::process::Running;
use crate::control::{command_for, command_to};

/// How long it may take to make its sockets, to take what is in its rings, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// It runs.
pub(super) struct Ours {
    running: Running,
    control: PathBuf,
}

/// What it has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// What was agreed with the front end.
    pub(super) features: u64,
    /// Taken from the front end, and passed on.
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    /// Taken, and dropped by the front end's fault, or the host's.
    pub(super) refused: u64,
    /// Taken, and dropped since there was no link.
    pub(super) unlinked: u64,
    /// In the front end's buffers.
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    /// Not in them.
    pub(super) dropped: u64,
}

impl Ours {
    /// Starts `command`, which makes `sockets` and takes commands at `control`.
    pub(super) fn start(command: Command, sockets: &[PathBuf], control: &Path, log: &Path) -> Result<Self> {
        let mut running = Running::start(command, log)?;
        let start = Instant::now();
        // A file may be there before anybody listens.
        while !(sockets.iter().all(|socket| socket.exists()) && UnixStream::connect(control).is_ok()) {
            let ended = running.ended()?.is_some();
            if ended || start.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("our program makes no sockets: {}", said.lines().last().unwrap_or("it said nothing"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self { running, control: control.to_path_buf() })
    }

    /// CPU time so far, in seconds.
    pub(super) fn cpu(&self) -> f64 {
        self.running.cpu()
    }

    /// What its devices have counted, in their order.
    pub(super) fn counted(&self) -> Result<Vec<Counted>> {
        let status = command_to(&self.control, "status", &json!({}))?;
        let devices = status.as_array().with_context(|| format!("no list of devices: {status}"))?;
        let counted: Option<Vec<_>> = devices.iter().map(Counted::parse).collect();
        counted.with_context(|| format!("a status without its counters: {status}"))
    }

    /// The same once packets stand still. Of those that have no link, some are tried again and again.
    pub(super) fn settled(&self) -> Result<Vec<Counted>> {
        let start = Instant::now();
        let mut last = self.counted()?;
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let next = self.counted()?;
            let stand = |counted: &Counted| Counted { dropped: 0, ..*counted };
            if next.iter().map(stand).eq(last.iter().map(stand)) {
                return Ok(next);
            }
            ensure!(start.elapsed() < PATIENCE, "our counters do not come to rest");
            last = next;
        }
    }

    /// Takes the link away, or gives it back.
    pub(super) fn link(&self, up: bool) -> Result<()> {
        let devices = command_to(&self.control, "devices", &json!({}))?;
        for device in devices.as_array().into_iter().flatten() {
            let name = device.get("name").and_then(Value::as_str).context("a device without a name")?;
            command_for(&self.control, name, "link", &json!({ "up": up }))?;
        }
        Ok(())
    }

    /// Ends it, which must go well.
    pub(super) fn stop(self) -> Result<()> {
        let status = self.running.ask_to_end(PATIENCE)?;
        ensure!(status.success(), "asked to end, our program left with {status}");
        Ok(())
    }
}

impl Counted {
    fn parse(status: &Value) -> Option<Self> {
        let device = status.get("device")?;
        let number = |way: &str, name: &str| device.get(way)?.get(name)?.as_u64();
        let sum = |way: &str, name: &str| {
            let all = device.get(way)?.get(name)?.as_object()?;
            all.values().map(Value::as_u64).sum::<Option<u64>>()
        };
        let features = status.get("features").and_then(Value::as_str).unwrap_or("0x0");
        Some(Self {
            features: u64::from_str_radix(features.trim_start_matches("0x"), 16).ok()?,
            sent: number("tx", "packets")?,
            sent_bytes: number("tx", "bytes")?,
            refused: sum("tx", "refused")? + number("tx", "host_refused")?,
            unlinked: number("tx", "link_down")?,
            received: number("rx", "packets")?,
            received_bytes: number("rx", "bytes")?,
            dropped: sum("rx", "dropped")?,
        })
    }
}
