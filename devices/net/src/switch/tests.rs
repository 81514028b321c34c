//! Ports on benches: the threads of a switch, one after the other, on both ring formats.

use std::time::Duration;

use outboard_daemon::Housed;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{
    F_CSUM, F_GUEST_CSUM, F_HOST_USO, F_MRG_RXBUF, HDR_GSO_UDP_L4, HEADER_LEN, Header,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, Features, Group, QueueId};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::tests::{datagram, parse, payload};
use crate::{Net, NetHandler, VhostUserNet};

const RX: QueueId = QueueId(0);
const TX: QueueId = QueueId(1);
const ALL: [u8; 6] = [0xff; 6];

/// A guest, and its port.
struct Guest {
    net: Net,
    bench: Bench<NetHandler>,
}

impl Guest {
    fn new(switches: &Arc<Switches>, name: &str, options: &[&str], format: Format, features: u64) -> Self {
        let setup = Setup { queues: 2, memory: 16 << 20, indirect: true, ..Setup::new(format) };
        Self::with(switches, name, options, &setup, features)
    }

    fn with(switches: &Arc<Switches>, name: &str, options: &[&str], setup: &Setup, features: u64) -> Self {
        let args = [&["--backend=switch"], options].concat();
        let mut net = VhostUserNet::open_in(parse(&args), name, switches).unwrap();
        let handler = net.handler(Group(0), Features(features | VIRTIO_F_VERSION_1)).unwrap();
        let mut bench = Bench::with(handler, setup);
        for _ in 0..40 {
            bench.send(RX, &[], &[2048]);
        }
        bench.run();
        Self { net, bench }
    }

    /// Puts a packet on its ring, one of odd length in one buffer with its header. Nobody has looked at it yet.
    fn put(&mut self, header: &Header, packet: &[u8]) {
        crate::tests::put(&mut self.bench, header, packet);
    }

    fn send(&mut self, packet: &[u8]) {
        self.put(&Header::default(), packet);
        self.bench.run();
    }

    /// How many of its packets have come back.
    fn returned(&mut self) -> usize {
        self.bench.run();
        std::iter::from_fn(|| self.bench.receive(TX)).inspect(|answer| assert_eq!(answer.len, 0)).count()
    }

    /// What it received, with the headers.
    fn received_with_headers(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.bench.run();
        let answers: Vec<_> = std::iter::from_fn(|| self.bench.receive(RX)).collect();
        let packets = answers.into_iter().map(|answer| {
            let bytes = answer.outputs.concat()[..answer.len as usize].to_vec();
            self.bench.send(RX, &[], &[2048]);
            (Header::read_from_bytes(&bytes[..HEADER_LEN]).unwrap(), bytes[HEADER_LEN..].to_vec())
        });
        packets.collect()
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        self.received_with_headers().into_iter().map(|(_, packet)| packet).collect()
    }

