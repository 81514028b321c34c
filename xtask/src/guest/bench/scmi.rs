//! SCMI devices, which a machine's device tree has to name.

use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use crate::guest::scmi::device_tree;
use crate::workspace::output;

impl Bench<'_> {
    /// Plugs in an SCMI device whose program gets these options.
    pub(in crate::guest) fn scmi(&mut self, options: &[&str]) -> Result<()> {
        let socket = self.directory.join("scmi.sock");
        let (program, listen) = (self.program("vhost-user-scmi"), socket.clone());
        let (control, drive) = (self.control(), self.directory.join("drive.sock"));
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        self.start(&socket, move || {
            let mut command = Command::new(&program);
            command.arg("--socket-path").arg(&listen).arg("--control").arg(&control);
            command.arg("--drive").arg(&drive).args(&options);
            Ok(command)
        })?;
        // QEMU's own device for this knows nothing of packed rings.
        let device = if self.scenario.packed {
            "vhost-user-test-device-pci,chardev=scmi0,virtio-id=32,num_vqs=2,vq_size=256,config_size=0"
        } else {
            "vhost-user-scmi-pci,chardev=scmi0"
        };
        let chardev = format!("socket,id=scmi0,path={}", socket.display());
        self.devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device.to_owned()]);

        let (plain, tree) = (self.directory.join("machine.dtb"), self.directory.join("scmi.dtb"));
        let mut command = self.prefix().system(self.scenario.arch)?;
        command.arg("-machine").arg(format!("virt,dumpdtb={}", plain.display()));
        command.args(["-cpu", "cortex-a57", "-m", "256", "-smp", "1", "-nodefaults", "-display", "none"]);
        output(&mut command).context("QEMU's device tree")?;
        std::fs::write(&tree, device_tree(&std::fs::read(&plain)?)?)?;
        self.devices.extend(["-dtb".to_owned(), tree.display().to_string()]);
        Ok(())
    }
}
