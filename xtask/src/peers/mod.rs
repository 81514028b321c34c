//! Other people's back ends, as real processes: what is fetched of them, and how
//! each is started. Fetched by `cargo xtask peers` into the cache, and no part of
//! the tests.

mod fio;
mod install;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::prefix::{Prefix, Qemu};
use crate::workspace::Workspace;

pub(crate) use self::fio::Fio;
pub(crate) use self::install::{Options, install, install_testpmd};

/// A back end of somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// QEMU's, with a disk.
    QemuStorageDaemon,
    /// The rust-vmm project's, with an entropy source.
    VhostDeviceRng,
    /// The rust-vmm project's, with sockets.
    VhostDeviceVsock,
    /// The rust-vmm project's, with SCSI disks.
    VhostDeviceScsi,
    /// The virtio-fs project's, with a file system.
    Virtiofsd,
    /// DPDK's vhost port, with a network interface.
    DpdkTestpmd,
}

impl Peer {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::QemuStorageDaemon,
        Self::VhostDeviceRng,
        Self::VhostDeviceVsock,
        Self::VhostDeviceScsi,
        Self::Virtiofsd,
        Self::DpdkTestpmd,
    ];

    /// What its program is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::QemuStorageDaemon => "qemu-storage-daemon",
            Self::VhostDeviceRng => "vhost-device-rng",
            Self::VhostDeviceVsock => "vhost-device-vsock",
            Self::VhostDeviceScsi => "vhost-device-scsi",
            Self::Virtiofsd => "virtiofsd",
            Self::DpdkTestpmd => "dpdk-testpmd",
        }
    }

    /// The words that start it on the socket `{socket}`, as `outboard` takes
    /// them: a disk is `image`, a shared directory is `directory`.
    pub(crate) fn command(
        self,
        workspace: &Workspace,
        image: &Path,
        directory: &Path,
    ) -> Result<Vec<OsString>> {
        let mut command = self.program(workspace)?;
        match self {
            Self::QemuStorageDaemon => command
                .arg("--blockdev")
                .arg(format!("driver=file,node-name=disk,cache.direct=off,filename={}", image.display()))
                .arg("--export")
                .arg("type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues=4,addr.type=unix,addr.path={socket}"),
            // It adds the socket's number, 0, by itself.
            Self::VhostDeviceRng => command.args(["--socket-path", "{stem}"]),
            Self::VhostDeviceVsock => {
                command.args(["--guest-cid", "3", "--socket", "{socket}", "--uds-path", "{socket}.vsock"])
            }
            Self::VhostDeviceScsi => command.args(["--socket-path", "{socket}"]).arg(image),
            Self::Virtiofsd => command
                .args(["--socket-path", "{socket}", "--sandbox", "none", "--shared-dir"])
                .arg(directory),
            // What is sent comes back. The statistics, once in an hour, stand
            // for a terminal: at the end of its input it would end.
            Self::DpdkTestpmd => command.args([
                "-l",
                "0,1",
                "--no-huge",
                "-m",
                "128",
                "--no-pci",
                "--no-shconf",
                "--no-telemetry",
                "--vdev",
                "net_vhost0,iface={socket}",
                "--",
                "--forward-mode=io",
                "--auto-start",
                "--stats-period=3600",
                "--no-mlockall",
                "--total-num-mbufs=4096",
            ]),
        };
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Ok(words.map(OsString::from).collect())
    }

    /// Its version, as it tells.
    pub(crate) fn version(self, workspace: &Workspace) -> Result<String> {
        let mut command = self.program(workspace)?;
        let mark = match (self.source(), self) {
            (Source::Crate(version), _) => return Ok(version.to_owned()),
            (Source::Qemu(_), _) => {
                command.arg("--version");
                "version "
            }
            (Source::Debian(_), _) => {
                command.args(["-v", "--no-huge", "-m", "16", "--no-pci", "--no-shconf", "--no-telemetry"]);
                command.args(["--", "--help"]);
                "RTE Version: 'DPDK "
            }
        };
        let output = command.output().with_context(|| format!("starting {}", self.name()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let Some((_, rest)) = text.split_once(mark) else {
            bail!("{} does not tell its version: {}", self.name(), text.trim());
        };
        let is_end = |c: char| c.is_whitespace() || c == '\'';
        Ok(rest.split(is_end).next().unwrap_or_default().to_owned())
    }

    /// Where it comes from.
    fn source(self) -> Source {
        match self {
            Self::QemuStorageDaemon => Source::Qemu(Qemu::V11),
            Self::VhostDeviceRng | Self::VhostDeviceScsi => Source::Crate("0.1.0"),
            Self::VhostDeviceVsock => Source::Crate("0.3.0"),
            Self::Virtiofsd => Source::Crate("1.14.0"),
            Self::DpdkTestpmd => Source::Debian(&[
                "dpdk-dev",
                "librte-mempool-ring25",
                "librte-net-pcap25",
                "librte-net-vhost25",
                "librte-net-virtio25",
            ]),
        }
    }

    fn directory(self, workspace: &Workspace) -> PathBuf {
        workspace.cache.join("peers").join(self.name())
    }

    /// What starts the program, without options.
    fn program(self, workspace: &Workspace) -> Result<Command> {
        let directory = self.directory(workspace);
        match self.source() {
            Source::Qemu(version) => Prefix::qemu(workspace, version).command("bin/qemu-storage-daemon"),
            Source::Crate(_) => {
                let program = directory.join("bin").join(self.name());
                if !program.is_file() {
                    bail!("no {}: run `cargo xtask peers`", program.display());
                }
                Ok(Command::new(program))
            }
            Source::Debian(_) => dpdk(&Prefix::at(&directory), &["net_vhost"]),
        }
    }
}

/// DPDK's testpmd with these of its drivers, without options.
pub(crate) fn testpmd(workspace: &Workspace, drivers: &[&str]) -> Result<Command> {
    dpdk(&Prefix::at(&Peer::DpdkTestpmd.directory(workspace)), drivers)
}

/// DPDK loads its drivers from a fixed place of the system, or with `-d` from a
/// place that nobody else may write to, all the way up; so the loader does it.
fn dpdk(prefix: &Prefix, drivers: &[&str]) -> Result<Command> {
    let directory = format!("lib/{}", crate::setup::Arch::X86.multiarch());
    let find = |name: &&str| {
        let path = format!("{directory}/librte_{name}.so.25");
        prefix.find(&path).context("run `cargo xtask peers --only dpdk-testpmd`")
    };
    let drivers = ["bus_vdev", "mempool_ring"].iter().chain(drivers).map(find).collect::<Result<Vec<_>>>()?;
    prefix.command_with("bin/dpdk-testpmd", &drivers)
}

/// Where a peer comes from.
enum Source {
    /// A package that the tests' QEMU comes with.
    Qemu(Qemu),
    /// The crates registry, in this version.
    Crate(&'static str),
    /// Packages of Debian 13.
    Debian(&'static [&'static str]),
}