    fn dropped(&self, why: &str) -> u64 {
        let status = self.net.status();
        status["backend_status"]["dropped"][why].as_u64().unwrap_or_else(|| panic!("{why} of {status}"))
    }
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

fn frame(to: [u8; 6], from: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend((frame.len()..len).map(|at| (at * 7 + at / 251) as u8));
    frame
}

fn tagged(tag: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat()
}

/// Guests of one switch with these options, on rings of either format.
fn each<const N: usize>(options: [&[&str]; N], test: impl Fn([Guest; N])) {
    for format in [Format::Split, Format::Packed] {
        let switches = Arc::new(Switches::default());
        let names = ["a", "b", "c", "d"];
        let mut at = 0;
        test(options.map(|options| {
            at += 1;
            Guest::new(&switches, names[at - 1], options, format, F_MRG_RXBUF)
        }));
    }
}

#[test]
fn packets_find_their_port_when_it_is_known() {
    each([&[]; 3], |[mut a, mut b, mut c]| {
        a.send(&frame(ALL, mac(1), 60));
        for guest in [&mut b, &mut c] {
            assert_eq!(guest.received(), [frame(ALL, mac(1), 60)]);
        }
        for len in [14, 60, 64, 65, 1514] {
            b.send(&frame(mac(1), mac(2), len));
            assert_eq!(a.received(), [frame(mac(1), mac(2), len)]);
        }
        a.send(&frame(mac(2), mac(1), 1514));
        assert_eq!(b.received(), [frame(mac(2), mac(1), 1514)]);
        assert_eq!((c.received().len(), a.received().len()), (0, 0));
        assert_eq!([a.returned(), b.returned()], [2, 5]);
        let fdb = a.net.control("fdb", &json!({})).unwrap();
        let expected = json!([
            { "vlan": 1, "mac": "02:00:00:00:00:01", "port": "a", "age": 0 },
            { "vlan": 1, "mac": "02:00:00:00:00:02", "port": "b", "age": 0 },
        ]);
        assert_eq!(fdb, expected);
        c.net.control("flush", &json!({})).unwrap();
        a.send(&frame(mac(2), mac(1), 60));
        assert_eq!((b.received().len(), c.received().len()), (1, 1));
    });
}

#[test]
fn packets_alike_take_the_same_way_until_something_changes() {
    let options: [&[&str]; 3] = [&["--trunk=7,native=1"], &[], &[]];
    each(options, |[mut a, mut b, mut c]| {
        b.send(&frame(ALL, mac(2), 61));
        c.send(&frame(ALL, mac(3), 61));
        for guest in [&mut a, &mut b, &mut c] {
            guest.received();
        }
        let to_b = |len| frame(mac(2), mac(1), len);
        let to_c = frame(mac(3), mac(1), 61);
        // Nobody else is in that VLAN.
        let elsewhere = tagged(7, &to_b(61));
        for packet in [&to_b(61), &to_b(15), &elsewhere, &to_b(63), &to_c, &to_c, &to_b(1513), &to_b(61)] {
            a.put(&Header::default(), packet);
        }
        a.bench.run();
        assert_eq!(b.received(), [61, 15, 63, 1513, 61].map(to_b));
        assert_eq!(c.received(), [to_c.clone(), to_c]);
        assert_eq!(a.returned(), 8);
        c.net.control("flush", &json!({})).unwrap();
        a.send(&to_b(61));
        assert_eq!((b.received().len(), c.received().len()), (1, 1));
    });
}

#[test]
fn packet_is_returned_when_the_other_guest_has_it() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        a.send(&frame(mac(2), mac(1), 3000));
        assert_eq!(a.returned(), 0, "it is still being read");
        assert_eq!(b.received_with_headers()[0].0.num_buffers.get(), 2);
        assert_eq!(a.returned(), 1);
    });
}

#[test]
fn vlans_are_worlds_of_their_own_and_trunks_join_them() {
    let options: [&[&str]; 4] =
        [&["--vlan=10"], &["--vlan=20"], &["--vlan=10"], &["--trunk=10,20,native=30"]];
    each(options, |[mut a, mut b, mut c, mut trunk]| {
        let plain = frame(ALL, mac(1), 60);
        a.send(&plain);
        assert_eq!((b.received().len(), c.received()), (0, vec![plain.clone()]));
        assert_eq!(trunk.received(), [tagged(10, &plain)]);
        trunk.send(&tagged(0x6000 | 20, &frame(ALL, mac(4), 60)));
        assert_eq!((b.received(), a.received().len()), (vec![frame(ALL, mac(4), 60)], 0));
        // Lent, with the tag taken off and put on.
        b.send(&frame(mac(4), mac(2), 1000));
        assert_eq!(trunk.received(), [tagged(20, &frame(mac(4), mac(2), 1000))]);
        trunk.send(&tagged(0x6000 | 20, &frame(mac(2), mac(4), 1000)));
        assert_eq!(b.received(), [frame(mac(2), mac(4), 1000)]);
        // The same address, in another VLAN, is nobody there.
        a.send(&frame(mac(4), mac(1), 60));
        assert_eq!((c.received().len(), trunk.received().len()), (1, 1));
        a.send(&tagged(10, &plain));
        trunk.send(&tagged(11, &plain));
        a.send(&plain[..14].iter().copied().take(12).chain([0x81, 0]).collect::<Vec<_>>());
        assert_eq!([a.dropped("vlan"), trunk.dropped("vlan"), a.dropped("no_tag")], [1, 1, 1]);
        trunk.send(&plain);
        assert!([&mut a, &mut b, &mut c].map(Guest::received).concat().is_empty(), "nobody is in VLAN 30");
        // Nothing is kept.
        assert_eq!([a.returned(), b.returned(), trunk.returned()], [4, 1, 4]);
    });
}

