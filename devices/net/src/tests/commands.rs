//! The driver's commands, on a control queue that the front end passes on.

use outboard_device::defs::features::VHOST_F_LOG_ALL;
use outboard_device::defs::net::{
    F_HASH_REPORT, F_RSS, HASH_HEADER_LEN, HASH_REPORT_UDPV4, HASH_TYPE_UDPV4, HashReport, S_ANNOUNCE,
};
use outboard_device::defs::net_control::{Command, ERR, OK};

use outboard_frames::{Layers, hash};

use super::*;

const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(super) const COMMANDS: u64 = F_CTRL_VQ
    | F_CTRL_RX
    | F_CTRL_RX_EXTRA
    | F_CTRL_VLAN
    | F_CTRL_MAC_ADDR
    | F_CTRL_GUEST_OFFLOADS
    | F_GUEST_ANNOUNCE;

/// A device with all that serves it, by group.
pub(super) struct Machine {
    pub(super) device: Net,
    pub(super) pairs: Vec<Bench<NetHandler>>,
    pub(super) control: Bench<NetHandler>,
    pub(super) queue: QueueId,
    agreed: Features,
    format: Format,
}

/// A device with so many pairs.
fn open(args: &[&str], pairs: u16) -> Net {
    let count = format!("--pairs={pairs}");
    VhostUserNet::open(parse(&[args, &["--mac=52:54:00:12:34:56", &count]].concat())).unwrap()
}

impl Machine {
    /// With so many pairs, served by a front end that passes commands on, for a driver that begins.
    pub(super) fn new(args: &[&str], pairs: u16, features: u64, format: Format) -> Self {
        let mut device = open(args, pairs);
        let agreed = Features(features | MERGING | VIRTIO_F_VERSION_1);
        device.agreed(agreed);
        let has_pairs = agreed.has(F_MQ) || agreed.has(F_RSS);
        device.forget(Group(if has_pairs { pairs } else { 1 }));
        Self::on(device, pairs, agreed, format)
    }

    /// With what the device knows of its driver.
    fn on(mut device: Net, pairs: u16, agreed: Features, format: Format) -> Self {
        let mut bench = |group: u16| {
            let handler = device.handler(Group(group), agreed).unwrap();
            Bench::with(handler, &Setup { queues: 2 * group + 2, memory: 1 << 20, ..Setup::new(format) })
        };
        let group = if agreed.has(F_MQ) || agreed.has(F_RSS) { pairs } else { 1 };
        let pairs = (0..group).map(&mut bench).collect();
        let control = bench(group);
        let mut machine = Self { pairs, control, queue: QueueId(2 * group), device, agreed, format };
        machine.run();
        machine
    }

    /// The front end takes all rings away, and gives them back: nothing but `meanwhile` says that this is no pause.
    pub(super) fn paused(self, meanwhile: impl FnOnce(&mut Net)) -> Self {
        let Self { mut device, pairs, control, agreed, format, .. } = self;
        let count = pairs.len() as u16;
        drop((pairs, control));
        device.reset();
        device.agreed(Features(agreed.0 | VHOST_F_LOG_ALL));
        meanwhile(&mut device);
        Self::on(device, count, agreed, format)
    }

    /// Lets all of them run until none has anything to do for another.
    pub(super) fn run(&mut self) {
        for _ in 0..3 {
            self.control.run();
            self.pairs.iter_mut().for_each(Bench::run);
        }
    }

    /// The answer to a command.
    pub(super) fn command(&mut self, command: Command, rest: &[u8]) -> u8 {
        self.control.send(self.queue, &[&[command.class, command.number], rest], &[1]);
        self.run();
        let answer = self.control.receive(self.queue).expect("an answer");
        assert_eq!(answer.len, 1);
        answer.outputs[0][0]
    }

    /// Sends a packet on a pair that returns it. Whether it was received.
    fn returns(&mut self, pair: usize, packet: &[u8]) -> bool {
        let [rx, tx] = [0, 1].map(|way| QueueId(2 * pair as u16 + way));
        let bench = &mut self.pairs[pair];
        bench.send(rx, &[], &[2048]);
        bench.send(tx, &[Header::default().as_bytes(), packet], &[]);
        bench.run();
        assert_eq!(bench.receive(tx).unwrap().len, 0);
        bench.receive(rx).is_some_and(|answer| answer.outputs[0][HEADER_LEN..answer.len as usize] == *packet)
    }
}

