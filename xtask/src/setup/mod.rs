//! `cargo xtask setup`: everything that the guest tests need, fetched once into
//! the cache directory.
//!
//! Nothing is installed on the machine and no privilege is needed: Debian
//! packages are downloaded and verified by `apt-get` under a configuration of
//! our own, and unpacked with `dpkg-deb -x` into one directory per purpose, so
//! that several versions of QEMU live side by side. Trusted: Debian's archive
//! keys as this machine has them, and whoever can write to the cache.

pub(crate) mod apt;
pub(crate) mod kernel;
pub(crate) mod prefix;
pub(crate) mod userland;
pub(crate) mod vsock_test;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::{Workspace, on_path, run};

/// The guest's (and Debian's) name of an architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Arch {
    /// x86-64, machine `q35`, devices on PCI.
    X86,
    /// 64-bit Arm, machine `virt`, devices on virtio-mmio.
    Arm,
}

impl Arch {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::X86, Self::Arm];

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86 => "amd64",
            Self::Arm => "arm64",
        }
    }

    /// The directory in which Debian's libraries of the architecture live.
    pub(crate) fn multiarch(self) -> &'static str {
        match self {
            Self::X86 => "x86_64-linux-gnu",
            Self::Arm => "aarch64-linux-gnu",
        }
    }
}

/// What `setup` is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Fetch again what is in the cache already.
    pub(crate) refresh: bool,
    /// Fetch Debian's kernels even where prebuilt ones exist.
    pub(crate) debian_kernels: bool,
}

/// Fills the cache; quick when there is nothing to do.
pub(crate) fn setup(workspace: &Workspace, options: Options) -> Result<()> {
    require_host()?;
    std::fs::create_dir_all(&workspace.cache)?;
    for version in prefix::Qemu::ALL {
        announced(&format!("QEMU {version}"), || prefix::prepare(workspace, version, options.refresh))?;
    }
    announced("nbdkit", || crate::storage::prepare(workspace, options.refresh))?;
    for arch in Arch::ALL {
        announced(&format!("guest programs, {}", arch.debian()), || {
            userland::prepare(workspace, arch, options.refresh)
        })?;
        announced(&format!("guest kernel, {}", arch.debian()), || kernel::prepare(workspace, arch, options))?;
    }
    for program in GuestProgram::ALL {
        announced(program.name(), || program.build(workspace))?;
    }
    Ok(())
}

/// A static program of ours that runs inside x86 guests, and beside them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GuestProgram {
    /// Writes to a disk, and verifies it.
    Writer,
    /// Sends over a network, and compares.
    Net,
    /// Connects by AF_VSOCK, and compares.
    Vsock,
    /// Is an input device.
    Uinput,
}

impl GuestProgram {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Writer, Self::Net, Self::Vsock, Self::Uinput];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Writer => "guest-writer",
            Self::Net => "guest-net",
            Self::Vsock => "guest-vsock",
            Self::Uinput => "guest-uinput",
        }
    }

    /// Where it is.
    pub(crate) fn path(self, workspace: &Workspace) -> PathBuf {
        workspace.cache.join(self.name())
    }

    /// Builds it. Returns whether there was anything to do.
    pub(crate) fn build(self, workspace: &Workspace) -> Result<bool> {
        let output = self.path(workspace);
        let source = workspace.root.join(format!("xtask/src/bin/{}.rs", self.name()));
        let digest = workspace.root.join("xtask/src/digest.rs");
        if newer(&output, &source) && newer(&output, &digest) {
            return Ok(false);
        }
        // One file without dependencies: the compiler alone builds it, with glibc
        // linked in, since other targets need not be installed.
        run(rustc()
            .args(["--edition=2024", "-Copt-level=3", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"])
            .arg(format!("--crate-name={}", self.name().replace('-', "_")))
            .args(["--crate-type=bin", "-Adead_code", "-o"])
            .arg(&output)
            .arg(&source))?;
        Ok(true)
    }
}

/// The compiler that is at work.
fn rustc() -> Command {
    Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
}

fn newer(output: &Path, source: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((modified(output), modified(source)), (Ok(output), Ok(source)) if output >= source)
}

pub(crate) fn require_host() -> Result<()> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        bail!("the guest tests run on an x86-64 Linux machine");
    }
    for tool in ["apt-get", "dpkg-deb", "xz"] {
        if !on_path(tool) {
            bail!("`{tool}` is missing: the guest tests take QEMU from Debian's packages");
        }
    }
    Ok(())
}

/// Runs one preparation and says what came of it. The preparation returns
/// whether it had anything to do.
pub(crate) fn announced(what: &str, prepare: impl FnOnce() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    if prepare()? {
        println!("  {what}: fetched in {:.1} s", start.elapsed().as_secs_f64());
    } else {
        println!("  {what}: ready");
    }
    Ok(())
}

/// Makes `directory` by `fill`, marked complete by a stamp that holds `key`.
/// Returns whether anything was done.
pub(crate) fn cached(
    directory: &Path,
    key: &str,
    refresh: bool,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<bool> {
    let stamp = directory.join(".complete");
    if !refresh && std::fs::read_to_string(&stamp).is_ok_and(|text| text == key) {
        return Ok(false);
    }
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    std::fs::create_dir_all(directory)?;
    fill(directory)?;
    std::fs::write(stamp, key)?;
    Ok(true)
}