#[test]
fn isolated_ports_talk_to_others_only() {
    each([&["--isolated"], &["--isolated"], &[]], |[mut a, mut b, mut c]| {
        a.send(&frame(ALL, mac(1), 60));
        assert_eq!((b.received().len(), c.received().len()), (0, 1));
        b.send(&frame(mac(1), mac(2), 60));
        assert_eq!((a.received().len(), b.dropped("isolated")), (0, 1));
        c.send(&frame(mac(1), mac(3), 60));
        assert_eq!(a.received().len(), 1);
        let set = b.net.control("set", &json!({ "isolated": false, "vlan": 1 })).unwrap();
        assert_eq!(set, json!({ "vlan": 1, "isolated": false }));
        b.send(&frame(mac(1), mac(2), 60));
        assert_eq!(a.received().len(), 1);
    });
}

#[test]
fn port_is_set_to_other_vlans_or_not_at_all() {
    each([&[], &[]], |[mut a, mut b]| {
        b.net.control("set", &json!({ "trunk": "1-9" })).unwrap();
        a.send(&frame(ALL, mac(1), 60));
        assert_eq!(b.received(), [tagged(1, &frame(ALL, mac(1), 60))]);
        assert_eq!(b.net.status()["backend_status"]["trunk"], "1-9");
        for wrong in [
            json!({ "vlan": 0 }),
            json!({ "vlan": 7, "trunk": "all" }),
            json!({ "isolated": 1 }),
            json!({ "speed": 1 }),
            json!({ "isolated": true, "trunk": "x" }),
        ] {
            b.net.control("set", &wrong).unwrap_err();
            assert_eq!(b.net.status()["backend_status"]["isolated"], false);
        }
    });
}

#[test]
fn work_left_to_do_is_done_for_a_guest_that_does_not_take_it() {
    for format in [Format::Split, Format::Packed] {
        let switches = Arc::new(Switches::default());
        let guest = |name, options: &[&str], features| {
            Guest::new(&switches, name, options, format, features | F_MRG_RXBUF)
        };
        let mut a = guest("a", &[], F_CSUM | F_GUEST_CSUM);
        let mut b = guest("b", &[], 0);
        let mut c = guest("c", &["--trunk=1"], F_GUEST_CSUM);
        let (header, packet) = datagram(&[7; 1000]);
        let body = [7; 1000];
        // To all first, then to the one that answered.
        for turn in 0..2 {
            a.put(&header, &packet);
            a.bench.run();
            let [(plain, got)] = &b.received_with_headers()[..] else { panic!("one packet") };
            assert_eq!((plain.flags, payload(got)), (0, &body[..]));
            let tagged = c.received_with_headers();
            if turn == 0 {
                let (header, _) = &tagged[0];
                assert_eq!((header.csum_start.get(), header.csum_offset.get()), (38, 6));
            } else {
                assert!(tagged.is_empty());
            }
            let answer: Vec<u8> = [&packet[6..12], &packet[..6], &packet[12..]].concat();
            b.send(&answer);
        }
    }
}

#[test]
fn port_without_buffers_costs_others_what_they_send_to_it() {
    each([&[]; 3], |[mut a, mut b, mut c]| {
        b.send(&frame(ALL, mac(2), 60));
        c.send(&frame(ALL, mac(3), 60));
        a.received();
        // It has forty.
        for _ in 0..50 {
            a.send(&frame(mac(2), mac(1), 60));
            b.bench.run();
        }
        assert_eq!(a.returned(), 50);
        assert_eq!(b.net.status()["rx"]["dropped"]["no_buffer"], json!(10 + 1));
        a.send(&frame(mac(3), mac(1), 60));
        assert_eq!(c.received().len(), 2);
    });
}

#[test]
fn port_that_stalls_holds_a_part_of_the_ring_and_the_rest_goes_on() {
    each([&[]; 3], |[mut a, mut b, mut c]| {
        b.send(&frame(ALL, mac(2), 60));
        c.send(&frame(ALL, mac(3), 60));
        a.received();
        c.received();
        // Nobody serves b.
        for turn in 0..200 {
            a.send(&frame(mac(2), mac(1), 100));
            if turn < 70 {
                a.send(&frame(ALL, mac(1), 60));
            }
            a.returned();
            c.received();
        }
        assert!(a.dropped("to_full") > 0);
        // Half of three quarters of 256. More are copied.
        assert_eq!(a.bench.outstanding(TX), 96);
        a.send(&frame(mac(3), mac(1), 60));
        assert_eq!(c.received().len(), 1);
        // When it goes on, all come home. What it has buffers for came in the order in which it was sent.
        let received = b.received();
        assert_eq!(received.len(), 40);
        a.returned();
        assert_eq!(a.bench.outstanding(TX), 0);
        // As they do when it goes away.
        a.send(&frame(mac(2), mac(1), 100));
        drop(b);
        a.returned();
        assert_eq!(a.bench.outstanding(TX), 0);
        a.send(&frame(mac(2), mac(1), 60));
        assert_eq!((a.returned(), c.received().len()), (1, 1), "nobody has that address any more");
    });
}