pub(super) fn each_machine(args: &[&str], pairs: u16, features: u64, test: impl Fn(&mut Machine)) {
    for format in FORMATS {
        test(&mut Machine::new(args, pairs, features, format));
    }
}

fn to(address: [u8; 6]) -> Vec<u8> {
    [&address[..], &[2, 0, 0, 0, 0, 9, 8, 0], &[7; 46]].concat()
}

#[test]
fn receive_modes_addresses_and_vlans_decide_what_is_received() {
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 7];
    let tagged = [&OWN[..], &[2, 0, 0, 0, 0, 9, 0x81, 0, 0x20, 5, 8, 0], &[7; 46]].concat();
    each_machine(&["--backend=loop"], 1, COMMANDS, |machine| {
        let received = |machine: &mut Machine| {
            [to(OWN), to(OTHER), to([0xff; 6]), tagged.clone()].map(|packet| machine.returns(0, &packet))
        };
        assert_eq!(received(machine), [true; 4], "nothing was asked for yet");
        assert_eq!(machine.command(Command::RX_PROMISC, &[0]), OK);
        assert_eq!(received(machine), [true, false, true, false]);
        assert_eq!(machine.command(Command::VLAN_ADD, &[5, 0]), OK);
        assert_eq!(received(machine), [true, false, true, true]);
        let table = [&[1, 0, 0, 0][..], &OTHER, &[0; 4]].concat();
        assert_eq!(machine.command(Command::MAC_TABLE_SET, &table), OK);
        assert_eq!(received(machine), [true; 4]);
        assert_eq!(machine.command(Command::MAC_TABLE_SET, &[0; 8]), OK);
        assert_eq!(machine.command(Command::MAC_ADDR_SET, &OTHER), OK);
        assert_eq!(received(machine), [false, true, true, false]);
        machine.device.settle();
        assert_eq!(machine.device.config()[..6], OTHER, "as the driver reads it");
        assert_eq!(machine.command(Command::RX_NOBCAST, &[1]), OK);
        assert_eq!(received(machine), [false, true, false, false]);
        assert!(number(&machine.device.status(), "/rx/dropped/filtered") > 0);
        // Another driver begins anew.
        machine.device.forget(Group(1));
        machine.run();
        assert_eq!(received(machine), [true; 4]);
        assert_eq!(machine.device.config()[..6], OWN);
    });
}

/// docs/decisions/008: to the device, a pause is a reset.
#[test]
fn what_a_driver_has_set_survives_a_pause_and_not_another_driver() {
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 7];
    let address = |device: &mut Net| {
        device.settle();
        device.config().first_chunk().copied().unwrap()
    };
    for format in FORMATS {
        let mut machine = Machine::new(&["--backend=loop"], 3, COMMANDS | F_MQ, format);
        assert_eq!(machine.command(Command::MQ_VQ_PAIRS_SET, &[2, 0]), OK);
        assert_eq!(machine.command(Command::RX_PROMISC, &[0]), OK);
        assert_eq!(machine.command(Command::MAC_ADDR_SET, &OTHER), OK);
        machine.device.set_mtu(1400).unwrap();
        let mut machine = machine.paused(|device| {
            assert_eq!(address(device), OWN, "another driver would take it for its own");
            device.control("announce", &Value::Null).unwrap();
        });
        assert_eq!(address(&mut machine.device), OTHER);
        assert_ne!(machine.device.config()[6] & S_ANNOUNCE as u8, 0);
        assert_eq!(machine.control.config_changes(), 1, "it was asked to announce itself meanwhile");
        let received =
            |machine: &mut Machine, to_: [u8; 6]| [0, 1, 2].map(|at| machine.returns(at, &to(to_)));
        assert_eq!(received(&mut machine, OTHER), [true, true, false]);
        assert_eq!(received(&mut machine, OWN), [false; 3]);
        assert_eq!(number(&machine.device.status(), "/mtu"), 1400);
        let mut machine = machine.paused(|device| device.forget(Group(0)));
        assert_eq!(received(&mut machine, OTHER), [true, true, false], "a pair that was not used yet");
        let mut machine = machine.paused(|device| device.forget(Group(3)));
        assert_eq!(address(&mut machine.device), OWN);
        assert_eq!(received(&mut machine, OTHER), [true, false, false]);
        assert_eq!(machine.command(Command::MAC_ADDR_SET, &OTHER), OK);
        machine.device.agreed(Features(COMMANDS | VIRTIO_F_VERSION_1));
        assert_eq!(address(&mut machine.device), OWN);
        assert_eq!(machine.device.status()["control_queue"], false);
        assert_eq!(number(&machine.device.status(), "/mtu"), 1400);
    }
}

