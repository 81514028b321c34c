//! `--device NAME[=FILE][,OPTION[=VALUE]]...`: what a user says of a device, checked against the options that its
//! back end has, so that a wrong word is found before anything is started.

use anyhow::{Result, bail};
use clap::ValueEnum as _;

use super::BackEnd;
use crate::run::Device;

/// Most queues of a disk.
const MOST_QUEUES: u16 = 64;
/// Queues that a disk's back end has if nothing is said.
const QUEUES: u16 = 16;
/// Options that belong to this program.
const OURS: [&str; 3] = ["socket-path", "fd", "print-capabilities"];

/// A device as the user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    device: Device,
    /// Options of the back end, without their dashes.
    options: Vec<(String, Option<String>)>,
}

/// What QEMU has for a device.
#[derive(Debug)]
pub(super) struct Stub {
    /// Its name as a PCI card, and on a virtio bus.
    pub(super) names: [&'static str; 2],
    /// Whether a network stands between the card and the socket, for QEMU.
    pub(super) is_network: bool,
    /// Whether it survives the end of its back end and connects to the next.
    pub(super) reconnects: bool,
}

/// What QEMU has for `device`.
pub(super) fn stub(device: Device) -> Stub {
    match device {
        Device::Blk => {
            Stub { names: ["vhost-user-blk-pci", "vhost-user-blk"], is_network: false, reconnects: true }
        }
        // It has none of its own: queues are counted, and known, here.
        Device::Console => Stub {
            names: [
                "vhost-user-test-device-pci,virtio-id=3,vq_size=256,config_size=12",
                "vhost-user-test-device,virtio-id=3,vq_size=256,config_size=12",
            ],
            is_network: false,
            reconnects: false,
        },
        Device::Gpio => Stub {
            names: ["vhost-user-gpio-pci", "vhost-user-gpio-device"],
            is_network: false,
            reconnects: false,
        },
        Device::I2c => Stub {
            names: ["vhost-user-i2c-pci", "vhost-user-i2c-device"],
            is_network: false,
            reconnects: false,
        },
        Device::Input => {
            Stub { names: ["vhost-user-input-pci", "vhost-user-input"], is_network: false, reconnects: false }
        }
        Device::Net => {
            Stub { names: ["virtio-net-pci", "virtio-net-device"], is_network: true, reconnects: true }
        }
        Device::Rng => {
            Stub { names: ["vhost-user-rng-pci", "vhost-user-rng"], is_network: false, reconnects: false }
        }
        // Only in QEMU for Arm.
        Device::Scmi => {
            Stub { names: ["vhost-user-scmi-pci", "vhost-user-scmi"], is_network: false, reconnects: false }
        }
        Device::Vsock => {
            Stub { names: ["vhost-user-vsock-pci", "vhost-user-vsock"], is_network: false, reconnects: false }
        }
    }
}

/// The option that `--device NAME=FILE` means.
fn file_option(device: Device) -> &'static str {
    match device {
        Device::Blk => "blk-file",
        Device::Console => "console",
        Device::Gpio => "chip",
        Device::I2c => "bus",
        Device::Input => "evdev-path",
        Device::Net => "backend",
        Device::Rng => "source",
        Device::Scmi => "description",
        Device::Vsock => "guest-cid",
    }
}

impl Spec {
    /// A device without options.
    pub(super) fn of(device: Device) -> Self {
        Self { device, options: Vec::new() }
    }