#[test]
fn short_packets_in_one_buffer_come_back_at_once_and_arrive_in_turn() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 61));
        a.send(&frame(ALL, mac(1), 61));
        a.received();
        b.received();
        a.returned();
        // Nobody serves b. Two in five are short, and in one buffer.
        let frames = [61, 200, 115, 62, 117].repeat(6).into_iter().map(|len| frame(mac(2), mac(1), len));
        let frames: Vec<_> = frames.collect();
        for frame in &frames {
            a.send(frame);
            a.returned();
        }
        assert_eq!(a.bench.outstanding(TX), 18);
        assert_eq!(b.received(), frames);
        a.returned();
        assert_eq!(a.bench.outstanding(TX), 0);
        for _ in 0..3000 {
            a.send(&frames[0]);
            a.returned();
        }
        assert_eq!(a.bench.outstanding(TX), 0);
        assert!(a.dropped("to_full") > 0, "no more than that wait");
        assert_eq!(b.received(), vec![frames[0].clone(); 40]);
    });
}

/// A small ring whose guest sends to two ports that nobody serves, and to one that is served.
fn stalled(setup: &Setup) {
    let switches = Arc::new(Switches::default());
    let guest = |name, setup: &Setup| Guest::with(&switches, name, &[], setup, F_MRG_RXBUF);
    let plain = Setup { queues: 2, memory: 16 << 20, indirect: true, ..Setup::new(setup.format) };
    let mut a = guest("a", setup);
    let [mut b, mut c, mut d] = ["b", "c", "d"].map(|name| guest(name, &plain));
    for (number, guest) in [(2, &mut b), (3, &mut c), (4, &mut d)] {
        guest.send(&frame(ALL, mac(number), 60));
    }
    a.received();
    d.received();
    for len in [100, 1500] {
        for turn in 0..250 {
            a.send(&frame(mac(2 + turn % 2), mac(1), len));
            a.returned();
        }
        assert!(a.bench.outstanding(TX) <= u32::from(setup.size) * 3 / 4);
        for _ in 0..100 {
            a.send(&frame(mac(4), mac(1), len));
            assert_eq!(d.received(), [frame(mac(4), mac(1), len)]);
            a.returned();
        }
    }
    b.received();
    c.received();
    a.returned();
    assert_eq!(a.bench.outstanding(TX), 0);
}

#[test]
fn ports_that_stall_together_leave_a_small_ring_enough() {
    for format in [Format::Split, Format::Packed] {
        stalled(&Setup { queues: 2, memory: 16 << 20, size: 64, indirect: true, ..Setup::new(format) });
        // Each packet takes two entries.
        stalled(&Setup { queues: 2, memory: 16 << 20, size: 64, ..Setup::new(format) });
    }
}

#[test]
fn packet_in_many_pieces_is_copied_by_its_own_thread_and_arrives_in_turn() {
    for format in [Format::Split, Format::Packed] {
        let switches = Arc::new(Switches::default());
        let setup = Setup { queues: 2, memory: 16 << 20, ..Setup::new(format) };
        let [mut a, mut b] = ["a", "b"].map(|name| Guest::with(&switches, name, &[], &setup, F_MRG_RXBUF));
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        let packets = [100, 1000, 200].map(|len| frame(mac(2), mac(1), len));
        for (at, packet) in packets.iter().enumerate() {
            let mut pieces = vec![Header::default().as_bytes().to_vec()];
            pieces.extend(packet.chunks(if at == 1 { 10 } else { 1000 }).map(<[u8]>::to_vec));
            a.bench.send(TX, &pieces.iter().map(Vec::as_slice).collect::<Vec<_>>(), &[]);
        }
        a.bench.run();
        assert_eq!(a.returned(), 1, "that in many pieces, at once");
        assert_eq!(b.received(), packets);
        assert_eq!(a.returned(), 2);
    }
}

