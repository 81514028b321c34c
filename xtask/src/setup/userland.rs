//! The programs inside the guests: busybox, the ext4 tools, blkdiscard and blkzone, ethtool and iperf3, from
//! Debian's packages of the guest's architecture. passt is there for this machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{Apt, Suite};
use super::prefix::Prefix;
use super::{Arch, cached};
use crate::workspace::Workspace;

const PACKAGES: [&str; 6] = ["busybox-static", "e2fsprogs", "ethtool", "iperf3", "passt", "util-linux"];

/// Programs that a guest gets besides busybox, by their place in the packages.
const PROGRAMS: [&str; 6] =
    ["sbin/mke2fs", "sbin/e2fsck", "sbin/blkdiscard", "sbin/blkzone", "bin/iperf3", "sbin/ethtool"];

/// The unpacked programs for one architecture.
#[derive(Debug, Clone)]
pub(crate) struct Userland {
    prefix: Prefix,
    arch: Arch,
}

impl Userland {
    /// Those in the cache.
    pub(crate) fn open(workspace: &Workspace, arch: Arch) -> Self {
        Self { prefix: Prefix::at(&directory(workspace, arch)), arch }
    }

    /// The files that the guest needs: place in the guest, and place here.
    pub(crate) fn guest_files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files = vec![("bin/busybox".to_owned(), self.busybox()?)];
        let mut needed = BTreeSet::new();
        for program in PROGRAMS {
            let path = self.prefix.find(program)?;
            self.libraries_of(&path, &mut needed)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((format!("programs/{name}"), path));
        }
        let loader = match self.arch {
            Arch::X86 => ("lib64", "ld-linux-x86-64.so.2"),
            Arch::Arm => ("lib", "ld-linux-aarch64.so.1"),
        };
        for name in &needed {
            files.push((format!("lib/{name}"), self.library(name)?));
        }
        files.push((format!("{}/{}", loader.0, loader.1), self.library(loader.1)?));
        Ok(files)
    }

    /// A command that runs one of these programs on this machine; only for
    /// [`Arch::X86`].
    pub(crate) fn host_command(&self, program: &str) -> Result<Command> {
        self.prefix.command(program)
    }

    /// Its busybox, which needs no libraries: it runs on this machine, too, if it is of its architecture.
    pub(crate) fn busybox(&self) -> Result<PathBuf> {
        self.prefix.find("bin/busybox")
    }

    fn library(&self, name: &str) -> Result<PathBuf> {
        self.prefix.find(&format!("lib/{}/{name}", self.arch.multiarch()))
    }

    /// Adds the names of the libraries that `program` needs, and those needed by
    /// them. A needed library's name stands in the file as a string of its own,
    /// which is all that has to be known about ELF here.
    fn libraries_of(&self, program: &Path, needed: &mut BTreeSet<String>) -> Result<()> {
        let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
        for word in bytes.split(|&byte| byte == 0) {
            let Ok(name) = std::str::from_utf8(word) else { continue };
            let is_name = name.starts_with("lib")
                && name.contains(".so.")
                && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
            if !is_name || needed.contains(name) {
                continue;
            }
            if let Ok(path) = self.library(name) {
                needed.insert(name.to_owned());
                self.libraries_of(&path, needed)?;
            }
        }
        Ok(())
    }
}

/// Fetches the programs. Returns whether anything was done.
pub(super) fn prepare(workspace: &Workspace, arch: Arch, refresh: bool) -> Result<bool> {
    let key = format!("{} {}", Suite::Trixie.name(), PACKAGES.join(" "));
    cached(&directory(workspace, arch), &key, refresh, |directory| {
        Apt::open(&workspace.cache, Suite::Trixie, arch)?.unpack_closure(&PACKAGES, directory)
    })
}

fn directory(workspace: &Workspace, arch: Arch) -> PathBuf {
    workspace.cache.join(format!("userland-{}", arch.debian()))
}
