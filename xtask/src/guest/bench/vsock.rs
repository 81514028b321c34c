//! Socket devices of the machines, and the back ends behind them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Bench;
use crate::bench::process::Running;
use crate::setup::vsock_test;

/// Which of QEMU's devices a guest has its sockets by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::guest) enum Stub {
    /// The one that is made for it. It keeps the queue of events, and packed rings, to itself.
    Own,
    /// The one for tests, which passes everything on.
    Bare,
}

impl Bench<'_> {
    /// Plugs in a socket device of context id 3, with a service that gives everything back at port 7, and port 13 denied;
    /// the path that programs of the host are reached by.
    pub(in crate::guest) fn vsock(&mut self, stub: Stub) -> Result<PathBuf> {
        let socket = self.directory.join("vsock.sock");
        let path = self.directory.join("vm");
        let program = self.program("vhost-user-vsock");
        let (listen, at, control) = (socket.clone(), path.clone(), self.control());
        let packed = self.packed();
        self.start(&socket, move || {
            let mut command = Command::new(&program);
            command.arg("--socket-path").arg(&listen).arg("--control").arg(&control);
            command.args(["--guest-cid", "3"]).arg("--uds-path").arg(&at);
            command.args(["--service", "7=echo", "--service", "13=echo", "--deny", "13"]);
            command.args((!packed).then_some("--no-packed"));
            Ok(command)
        })?;
        self.plug_vsock(&socket, stub);
        Ok(path)
    }

    /// Starts one program for two guests, of context ids 3 and 4, which may talk to each other; their sockets.
    pub(in crate::guest) fn vsock_siblings(&mut self) -> Result<[PathBuf; 2]> {
        let sockets = ["left.sock", "right.sock"].map(|name| self.directory.join(name));
        let program = self.program("vhost-user-vsock");
        let devices = [(3, "left"), (4, "right")].map(|(cid, name)| {
            let socket = self.directory.join(format!("{name}.sock"));
            format!("name={name},socket-path={},guest-cid={cid},group=pair", socket.display())
        });
        // The last one that is made.
        self.start(&sockets[1], move || {
            let mut command = Command::new(&program);
            for device in &devices {
                command.arg("--device").arg(device);
            }
            Ok(command)
        })?;
        Ok(sockets)
    }

    /// Plugs a socket device into the next machine, on the back end's `socket`.
    pub(in crate::guest) fn plug_vsock(&mut self, socket: &Path, stub: Stub) {
        let chardev = format!("socket,id=vsock0,path={}", socket.display());
        let device = match stub {
            Stub::Own => format!("{},chardev=vsock0", self.device_name("vhost-user-vsock")),
            Stub::Bare => {
                "vhost-user-test-device-pci,chardev=vsock0,virtio-id=19,num_vqs=3,vq_size=256,config_size=8"
                    .to_owned()
            }
        };
        self.devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device]);
    }

    /// Plugs one end of a wire into the next machine: a network card of QEMU's own. The first machine listens.
    pub(in crate::guest) fn wire(&mut self, at: &Path, listens: bool) {
        let mut end = format!("stream,id=wire0,addr.type=unix,addr.path={}", at.display());
        if listens {
            end.push_str(",server=on");
        } else {
            end.push_str(",server=off,");
            end.push_str(self.scenario.qemu.reconnect());
        }
        let card =
            format!("virtio-net-pci,romfile=,netdev=wire0,mac=52:54:00:12:34:0{}", u8::from(listens) + 1);
        self.devices.extend(["-netdev".to_owned(), end, "-device".to_owned(), card]);
    }

    /// Plugs a card into the next machine with a network that QEMU makes up: this machine's loopback interface is at
    /// 10.0.2.2, the guest is to be at 10.0.2.15, and connections to the port `from` here go to its port `to`.
    pub(in crate::guest) fn user_network(&mut self, from: u16, to: u16) {
        let network = format!("user,id=user0,ipv6=off,hostfwd=tcp:127.0.0.1:{from}-10.0.2.15:{to}");
        let card = "virtio-net-pci,romfile=,netdev=user0";
        self.devices.extend(["-netdev", &network, "-device", card].map(str::to_owned));
    }

    /// Starts the kernel's tests on this machine, in one of their roles, with the guest of a device that is at `path`. They
    /// agree on their steps with those of the guest by the port `control` of the loopback interface.
    pub(in crate::guest) fn vsock_test(&self, path: &Path, role: &str, control: u16) -> Result<Running> {
        let mut command = vsock_test::on_this_machine(&self.shared.workspace, path);
        command.args(["--control-host=127.0.0.1", "--peer-cid=3"]);
        command.args([format!("--mode={role}"), format!("--control-port={control}")]);
        Running::start(command, &self.directory.join(format!("{role}.log")))
    }
}
