//! DPDK's testpmd, worked as by hand: on a terminal of its own, a command at a time. Trusts the program that we fetched;
//! what it prints is text to parse.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::peers;
use crate::workspace::Workspace;

/// What it says when it waits for a command.
const PROMPT: &str = "testpmd> ";

/// How long it may take to start, to do a command, and to end: it initialises memory, and other programs run.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it is started with.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The CPU of its packets; any, if none is given.
    pub(super) cpu: Option<usize>,
    /// Its interfaces, in the order of their numbers.
    pub(super) ports: Vec<String>,
    /// What it does with packets.
    pub(super) mode: &'static str,
    /// Pairs of queues of each interface.
    pub(super) pairs: u16,
    /// Bytes of each packet that it makes.
    pub(super) size: u16,
}

/// It runs.
pub(super) struct Testpmd {
    child: Child,
    terminal: File,
    heard: Receiver<String>,
    log: File,
    text: String,
}

/// What it has counted of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    /// Lost for want of its own buffers.
    pub(super) unbuffered: u64,
}

impl Testpmd {
    /// Starts it, and waits until it takes commands. What it says goes to `log`, too.
    pub(super) fn start(workspace: &Workspace, settings: &Settings, log: &Path) -> Result<Self> {
        let mut command = peers::testpmd(workspace, &["net_pcap", "net_vhost", "net_virtio"])?;
        let cpus = std::thread::available_parallelism()?.get();
        let all = format!("(0-{})", cpus - 1);
        let lane = settings.cpu.map_or_else(|| all.clone(), |cpu| cpu.to_string());
        command.arg("--lcores").arg(format!("0@{all},1@{lane}"));
        command.args(["-m", "160", "--no-pci", "--no-telemetry"]);
        command.args(if has_huge_pages() {
            ["--in-memory", "--single-file-segments"]
        } else {
            ["--no-huge", "--no-shconf"]
        });
        for port in &settings.ports {
            command.args(["--vdev", port]);
        }
        let pairs = settings.pairs.to_string();
        command.args(["--", "--interactive", "--nb-cores=1", "--no-mlockall", "--total-num-mbufs=16384"]);
        // What comes before it starts counts, too: a file of packets would be gone.
        command.arg("--no-flush-rx");
        command.args(["--rxd=256", "--txd=256", "--rxq", &pairs, "--txq", &pairs]);
        command.arg(format!("--forward-mode={}", settings.mode));
        command.arg(format!("--txpkts={}", settings.size));
        if settings.ports.len() == 2 {
            // Each sends to the other.
            command.args(["--eth-peer=0,02:00:00:00:00:02", "--eth-peer=1,02:00:00:00:00:01"]);
        }
        Self::spawn(command, log)
    }

    fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        // What it prints is flushed by lines only where it goes to a terminal.
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&ours)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = File::from(ioctl_tiocgptpeer(&ours, flags).context("opening a terminal")?);
        let stdio = || theirs.try_clone().map(Stdio::from);
        let child = command
            .stdin(stdio()?)
            .stdout(stdio()?)
            .stderr(stdio()?)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        // Whoever still has the terminal's other end keeps it from ending.
        drop((theirs, command));
        let terminal = File::from(ours);
        let mut read = terminal.try_clone()?;
        let (sender, heard) = mpsc::channel();
        // Ends with the program: a terminal without one fails.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len) = read.read(&mut buffer) {
                let piece = String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned();
                if len == 0 || sender.send(piece).is_err() {
                    break;
                }
            }
        });
        let mut testpmd = Self { child, terminal, heard, log: File::create(log)?, text: String::new() };
        testpmd.await_prompt()?;
        Ok(testpmd)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does a command; what it says to that.
    pub(super) fn command(&mut self, command: &str) -> Result<String> {
        self.terminal.write_all(format!("{command}\n").as_bytes())?;
        let said = self.await_prompt().with_context(|| command.to_owned())?;
        for wrong in ["Command not found", "Bad arguments", "Ambiguous command"] {
            ensure!(!said.contains(wrong), "testpmd: {command}: {wrong}");
        }
        Ok(said)
    }

    /// What it has counted.
    pub(super) fn port(&mut self, number: u16) -> Result<Port> {
        let said = self.command(&format!("show port stats {number}"))?;
        Port::parse(&said).with_context(|| format!("testpmd counts nothing: {said}"))
    }

    /// Ends it, which must go well.
    pub(super) fn quit(mut self) -> Result<()> {
        self.terminal.write_all(b"quit\n")?;
        let start = Instant::now();
        loop {
            // A full terminal would make it wait.
            while let Ok(piece) = self.heard.try_recv() {
                self.log.write_all(piece.as_bytes())?;
            }
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "testpmd ended with {status}");
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "testpmd does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes in what it says up to its next prompt.
    fn await_prompt(&mut self) -> Result<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((said, rest)) = self.text.split_once(PROMPT) {
                let (said, rest) = (said.to_owned(), rest.to_owned());
                self.text = rest;
                return Ok(said);
            }
            match self.heard.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(piece) => {
                    self.log.write_all(piece.as_bytes())?;
                    self.text.push_str(&piece);
                }
                Err(RecvTimeoutError::Timeout) => bail!("testpmd does not answer"),
                Err(RecvTimeoutError::Disconnected) => {
                    let last: Vec<_> = self.text.lines().rev().take(4).collect();
                    bail!("testpmd has ended: {}", last.into_iter().rev().collect::<Vec<_>>().join("; "))
                }
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Already gone after `quit`; either way there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Port {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let (_, rest) = text.split_once(name)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            received: field("RX-packets:")?,
            received_bytes: field("RX-bytes:")?,
            sent: field("TX-packets:")?,
            sent_bytes: field("TX-bytes:")?,
            unbuffered: field("RX-nombuf:")?,
        })
    }
}

/// What it lost at an interface for want of room in its ring, by what it said when it stopped.
pub(super) fn unsent(said: &str, port: u16) -> Option<u64> {
    let (_, rest) = said.split_once(&format!("Forward statistics for port {port}"))?;
    let (_, rest) = rest.split_once("TX-dropped:")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Whether two of it find the memory that they need in huge pages.
pub(super) fn has_huge_pages() -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (free, size) = (field("HugePages_Free:"), field("Hugepagesize:"));
    free.zip(size).is_some_and(|(free, size)| free * size >= 2 * 160 * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn port_of_what_is_said_has_all_counters() {
        let said = "\r\n  ######################## NIC statistics for port 0  ########################\r\n  \
            RX-packets: 10         RX-missed: 0          RX-bytes:  640\r\n  RX-errors: 0\r\n  \
            RX-nombuf:  1         \r\n  TX-packets: 20         TX-errors: 0          TX-bytes:  1280\r\n\r\n  \
            Throughput (since last show)\r\n  Rx-pps:            3          Rx-bps:         1536\r\n  \
            Tx-pps:            4          Tx-bps:         2048\r\n";
        let expected = Port { received: 10, received_bytes: 640, sent: 20, sent_bytes: 1280, unbuffered: 1 };
        assert_eq!(Port::parse(said).unwrap(), expected);
        assert_eq!(Port::parse("Invalid port 7"), None);
    }

    #[test]
    fn unsent_is_that_of_the_port() {
        let said = "  ------- Forward statistics for port 0  -----\r\n  RX-packets: 1 RX-dropped: 0  RX-total: 1\r\n  \
            TX-packets: 0              TX-dropped: 5             TX-total: 5\r\n  \
            ------- Forward statistics for port 1  -----\r\n  TX-packets: 0   TX-dropped: 7    TX-total: 7\r\n";
        assert_eq!((unsent(said, 0), unsent(said, 1), unsent(said, 2)), (Some(5), Some(7), None));
    }
}
