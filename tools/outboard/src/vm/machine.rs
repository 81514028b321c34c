//! The machine that QEMU emulates, as far as the wiring of the devices depends on it.

use std::ffi::OsStr;
use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;

use crate::size::Size;

/// Kinds of machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Machine {
    /// x86_64, a PC with PCI Express
    #[value(name = "q35")]
    Q35,
    /// x86_64, without PCI: starts fast
    #[value(name = "microvm")]
    Microvm,
    /// Arm (aarch64), or RISC-V with its QEMU
    #[value(name = "virt")]
    Virt,
}

/// How a guest finds its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Transport {
    /// PCI cards
    Pci,
    /// Registers at fixed addresses (virtio-mmio)
    Mmio,
}

/// What runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Accelerator {
    /// The processor
    Kvm,
    /// A translator, for any processor
    Tcg,
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
            Self::Virt => "virt",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pci => "PCI",
            Self::Mmio => "virtio-mmio",
        })
    }
}

impl Machine {
    /// The transport that suits it.
    pub(super) fn transport(self) -> Transport {
        match self {
            Self::Q35 | Self::Virt => Transport::Pci,
            Self::Microvm => Transport::Mmio,
        }
    }

    /// Whether it can have devices on the transport.
    pub(super) fn has(self, transport: Transport) -> bool {
        match self {
            Self::Q35 => transport == Transport::Pci,
            Self::Microvm => transport == Transport::Mmio,
            Self::Virt => true,
        }
    }

    /// The processor architecture, as in the names of QEMU's programs.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::Q35 | Self::Microvm => "x86_64",
            Self::Virt => "aarch64",
        }
    }

    /// What Linux calls the serial line that is on the terminal.
    pub(super) fn console(self) -> &'static str {
        match self {
            Self::Q35 | Self::Microvm => "ttyS0",
            Self::Virt => "ttyAMA0",
        }
    }
}

/// The machine that the user chose, or else the usual one of the chosen QEMU, or of this host.
pub(super) fn choose(machine: Option<Machine>, qemu: Option<&Path>) -> Machine {
    let named = qemu.and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    let foreign = ["aarch64", "riscv64", "arm64"].iter().any(|architecture| named.ends_with(architecture));
    let home = cfg!(target_arch = "x86_64") || named.ends_with("x86_64");
    machine.unwrap_or(if home && !foreign { Machine::Q35 } else { Machine::Virt })
}

/// KVM where this host can run the machine on it: its architecture, with hardware that virtualizes.
pub(super) fn accelerator(machine: Machine) -> Accelerator {
    let ours = machine.architecture() == std::env::consts::ARCH;
    let hardware = !cfg!(target_arch = "x86_64")
        || std::fs::read_to_string("/proc/cpuinfo")
            .is_ok_and(|text| text.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"));
    let usable = || OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if ours && hardware && usable() { Accelerator::Kvm } else { Accelerator::Tcg }
}

/// An amount of guest memory, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory(u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Without a suffix in MiB, like QEMU's -m.
        let Size(bytes) = Size::parse(text, 20)?;
        if bytes == 0 || !bytes.is_multiple_of(1 << 20) {
            return Err("memory comes in MiB".to_owned());
        }
        Ok(Self(bytes >> 20))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}M", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_in_mebibytes() {
        for (text, shown) in [("1G", "1024M"), ("512", "512M"), ("256m", "256M"), ("2048K", "2M")] {
            assert_eq!(text.parse::<Memory>().unwrap().to_string(), shown);
        }
        for text in ["", "G", "0", "1K", "-1", "1.5G", "16777216T", "1Ｇ"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }

    #[test]
    fn machine_follows_the_name_of_qemu() {
        let choose = |name: &str| choose(None, Some(Path::new(name)));
        assert_eq!(choose("/usr/bin/qemu-system-x86_64"), Machine::Q35);
        assert_eq!(choose("/usr/bin/qemu-system-aarch64"), Machine::Virt);
        assert_eq!(choose("qemu-system-riscv64"), Machine::Virt);
        assert_eq!(super::choose(Some(Machine::Microvm), None), Machine::Microvm);
    }
}