/// It was moved here, or this program was started anew.
#[test]
fn driver_that_goes_on_uses_its_pairs_and_announces_itself() {
    let features = Features(COMMANDS | F_MQ | MERGING | VIRTIO_F_VERSION_1);
    for format in FORMATS {
        let mut device = open(&["--backend=loop"], 3);
        device.reset();
        device.agreed(features);
        let mut machine = Machine::on(device, 3, features, format);
        assert_eq!([0, 1, 2].map(|pair| machine.returns(pair, &to(OWN))), [true; 3]);
        machine.device.settle();
        assert_ne!(machine.device.config()[6] & S_ANNOUNCE as u8, 0);
        assert_eq!(machine.control.config_changes(), 1);
        assert_eq!(machine.command(Command::ANNOUNCE_ACK, &[]), OK);
        let machine = machine.paused(|_| ());
        assert_eq!(machine.control.config_changes(), 0, "it was not moved again");
    }
}

#[test]
fn pairs_that_were_not_asked_for_receive_nothing() {
    each_machine(&["--backend=loop"], 3, COMMANDS | F_MQ, |machine| {
        let received = |machine: &mut Machine| [0, 1, 2].map(|pair| machine.returns(pair, &to(OWN)));
        assert_eq!(received(machine), [true, false, false], "one at first");
        assert_eq!(number(&machine.device.status(), "/pairs_in_use"), 1);
        assert_eq!(machine.command(Command::MQ_VQ_PAIRS_SET, &[3, 0]), OK);
        assert_eq!(received(machine), [true; 3]);
        assert_eq!(number(&machine.device.status(), "/pairs_in_use"), 3);
        for wrong in [0, 4] {
            assert_eq!(machine.command(Command::MQ_VQ_PAIRS_SET, &[wrong, 0]), ERR);
        }
        assert_eq!(machine.command(Command::MQ_VQ_PAIRS_SET, &[2, 0]), OK);
        assert_eq!(received(machine), [true, true, false]);
        assert_eq!(number(&machine.device.status(), "/rx/dropped/off"), 3);
    });
}

/// Completed is what is in force: not before the last pair has heard of it, one that stops aside.
#[test]
fn command_is_completed_when_each_pair_goes_by_it() {
    each_machine(&["--backend=loop"], 2, COMMANDS | F_MQ, |machine| {
        let Machine { pairs, control, queue, .. } = machine;
        let pairs_set = |control: &mut Bench<NetHandler>| {
            let Command { class, number } = Command::MQ_VQ_PAIRS_SET;
            control.send(*queue, &[&[class, number, 2, 0]], &[1]);
            control.run();
        };
        pairs_set(control);
        pairs_set(control);
        assert_eq!(control.receive(*queue), None);
        pairs[0].run();
        control.run();
        assert_eq!(control.receive(*queue), None);
        pairs[1].run();
        control.run();
        assert_eq!(control.receive(*queue).unwrap().outputs, [[OK]]);
        assert_eq!(control.receive(*queue), None, "the second is carried out after the first");
        pairs[0].run();
        drop(pairs.pop());
        control.run();
        assert_eq!(control.receive(*queue).unwrap().outputs, [[OK]]);
    });
}

#[test]
fn command_of_a_queue_that_stops_is_answered() {
    each_machine(&["--backend=loop"], 1, COMMANDS, |machine| {
        let Machine { control, queue, .. } = machine;
        control.send(*queue, &[&[0, 0, 1]], &[1]);
        control.run();
        assert_eq!(control.receive(*queue), None);
        control.enable(*queue, false);
        control.run();
        assert_eq!(control.receive(*queue).unwrap().outputs, [[OK]]);
    });
}

