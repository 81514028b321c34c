//! What a libvirt domain needs to use the back ends: libvirt's "Domain XML format", memory backing (`memfd`, since
//! 4.10), disks of type `vhostuser` (since 7.1) and pass-through of QEMU's arguments. Its `<rng>` has no vhost-user,
//! so that other devices than disks go the last way.

use std::fmt::Write as _;

use super::BackEnd;
use super::machine::Transport;
use super::qemu::{card, network};
use crate::run::Device;

/// The parts of the domain, as one element.
pub(super) fn domain(back_ends: &[BackEnd]) -> String {
    let mut disks = String::new();
    let mut others = String::new();
    for back_end in back_ends {
        match back_end.device {
            Device::Blk => disk(&mut disks, back_end),
            _ => pass_through(&mut others, back_end),
        }
    }
    let mut text = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  \
                    <memoryBacking>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>\n"
        .to_owned();
    if !disks.is_empty() {
        let _ = write!(text, "  <devices>\n{disks}  </devices>\n");
    }
    if !others.is_empty() {
        let _ = write!(text, "  <qemu:commandline>\n{others}  </qemu:commandline>\n");
    }
    text.push_str("</domain>\n");
    text
}

fn disk(text: &mut String, back_end: &BackEnd) {
    let letter = disk_name(back_end.name.trim_start_matches(char::is_alphabetic).parse().unwrap_or_default());
    let queues = back_end.queues.map(|queues| format!(" queues='{queues}'")).unwrap_or_default();
    let path = escaped(&back_end.socket);
    let _ = write!(
        text,
        "    <disk type='vhostuser' device='disk'>\n      <driver name='qemu' type='raw'{queues}/>\n      \
         <source type='unix' path='{path}'>\n        <reconnect enabled='yes' timeout='1'/>\n      </source>\n      \
         <target dev='{letter}' bus='virtio'/>\n    </disk>\n"
    );
}

fn pass_through(text: &mut String, back_end: &BackEnd) {
    let socket = format!("socket,id={},path={}", back_end.name, back_end.socket.replace(',', ",,"));
    let network = network(back_end).map(|network| ["-netdev".to_owned(), network]);
    let words = [["-chardev".to_owned(), socket]].into_iter().chain(network);
    let card = ["-device".to_owned(), card(back_end, Transport::Pci)];
    for word in words.chain([card]).flatten() {
        let _ = writeln!(text, "    <qemu:arg value='{}'/>", escaped(&word));
    }
}

/// The name of the disk with this number: `vda`, ..., `vdz`, `vdaa`, ...
fn disk_name(mut number: u32) -> String {
    let mut letters = String::new();
    loop {
        letters.insert(0, char::from_u32(u32::from(b'a') + number % 26).unwrap_or('a'));
        number /= 26;
        if number == 0 {
            return format!("vd{letters}");
        }
        number -= 1;
    }
}

/// Text as the value of an attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_names_go_on_after_z() {
        let names = [0, 25, 26, 51, 52, 701, 702].map(disk_name);
        assert_eq!(names, ["vda", "vdz", "vdaa", "vdaz", "vdba", "vdzz", "vdaaa"]);
    }

    #[test]
    fn escaped_text_is_the_value_of_an_attribute() {
        assert_eq!(escaped("/a&b/<c>'d'"), "/a&amp;b/&lt;c>&apos;d&apos;");
    }
}
