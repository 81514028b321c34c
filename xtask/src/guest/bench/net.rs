//! Network cards of the machines, and the back ends behind them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use crate::bench::process::Running;
use crate::namespace::Namespace;
use crate::setup::prefix::Qemu;
use crate::setup::userland::Userland;
use crate::setup::{Arch, GuestProgram};

/// A network card as a scenario wants it.
#[derive(Debug, Clone)]
pub(in crate::guest) struct Nic {
    /// The longest packet that it tells the guest.
    pub(in crate::guest) mtu: Option<u16>,
    /// QEMU connects again when the back end went away.
    pub(in crate::guest) reconnect: bool,
    /// The last byte of its address.
    pub(in crate::guest) number: u8,
    /// Pairs of queues.
    pub(in crate::guest) pairs: u16,
    /// After a migration the guest tells the network itself where it is now, or its front end has the back end do it.
    pub(in crate::guest) announces: bool,
}

impl Default for Nic {
    fn default() -> Self {
        Self { mtu: None, reconnect: false, number: 0, pairs: 1, announces: true }
    }
}

impl Bench<'_> {
    /// Plugs a network card into the next machine, on the back end's `socket`.
    pub(in crate::guest) fn nic(&mut self, nic: &Nic, socket: &Path) {
        let card = self.devices.iter().filter(|word| *word == "-netdev").count();
        let mut chardev = format!("socket,id=net{card},path={}", socket.display());
        if nic.reconnect {
            chardev.push(',');
            chardev.push_str(self.scenario.qemu.reconnect());
        }
        let on = |is: bool| if is { "on" } else { "off" };
        let mut device = match self.scenario.arch {
            // QEMU 7 has a fault: without KVM it ends by SIGSEGV when the driver of a card on vhost-user enables MSI-X,
            // whatever the back end.
            Arch::X86 if self.scenario.qemu == Qemu::V7 && self.shared.accel == "tcg" => {
                "virtio-net-pci,romfile=,vectors=0".to_owned()
            }
            Arch::X86 => "virtio-net-pci,romfile=".to_owned(),
            Arch::Arm => "virtio-net-device".to_owned(),
        };
        device.push_str(&format!(",id=card{card},netdev=net{card},mac=52:54:00:12:34:{:02x}", nic.number));
        device.push_str(&format!(",packed={},mq={}", on(self.scenario.packed), on(nic.pairs > 1)));
        device.push_str(&format!(",guest_announce={}", on(nic.announces)));
        if let Some(mtu) = nic.mtu {
            device.push_str(&format!(",host_mtu={mtu}"));
        }
        let netdev = format!("vhost-user,id=net{card},chardev=net{card},queues={}", nic.pairs);
        self.devices.extend(["-chardev".to_owned(), chardev, "-netdev".to_owned(), netdev]);
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

    /// Starts a program that answers the guests; it ends with the scenario. Returns where its output goes.
    pub(in crate::guest) fn serve(&mut self, name: &str, command: Command) -> Result<PathBuf> {
        let log = self.directory.join(format!("{name}.log"));
        self.servers.push(Running::start(command, &log).context(name.to_owned())?);
        Ok(log)
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

    /// The same in one file, for others to start.
    pub(in crate::guest) fn host_script(&self, program: &str) -> Result<PathBuf> {
        let command = self.host_program(program)?;
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let path = self.directory.join("script");
        std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        Ok(path)
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
