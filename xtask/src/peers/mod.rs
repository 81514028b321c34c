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

/// Where the console's peer listens for who sits at it.
const CONSOLE_PORT: &str = "47311";

/// A virtual machine that has what a back end serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    /// Devices, as QEMU takes them.
    pub(crate) devices: &'static [&'static str],
    /// What its shell does before anything else.
    pub(crate) prepare: &'static str,
}

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
    /// The rust-vmm project's, with a console.
    VhostDeviceConsole,
    /// The rust-vmm project's, with lines of a chip.
    VhostDeviceGpio,
    /// The rust-vmm project's, with chips of an adapter.
    VhostDeviceI2c,
    /// The rust-vmm project's, with an input device.
    VhostDeviceInput,
    /// The rust-vmm project's, with simulated sensors.
    VhostDeviceScmi,
    /// The virtio-fs project's, with a file system.
    Virtiofsd,
    /// DPDK's vhost port, with a network interface.
    DpdkTestpmd,
}

impl Peer {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::QemuStorageDaemon,
        Self::VhostDeviceRng,
        Self::VhostDeviceVsock,
        Self::VhostDeviceScsi,
        Self::VhostDeviceConsole,
        Self::VhostDeviceGpio,
        Self::VhostDeviceI2c,
        Self::VhostDeviceInput,
        Self::VhostDeviceScmi,
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
            Self::VhostDeviceConsole => "vhost-device-console",
            Self::VhostDeviceGpio => "vhost-device-gpio",
            Self::VhostDeviceI2c => "vhost-device-i2c",
            Self::VhostDeviceInput => "vhost-device-input",
            Self::VhostDeviceScmi => "vhost-device-scmi",
            Self::Virtiofsd => "virtiofsd",
            Self::DpdkTestpmd => "dpdk-testpmd",
        }
    }

    /// The words that start it on the socket `{socket}`, as `outboard` takes
    /// them: a disk is `image`; what is shared, a sensor's attributes, or the sockets `vm` of a guest, lie in `directory`.
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
            Self::VhostDeviceVsock => command
                .args(["--guest-cid", "3", "--socket", "{socket}", "--uds-path"])
                .arg(directory.join("vm")),
            Self::VhostDeviceScsi => command.args(["--socket-path", "{socket}"]).arg(image),
            Self::VhostDeviceConsole => {
                command.args(["--socket-path", "{stem}", "--backend", "network", "--tcp-port", CONSOLE_PORT])
            }
            Self::VhostDeviceGpio => command.args(["--socket-path", "{stem}", "--device-list", "0"]),
            Self::VhostDeviceI2c => {
                command.args(["--socket-path", "{stem}", "--device-list", "SMBus stub driver:48:49"])
            }
            Self::VhostDeviceInput => {
                command.args(["--socket-path", "{stem}", "--event-list", "/dev/input/event0"])
            }
            Self::VhostDeviceScmi => command
                .args(["--socket-path", "{socket}", "--device"])
                .arg(format!("iio,path={},channel=in_accel", directory.display())),
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
            Self::VhostDeviceRng
            | Self::VhostDeviceScsi
            | Self::VhostDeviceConsole
            | Self::VhostDeviceGpio
            | Self::VhostDeviceI2c
            | Self::VhostDeviceInput => Source::Crate("0.1.0"),
            Self::VhostDeviceScmi => Source::Crate("0.4.0"),
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

    /// The machine that it runs in, if it serves nothing but what few kernels have.
    pub(crate) fn machine(self) -> Option<Machine> {
        match self {
            Self::VhostDeviceGpio => Some(Machine {
                devices: &[],
                prepare: "insmod /modules/gpio-sim.ko\n\
                          mount -t configfs configfs /sys/kernel/config\n\
                          mkdir -p /sys/kernel/config/gpio-sim/test/bank\n\
                          echo 8 >/sys/kernel/config/gpio-sim/test/bank/num_lines\n\
                          echo 1 >/sys/kernel/config/gpio-sim/test/live\n\
                          wait_for /dev/gpiochip0\n",
            }),
            Self::VhostDeviceI2c => Some(Machine {
                devices: &[],
                prepare: "insmod /modules/i2c-stub.ko chip_addr=0x30,0x31\nwait_for /dev/i2c-0\n",
            }),
            Self::VhostDeviceInput => Some(Machine {
                devices: &["-device", "virtio-keyboard-pci"],
                prepare: "wait_for /dev/input/event0\n",
            }),
            _ => None,
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