#[test]
fn commands_that_are_wrong_are_refused_and_change_nothing() {
    each_machine(&["--backend=loop"], 1, COMMANDS, |machine| {
        for (bytes, room, len, answer) in [
            (&[][..], &[1][..], 1, ERR),
            (&[0], &[1], 1, ERR),
            (&[0, 0], &[1], 1, ERR),
            (&[0, 0, 9], &[1], 1, ERR),
            (&[9, 9, 9], &[1], 1, ERR),
            (&[4, 0, 1, 0], &[1], 1, ERR),
            (&[0, 0, 0], &[], 0, UNTOUCHED),
            (&vec![0; 70_000], &[1], 1, ERR),
            (&[0, 0, 1], &[1000], 1, OK),
        ] {
            let readable = [bytes];
            let readable = if bytes.is_empty() { &readable[..0] } else { &readable };
            machine.control.send(machine.queue, readable, room);
            machine.run();
            let answered = machine.control.receive(machine.queue).unwrap();
            assert_eq!(answered.len, len, "{bytes:?}");
            assert_eq!(*answered.outputs.concat().first().unwrap_or(&UNTOUCHED), answer, "{bytes:?}");
        }
        assert!(machine.returns(0, &to([4; 6])), "all is received as before");
    });
    // Without the feature there is a queue, but nobody that it obeys.
    each_machine(&["--backend=loop"], 1, 0, |machine| {
        assert_eq!(machine.command(Command::RX_PROMISC, &[0]), ERR);
        assert_eq!(machine.device.status()["control_queue"], false);
    });
}

#[test]
fn command_in_pieces_is_the_same_command() {
    each_machine(&["--backend=loop"], 1, COMMANDS, |machine| {
        machine.control.send(machine.queue, &[&[1], &[1, 2, 0], &[0, 0, 0, 3]], &[1]);
        machine.run();
        assert_eq!(machine.control.receive(machine.queue).unwrap().outputs, [[OK]]);
        machine.device.settle();
        assert_eq!(machine.device.config()[..6], [2, 0, 0, 0, 0, 3]);
    });
}

#[test]
fn offloads_that_the_driver_gives_back_are_done_for_it() {
    let features = COMMANDS | F_CSUM | F_GUEST_CSUM;
    each_machine(&["--backend=loop"], 1, features, |machine| {
        let (header, frame) = datagram(&pattern(1001));
        let received = |machine: &mut Machine| {
            let bench = &mut machine.pairs[0];
            post(bench, 1, 2048);
            send(bench, &header, &frame);
            receive(bench).unwrap().0.flags
        };
        assert_eq!(received(machine), HDR_F_NEEDS_CSUM);
        assert_eq!(machine.command(Command::GUEST_OFFLOADS_SET, &0_u64.to_le_bytes()), OK);
        assert_eq!(received(machine), 0);
        assert_eq!(machine.command(Command::GUEST_OFFLOADS_SET, &F_GUEST_CSUM.to_le_bytes()), OK);
        assert_eq!(received(machine), HDR_F_NEEDS_CSUM);
        let more = F_GUEST_CSUM | F_GUEST_USO4;
        assert_eq!(machine.command(Command::GUEST_OFFLOADS_SET, &more.to_le_bytes()), ERR, "was not agreed");
    });
}

#[test]
fn driver_announces_itself_when_it_is_told_to() {
    let asked = |device: &mut Net| {
        device.settle();
        device.config()[6] & S_ANNOUNCE as u8 != 0
    };
    each_machine(&["--backend=loop"], 1, COMMANDS, |machine| {
        assert!(!asked(&mut machine.device), "of a driver that begins");
        machine.device.control("announce", &Value::Null).unwrap();
        assert!(asked(&mut machine.device));
        assert_eq!(machine.command(Command::ANNOUNCE_ACK, &[]), OK);
        assert!(!asked(&mut machine.device));
    });
    each_machine(&["--backend=loop"], 1, COMMANDS & !F_GUEST_ANNOUNCE, |machine| {
        assert!(machine.device.control("announce", &Value::Null).is_err());
        assert_eq!(machine.command(Command::ANNOUNCE_ACK, &[]), ERR);
    });
}

/// A table that sends everything with a hash to one pair, and the rest to another.
fn spread(to: u8, other: u8) -> Vec<u8> {
    [&[0x3f, 0, 0, 0, 0, 0, other, 0, to, 0, 3, 0, 40][..], &[0x5a; 40]].concat()
}

