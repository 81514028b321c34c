//! The back ends that the tools are run on: ours and other people's, each with
//! the command that starts it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::Result;
use tempfile::TempDir;

use super::load::{self, Load, SECONDS, SHARED_FILE};
use super::{Run, Tool};
use crate::peers::Peer;
use crate::workspace::Workspace;

/// The size of each disk, and of the file that is shared, in bytes.
const DISK: u64 = 64 << 20;

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
}

impl Subject {
    /// The command in one argument, as a shell takes it.
    pub(super) fn quoted(&self) -> String {
        let words = self.command.iter().map(|word| {
            let word = word.to_string_lossy();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:{}%+".contains(c);
            if !word.is_empty() && word.chars().all(is_plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// How `tool` is run for this back end.
    pub(super) fn runs(&self, tool: Tool, all: &[Self]) -> Vec<Run> {
        let options = match tool {
            // Its guess of the type is part of what is shown.
            Tool::Probe => vec!["--json"],
            Tool::Check => {
                let device = self.kind.iter().flat_map(|&kind| ["--device", kind]);
                ["--json", "--timeout", "2"].into_iter().chain(device).collect()
            }
            Tool::Bench => return self.measurements(all),
        };
        vec![Run { name: String::new(), arguments: self.arguments(&options) }]
    }

    /// Ours of a type is measured in turn with each of the others of that type;
    /// a type that we do not have, alone.
    fn measurements(&self, all: &[Self]) -> Vec<Run> {
        let Some(kind) = self.kind.filter(|_| !self.ours) else { return Vec::new() };
        let ours = all.iter().find(|other| other.ours && other.kind == Some(kind));
        let run = |load: &Load| {
            let mut options = vec![kind, "--json", "--time", SECONDS];
            options.extend(load.options);
            let theirs = self.quoted();
            let arguments = match ours {
                Some(ours) => {
                    options.extend(["--vs", &theirs]);
                    ours.arguments(&options)
                }
                None => self.arguments(&options),
            };
            Run { name: format!(".{}", load.name), arguments }
        };
        load::of(kind).iter().map(run).collect()
    }

    /// These options, then the command.
    fn arguments(&self, options: &[&str]) -> Vec<OsString> {
        let options = options.iter().chain(&["--"]).map(OsString::from);
        options.chain(self.command.iter().cloned()).collect()
    }
}

/// All back ends, ours first.
pub(super) fn all(workspace: &Workspace, files: &Files) -> Result<Vec<Subject>> {
    let ours = |name: &'static str, kind, options: &[&OsStr]| {
        let program = workspace.release_binary(name).into_os_string();
        let words = [OsStr::new("--socket-path"), OsStr::new("{socket}")];
        let command =
            std::iter::once(program).chain(words.iter().chain(options).map(OsString::from)).collect();
        Subject { name, version: env!("CARGO_PKG_VERSION").to_owned(), kind: Some(kind), ours: true, command }
    };
    let disk = files.disk("vhost-user-blk")?;
    let options = ["--blk-file".as_ref(), disk.as_os_str(), "--num-queues".as_ref(), "4".as_ref()];
    let looping: [&OsStr; 4] = ["--backend".as_ref(), "loop".as_ref(), "--pairs".as_ref(), "2".as_ref()];
    let mut subjects = vec![
        ours("vhost-user-blk", "blk", &options),
        ours("vhost-user-net", "net", &looping),
        ours("vhost-user-rng", "rng", &[]),
    ];
    let share = files.share()?;
    for peer in Peer::ALL {
        let kind = match peer {
            Peer::QemuStorageDaemon => Some("blk"),
            Peer::VhostDeviceRng => Some("rng"),
            Peer::VhostDeviceVsock => None,
            Peer::VhostDeviceScsi => Some("scsi"),
            Peer::Virtiofsd => Some("fs"),
            Peer::DpdkTestpmd => Some("net"),
        };
        let disk = files.disk(peer.name())?;
        subjects.push(Subject {
            name: peer.name(),
            version: peer.version(workspace)?,
            kind,
            ours: false,
            command: peer.command(workspace, &disk, &share)?,
        });
    }
    Ok(subjects)
}
