//! `cargo xtask storage`: disks on the NBD servers of others, nbdkit and qemu-nbd, as real processes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::apt::{Apt, Suite};
use crate::setup::prefix::{Prefix, Qemu};
use crate::setup::{self, Arch, cached};
use crate::workspace::{Workspace, output, run};

/// nbdkit, and what makes its certificates.
const PACKAGES: [&str; 2] = ["nbdkit", "openssl"];

/// Fetches nbdkit. Returns whether anything was done.
pub(crate) fn prepare(workspace: &Workspace, refresh: bool) -> Result<bool> {
    let key = format!("{} {}", Suite::Trixie.name(), PACKAGES.join(" "));
    cached(&directory(workspace), &key, refresh, |directory| {
        Apt::open(&workspace.cache, Suite::Trixie, Arch::X86)?.unpack_closure(&PACKAGES, directory)
    })
}

/// Runs the tests of the disk that want these servers.
pub(crate) fn storage(workspace: &Workspace) -> Result<()> {
    std::fs::create_dir_all(&workspace.cache)?;
    setup::announced("nbdkit", || prepare(workspace, false))?;
    setup::announced("qemu-nbd", || setup::prefix::prepare(workspace, Qemu::V11, false))?;
    let prefix = Prefix::at(&directory(workspace));
    let certificates = tempfile::tempdir()?;
    certify(&prefix, certificates.path())?;
    let program = ["sbin/nbdkit", "bin/nbdkit"].into_iter().find(|name| prefix.find(name).is_ok());
    let mut nbdkit = prefix.command(program.context("the package nbdkit has no nbdkit")?)?;
    nbdkit.args(["--foreground", "--unix={socket}"]);
    let qemu = Prefix::qemu(workspace, Qemu::V11);
    let modules = prefix.find(&format!("lib/{}/nbdkit", Arch::X86.multiarch()))?;
    run(workspace
        .cargo()
        .args(["test", "--quiet", "-p", "outboard-blk", "--lib", "--", "--ignored", "nbd"])
        .env("OUTBOARD_NBDKIT", words(&nbdkit))
        .env("OUTBOARD_NBDKIT_MODULES", modules)
        .env("OUTBOARD_QEMU_NBD", words(&qemu.command("bin/qemu-nbd")?))
        .env("OUTBOARD_QEMU_IMG", words(&qemu.command("bin/qemu-img")?))
        .env("OUTBOARD_PKI", certificates.path()))
}

/// The words of a command, one on each line.
pub(crate) fn words(command: &Command) -> OsString {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    words.join("\n".as_ref())
}

/// An authority, and a certificate of it for the server, by the names that nbdkit and libnbd want.
fn certify(prefix: &Prefix, directory: &Path) -> Result<()> {
    let openssl = |arguments: &[&str]| {
        let mut command = prefix.command("bin/openssl")?;
        output(command.args(arguments).env("OPENSSL_CONF", "/dev/null").current_dir(directory))
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = [
        &["req", "-x509", "-subj", "/CN=outboard", "-days", "30"][..],
        &["-addext", "basicConstraints=critical,CA:TRUE"],
        &["-keyout", "ca-key.pem", "-out", "ca-cert.pem"],
        &key,
    ];
    openssl(&authority.concat())?;
    let request = [
        &["req", "-new", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"][..],
        &["-keyout", "server-key.pem", "-out", "server.csr"],
        &key,
    ];
    openssl(&request.concat())?;
    let certificate = [
        &["x509", "-req", "-in", "server.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem"][..],
        &["-copy_extensions", "copyall", "-days", "30", "-out", "server-cert.pem"],
    ];
    openssl(&certificate.concat()).map(|_| ())
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("nbdkit")
}