    /// Reads what the user wrote.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (name, split(rest)),
            None => (text, Vec::new()),
        };
        let device = Device::from_str(name, false).map_err(|_| {
            let known: Vec<&str> = Device::value_variants().iter().map(|device| device.name()).collect();
            format!("there is no device {name:?}, but {}", known.join(", "))
        })?;
        let program = device.command();
        let mut options = Vec::<(String, Option<String>)>::new();
        for (at, item) in rest.into_iter().enumerate() {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (item.clone(), None),
            };
            let takes_value = program
                .get_arguments()
                .find(|argument| argument.get_long() == Some(&key))
                .map(|argument| argument.get_action().takes_values());
            let option = match (takes_value, value) {
                (Some(_), _) if OURS.contains(&key.as_str()) => {
                    return Err(format!("--{key} is chosen by `outboard vm`"));
                }
                (Some(true), None) => return Err(format!("{key} needs a value: {key}=...")),
                (Some(false), Some(_)) => return Err(format!("{key} takes no value")),
                (Some(_), value) => (key, value),
                (None, _) if at == 0 && !item.is_empty() => (file_option(device).to_owned(), Some(item)),
                (None, _) => {
                    return Err(format!(
                        "{name} has no option {key:?}: see `outboard run {name} --help`; a comma is written twice"
                    ));
                }
            };
            options.push(option);
        }
        Ok(Self { device, options })
    }

    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// How its back end is started, for a machine with so many `processors`.
    pub(super) fn back_end(&self, name: String, directory: &str, processors: u16) -> Result<BackEnd> {
        let socket = format!("{}/{name}.sock", directory.trim_end_matches('/'));
        let mut args = vec!["run".to_owned(), self.device.name().to_owned()];
        args.extend(["--socket-path".to_owned(), socket.clone()]);
        if !self.has("log-level") {
            // The guest's console is on the same terminal.
            args.extend(["--log-level".to_owned(), "warn".to_owned()]);
        }
        for (key, value) in &self.options {
            args.push(match value {
                Some(value) => format!("--{key}={value}"),
                None => format!("--{key}"),
            });
        }
        let mut queues = None;
        if self.device == Device::Net {
            if !self.has("backend") {
                // What needs no rights, and nothing of the host's network.
                let kind = if self.has("tap") { "tap" } else { "user" };
                args.push(format!("--backend={kind}"));
            }
            queues = match self.value("pairs").map(str::parse::<u16>) {
                Some(Ok(pairs)) => Some(pairs).filter(|pairs| *pairs > 1),
                Some(Err(_)) => bail!("pairs of {name} is not a number"),
                None => None,
            };
        }
        if self.device == Device::Console {
            let given = 1 + self.options.iter().filter(|(key, _)| key == "port").count();
            let ports = match self.value("max-ports").map(str::parse::<u16>) {
                Some(Ok(ports)) => ports,
                Some(Err(_)) => bail!("max-ports of {name} is not a number"),
                None => u16::try_from(given)?,
            };
            // Two of each port, and two for messages.
            queues = Some(if self.has("single") { 2 } else { ports.saturating_add(1).saturating_mul(2) });
        }
        if self.device == Device::Blk {
            let most = match self.value("num-queues").map(str::parse::<u16>) {
                Some(Ok(chosen)) => chosen,
                Some(Err(_)) => bail!("num-queues of {name} is not a number"),
                None => MOST_QUEUES,
            };
            let wanted = processors.min(most);
            if wanted > QUEUES && !self.has("num-queues") {
                args.push(format!("--num-queues={wanted}"));
            }
            queues = Some(wanted);
        }
        Ok(BackEnd { name, device: self.device, socket, args, queues })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|(key, _)| key == option)
    }

    fn value(&self, option: &str) -> Option<&str> {
        self.options.iter().find(|(key, _)| key == option).and_then(|(_, value)| value.as_deref())
    }
}

/// The items of a list with commas between them, where two commas are one in an item. The way of QEMU.
fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(letter);
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str, processors: u16) -> Vec<String> {
        let back_end = Spec::parse(text).unwrap().back_end("x".to_owned(), "/d/", processors).unwrap();
        assert_eq!(back_end.args[2..4], ["--socket-path", "/d/x.sock"]);
        back_end.args[4..].to_vec()
    }

    #[test]
    fn spec_with_a_file_or_options_becomes_the_back_ends_options() {
        let quiet = ["--log-level", "warn"];
        for (text, expected) in [
            ("blk", vec![]),
            ("rng", vec![]),
            ("blk=disk.img", vec!["--blk-file=disk.img"]),
            ("blk=a b,,c.img,read-only", vec!["--blk-file=a b,c.img", "--read-only"]),
            ("blk=./ram=1G", vec!["--blk-file=./ram=1G"]),
            ("blk=ram=1G,serial=x=y", vec!["--ram=1G", "--serial=x=y"]),
            ("net", vec!["--backend=user"]),
            ("net=loop,mtu=9000", vec!["--backend=loop", "--mtu=9000"]),
            ("net=tap=tap0", vec!["--tap=tap0", "--backend=tap"]),
            ("net=mtu=9000", vec!["--mtu=9000", "--backend=user"]),
            ("rng=/dev/urandom,max-bytes=10", vec!["--source=/dev/urandom", "--max-bytes=10"]),
        ] {
            assert_eq!(args(text, 1), [quiet.as_slice(), &expected].concat(), "{text}");
        }
        assert_eq!(args("blk=log-level=debug", 1), ["--log-level=debug"]);
    }

    #[test]
    fn spec_that_is_wrong_is_refused_with_the_reason() {
        for (text, reason) in [
            ("disk", "blk, console, gpio, i2c, input, net, rng"),
            ("", "no device"),
            ("blk=", "no option \"\""),
            ("blk=disk.img,cash=none", "no option \"cash\""),
            ("blk=a,b.img", "written twice"),
            ("blk=serial", "needs a value"),
            ("blk=read-only=on", "takes no value"),
            ("blk=socket-path=/tmp/x", "chosen by"),
            ("rng=fd=3", "chosen by"),
        ] {
            let error = Spec::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn queues_are_one_for_each_processor_within_what_the_back_end_has() {
        let queues = |text, processors| {
            let spec = Spec::parse(text).unwrap();
            spec.back_end("x".to_owned(), "/d", processors).unwrap().queues
        };
        assert_eq!(queues("blk", 4), Some(4));
        assert_eq!(queues("blk=num-queues=2", 4), Some(2));
        assert_eq!(queues("blk", 100), Some(64));
        assert_eq!(queues("rng", 4), None);
        assert_eq!(queues("console", 4), Some(4));
        assert_eq!(queues("console=single", 4), Some(2));
        assert_eq!(queues("console=stdio,port=name=a,,to=null,port=name=b,,to=null", 4), Some(8));
        assert_eq!(queues("console=max-ports=5", 4), Some(12));
        assert_eq!([queues("net=tap=t,pairs=3", 4), queues("net", 4)], [Some(3), None]);
        assert_eq!(args("blk", 17), ["--log-level", "warn", "--num-queues=17"]);
    }
}