/// A datagram that the checksum is not left out of: it has none.
fn complete() -> Vec<u8> {
    let mut frame = datagram(&pattern(100)).1;
    frame[40..42].fill(0);
    frame
}

#[test]
fn packets_cross_to_the_pair_that_their_hash_says() {
    each_machine(&["--backend=loop", "--rss"], 3, COMMANDS | F_MQ | F_RSS, |machine| {
        for pair in 0..3 {
            for _ in 0..8 {
                machine.pairs[pair].send(QueueId(2 * pair as u16), &[], &[2048]);
            }
        }
        let arrived = |machine: &mut Machine, packet: &[u8]| {
            for pair in 0..3_u16 {
                let tx = QueueId(2 * pair + 1);
                let bench = &mut machine.pairs[usize::from(pair)];
                bench.send(tx, &[Header::default().as_bytes(), packet], &[]);
                bench.run();
                assert!(bench.receive(tx).is_some());
            }
            machine.run();
            [0, 1, 2].map(|pair: u16| {
                let mut count = 0;
                while let Some(answer) = machine.pairs[usize::from(pair)].receive(QueueId(2 * pair)) {
                    assert_eq!(answer.outputs[0][HEADER_LEN..answer.len as usize], *packet);
                    count += 1;
                }
                count
            })
        };
        assert_eq!(machine.command(Command::MQ_RSS_CONFIG, &spread(2, 1)), OK);
        assert_eq!(arrived(machine, &complete()), [0, 0, 3]);
        assert_eq!(arrived(machine, &to(OWN)), [0, 3, 0], "without addresses to hash");
        assert_eq!(machine.command(Command::MQ_RSS_CONFIG, &spread(3, 0)), ERR);
        assert_eq!(arrived(machine, &complete()), [0, 0, 3], "as before");
        assert_eq!(machine.command(Command::MQ_VQ_PAIRS_SET, &[3, 0]), OK);
        assert_eq!(arrived(machine, &complete()), [1, 1, 1]);
    });
}

#[test]
fn packets_for_a_pair_that_is_far_behind_are_dropped() {
    each_machine(&["--backend=loop", "--rss"], 3, COMMANDS | F_MQ | F_RSS, |machine| {
        assert_eq!(machine.command(Command::MQ_RSS_CONFIG, &spread(2, 2)), OK);
        let bench = &mut machine.pairs[0];
        for _ in 0..1100 {
            bench.send(TX, &[Header::default().as_bytes(), &to(OWN)], &[]);
            bench.run();
            assert!(bench.receive(TX).is_some());
        }
        let dropped = number(&machine.device.status(), "/pairs/0/rx/dropped/to_full");
        assert!(dropped > 0);
        machine.pairs[2].run();
        let status = machine.device.status();
        assert_eq!(number(&status, "/pairs/2/rx/dropped/no_buffer"), 1024);
        assert_eq!(number(&status, "/tx/packets"), 1024 + dropped);
    });
}

#[test]
fn hash_is_told_in_a_longer_header_of_the_packets_that_were_asked_for() {
    let features = Features(COMMANDS | F_HASH_REPORT);
    each_machine(&["--backend=loop", "--rss"], 1, features.0, |machine| {
        let received = |machine: &mut Machine, packet: &[u8]| {
            let bench = &mut machine.pairs[0];
            post(bench, 1, HASH_HEADER_LEN - 1);
            post(bench, 1, 2048);
            bench.send(TX, &[Header::default().as_bytes(), &[0xee; 8], packet], &[]);
            bench.run();
            assert_eq!(bench.receive(RX).unwrap().len, 0, "too small for the header");
            let answer = bench.receive(RX).unwrap();
            assert!(bench.receive(TX).is_some());
            let (header, bytes) = answer.outputs[0][..answer.len as usize].split_at(HASH_HEADER_LEN);
            assert_eq!(bytes, packet);
            assert_eq!(Header::read_from_prefix(header).unwrap().0.num_buffers.get(), 1);
            let report = HashReport::read_from_bytes(&header[HEADER_LEN..]).unwrap();
            (report.value.get(), report.report.get(), report.padding.get())
        };
        assert_eq!(received(machine, &complete()), (0, 0, 0), "nothing was asked for");
        let config = [&[HASH_TYPE_UDPV4 as u8, 0, 0, 0][..], &[0; 8], &[40], &[0x5a; 40]].concat();
        assert_eq!(machine.command(Command::MQ_HASH_CONFIG, &config), OK);
        let frame = complete();
        let layers = Layers::parse(&frame).unwrap();
        let (value, report) = hash(&[0x5a; 40], &frame, &layers, HASH_TYPE_UDPV4).unwrap();
        assert_eq!(received(machine, &frame), (value, report, 0));
        assert_eq!(report, HASH_REPORT_UDPV4);
        assert_eq!(received(machine, &to(OWN)), (0, 0, 0));
        // A packet whose header is shorter than that is none.
        let bench = &mut machine.pairs[0];
        bench.send(TX, &[&[0; 19]], &[]);
        bench.run();
        assert_eq!(number(&machine.device.status(), "/tx/refused/too_short"), 1);
    });
}

