//! The guests' initial file system: everything that a guest runs is in it, so
//! that no program is ever executed from a device under test (a translating
//! QEMU does not see pages that another process writes, and would run stale
//! code).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use crate::setup::kernel::Kernel;
use crate::setup::userland::Userland;
use crate::setup::{Arch, GuestProgram, vsock_test};
use crate::workspace::{Workspace, output};

const INIT: &str = include_str!("scripts/init.sh");
const SCRIPTS: &[(&str, &str)] = &[
    ("lib.sh", include_str!("scripts/lib.sh")),
    ("inner.sh", include_str!("scripts/inner.sh")),
    ("console.sh", include_str!("scripts/console.sh")),
    ("console-reboot.sh", include_str!("scripts/console-reboot.sh")),
    ("login.sh", include_str!("scripts/login.sh")),
    ("gpio.sh", include_str!("scripts/gpio.sh")),
    ("gpio-host.sh", include_str!("scripts/gpio-host.sh")),
    ("i2c.sh", include_str!("scripts/i2c.sh")),
    ("i2c-host.sh", include_str!("scripts/i2c-host.sh")),
    ("input.sh", include_str!("scripts/input.sh")),
    ("input-inside.sh", include_str!("scripts/input-inside.sh")),
    ("input-uinput.sh", include_str!("scripts/input-uinput.sh")),
    ("net.sh", include_str!("scripts/net.sh")),
    ("net-generic.sh", include_str!("scripts/net-generic.sh")),
    ("net-left.sh", include_str!("scripts/net-left.sh")),
    ("net-life.sh", include_str!("scripts/net-life.sh")),
    ("net-migrate.sh", include_str!("scripts/net-migrate.sh")),
    ("net-mmio.sh", include_str!("scripts/net-mmio.sh")),
    ("net-passt.sh", include_str!("scripts/net-passt.sh")),
    ("net-ports.sh", include_str!("scripts/net-ports.sh")),
    ("net-queues.sh", include_str!("scripts/net-queues.sh")),
    ("net-right.sh", include_str!("scripts/net-right.sh")),
    ("net-rss.sh", include_str!("scripts/net-rss.sh")),
    ("net-tap.sh", include_str!("scripts/net-tap.sh")),
    ("net-user.sh", include_str!("scripts/net-user.sh")),
    ("net-vlans.sh", include_str!("scripts/net-vlans.sh")),
    ("rng.sh", include_str!("scripts/rng.sh")),
    ("scmi.sh", include_str!("scripts/scmi.sh")),
    ("scmi-host.sh", include_str!("scripts/scmi-host.sh")),
    ("typist.sh", include_str!("scripts/typist.sh")),
    ("blk.sh", include_str!("scripts/blk.sh")),
    ("blk-read-only.sh", include_str!("scripts/blk-read-only.sh")),
    ("blk-reboot.sh", include_str!("scripts/blk-reboot.sh")),
    ("blk-host.sh", include_str!("scripts/blk-host.sh")),
    ("blk-zoned.sh", include_str!("scripts/blk-zoned.sh")),
    ("blk-torture.sh", include_str!("scripts/blk-torture.sh")),
    ("blk-write.sh", include_str!("scripts/blk-write.sh")),
    ("vsock.sh", include_str!("scripts/vsock.sh")),
    ("vsock-host.sh", include_str!("scripts/vsock-host.sh")),
    ("vsock-generic.sh", include_str!("scripts/vsock-generic.sh")),
    ("vsock-pause.sh", include_str!("scripts/vsock-pause.sh")),
    ("vsock-test.sh", include_str!("scripts/vsock-test.sh")),
    ("vsock-test-unix.sh", include_str!("scripts/vsock-test-unix.sh")),
    ("vsock-tests.sh", include_str!("scripts/vsock-tests.sh")),
];

/// Writes the initial file system for guests of `arch` into `directory`.
pub(super) fn build(workspace: &Workspace, arch: Arch, kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    build_with(workspace, arch, kernel, directory, Vec::new())
}

/// The same with more files: place in the guest, and content.
pub(super) fn build_with(
    workspace: &Workspace,
    arch: Arch,
    kernel: &Kernel,
    directory: &Path,
    mut files: Vec<(String, Vec<u8>)>,
) -> Result<PathBuf> {
    files.push(("init".to_owned(), INIT.into()));
    for &(name, text) in SCRIPTS {
        files.push((format!("scenario/{name}"), text.into()));
    }
    for (name, path) in Userland::open(workspace, arch).guest_files()? {
        files.push((name, read(&path)?));
    }
    let mut order = String::new();
    for path in &kernel.modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        order.push_str(&format!("{name}\n"));
        files.push((format!("modules/{name}"), read(path)?));
    }
    for path in &kernel.on_demand {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.push((format!("modules/{name}"), read(path)?));
    }
    files.push(("modules/order".to_owned(), order.into()));
    if arch == Arch::X86 {
        for program in GuestProgram::ALL {
            files.push((program.name().to_owned(), read(&program.path(workspace))?));
        }
        // Fetched only where it runs.
        let tests = vsock_test::program(workspace);
        if tests.is_file() {
            files.push(("vsock_test".to_owned(), read(&tests)?));
        }
        let programs = [
            "vhost-user-blk",
            "vhost-user-gpio",
            "vhost-user-i2c",
            "vhost-user-input",
            "vhost-user-scmi",
            "vhost-user-vsock",
            "examples/zones",
            "examples/gpio",
            "examples/i2c",
            "examples/input",
            "examples/scmi",
            "examples/vsock",
        ]
        .map(|name| workspace.release_binary(name));
        for path in programs.iter().filter(|path| path.is_file()) {
            files.extend(with_libraries(path)?);
        }
    }

    // Several programs may need the same library.
    files.sort();
    files.dedup_by(|(one, _), (other, _)| one == other);
    let mut archive = Archive::default();
    let mut directories = BTreeSet::from([PathBuf::from("dev")]);
    for (name, _) in &files {
        directories.extend(Path::new(name).ancestors().skip(1).map(Path::to_path_buf));
    }
    for directory in directories.iter().filter(|directory| !directory.as_os_str().is_empty()) {
        archive.directory(&directory.to_string_lossy());
    }
    // The first program's terminal, before there is a devtmpfs.
    archive.device("dev/console", 5, 1);
    for (name, content) in &files {
        archive.file(name, content);
    }
    let path = directory.join(format!("initramfs-{}.cpio", arch.debian()));
    std::fs::write(&path, archive.finish())?;
    Ok(path)
}

/// A program of this machine, for a guest of its architecture, with this machine's libraries: they go to `host`.
pub(super) fn with_libraries(program: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let listed = output(Command::new("ldd").arg(program))?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let paths = libraries.chain([program.to_path_buf()]);
    paths
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((format!("host/{name}"), read(&path)?))
        })
        .collect()
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} (run `cargo xtask setup`)", path.display()))
}
