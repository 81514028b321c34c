//! What stands behind the disks that are measured.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::digest::mix;

/// The size of a disk in memory.
pub(super) const RAM: &str = "128M";

/// What a disk's content is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Target {
    /// The back end's own memory
    Ram,
    /// A file on tmpfs
    Tmpfs,
    /// A file on a disk, in the page cache
    Cached,
    /// A file on a disk, past the page cache (O_DIRECT)
    Direct,
}

impl Target {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Ram, Self::Tmpfs, Self::Cached, Self::Direct];

    /// As on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Tmpfs => "tmpfs",
            Self::Cached => "cached",
            Self::Direct => "direct",
        }
    }

    /// In headings.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ram => "Memory of the back end",
            Self::Tmpfs => "A file on tmpfs",
            Self::Cached => "A file in the page cache",
            Self::Direct => "A file past the page cache (O_DIRECT)",
        }
    }
}

/// The files behind the disks; removed with this value.
pub(super) struct Files {
    /// For sockets, logs, and settings of the back ends.
    directory: TempDir,
    memory: TempDir,
    disk: TempDir,
}

impl Files {
    /// Writes the files that `targets` need, `size` bytes each.
    pub(super) fn create(on_disk: &Path, size: u64, targets: &[Target]) -> Result<Self> {
        std::fs::create_dir_all(on_disk).with_context(|| on_disk.display().to_string())?;
        let builder = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("outboard-");
            builder
        };
        let files = Self {
            directory: builder().tempdir()?,
            memory: builder().tempdir_in("/dev/shm").context("making files on tmpfs, in /dev/shm")?,
            disk: builder().tempdir_in(on_disk)?,
        };
        for &target in targets {
            if let Some(path) = files.path(target) {
                write(&path, size).with_context(|| format!("writing {}", path.display()))?;
            }
        }
        Ok(files)
    }

    /// Where sockets and logs go.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The file behind a disk, if it is one.
    pub(super) fn path(&self, target: Target) -> Option<PathBuf> {
        match target {
            Target::Ram => None,
            Target::Tmpfs => Some(self.memory.path().join("tmpfs.img")),
            Target::Cached => Some(self.disk.path().join("cached.img")),
            Target::Direct => Some(self.disk.path().join("direct.img")),
        }
    }
}

/// Content everywhere, none of it like other content: no hole, and nothing that a disk could leave out.
fn write(path: &Path, size: u64) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut piece = Vec::new();
    for start in (0..size).step_by(PIECE as usize) {
        piece.clear();
        for word in (start..(start + PIECE).min(size)).step_by(8) {
            piece.extend(mix(word).to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    Ok(())
}