/// VIRTIO 1.3, 5.1.2: where the queue is depends on what was agreed, however many pairs there could be.
#[test]
fn control_queue_is_behind_the_pairs_that_the_driver_may_use() {
    for (features, group, is_control) in [
        (COMMANDS | F_MQ, 3, true),
        (COMMANDS | F_MQ, 1, false),
        (COMMANDS | F_RSS, 1, false),
        (COMMANDS, 1, true),
        (COMMANDS, 2, false),
        (F_MQ, 1, false),
        (0, 1, false),
        (0, 3, true),
    ] {
        let mut device = VhostUserNet::open(parse(&["--backend=loop", "--pairs=3"])).unwrap();
        let handler = device.handler(Group(group), Features(features | VIRTIO_F_VERSION_1)).unwrap();
        assert_eq!(matches!(handler, NetHandler::Control(_)), is_control, "{features:x} {group}");
    }
}

#[test]
fn bytes_on_their_way_to_a_pair_are_limited() {
    each_machine(&["--backend=loop", "--rss"], 3, COMMANDS | F_MQ | F_RSS, |machine| {
        assert_eq!(machine.command(Command::MQ_RSS_CONFIG, &spread(2, 2)), OK);
        let bench = &mut machine.pairs[0];
        for _ in 0..100 {
            bench.send(TX, &[Header::default().as_bytes(), &[&to(OWN)[..], &[0; 60_000]].concat()], &[]);
            bench.run();
            assert!(bench.receive(TX).is_some());
        }
        // As many as 2 MiB have room for.
        assert_eq!(number(&machine.device.status(), "/pairs/0/rx/dropped/to_full"), 100 - 34);
        machine.pairs[2].run();
        assert_eq!(number(&machine.device.status(), "/pairs/2/rx/dropped/no_buffer"), 34);
        machine.pairs[0].send(TX, &[Header::default().as_bytes(), &[0; 60_000]], &[]);
        machine.pairs[0].run();
        assert_eq!(number(&machine.device.status(), "/pairs/0/rx/dropped/to_full"), 100 - 34, "room again");
        drop(machine.pairs.pop());
        machine.pairs[0].send(TX, &[Header::default().as_bytes(), &to(OWN)], &[]);
        machine.pairs[0].run();
        assert_eq!(number(&machine.device.status(), "/pairs/0/rx/dropped/off"), 1, "nobody is there");
    });
}

/// Each pass calls the driver once.
#[test]
fn packets_of_other_pairs_and_commands_are_served_a_part_at_a_time() {
    each_machine(&["--backend=loop", "--rss"], 3, COMMANDS | F_MQ | F_RSS, |machine| {
        assert_eq!(machine.command(Command::MQ_RSS_CONFIG, &spread(2, 2)), OK);
        let rx = QueueId(4);
        for _ in 0..200 {
            machine.pairs[2].send(rx, &[], &[128]);
            machine.pairs[0].send(TX, &[Header::default().as_bytes(), &to(OWN)], &[]);
            machine.pairs[0].run();
            assert!(machine.pairs[0].receive(TX).is_some());
        }
        let before = machine.pairs[2].calls(rx);
        machine.pairs[2].run();
        assert_eq!(machine.pairs[2].calls(rx) - before, 2);
        let (control, queue) = (&mut machine.control, machine.queue);
        let before = control.calls(queue);
        for _ in 0..40 {
            control.send(queue, &[&[99, 99]], &[1]);
        }
        control.run();
        assert_eq!(control.calls(queue) - before, 3);
    });
}
