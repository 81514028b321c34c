//! QEMU in several versions, each unpacked with all its libraries under a
//! directory of its own and started through the dynamic loader in there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, Suite};
use super::{Arch, cached};
use crate::workspace::{Workspace, output};

/// A version of QEMU that the tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Qemu {
    /// 7.2, of Debian 12.
    V7,
    /// 10.0, of Debian 13.
    V10,
    /// 11, of Debian 13's backports.
    V11,
}

impl Qemu {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::V7, Self::V10, Self::V11];

    /// The version with this major number.
    pub(crate) fn from_major(major: u32) -> Option<Self> {
        match major {
            7 => Some(Self::V7),
            10 => Some(Self::V10),
            11 => Some(Self::V11),
            _ => None,
        }
    }

    /// The option of a socket character device that makes QEMU connect again,
    /// as often as the version can: every 100 ms, or every second.
    pub(crate) fn reconnect(self) -> &'static str {
        match self {
            Self::V7 => "reconnect=1",
            Self::V10 | Self::V11 => "reconnect-ms=100",
        }
    }

    fn suite(self) -> Suite {
        match self {
            Self::V7 => Suite::Bookworm,
            Self::V10 => Suite::Trixie,
            Self::V11 => Suite::TrixieBackports,
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::V7 => &["qemu-system-x86"],
            // qemu-utils: the storage daemon, the independent back end.
            Self::V10 | Self::V11 => &["qemu-system-x86", "qemu-system-arm", "qemu-utils"],
        }
    }
}

impl fmt::Display for Qemu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V7 => "7",
            Self::V10 => "10",
            Self::V11 => "11",
        })
    }
}

/// A directory that holds unpacked packages for this machine's architecture.
#[derive(Debug, Clone)]
pub(crate) struct Prefix(PathBuf);

impl Prefix {
    /// The prefix of a QEMU version.
    pub(crate) fn qemu(workspace: &Workspace, version: Qemu) -> Self {
        Self(workspace.cache.join(format!("qemu-{version}")))
    }

    /// A prefix at a given place.
    pub(crate) fn at(directory: &Path) -> Self {
        Self(directory.to_path_buf())
    }

    /// The path of `name` in `usr/`, or in the root beside it (before the two
    /// were merged, packages used both).
    pub(crate) fn find(&self, name: &str) -> Result<PathBuf> {
        [self.0.join("usr").join(name), self.0.join(name)]
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("no {name} under {}: run `cargo xtask setup`", self.0.display()))
    }

    /// A command that runs `program` (such as `bin/qemu-img`) with the
    /// prefix's own loader and libraries.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        self.command_with(program, &[])
    }

    /// The same with some more libraries (by path) loaded before it starts.
    pub(crate) fn command_with(&self, program: &str, preloaded: &[PathBuf]) -> Result<Command> {
        let program = self.find(program)?;
        let mut command = self.loader(preloaded)?;
        command.arg(program);
        Ok(command)
    }

    /// A command that runs a program from elsewhere with the prefix's own loader and libraries, these before the others.
    pub(crate) fn command_for(&self, program: &str, preloaded: &[PathBuf]) -> Result<Command> {
        let mut command = self.loader(preloaded)?;
        command.arg(program);
        Ok(command)
    }

    fn loader(&self, preloaded: &[PathBuf]) -> Result<Command> {
        let multiarch = Arch::X86.multiarch();
        let loader = self.find(&format!("lib/{multiarch}/ld-linux-x86-64.so.2"))?;
        let mut libraries = OsString::new();
        for directory in [self.0.join("usr/lib").join(multiarch), self.0.join("lib").join(multiarch)] {
            if directory.is_dir() {
                if !libraries.is_empty() {
                    libraries.push(":");
                }
                libraries.push(directory);
            }
        }
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(libraries);
        if !preloaded.is_empty() {
            let words: Vec<&OsStr> = preloaded.iter().map(|path| path.as_os_str()).collect();
            command.arg("--preload").arg(words.join(OsStr::new(" ")));
        }
        Ok(command)
    }

    /// A command that runs QEMU for `arch`, with this prefix's firmware and
    /// modules.
    pub(crate) fn system(&self, arch: Arch) -> Result<Command> {
        let mut command = self.command(match arch {
            Arch::X86 => "bin/qemu-system-x86_64",
            Arch::Arm => "bin/qemu-system-aarch64",
        })?;
        command.env("QEMU_MODULE_DIR", self.find(&format!("lib/{}/qemu", Arch::X86.multiarch()))?);
        for directory in ["share/qemu", "share/seabios", "lib/ipxe/qemu"] {
            if let Ok(path) = self.find(directory) {
                command.arg("-L").arg(path);
            }
        }
        Ok(command)
    }
}

/// Fetches a version of QEMU. Returns whether anything was done.
pub(crate) fn prepare(workspace: &Workspace, version: Qemu, refresh: bool) -> Result<bool> {
    let prefix = Prefix::qemu(workspace, version);
    let packages = version.packages();
    let key = format!("{} {}", version.suite().name(), packages.join(" "));
    cached(&prefix.0, &key, refresh, |directory| {
        Apt::open(&workspace.cache, version.suite(), Arch::X86)?.unpack_closure(packages, directory)?;
        let said = output(prefix.system(Arch::X86)?.arg("--version"))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        if !said.contains(&format!("version {version}.")) {
            bail!("expected QEMU {version}, but {} has: {}", version.suite().name(), said.trim());
        }
        Ok(())
    })
}