#[test]
fn number_of_a_port_is_free_when_nobody_uses_it_any_more() {
    let switches = Arc::new(Switches::default());
    let [a, mut b] = ["a", "b"].map(|name| Guest::new(&switches, name, &[], Format::Split, F_MRG_RXBUF));
    let Guest { net, mut bench } = a;
    drop(net);
    // Its thread still runs, and sends, while another device takes its place.
    let mut c = Guest::new(&switches, "c", &[], Format::Split, F_MRG_RXBUF);
    bench.send(TX, &[Header::default().as_bytes(), &frame(ALL, mac(1), 60)], &[]);
    bench.run();
    assert_eq!((b.received().len(), c.received().len()), (0, 0));
    drop(bench);
    b.send(&frame(ALL, mac(2), 60));
    assert_eq!(c.received().len(), 1, "the old thread's end was not that of the new port");
    let switch = switches.open("default");
    let free = switch.join("d", outboard_switch::PortSettings::default(), None).unwrap();
    assert_eq!(free.port, outboard_switch::PortId(0));
}

#[test]
fn port_that_is_slow_gets_copies_in_order_and_then_nothing() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        // Many buffers, so that there is some of both kinds.
        while b.bench.outstanding(RX) < 250 {
            b.bench.send(RX, &[], &[100]);
        }
        let sent = |number: u16| [&frame(mac(2), mac(1), 14)[..], &number.to_be_bytes()].concat();
        for number in 0..700 {
            a.send(&sent(number));
            a.returned();
        }
        // Half of three quarters of its ring.
        assert_eq!(a.bench.outstanding(TX), 96);
        assert_eq!(a.dropped("to_full"), 700 - 96 - 512);
        let mut received = 0;
        loop {
            let packets = b.received();
            for packet in &packets {
                let number = u16::from_be_bytes([packet[14], packet[15]]);
                assert!(number >= received, "{number} behind {received}");
                received = number + 1;
            }
            if packets.is_empty() {
                break;
            }
        }
        a.returned();
        assert_eq!(a.bench.outstanding(TX), 0);
    });
}

#[test]
fn port_that_rests_receives_nothing_and_goes_on() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        a.send(&frame(mac(2), mac(1), 100));
        b.bench.enable(RX, false);
        assert_eq!(a.returned(), 1, "it is given back at once");
        a.send(&frame(mac(2), mac(1), 60));
        assert_eq!((a.returned(), a.dropped("to_down")), (1, 1));
        b.send(&frame(mac(1), mac(2), 60));
        assert_eq!(a.received().len(), 1, "it sends all the same");
        b.bench.enable(RX, true);
        a.send(&frame(mac(2), mac(1), 60));
        assert_eq!(b.received(), [frame(mac(2), mac(1), 60)]);
    });
}

#[test]
fn sender_that_goes_away_takes_its_packets_along() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        a.send(&frame(mac(2), mac(1), 60));
        drop(a);
        // Lent by somebody who is gone: delivered, and nobody is told.
        assert_eq!(b.received().len(), 1);
        b.send(&frame(mac(1), mac(2), 60));
        assert_eq!(b.returned(), 2);
    });
}

#[test]
fn packets_for_all_are_limited_and_those_for_one_are_not() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        for _ in 0..130 {
            a.send(&frame(ALL, mac(1), 60));
            b.received();
        }
        // A tenth of what it may send in a second.
        assert_eq!(a.dropped("flood_limit"), 30);
        a.send(&frame(mac(2), mac(1), 60));
        assert_eq!(b.received().len(), 1);
    });
}

#[test]
fn packet_for_all_that_is_to_be_cut_counts_as_what_becomes_of_it() {
    for format in [Format::Split, Format::Packed] {
        let switches = Arc::new(Switches::default());
        let features = F_MRG_RXBUF | F_CSUM | F_HOST_USO;
        let [mut a, mut b] =
            ["a", "b"].map(|name| Guest::new(&switches, name, &[], format, features | F_GUEST_CSUM));
        let (header, mut packet) = datagram(&[7; 310]);
        packet[..6].fill(0xff);
        let header = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 10.into(), hdr_len: 42.into(), ..header };
        for _ in 0..4 {
            a.put(&header, &packet);
            a.bench.run();
            b.received();
        }
        // Of 100 at once, three times 31.
        assert_eq!(a.dropped("flood_limit"), 1);
        (0..8).for_each(|_| a.send(&frame(ALL, mac(1), 60)));
        assert_eq!(a.dropped("flood_limit"), 2);
    }
}

