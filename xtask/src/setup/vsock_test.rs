//! The kernel's own tests of AF_VSOCK, `tools/testing/vsock/vsock_test`, from Debian's source of Linux: fetched and built
//! only where a scenario runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::{Apt, Suite};
use super::{Arch, cached};
use crate::workspace::{Workspace, output};

/// The package that depends on the release's source.
const PACKAGE: &str = "linux-source";
/// What is compiled, in its directory.
const SOURCES: [&str; 6] =
    ["vsock_test.c", "vsock_test_zerocopy.c", "timeout.c", "control.c", "util.c", "msg_zerocopy_common.c"];

/// Where it is.
pub(crate) fn program(workspace: &Workspace) -> PathBuf {
    directory(workspace).join("vsock_test")
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("vsock-test")
}

/// Fetches and builds it. Returns whether anything was done.
pub(crate) fn prepare(workspace: &Workspace, refresh: bool) -> Result<bool> {
    let key = format!("{} {PACKAGE}", Suite::Trixie.name());
    cached(&directory(workspace), &key, refresh, |directory| {
        let apt = Apt::open(&workspace.cache, Suite::Trixie, Arch::X86)?;
        let unpacked = directory.join("package");
        apt.unpack_dependency(PACKAGE, "linux-source-", &unpacked)?;
        let source = directory.join("source");
        unpack(&unpacked.join("usr/src"), &source)?;
        std::fs::remove_dir_all(&unpacked)?;
        build(&source, &directory.join("vsock_test"))
    })
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

/// Everything is linked in: the guests have no libraries.
fn build(source: &Path, program: &Path) -> Result<()> {
    let mut cc = Command::new("cc");
    cc.current_dir(source.join("tools/testing/vsock"));
    cc.args(["-static", "-O2", "-w", "-D_GNU_SOURCE", "-I.", "-I../../include", "-o"])
        .arg(program)
        .args(SOURCES);
    output(&mut cc).context("building vsock_test")?;
    Ok(())
}
