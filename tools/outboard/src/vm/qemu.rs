//! QEMU: where it is, which version, and the command line that wires a machine to the back ends.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::BackEnd;
use super::device::stub;
use super::machine::{Accelerator, Machine, Memory, Transport};
use crate::run::Device;

/// Since this version a socket connects again after milliseconds; before, after seconds (`reconnect`, which was
/// deprecated then).
const MILLISECONDS: (u32, u32) = (9, 2);
/// Where distributions that hide it have the one QEMU for the host's own architecture.
const HIDDEN: &str = "/usr/libexec/qemu-kvm";

/// A QEMU.
#[derive(Debug)]
pub(super) struct Qemu {
    program: PathBuf,
    /// Major and minor, if it says so.
    version: Option<(u32, u32)>,
}

/// All of the machine but its back ends.
#[derive(Debug)]
pub(super) struct Wiring<'a> {
    pub(super) machine: Machine,
    pub(super) transport: Transport,
    pub(super) accelerator: Accelerator,
    pub(super) memory: Memory,
    pub(super) processors: u16,
    pub(super) kernel: Option<&'a Path>,
    pub(super) initrd: Option<&'a Path>,
    pub(super) append: Option<&'a OsStr>,
    pub(super) extra: &'a [OsString],
}

/// The chosen QEMU, or the installed one that emulates the machine.
///
/// # Errors
/// There is none, or it does not run.
pub(super) fn find(chosen: Option<&Path>, machine: Machine) -> Result<Qemu> {
    let usual = Qemu::recent(chosen, machine).program;
    let mut candidates = vec![usual.clone()];
    if chosen.is_none() && machine.architecture() == std::env::consts::ARCH {
        candidates.push(HIDDEN.into());
    }
    for program in candidates {
        let said = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
        match said {
            Ok(said) if said.status.success() => {
                return Ok(Qemu { program, version: version(&String::from_utf8_lossy(&said.stdout)) });
            }
            Ok(said) => {
                let error = String::from_utf8_lossy(&said.stderr).trim().to_owned();
                bail!("{} --version failed ({}): {error}", program.display(), said.status);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot run {}", program.display())),
        }
    }
    if chosen.is_some() {
        bail!("there is no {}", usual.display());
    }
    let (debian, others) = match machine {
        Machine::Q35 | Machine::Microvm => ("qemu-system-x86", "qemu-system-x86_64"),
        Machine::Virt => ("qemu-system-arm", "qemu-system-aarch64"),
    };
    bail!(
        "there is no {} in the PATH: install QEMU 7.2 or later (Debian, Ubuntu: {debian}; Fedora, Alpine: {others}; \
         Arch: {}; RHEL: qemu-kvm), or name it with --qemu",
        usual.display(),
        if machine == Machine::Virt { others } else { debian },
    )
}

/// The version in what `--version` prints.
fn version(said: &str) -> Option<(u32, u32)> {
    let (_, rest) = said.split_once("version ")?;
    let mut numbers = rest.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl Qemu {
    /// The QEMU that would be used, if it is not there to be asked: taken to be recent.
    pub(super) fn recent(chosen: Option<&Path>, machine: Machine) -> Self {
        let usual = || format!("qemu-system-{}", machine.architecture()).into();
        Self { program: chosen.map_or_else(usual, Path::to_path_buf), version: None }
    }

    /// The whole command line, the program first.
    pub(super) fn command_line(&self, wiring: &Wiring<'_>, back_ends: &[BackEnd]) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![self.program.clone().into()];
        let mut add = |option: &str, value: &OsStr| line.extend([option.into(), value.to_owned()]);
        let memory = wiring.memory;
        add("-machine", format!("{},memory-backend=mem", wiring.machine).as_ref());
        let (accelerator, processor) = match wiring.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg => ("tcg", "max"),
        };
        add("-accel", accelerator.as_ref());
        add("-cpu", processor.as_ref());
        add("-smp", wiring.processors.to_string().as_ref());
        add("-m", memory.to_string().as_ref());
        // The back ends read and write the guest's memory: it has to be a file that is shared with them.
        add("-object", format!("memory-backend-memfd,id=mem,size={memory},share=on").as_ref());
        add("-nic", "none".as_ref());
        if wiring.transport == Transport::Mmio {
            // The transport of VIRTIO 1.x, which the back ends insist on.
            add("-global", "virtio-mmio.force-legacy=false".as_ref());
        }
        for back_end in back_ends {
            add("-chardev", self.socket(back_end).as_ref());
            if let Some(network) = network(back_end) {
                add("-netdev", network.as_ref());
            }
            add("-device", card(back_end, wiring.transport).as_ref());
        }
        if let Some(kernel) = wiring.kernel {
            add("-kernel", kernel.as_os_str());
            if let Some(initrd) = wiring.initrd {
                add("-initrd", initrd.as_os_str());
            }
            let console = OsString::from(format!("console={}", wiring.machine.console()));
            add("-append", wiring.append.unwrap_or(&console));
        }
        line.push("-nographic".into());
        line.extend_from_slice(wiring.extra);
        line
    }

    /// The character device of a back end's socket.
    fn socket(&self, back_end: &BackEnd) -> String {
        // QEMU's way to have a comma in a value.
        let path = back_end.socket.replace(',', ",,");
        let again = match self.version {
            _ if !stub(back_end.device).reconnects => "",
            Some(version) if version < MILLISECONDS => ",reconnect=1",
            _ => ",reconnect-ms=500",
        };
        format!("socket,id={},path={path}{again}", back_end.name)
    }
}

/// The stub that the guest sees.
pub(super) fn card(back_end: &BackEnd, transport: Transport) -> String {
    let stub = stub(back_end.device);
    let [pci, mmio] = stub.names;
    let name = match transport {
        Transport::Pci => pci,
        Transport::Mmio => mmio,
    };
    let behind = if stub.is_network { "netdev" } else { "chardev" };
    let queues = match back_end.queues {
        // A vector for each queue, one for changes of the configuration, one for the control queue.
        Some(pairs) if stub.is_network && transport == Transport::Pci => {
            format!(",mq=on,vectors={}", 2 * u32::from(pairs) + 2)
        }
        Some(_) if stub.is_network => ",mq=on".to_owned(),
        Some(queues) if back_end.device == Device::Console => format!(",num_vqs={queues}"),
        Some(queues) => format!(",num-queues={queues}"),
        None => String::new(),
    };
    format!("{name},id={id},{behind}={id}{queues}", id = back_end.name)
}

/// The network between the card and the socket, if there is to be one. Names of each kind are their own.
pub(super) fn network(back_end: &BackEnd) -> Option<String> {
    let id = &back_end.name;
    let queues = back_end.queues.map(|pairs| format!(",queues={pairs}")).unwrap_or_default();
    stub(back_end.device).is_network.then(|| format!("vhost-user,id={id},chardev={id}{queues}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_of_several_pairs_has_them_in_all_places() {
        let back_end = |queues| BackEnd {
            name: "net0".to_owned(),
            device: Device::Net,
            socket: String::new(),
            args: Vec::new(),
            queues,
        };
        let [one, two] = [back_end(None), back_end(Some(2))];
        assert_eq!(network(&one).unwrap(), "vhost-user,id=net0,chardev=net0");
        assert_eq!(network(&two).unwrap(), "vhost-user,id=net0,chardev=net0,queues=2");
        assert_eq!(card(&one, Transport::Pci), "virtio-net-pci,id=net0,netdev=net0");
        assert_eq!(card(&two, Transport::Pci), "virtio-net-pci,id=net0,netdev=net0,mq=on,vectors=6");
        assert_eq!(card(&two, Transport::Mmio), "virtio-net-device,id=net0,netdev=net0,mq=on");
    }

    #[test]
    fn version_is_found_in_what_qemu_says() {
        let debian =
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022";
        assert_eq!(version(debian), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 10.0.13"), Some((10, 0)));
        assert_eq!(version("QEMU emulator version 9.2\n"), Some((9, 2)));
        for other in ["", "version", "version x.y", "BusyBox v1.37"] {
            assert_eq!(version(other), None);
        }
    }
}
