//! Several hostile guests on one switch, whose threads run when the script says so: what arrives is what was sent, once, to
//! whom it may go; what does not arrive was counted by somebody; and all buffers come home.
//!
//! Input: a byte that says which ring format, a byte for each port that says what it is, and steps, each a byte that says
//! what happens and at which port, and more as it takes.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args as _, Command, FromArgMatches as _};
use libfuzzer_sys::fuzz_target;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{F_MRG_RXBUF, HEADER_LEN};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_net::{HouseOptions, Net, NetHandler, NetOptions, Switches};

const RX: QueueId = QueueId(0);
const TX: QueueId = QueueId(1);
const PORTS: usize = 4;
/// The most steps of one input.
const MOST: usize = 300;
/// Chains in a ring, at most.
const FULL: u32 = 60;
/// VLANs that there are.
const VLANS: u16 = 3;

/// What a port is: the lowest bits of a byte.
#[derive(Clone, Copy)]
struct Kind(u8);

impl Kind {
    fn isolated(self) -> bool {
        self.0 & 0x80 != 0
    }

    fn number(self) -> u16 {
        1 + u16::from(self.0 & 3) % VLANS
    }

    /// `None`: an access port; else the tagged VLANs.
    fn tagged(self) -> Option<Vec<u16>> {
        (self.0 & 4 != 0).then(|| (1..=VLANS).filter(|id| self.0 >> (2 + id) & 1 != 0).collect())
    }

    fn native(self) -> Option<u16> {
        (self.tagged().is_none() || self.0 & 0x40 != 0).then(|| self.number())
    }

    /// The VLAN of a frame with this tag.
    fn ingress(self, tag: Option<u16>) -> Option<u16> {
        match tag {
            None | Some(0) => self.native(),
            Some(id) => self.tagged()?.contains(&id).then_some(id),
        }
    }

    /// Whether frames of a VLAN go out with a tag.
    fn egress(self, vlan: u16) -> Option<bool> {
        if self.native() == Some(vlan) {
            return Some(false);
        }
        self.tagged()?.contains(&vlan).then_some(true)
    }

    /// As options have it; a trunk needs at least something.
    fn trunk(self) -> Option<String> {
        let mut parts: Vec<String> = self.tagged()?.iter().map(u16::to_string).collect();
        parts.extend(self.native().map(|id| format!("native={id}")));
        (!parts.is_empty()).then(|| parts.join(","))
    }
}

struct Port {
    net: Net,
    bench: Bench<NetHandler>,
    kind: Kind,
    receives: bool,
    /// It has done so since all was quiet last.
    steadily: bool,
    sends: bool,
}

/// A frame that was sent.
struct Sent {
    from: usize,
    tag: Option<u16>,
    /// There is another tag behind the first.
    stacked: bool,
    vlan: Option<u16>,
    frame: Vec<u8>,
    /// Where it has arrived.
    at: BTreeSet<usize>,
}

struct World {
    ports: Vec<Port>,
    sent: BTreeMap<u32, Sent>,
    next: u32,
    /// What the ports had counted as dropped when all was quiet last.
    counted: u64,
}

fn sum(value: &Value) -> u64 {
    value.as_object().map_or(0, |all| all.values().filter_map(Value::as_u64).sum())
}

impl Port {
    fn open(at: usize, kind: u8, format: Format, switches: &Switches) -> Self {
        let mut kind = Kind(kind);
        if kind.tagged().is_some() && kind.trunk().is_none() {
            kind = Kind(kind.0 | 0x40);
        }
        let vlans = match kind.trunk() {
            Some(trunk) => format!("--trunk={trunk}"),
            None => format!("--vlan={}", kind.number()),
        };
        let mut words = vec!["--backend=switch", &vlans];
        if kind.isolated() {
            words.push("--isolated");
        }
        let command = NetOptions::augment_args(Command::new("net").no_binary_name(true));
        let matches = command.try_get_matches_from(words).expect("options of a port");
        let options = NetOptions::from_arg_matches(&matches).expect("options of a port");
        let mut net = Net::open_in(&options, &format!("port{at}"), switches).expect("a port");
        let handler = net.handler(Group(0), Features(F_MRG_RXBUF | VIRTIO_F_VERSION_1)).expect("queues");
        let setup = Setup { queues: 2, size: 64, memory: 1 << 20, indirect: true, ..Setup::new(format) };
        Self { net, bench: Bench::with(handler, &setup), kind, receives: true, steadily: true, sends: true }
    }