#[test]
fn packets_for_all_are_limited_by_port_and_not_by_connection() {
    each([&[]; 2], |[mut a, _b]| {
        // On a clock that is ahead of the others.
        a.bench.pass(Duration::from_secs(3600));
        (0..100).for_each(|_| a.send(&frame(ALL, mac(1), 60)));
        assert_eq!(a.dropped("flood_limit"), 0);
        a.net.announce(mac(1)).unwrap_err();
        let handler = a.net.handler(Group(0), Features(F_MRG_RXBUF | VIRTIO_F_VERSION_1)).unwrap();
        a.bench = Bench::with(handler, &Setup { queues: 2, ..Setup::new(Format::Split) });
        a.send(&frame(ALL, mac(1), 60));
        assert_eq!(a.dropped("flood_limit"), 1);
    });
}

#[test]
fn guest_that_was_moved_is_announced_and_found() {
    each([&[]; 3], |[mut a, mut b, mut c]| {
        a.send(&frame(ALL, mac(9), 60));
        b.received();
        c.received();
        b.net.announce(mac(9)).unwrap();
        for guest in [&mut a, &mut c] {
            let [request] = &guest.received()[..] else { panic!("one packet") };
            assert_eq!(
                (request.len(), &request[..16]),
                (60, &[&ALL[..], &mac(9), &[0x80, 0x35, 0, 1]].concat()[..])
            );
        }
        c.send(&frame(mac(9), mac(3), 60));
        assert_eq!((a.received().len(), b.received().len()), (0, 1));
        b.net.announce(ALL).unwrap_err();
    });
}

#[test]
fn mirror_has_what_the_guest_sends_and_receives() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("b.pcap");
    let option = format!("--mirror={}", file.display());
    each([&[], &["--vlan=1", &option], &["--trunk=1"]], |[mut a, mut b, mut c]| {
        let seen = [
            frame(ALL, mac(1), 60),
            frame(mac(1), mac(2), 1500),
            frame(mac(2), mac(1), 1000),
            frame(mac(3), mac(2), 60),
            frame([1, 0x80, 0xc2, 0, 0, 0], mac(2), 60),
        ];
        a.send(&seen[0]);
        c.send(&tagged(1, &frame(mac(1), mac(3), 60)));
        b.send(&seen[1]);
        assert_eq!(a.received(), [frame(mac(1), mac(3), 60), seen[1].clone()]);
        a.send(&seen[2]);
        assert_eq!(b.received(), [seen[0].clone(), seen[2].clone()]);
        b.send(&seen[3]);
        assert_eq!(c.received(), [tagged(1, &seen[0]), tagged(1, &seen[3])]);
        b.send(&seen[4]);
        assert_eq!(a.returned(), 2);
        assert_eq!((b.returned(), b.dropped("reserved")), (3, 1));
        drop(b);

        let bytes = std::fs::read(&file).unwrap();
        let mut reader = outboard_frames::pcap::Reader::new();
        let (mut at, mut frames) = (0, Vec::new());
        while at < bytes.len() {
            let piece = &bytes[at..at + reader.wanted()];
            at += piece.len();
            frames.extend(reader.take(piece).unwrap().map(|captured| captured.bytes.to_vec()));
        }
        // In the order in which b's thread saw them.
        let mut expected = seen.to_vec();
        expected.sort();
        frames.sort();
        assert_eq!(frames, expected);
    });
}

#[test]
fn port_with_a_mirror_counts_what_is_for_one_that_rests() {
    let directory = tempfile::tempdir().unwrap();
    let option = format!("--mirror={}", directory.path().join("a.pcap").display());
    each([&[&option], &[]], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        assert_eq!(a.received().len(), 1);
        b.bench.enable(RX, false);
        b.bench.run();
        a.send(&frame(mac(2), mac(1), 60));
        assert_eq!((a.returned(), a.dropped("to_down")), (1, 1));
        a.send(&frame(ALL, mac(1), 60));
        assert_eq!((a.returned(), a.dropped("to_down")), (1, 1), "others may have it");
    });
}

