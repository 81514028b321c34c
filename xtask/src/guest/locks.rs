//! Image locks: our disks and QEMU's programs keep each other out, whoever comes first.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use super::Peers;
use super::bench::{Bench, Blk};
use super::process::BackEnd;
use super::qmp::Qmp;

/// Pairs of users that must not be, and some that may.
pub(super) fn blk_locks(bench: &mut Bench) -> Result<()> {
    let image = bench.blk(&Blk::default())?;
    we_write(bench, &image)?;
    bench.stop_back_ends()?;
    ensure!(qemu_writes(bench, &image)?.status.success(), "our lock outlived our program");

    let image = bench.blk(&Blk { read_only: true, ..Blk::default() })?;
    ensure!(qemu_reads(bench, &image, &[])?.status.success(), "two readers do not share the image");
    we_are_refused_nothing(bench, &image, &["--read-only"])?;
    qemu_is_refused(&qemu_writes(bench, &image)?)?;
    bench.stop_back_ends()?;

    storage_daemon_writes(bench, &image)?;
    machine_reads(bench, &image)
}

fn we_write(bench: &mut Bench, image: &Path) -> Result<()> {
    qemu_is_refused(&qemu_writes(bench, image)?)?;
    we_are_refused(bench, image, &[])?;
    we_are_refused(bench, image, &["--read-only"])?;
    we_are_refused_nothing(bench, image, &["--locking", "off"])?;
    ensure!(qemu_reads(bench, image, &["-U"])?.status.success(), "QEMU does not share what we write");
    bench.back_end()?.kill()?;
    bench.back_end()?.restart().context("the killed program still has the lock")
}

fn storage_daemon_writes(bench: &Bench, image: &Path) -> Result<()> {
    let (prefix, socket) = (bench.prefix(), bench.directory().join("daemon.sock"));
    let (image_name, listen) = (image.display().to_string(), socket.display().to_string());
    let command =
        move || {
            let mut command = prefix.command("bin/qemu-storage-daemon")?;
            command.args(["--blockdev", &format!("driver=file,node-name=file,filename={image_name}")]);
            command.args(["--blockdev", "driver=raw,node-name=disk,file=file"]);
            command.args(["--export", &format!(
            "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={listen},writable=on"
        )]);
            Ok(command)
        };
    let mut daemon = BackEnd::start(command, &socket, &bench.directory().join("daemon.log"))?;
    we_are_refused(bench, image, &[])?;
    we_are_refused(bench, image, &["--read-only"])?;
    daemon.kill()?;
    we_are_refused_nothing(bench, image, &[])
}

/// A disk that is only read, in a machine that shares it with no writer.
fn machine_reads(bench: &Bench, image: &Path) -> Result<()> {
    let (prefix, socket) = (bench.prefix(), bench.directory().join("machine.sock"));
    let (image_name, listen) = (image.display().to_string(), socket.display().to_string());
    let command = move || {
        let mut command = prefix.system(crate::setup::Arch::X86)?;
        command.args(["-S", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg"]);
        command
            .args(["-blockdev", &format!("driver=file,node-name=disk,read-only=on,filename={image_name}")]);
        command.args(["-device", "virtio-blk-pci,drive=disk"]);
        command.args(["-qmp", &format!("unix:{listen},server=on,wait=off")]);
        Ok(command)
    };
    let mut machine = BackEnd::start(command, &socket, &bench.directory().join("machine.log"))?;
    // It answers when all of it is there.
    Qmp::connect(&socket)?;
    we_are_refused(bench, image, &[])?;
    we_are_refused_nothing(bench, image, &["--read-only"])?;
    machine.kill()
}

fn ours(bench: &Bench, image: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(bench.program("vhost-user-blk"));
    command.arg("--socket-path").arg(bench.directory().join("second.sock"));
    command.arg("--blk-file").arg(image).args(args);
    command
}

fn we_are_refused(bench: &Bench, image: &Path, args: &[&str]) -> Result<()> {
    let ours = ours(bench, image, args);
    // If it is not, it serves until it is ended.
    let said = Command::new("timeout").arg("10").arg(ours.get_program()).args(ours.get_args()).output()?;
    let error = String::from_utf8_lossy(&said.stderr);
    let told = error.contains("cannot lock") && error.contains("(process ");
    ensure!(said.status.code() == Some(1) && told, "{args:?} is not refused for the lock: {error}");
    Ok(())
}

fn we_are_refused_nothing(bench: &Bench, image: &Path, args: &[&str]) -> Result<()> {
    let (directory, image) = (bench.directory(), image.to_path_buf());
    let arguments: Vec<String> = ours(bench, &image, args)
        .get_args()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let program = bench.program("vhost-user-blk");
    let command = move || {
        let mut command = Command::new(&program);
        command.args(&arguments);
        Ok(command)
    };
    let second = BackEnd::start(command, &directory.join("second.sock"), &directory.join("second.log"));
    second.and_then(|second| second.stop(Peers::Ours)).with_context(|| format!("with {args:?}"))
}

fn qemu_writes(bench: &Bench, image: &Path) -> Result<Output> {
    qemu_io(bench, image, &["-c", "write -P 7 0 4096"])
}

fn qemu_reads(bench: &Bench, image: &Path, args: &[&str]) -> Result<Output> {
    qemu_io(bench, image, &[args, &["-r", "-c", "read 0 4096"]].concat())
}

fn qemu_io(bench: &Bench, image: &Path, args: &[&str]) -> Result<Output> {
    Ok(bench.prefix().command("bin/qemu-io")?.args(["-f", "raw"]).args(args).arg(image).output()?)
}

fn qemu_is_refused(said: &Output) -> Result<()> {
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(!said.status.success() && error.contains("lock"), "QEMU is not refused for the lock: {error}");
    Ok(())
}
