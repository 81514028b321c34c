//! Network cards of the machines, and the back ends behind them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use crate::bench::process::Running;
use crate::namespace::Namespace;
use crate::setup::userland::Userland;
use crate::setup::{Arch, GuestProgram};

/// A network card as a scenario wants it.
#[derive(Debug, Clone, Default)]
pub(in crate::guest) struct Nic {
    /// The longest packet that it tells the guest.
    pub(in crate::guest) mtu: Option<u16>,
    /// QEMU connects again when the back end went away.
    pub(in crate::guest) reconnect: bool,
    /// The last byte of its address.
    pub(in crate::guest) number: u8,
}

impl Bench<'_> {
    /// Plugs a network card into the next machine, on the back end's `socket`.
    pub(in crate::guest) fn nic(&mut self, nic: &Nic, socket: &Path) {
        let mut chardev = format!("socket,id=net0,path={}", socket.display());
        if nic.reconnect {
            chardev.push(',');
            chardev.push_str(self.scenario.qemu.reconnect());
        }
        let (name, rom) = match self.scenario.arch {
            Arch::X86 => ("virtio-net-pci", ",romfile="),
            Arch::Arm => ("virtio-net-device", ""),
        };
        let packed = if self.scenario.packed { "on" } else { "off" };
        let mut device =
            format!("{name},id=card0,netdev=net0,mac=52:54:00:12:34:{:02x},packed={packed}{rom}", nic.number);
        if let Some(mtu) = nic.mtu {
            device.push_str(&format!(",host_mtu={mtu}"));
        }
        self.devices.extend(["-chardev".to_owned(), chardev]);
        self.devices.extend(["-netdev".to_owned(), "vhost-user,id=net0,chardev=net0".to_owned()]);
        self.devices.extend(["-device".to_owned(), device]);
    }

    /// Starts our interface, with these options, and waits for its socket.
    pub(in crate::guest) fn start_net(&mut self, socket: &Path, command: Command) -> Result<()> {
        self.start(socket, move || {
            let mut again = Command::new(command.get_program());
            again.args(command.get_args());
            Ok(again)
        })
    }

    /// Our program, without options.
    pub(in crate::guest) fn net_program(&self) -> Command {
        Command::new(self.program("vhost-user-net"))
    }

    /// Starts a program that answers the guests; it ends with the scenario.
    pub(in crate::guest) fn serve(&mut self, name: &str, command: Command) -> Result<()> {
        let log = self.directory.join(format!("{name}.log"));
        self.servers.push(Running::start(command, &log).context(name.to_owned())?);
        Ok(())
    }

    /// The program that sends and compares.
    pub(in crate::guest) fn guest_net(&self, words: &[&str]) -> Command {
        let mut command = Command::new(GuestProgram::Net.path(&self.shared.workspace));
        command.args(words);
        command
    }

    /// A program of the guests, on this machine.
    pub(in crate::guest) fn host_program(&self, program: &str) -> Result<Command> {
        Userland::open(&self.shared.workspace, Arch::X86).host_command(program)
    }

    /// Plugs a network card into the next machine that has all features of its back end, and passes everything on to it:
    /// so many pairs of queues, and the control queue.
    pub(in crate::guest) fn bare_nic(&mut self, pairs: u16, socket: &Path) {
        let queues = 2 * pairs + 1;
        let device = format!(
            "vhost-user-test-device-pci,chardev=net0,virtio-id=1,num_vqs={queues},vq_size=256,config_size=24"
        );
        let chardev = format!("socket,id=net0,path={}", socket.display());
        self.devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device]);
    }

    /// A socket of the scenario.
    pub(in crate::guest) fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A new network.
    pub(in crate::guest) fn namespace(&self) -> Result<Namespace> {
        Namespace::new(&self.shared.workspace)
    }
}