#[test]
fn mirror_that_cannot_be_written_is_told_at_the_start() {
    let error = Net::open(&parse(&["--backend=switch", "--mirror=/nonexistent/x"])).err().unwrap();
    assert!(error.to_string().contains("cannot write to /nonexistent/x"), "{error}");
}

#[test]
fn switches_of_other_names_are_others() {
    each([&[], &["--switch=blue"], &["--switch=blue"]], |[mut a, mut b, mut c]| {
        b.send(&frame(ALL, mac(2), 60));
        assert_eq!((a.received().len(), c.received().len()), (0, 1));
        assert_eq!(a.net.status()["backend_status"]["switch"], "default");
        assert_eq!(b.net.status()["backend_status"]["switch"], "blue");
    });
}

#[test]
fn options_of_a_port_go_with_a_switch() {
    for option in ["--switch=x", "--vlan=1", "--trunk=all", "--isolated"] {
        let error = Net::open(&parse(&["--backend=null", option])).err().unwrap().to_string();
        assert!(error.contains("--backend switch"), "{error}");
    }
    let _: Value = Net::open(&parse(&["--backend=switch", "--trunk=5,native=6"])).unwrap().status();
}

/// One packet that waits for a slow port would hold up all behind it.
#[test]
fn order_is_not_promised_by_a_port() {
    let (switches, format) = (Arc::new(Switches::default()), Format::Split);
    let port = Guest::new(&switches, "a", &[], format, 0);
    assert!(!port.net.profile().in_order);
}

/// A guest with two pairs has no more of its neighbour than one with one.
#[test]
fn share_of_a_slow_port_is_the_senders_and_not_that_of_each_pair() {
    for format in [Format::Split, Format::Packed] {
        let switches = Arc::new(Switches::default());
        let mut b = Guest::new(&switches, "b", &[], format, F_MRG_RXBUF);
        let args = parse(&["--backend=switch", "--pairs=2"]);
        let mut net = VhostUserNet::open_in(args, "a", &switches).unwrap();
        let mut benches = [0, 1].map(|group| {
            let handler = net.handler(Group(group), Features(F_MRG_RXBUF | VIRTIO_F_VERSION_1)).unwrap();
            let queues = 2 * group + 2;
            Bench::with(handler, &Setup { queues, memory: 16 << 20, indirect: true, ..Setup::new(format) })
        });
        b.send(&frame(ALL, mac(2), 60));
        let mut out = 0;
        for (bench, tx) in benches.iter_mut().zip([TX, QueueId(3)]) {
            for _ in 0..150 {
                bench.send(tx, &[Header::default().as_bytes(), &frame(mac(2), mac(1), 60)], &[]);
                bench.run();
                while bench.receive(tx).is_some() {}
            }
            out += bench.outstanding(tx);
        }
        assert_eq!(out, 128);
    }
}

#[test]
fn senders_take_turns_at_a_port_with_few_buffers() {
    each([&[]; 3], |[mut a, mut b, mut c]| {
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        c.received();
        (0..90).for_each(|_| a.send(&frame(mac(2), mac(1), 60)));
        c.send(&frame(mac(2), mac(3), 60));
        let received = b.received();
        assert_eq!(received.len(), 40);
        assert_eq!(received.iter().filter(|packet| packet[6..12] == mac(3)).count(), 1);
    });
}

#[test]
fn copies_of_one_sender_leave_room_for_those_of_others() {
    each([&[]; 3], |[mut a, b, mut c]| {
        (0..100).for_each(|_| {
            a.send(&frame(ALL, mac(1), 60));
            c.received();
        });
        // Half of what may wait at b; c has taken its own.
        assert_eq!(a.dropped("to_full"), 36);
        c.send(&frame(ALL, mac(3), 60));
        assert_eq!(c.dropped("to_full"), 0);
        drop(b);
    });
}

/// What is sent is delivered, or counted as dropped by somebody.
#[test]
fn packets_under_way_to_a_port_that_is_turned_off_are_counted() {
    each([&[]; 2], |[mut a, mut b]| {
        b.send(&frame(ALL, mac(2), 60));
        a.received();
        (0..5).for_each(|_| a.send(&frame(mac(2), mac(1), 60)));
        a.send(&frame(ALL, mac(1), 60));
        b.bench.enable(RX, false);
        assert_eq!(a.returned(), 6);
        assert_eq!(b.dropped("cut_off"), 6);
    });
}
