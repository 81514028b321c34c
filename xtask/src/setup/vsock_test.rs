//! The kernel's own tests of AF_VSOCK, `tools/testing/vsock/vsock_test`, from Debian's source of Linux: fetched and built
//! only where a scenario runs them. Guests have them with everything linked in; on this machine they are loaded with what
//! gives them UNIX sockets for AF_VSOCK (`host-vsock`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::{Apt, Suite};
use super::{Arch, cached, newer, rustc};
use crate::workspace::{Workspace, output};

/// The package that depends on the release's source.
const PACKAGE: &str = "linux-source";
/// What is compiled, in its directory.
const SOURCES: [&str; 6] =
    ["vsock_test.c", "vsock_test_zerocopy.c", "timeout.c", "control.c", "util.c", "msg_zerocopy_common.c"];

/// What is loaded with it on this machine: where it is made from.
const PRELOADED: &str = "xtask/src/preload/host-vsock.rs";

/// Where it is.
pub(crate) fn program(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("vsock_test")
}

/// The same for this machine: its AF_VSOCK is the UNIX sockets of a device at `path`.
pub(crate) fn on_this_machine(workspace: &Workspace, path: &Path) -> Command {
    let mut command = Command::new(loaded(workspace));
    command.env("LD_PRELOAD", preloaded(workspace)).env("OUTBOARD_VSOCK_PATH", path);
    command
}

fn loaded(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("vsock_test.loaded")
}

fn preloaded(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("libhost_vsock.so")
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("vsock-test")
}

/// Fetches and builds it. Returns whether anything was done.
pub(crate) fn prepare(workspace: &Workspace, refresh: bool) -> Result<bool> {
    let key = format!("{} {PACKAGE}", Suite::Trixie.name());
    let fetched = cached(&directory(workspace), &key, refresh, |directory| {
        let apt = Apt::open(&workspace.cache, Suite::Trixie, Arch::X86)?;
        let unpacked = directory.join("package");
        apt.unpack_dependency(PACKAGE, "linux-source-", &unpacked)?;
        let source = directory.join("source");
        unpack(&unpacked.join("usr/src"), &source)?;
        std::fs::remove_dir_all(&unpacked)?;
        build(&source, &directory.join("vsock_test"), &["-static"])
    })?;
    Ok(prepare_for_this_machine(workspace)? || fetched)
}

fn prepare_for_this_machine(workspace: &Workspace) -> Result<bool> {
    let (loaded, preloaded) = (loaded(workspace), preloaded(workspace));
    let source = workspace.root.join(PRELOADED);
    if loaded.is_file() && newer(&preloaded, &source) {
        return Ok(false);
    }
    build(&directory(workspace).join("source"), &loaded, &[])?;
    let mut rustc = rustc();
    rustc.args(["--edition=2024", "-Copt-level=3", "--crate-type=cdylib", "--crate-name=host_vsock", "-o"]);
    output(rustc.arg(&preloaded).arg(&source)).context("building what is loaded with vsock_test")?;
    Ok(true)
}

/// Takes what the tests are built from out of the one archive in `packages`.
fn unpack(packages: &Path, source: &Path) -> Result<()> {
    let archives = std::fs::read_dir(packages)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_archive = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "xz");
    let archive = archives.iter().find(is_archive).context("the package has no archive")?;
    std::fs::create_dir_all(source)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--no-same-owner", "--wildcards", "--file"]).arg(archive);
    tar.arg("--directory").arg(source).args(["*/tools/testing/vsock", "*/tools/include"]);
    output(&mut tar)?;
    Ok(())
}

/// With more `options`: for guests everything is linked in, as they have no libraries.
fn build(source: &Path, program: &Path, options: &[&str]) -> Result<()> {
    let mut cc = Command::new("cc");
    cc.current_dir(source.join("tools/testing/vsock"));
    cc.args(options)
        .args(["-O2", "-w", "-D_GNU_SOURCE", "-I.", "-I../../include", "-o"])
        .arg(program)
        .args(SOURCES);
    output(&mut cc).context("building vsock_test")?;
    Ok(())
}