    /// Frames that it, or others on its behalf, dropped.
    fn dropped(&self) -> u64 {
        let status = self.net.status();
        sum(&status["backend_status"]["dropped"]) + sum(&status["rx"]["dropped"])
    }
}

impl World {
    fn send(&mut self, from: usize, [to, source, tags, len]: [u8; 4]) {
        if self.ports[from].bench.outstanding(TX) >= FULL {
            return;
        }
        let mac = |byte: u8| if byte & 7 == 7 { [0xff; 6] } else { [2, 0, 0, 0, 0, byte & 7] };
        let mut frame = [mac(to), [2, 0, 0, 0, 0, source % 7]].concat();
        let tag = (tags & 1 != 0).then_some(u16::from(tags >> 1 & 3));
        if let Some(id) = tag {
            frame.extend([[0x81, 0], (0x6000 | id).to_be_bytes()].concat());
        }
        let stacked = tag.is_some() && tags & 8 != 0;
        if stacked {
            let kind = [[0x81, 0], [0x88, 0xa8], [0x91, 0]][usize::from(tags >> 4) % 3];
            frame.extend([kind, [0, tags >> 6]].concat());
        }
        frame.extend([0x88, 0xb5]);
        frame.resize(frame.len() + usize::from(len) % 180, len);
        frame.extend(self.next.to_be_bytes());
        let port = &mut self.ports[from];
        port.bench.send(TX, &[&[0; HEADER_LEN], &frame], &[]);
        let vlan = port.kind.ingress(tag);
        self.sent.insert(self.next, Sent { from, tag, stacked, vlan, frame, at: BTreeSet::new() });
        self.next += 1;
    }

    /// Looks at what a guest has received, and at what came back.
    fn look(&mut self, at: usize) {
        let kind = self.ports[at].kind;
        let bench = &mut self.ports[at].bench;
        while let Some(answer) = bench.receive(TX) {
            assert_eq!(answer.len, 0);
        }
        let mut received = Vec::new();
        while let Some(first) = bench.receive(RX) {
            let mut bytes = first.outputs.concat()[..first.len as usize].to_vec();
            for _ in 1..u16::from_le_bytes([bytes[10], bytes[11]]) {
                let next = bench.receive(RX).expect("all of a frame at once");
                bytes.extend(&next.outputs.concat()[..next.len as usize]);
            }
            received.push(bytes.split_off(HEADER_LEN));
        }
        for frame in received {
            let serial = frame.last_chunk().map_or(u32::MAX, |last| u32::from_be_bytes(*last));
            let from = self.sent.get(&serial).expect("it was sent").from;
            let sender = self.ports[from].kind;
            let sent = self.sent.get_mut(&serial).expect("it was sent");
            assert!(sent.at.insert(at), "it arrived twice");
            assert_ne!(from, at, "it came back");
            assert!(!(kind.isolated() && sender.isolated()), "from one isolated port to another");
            let vlan = sent.vlan.expect("it was in no VLAN");
            let tagged = kind.egress(vlan).expect("it is of another VLAN");
            let bare = [&sent.frame[..12], &sent.frame[if sent.tag.is_some() { 16 } else { 12 }..]].concat();
            let rest = if tagged {
                assert_eq!(frame[12..14], [0x81, 0], "its tag is gone");
                assert_eq!(u16::from_be_bytes([frame[14] & 0x0f, frame[15]]), vlan, "its tag is another");
                [&frame[..12], &frame[16..]].concat()
            } else if sent.tag == Some(0) && frame.len() == sent.frame.len() {
                // A tag that is a priority alone may stay.
                [&frame[..12], &frame[16..]].concat()
            } else {
                frame
            };
            assert_eq!(rest, bare, "it is another frame");
            let hides_tag = [[0x81, 0], [0x88, 0xa8], [0x91, 0]].contains(&[rest[12], rest[13]]);
            assert!(tagged || !hides_tag, "a tag that was hidden came out");
        }
    }

