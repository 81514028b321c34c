//! The back ends that the tools are run on: ours and other people's, each with
//! the command that starts it.

use std::ffi::OsString;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::load::{self, Load, SECONDS, SHARED_FILE};
use super::{Run, Tool};
use crate::peers::{Machine, Peer};
use crate::workspace::{Workspace, quoted};

/// The size of each disk, and of the file that is shared, in bytes.
const DISK: u64 = 64 << 20;
/// The port of the host that gives back what it is sent.
const ECHO: &str = "7";

/// What the back ends have to serve; removed with this value.
pub(super) struct Files {
    directory: TempDir,
}

impl Files {
    /// In memory where the system has a place for that, so that back ends are
    /// compared and not disks.
    pub(super) fn create() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("outboard-");
        let directory = if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? };
        Ok(Self { directory })
    }

    /// A disk of zeroes for `name` alone.
    fn disk(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(format!("{name}.img"));
        std::fs::File::create(&path)?.set_len(DISK)?;
        Ok(path)
    }

    /// A directory to share, with a file of zeroes in it.
    fn share(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("share");
        std::fs::create_dir_all(&path)?;
        std::fs::File::create(path.join(SHARED_FILE))?.set_len(DISK)?;
        Ok(path)
    }

    /// A directory as the kernel has one for an accelerometer.
    fn accelerometer(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("accelerometer");
        std::fs::create_dir_all(&path)?;
        for axis in ["x", "y", "z"] {
            std::fs::write(path.join(format!("in_accel_{axis}_raw")), "100\n")?;
        }
        Ok(path)
    }

    /// A directory where a program of the host listens, as long as this process runs, that gives back what it is sent: at
    /// [`ECHO`] of the guest whose sockets are called `vm`.
    fn sockets(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("sockets");
        std::fs::create_dir_all(&path)?;
        let listener = UnixListener::bind(path.join(format!("vm_{ECHO}")))?;
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                thread::spawn(move || give_back(&stream));
            }
        });
        Ok(path)
    }
}

/// Gives back what comes.
fn give_back(stream: &UnixStream) {
    let (mut from, mut to) = (stream, stream);
    // Who is gone wants nothing back.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = stream.shutdown(Shutdown::Write);
}

/// A back end.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// What the tools call its type, where they know it.
    pub(super) kind: Option<&'static str>,
    pub(super) ours: bool,
    pub(super) command: Vec<OsString>,
    /// Where it runs, if not here.
    pub(super) machine: Option<Machine>,
}

impl Subject {
    /// The command in one argument, as a shell takes it.
    pub(super) fn quoted(&self) -> String {
        self.command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    }

    /// How `tool` is run for this back end.
    pub(super) fn runs(&self, tool: Tool, all: &[Self]) -> Vec<Run> {
        let options = match tool {
            // Its guess of the type is part of what is shown.
            Tool::Probe => vec!["--json"],
            Tool::Check => {
                let device = self.kind.iter().flat_map(|&kind| ["--device", kind]);
                let echo = (self.kind == Some("vsock")).then_some(["--vsock-echo", ECHO]);
                let all = ["--json", "--timeout", self.patience()].into_iter().chain(device);
                all.chain(echo.into_iter().flatten()).collect()
            }
            Tool::Bench => return self.measurements(all),
        };
        let options = options.into_iter().map(OsString::from).collect();
        vec![Run { name: String::new(), options, command: self.command.clone() }]
    }

    /// How long it is waited for, in seconds.
    fn patience(&self) -> &'static str {
        if self.machine.is_some() { "5" } else { "2" }
    }

    /// Ours of a type is measured in turn with each of the others of that type;
    /// a type that we do not have, alone.
    fn measurements(&self, all: &[Self]) -> Vec<Run> {
        let Some(kind) = self.kind.filter(|_| !self.ours) else { return Vec::new() };
        let ours = all.iter().find(|other| other.ours && other.kind == Some(kind));
        let run = |load: &Load| {
            let mut options: Vec<OsString> = [kind, "--json", "--time", SECONDS].map(OsString::from).into();
            options.extend(load.options.iter().map(OsString::from));
            options.extend(ours.iter().flat_map(|_| ["--vs".into(), self.quoted().into()]));
            let command = ours.unwrap_or(self).command.clone();
            Run { name: format!(".{}", load.name), options, command }
        };
        load::of(kind).iter().map(run).collect()
    }
}

/// All back ends, ours first.
pub(super) fn all(workspace: &Workspace, files: &Files) -> Result<Vec<Subject>> {
    let ours = |name: &'static str, kind, options: &[&str]| {
        let program = workspace.release_binary(name).into_os_string();
        let words = ["--socket-path", "{socket}"];
        let words = words.iter().chain(options).map(OsString::from);
        Subject {
            name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kind: Some(kind),
            ours: true,
            command: std::iter::once(program).chain(words).collect(),
            machine: None,
        }
    };
    let disk = files.disk("vhost-user-blk")?;
    let disk = disk.to_str().context("a path that is no text")?;
    let mut subjects = vec![
        // Some checks start it while it runs.
        ours("vhost-user-blk", "blk", &["--blk-file", disk, "--num-queues", "4", "--locking", "off"]),
        ours("vhost-user-net", "net", &["--backend", "loop", "--pairs", "2"]),
        ours("vhost-user-rng", "rng", &[]),
        ours("vhost-user-console", "console", &[]),
        ours("vhost-user-gpio", "gpio", &["--simulate", "8"]),
        ours("vhost-user-i2c", "i2c", &["--simulate", "registers:16@0x30", "--simulate", "eeprom@0x50"]),
        ours("vhost-user-input", "input", &[]),
        ours("vhost-user-scmi", "scmi", &[]),
        ours(
            "vhost-user-vsock",
            "vsock",
            &["--guest-cid", "3", "--uds-path", "{socket}.vsock", "--service", &format!("{ECHO}=echo")],
        ),
    ];
    let (share, accelerometer, sockets) = (files.share()?, files.accelerometer()?, files.sockets()?);
    for peer in Peer::ALL {
        let kind = match peer {
            Peer::QemuStorageDaemon => Some("blk"),
            Peer::VhostDeviceRng => Some("rng"),
            Peer::VhostDeviceVsock => Some("vsock"),
            Peer::VhostDeviceScsi => Some("scsi"),
            Peer::VhostDeviceConsole => Some("console"),
            Peer::VhostDeviceGpio => Some("gpio"),
            Peer::VhostDeviceI2c => Some("i2c"),
            Peer::VhostDeviceInput => Some("input"),
            Peer::VhostDeviceScmi => Some("scmi"),
            Peer::Virtiofsd => Some("fs"),
            Peer::DpdkTestpmd => Some("net"),
        };
        let disk = files.disk(peer.name())?;
        let directory = match peer {
            Peer::VhostDeviceScmi => &accelerometer,
            Peer::VhostDeviceVsock => &sockets,
            _ => &share,
        };
        subjects.push(Subject {
            name: peer.name(),
            version: peer.version(workspace)?,
            kind,
            ours: false,
            command: peer.command(workspace, &disk, directory)?,
            machine: peer.machine(),
        });
    }
    Ok(subjects)
}