    /// Lets all of them run, with buffers, until nothing is under way; then all is accounted for.
    fn settle(&mut self) {
        for _ in 0..4 {
            for at in 0..self.ports.len() {
                let port = &mut self.ports[at];
                if !std::mem::replace(&mut port.sends, true) {
                    port.bench.enable(TX, true);
                }
                while port.bench.outstanding(RX) < FULL {
                    port.bench.send(RX, &[], &[256]);
                }
                port.bench.run();
                self.look(at);
            }
        }
        let counted = self.ports.iter().map(Port::dropped).sum::<u64>();
        let lost =
            self.sent.values().filter(|sent| sent.at.is_empty() && self.has_audience(sent)).count() as u64;
        assert!(lost <= counted - self.counted, "{lost} frames were lost");
        self.counted = counted;
        self.sent.clear();
        for port in &mut self.ports {
            port.steadily = port.receives;
            assert_eq!(port.bench.outstanding(TX), 0, "buffers did not come home");
        }
    }

    /// Whether there is somebody who might have received a frame.
    fn has_audience(&self, sent: &Sent) -> bool {
        let Some(vlan) = sent.vlan else { return true };
        let sender = self.ports[sent.from].kind;
        self.ports.iter().enumerate().any(|(at, port)| {
            let hears = !(port.kind.isolated() && sender.isolated());
            let egress = port.kind.egress(vlan);
            at != sent.from && port.steadily && hears && egress.is_some_and(|tagged| tagged || !sent.stacked)
        })
    }

    fn step(&mut self, what: u8, at: usize, data: &mut &[u8]) {
        let mut byte = || {
            let (&first, rest) = data.split_first().unwrap_or((&0, &[]));
            *data = rest;
            first
        };
        match what {
            0..=3 => {
                let shape = [byte(), byte(), byte(), byte()];
                self.send(at, shape);
            }
            4..=6 => {
                self.ports[at].bench.run();
                self.look(at);
            }
            7 => {
                let bench = &mut self.ports[at].bench;
                for _ in 0..byte() % 16 {
                    if bench.outstanding(RX) < FULL {
                        bench.send(RX, &[], &[256]);
                    }
                }
            }
            8 => {
                let port = &mut self.ports[at];
                port.sends = !port.sends;
                port.bench.enable(TX, port.sends);
            }
            9 => {
                let port = &mut self.ports[at];
                port.receives = !port.receives;
                port.steadily = false;
                port.bench.enable(RX, port.receives);
                self.look(at);
            }
            10 => {
                // What is under way by the old rules still arrives.
                self.settle();
                let kind = Kind(byte());
                let port = &mut self.ports[at];
                let (isolated, number) = (kind.isolated(), kind.number());
                let arguments = match (kind.tagged(), kind.trunk()) {
                    (Some(_), None) => return,
                    (Some(_), Some(trunk)) => json!({ "trunk": trunk, "isolated": isolated }),
                    (None, _) => json!({ "vlan": number, "isolated": isolated }),
                };
                port.net.control("set", &arguments).expect("a port can be that");
                port.kind = kind;
            }
            11 => drop(self.ports[at].net.control("flush", &json!({}))),
            12 => self.ports[at].bench.pass(std::time::Duration::from_millis(byte().into())),
            _ => self.settle(),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[format, a, b, c, d], mut data)) = data.split_first_chunk() else { return };
    let format = if format & 1 == 0 { Format::Split } else { Format::Packed };
    let house = HouseOptions { flood_pps: 1000, ..HouseOptions::default() };
    let switches = Switches::new(house).expect("no uplinks");
    let kinds = [a, b, c, d].into_iter().enumerate();
    let ports = kinds.map(|(at, kind)| Port::open(at, kind, format, &switches)).collect();
    let mut world = World { ports, sent: BTreeMap::new(), next: 0, counted: 0 };
    for _ in 0..MOST {
        let Some((&what, rest)) = data.split_first() else { break };
        data = rest;
        world.step(what & 0x0f, usize::from(what >> 4) % PORTS, &mut data);
    }
    world.settle();
});
