//! The device on both ring formats, with each kind of what is behind it.

mod coalescing;
mod commands;
mod limits;
mod pairs;

use std::time::Duration;

use clap::{Command, FromArgMatches};
use outboard_daemon::Program;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{
    F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN, F_CTRL_VQ,
    F_GUEST_ANNOUNCE, F_GUEST_CSUM, F_GUEST_USO4, F_HASH_REPORT, F_HOST_USO, F_MAC, F_MQ, F_MRG_RXBUF, F_MTU,
    F_NOTF_COAL, F_RSS, F_SPEED_DUPLEX, F_STATUS, F_VQ_NOTF_COAL, HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM,
    HDR_GSO_UDP_L4, HEADER_LEN, Header, S_LINK_UP,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_frames::testing::sum;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::{Net, NetHandler, NetOptions, VhostUserNet};

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
const RX: QueueId = QueueId(0);
const TX: QueueId = QueueId(1);
/// As few features as a driver can have that merges buffers.
const MERGING: u64 = F_MRG_RXBUF;

pub(crate) fn parse(args: &[&str]) -> NetOptions {
    let command = <NetOptions as clap::Args>::augment_args(Command::new("net").no_binary_name(true));
    NetOptions::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
}

/// A device opened with these options, agreed on these features, with a ring of either format.
fn each(args: &[&str], features: u64, test: impl Fn(&mut Net, &mut Bench<NetHandler>)) {
    for format in FORMATS {
        let mut device = VhostUserNet::open(parse(args)).unwrap();
        let handler = device.handler(Group(0), Features(features | VIRTIO_F_VERSION_1)).unwrap();
        let setup = Setup { queues: 2, memory: 64 << 20, indirect: true, ..Setup::new(format) };
        test(&mut device, &mut Bench::with(handler, &setup));
    }
}

#[test]
fn driver_of_before_virtio_1_is_refused() {
    let mut device = VhostUserNet::open(parse(&["--backend", "null"])).unwrap();
    let error = device.handler(Group(0), Features(MERGING)).err().unwrap();
    assert!(error.to_string().contains("VERSION_1"), "{error}");
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// Puts a packet on the guest's ring: one of odd length in one buffer with its header, others behind it.
pub(crate) fn put(bench: &mut Bench<NetHandler>, header: &Header, packet: &[u8]) -> u64 {
    let parts = [header.as_bytes(), packet];
    if packet.len() % 2 == 1 { bench.send(TX, &[&parts.concat()], &[]) } else { bench.send(TX, &parts, &[]) }
}

/// The guest sends this, and has it back.
fn send(bench: &mut Bench<NetHandler>, header: &Header, packet: &[u8]) {
    let token = put(bench, header, packet);
    bench.run();
    let answer = bench.receive(TX).expect("it comes back at once");
    assert_eq!((answer.token, answer.len), (token, 0));
}

/// What the guest received next: the header and the packet.
fn receive(bench: &mut Bench<NetHandler>) -> Option<(Header, Vec<u8>)> {
    let first = bench.receive(RX)?;
    let bytes = written(&first.outputs, first.len);
    let header = Header::read_from_bytes(&bytes[..HEADER_LEN]).unwrap();
    let (mut packet, mut room) = (bytes[HEADER_LEN..].to_vec(), first.outputs.concat().len());
    for _ in 1..header.num_buffers.get() {
        assert_eq!(packet.len() + HEADER_LEN, room, "all buffers but the last are filled");
        let next = bench.receive(RX).expect("all of a packet at once");
        packet.extend(written(&next.outputs, next.len));
        room += next.outputs.concat().len();
    }
    Some((header, packet))
}

/// What was written, and nothing behind it.
fn written(outputs: &[Vec<u8>], len: u32) -> Vec<u8> {
    let mut bytes = outputs.concat();
    let rest = bytes.split_off(len as usize);
    assert!(rest.iter().all(|&byte| byte == UNTOUCHED), "nothing is written beyond the length");
    bytes
}

fn post(bench: &mut Bench<NetHandler>, count: usize, len: usize) {
    for _ in 0..count {
        bench.send(RX, &[], &[len]);
    }
    bench.run();
}

fn number(status: &Value, path: &str) -> u64 {
    status.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} of {status}"))
}

/// A UDP datagram over IPv4, its checksum left to the device; and the header that says so.
pub(crate) fn datagram(payload: &[u8]) -> (Header, Vec<u8>) {
    let len = (payload.len() + 8) as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0]);
    frame.extend((len + 20).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0, 53]);
    frame.extend(len.to_be_bytes());
    frame.extend(pseudo(len).to_be_bytes());
    frame.extend(payload);
    let header =
        Header { flags: HDR_F_NEEDS_CSUM, csum_start: 34.into(), csum_offset: 6.into(), ..Header::default() };
    (header, frame)
}

fn pseudo(len: u16) -> u16 {
    let [high, low] = len.to_be_bytes();
    sum(&[192, 0, 2, 1, 192, 0, 2, 2, 0, 17, high, low])
}

/// The payload of a datagram as it goes over a wire.
pub(crate) fn payload(frame: &[u8]) -> &[u8] {
    let len = (frame.len() - 34) as u16;
    assert_eq!(frame[38..40], len.to_be_bytes(), "length");
    let pseudo = pseudo(len).to_be_bytes();
    assert_eq!(sum(&[&pseudo[..], &frame[34..]].concat()), 0xffff, "checksum");
    &frame[42..]
}

#[test]
fn loop_packets_come_back_whole_in_as_few_buffers_as_hold_them() {
    each(&["--backend=loop"], MERGING, |device, bench| {
        let mut bytes = 0;
        for len in [14, 60, 1514, 2036, 2037, 4084, 4085, 9018] {
            post(bench, 5, 2048);
            let packet = pattern(len);
            send(bench, &Header::default(), &packet);
            let (header, received) = receive(bench).unwrap();
            let buffers = (len + HEADER_LEN).div_ceil(2048) as u16;
            assert_eq!(header, Header { num_buffers: buffers.into(), ..Header::default() });
            assert_eq!(received, packet);
            assert_eq!(receive(bench), None);
            bytes += len as u64;
        }
        let status = device.status();
        assert_eq!([number(&status, "/rx/packets"), number(&status, "/tx/packets")], [8, 8]);
        assert_eq!([number(&status, "/rx/bytes"), number(&status, "/tx/bytes")], [bytes, bytes]);
        assert_eq!(status["backend"], "loop");
    });
}

#[test]
fn loop_packet_in_many_buffers_is_the_same_packet() {
    each(&["--backend=loop"], MERGING, |_, bench| {
        let packet = pattern(3000);
        let header = Header::default();
        let whole = [header.as_bytes(), &packet].concat();
        let (front, back) = whole.split_at(7);
        bench.send(RX, &[], &[5, 10, 1000, 1]);
        bench.send(RX, &[], &[2000, 2000]);
        bench.send(TX, &[front, &back[..100], &back[100..]], &[]);
        bench.run();
        assert_eq!(receive(bench).unwrap().1, packet);
    });
}

#[test]
fn buffers_are_left_alone_until_there_is_a_packet() {
    for args in [["--backend=null"], ["--backend=loop"]] {
        each(&args, MERGING, |_, bench| {
            post(bench, 3, 2048);
            assert_eq!(bench.outstanding(RX), 3);
            assert_eq!(receive(bench), None);
        });
    }
}

#[test]
fn packet_without_buffers_is_dropped_and_the_next_one_is_not() {
    each(&["--backend=loop"], MERGING, |device, bench| {
        send(bench, &Header::default(), &pattern(100));
        post(bench, 1, 2048);
        send(bench, &Header::default(), &pattern(3000));
        assert_eq!(receive(bench), None, "one buffer does not do, and is kept");
        send(bench, &Header::default(), &pattern(1000));
        assert_eq!(receive(bench).unwrap().1, pattern(1000));
        assert_eq!(number(&device.status(), "/rx/dropped/no_buffer"), 2);
        assert_eq!(number(&device.status(), "/tx/packets"), 3);
    });
}

#[test]
fn packet_longer_than_its_buffer_is_dropped_if_buffers_are_not_merged() {
    each(&["--backend=loop"], 0, |device, bench| {
        post(bench, 2, 1526);
        send(bench, &Header::default(), &pattern(1515));
        assert_eq!(receive(bench), None);
        send(bench, &Header::default(), &pattern(1514));
        let (header, packet) = receive(bench).unwrap();
        assert_eq!((header.num_buffers.get(), packet), (1, pattern(1514)));
        assert_eq!(number(&device.status(), "/rx/dropped/too_long"), 1);
        assert_eq!(bench.outstanding(RX), 1);
    });
}

#[test]
fn buffers_too_small_for_a_header_are_given_back_empty() {
    each(&["--backend=loop"], MERGING, |_, bench| {
        bench.send(RX, &[], &[1]);
        bench.send(RX, &[], &[HEADER_LEN - 1]);
        bench.send(RX, &[b"readable"], &[]);
        post(bench, 1, 2048);
        send(bench, &Header::default(), &pattern(60));
        for _ in 0..3 {
            assert_eq!(bench.receive(RX).unwrap().len, 0);
        }
        assert_eq!(receive(bench).unwrap().1, pattern(60));
    });
}

#[test]
fn packet_in_more_buffers_than_make_sense_is_dropped() {
    each(&["--backend=loop"], MERGING, |device, bench| {
        post(bench, 200, HEADER_LEN);
        send(bench, &Header::default(), &pattern(127 * HEADER_LEN));
        let (header, packet) = receive(bench).unwrap();
        assert_eq!((header.num_buffers.get(), packet), (128, pattern(127 * HEADER_LEN)));
        post(bench, 128, HEADER_LEN);
        send(bench, &Header::default(), &pattern(127 * HEADER_LEN + 1));
        assert_eq!(receive(bench), None);
        assert_eq!(number(&device.status(), "/rx/dropped/too_long"), 1);
        assert_eq!(bench.outstanding(RX), 200);
    });
}

#[test]
fn packets_that_are_wrong_come_back_counted_and_go_nowhere() {
    each(&["--backend=loop", "--mtu=1500"], MERGING | F_CSUM, |device, bench| {
        post(bench, 3, 2048);
        let asking = datagram(b"payload").0;
        let uso = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 100.into(), ..asking };
        for (header, packet, why) in [
            (Header::default(), pattern(0), "too_short"),
            (Header::default(), pattern(13), "too_short"),
            (Header::default(), pattern(1519), "too_long"),
            (Header::default(), pattern(70_000), "too_long"),
            (Header { csum_start: 0xffff.into(), ..asking }, datagram(b"payload").1, "csum_range"),
            (Header { flags: 0, ..uso }, datagram(b"payload").1, "gso_type"),
            (uso, datagram(&pattern(1000)).1, "gso_not_agreed"),
        ] {
            let counter = format!("/tx/refused/{why}");
            let before = number(&device.status(), &counter);
            send(bench, &header, &packet);
            assert_eq!(number(&device.status(), &counter), before + 1, "{why}");
        }
        bench.send(TX, &[b"eleven byte"], &[]);
        bench.send(TX, &[], &[100]);
        bench.run();
        for _ in 0..2 {
            let answer = bench.receive(TX).unwrap();
            assert!(answer.len == 0 && answer.outputs.concat().iter().all(|&byte| byte == UNTOUCHED));
        }
        assert_eq!(number(&device.status(), "/tx/refused/too_short"), 4);
        assert_eq!(receive(bench), None);
        assert_eq!(number(&device.status(), "/tx/packets"), 0);
    });
}

#[test]
fn flags_that_nobody_asked_for_are_not_passed_on() {
    each(&["--backend=loop"], MERGING | F_CSUM | F_GUEST_CSUM, |_, bench| {
        post(bench, 1, 2048);
        let header = Header { flags: HDR_F_DATA_VALID | 0xf0, num_buffers: 9.into(), ..Header::default() };
        send(bench, &header, &pattern(60));
        assert_eq!(receive(bench).unwrap().0, Header { num_buffers: 1.into(), ..Header::default() });
    });
}

#[test]
fn checksum_is_left_to_a_guest_that_takes_it_and_completed_for_others() {
    let (header, frame) = datagram(&pattern(1001));
    each(&["--backend=loop"], MERGING | F_CSUM | F_GUEST_CSUM, |_, bench| {
        post(bench, 1, 2048);
        send(bench, &header, &frame);
        let expected = Header { num_buffers: 1.into(), ..header };
        assert_eq!(receive(bench), Some((expected, frame.clone())));
    });
    each(&["--backend=loop"], MERGING | F_CSUM, |_, bench| {
        post(bench, 1, 2048);
        send(bench, &header, &frame);
        let (header, received) = receive(bench).unwrap();
        assert_eq!(header, Header { num_buffers: 1.into(), ..Header::default() });
        assert_eq!(payload(&received), pattern(1001));
    });
}

#[test]
fn segments_are_left_to_a_guest_that_takes_them_and_made_for_others() {
    let (header, frame) = datagram(&pattern(5000));
    let header = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 1400.into(), hdr_len: 3.into(), ..header };
    let sender = MERGING | F_CSUM | F_HOST_USO;
    each(&["--backend=loop", "--mtu=1500"], sender | F_GUEST_CSUM | F_GUEST_USO4, |_, bench| {
        post(bench, 3, 2048);
        send(bench, &header, &frame);
        let expected = Header { num_buffers: 3.into(), hdr_len: 42.into(), ..header };
        assert_eq!(receive(bench), Some((expected, frame.clone())));
    });
    for without in [F_GUEST_CSUM, F_GUEST_USO4, F_GUEST_CSUM | F_GUEST_USO4] {
        let features = (sender | F_GUEST_CSUM | F_GUEST_USO4) & !without;
        each(&["--backend=loop", "--mtu=1500"], features, |device, bench| {
            post(bench, 3, 2048);
            send(bench, &header, &frame);
            let mut whole = Vec::new();
            while let Some((header, segment)) = receive(bench) {
                assert_eq!(header, Header { num_buffers: 1.into(), ..Header::default() });
                whole.extend_from_slice(payload(&segment));
            }
            assert_eq!(whole, pattern(5000)[..4200], "as far as there were buffers");
            assert_eq!(number(&device.status(), "/rx/packets"), 3);
            assert_eq!(number(&device.status(), "/rx/dropped/no_buffer"), 1);
        });
    }
}

#[test]
fn link_that_is_down_lets_nothing_through_and_is_shown() {
    let is_up = |device: &Net| device.config()[6] & S_LINK_UP as u8 != 0;
    each(&["--backend=loop"], MERGING, |device, bench| {
        post(bench, 2, 2048);
        assert!(is_up(device));
        assert_eq!(device.control("link", &json!({ "up": false })).unwrap(), json!({ "link": false }));
        assert!(!is_up(device));
        send(bench, &Header::default(), &pattern(60));
        assert_eq!(receive(bench), None);
        device.control("link", &json!({ "up": true })).unwrap();
        assert!(is_up(device));
        send(bench, &Header::default(), &pattern(60));
        assert_eq!(receive(bench).unwrap().1, pattern(60));
        assert_eq!(number(&device.status(), "/tx/link_down"), 1);
    });
    let mut device = VhostUserNet::open(parse(&["--backend=null"])).unwrap();
    for arguments in [json!({}), json!({ "up": 1 }), json!({ "up": true, "more": 1 }), Value::Null] {
        assert!(device.control("link", &arguments).is_err(), "{arguments}");
    }
    assert!(device.control("unlink", &Value::Null).is_err());
}

#[test]
fn generator_fills_what_the_guest_posts_and_waits_for_more() {
    each(&["--backend=null", "--generate=100"], MERGING, |device, bench| {
        for round in 1..=3 {
            post(bench, 200, 2048);
            for _ in 0..200 {
                let (header, packet) = receive(bench).unwrap();
                assert_eq!(header.num_buffers.get(), 1);
                assert_eq!(
                    (packet.len(), &packet[..14]),
                    (100, &b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x88\xb5"[..])
                );
            }
            assert_eq!(receive(bench), None);
            assert_eq!(number(&device.status(), "/rx/packets"), 200 * round);
        }
        assert_eq!(number(&device.status(), "/rx/dropped/no_buffer"), 0, "nobody has lost anything");
        send(bench, &Header::default(), &pattern(60));
        assert_eq!(number(&device.status(), "/tx/packets"), 1);
    });
}

#[test]
fn null_that_reads_takes_packets_of_all_lengths() {
    for args in [&["--backend=null", "--touch"][..], &["--backend=null", "--touch", "--generate=60"]] {
        each(args, MERGING, |device, bench| {
            for len in [14, 60, 1514, 9000] {
                send(bench, &Header::default(), &pattern(len));
            }
            let status = device.status();
            assert_eq!((number(&status, "/tx/packets"), number(&status, "/tx/bytes")), (4, 10588));
        });
    }
}

#[test]
fn generator_goes_on_when_the_link_is_back() {
    each(&["--backend=null", "--generate=60"], MERGING, |device, bench| {
        bench.run();
        device.control("link", &json!({ "up": false })).unwrap();
        post(bench, 1, 2048);
        assert_eq!(receive(bench), None);
        device.control("link", &json!({ "up": true })).unwrap();
        bench.pass(Duration::from_secs(1));
        assert_eq!(receive(bench).unwrap().1.len(), 60);
    });
}

#[test]
fn device_offers_what_its_options_say() {
    let features = |args: &[&str]| VhostUserNet::open(parse(args)).unwrap().profile().features;
    let commands = F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_VLAN | F_CTRL_MAC_ADDR;
    let calls = F_NOTF_COAL | F_VQ_NOTF_COAL;
    let plain = F_MRG_RXBUF | F_STATUS | commands | F_CTRL_GUEST_OFFLOADS | F_GUEST_ANNOUNCE | calls;
    assert_eq!(features(&["--backend=loop", "--offload=none"]).0, plain);
    assert_eq!(features(&["--backend=loop", "--offload=csum"]).0, plain | F_CSUM | F_GUEST_CSUM);
    assert!(features(&["--backend=loop"]).has(plain | F_CSUM | F_HOST_USO | F_GUEST_USO4));
    let device = VhostUserNet::open(parse(&["--backend=loop", "--speed=25000"])).unwrap();
    assert!(device.profile().features.has(F_SPEED_DUPLEX));
    assert_eq!(device.config()[12..17], [0xa8, 0x61, 0, 0, 1]);
    let device = VhostUserNet::open(parse(&["--backend=loop", "--rss"])).unwrap();
    assert!(device.profile().features.has(F_RSS | F_HASH_REPORT));
    assert_eq!(device.config()[17..24], [40, 128, 0, 0x3f, 0, 0, 0]);
    let device =
        VhostUserNet::open(parse(&["--backend=null", "--mac=52:54:00:12:34:56", "--mtu=9000"])).unwrap();
    assert!(device.profile().features.has(F_MAC | F_MTU));
    assert_eq!(device.config()[..6], [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(device.config()[10..12], 9000_u16.to_le_bytes());
    for (args, reason) in [
        (&["--backend=loop", "--generate=60"][..], "--backend null"),
        (&["--backend=loop", "--tap=tap0"], "--backend tap"),
        (&["--backend=loop", "--touch"], "--backend null"),
        (&["--backend=tap"], "needs --tap"),
        (&["--backend=loop", "--tap-fd=3"], "--backend tap"),
        (&["--backend=tap", "--tap-fd=3,4"], "2 descriptors"),
        (&["--backend=tap", "--tap-fd=2000000000"], "--tap-fd 2000000000"),
        (&["--backend=tap", "--tap=tap0", "--generate=60"], "--backend null"),
    ] {
        let error = VhostUserNet::open(parse(args)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(reason), "{args:?}: {error}");
    }
}

#[test]
fn receive_buffers_with_something_to_read_are_given_back_empty() {
    each(&["--backend=loop"], MERGING, |_, bench| {
        post(bench, 1, 100);
        bench.send(RX, &[b"readable"], &[2048]);
        post(bench, 1, 2048);
        send(bench, &Header::default(), &pattern(200));
        // In the order of the ring: the first buffer is part of the packet behind it.
        let lens = [0; 3].map(|_| bench.receive(RX).unwrap().len);
        assert_eq!(lens, [0, 100, 112]);
    });
}

/// However many segments there are, the ring is looked through once.
#[test]
fn segments_behind_one_without_a_buffer_are_dropped_unseen() {
    let (header, frame) = datagram(&pattern(2000));
    let header = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 8.into(), ..header };
    each(&["--backend=loop"], MERGING | F_CSUM | F_HOST_USO, |device, bench| {
        post(bench, 4, 12);
        send(bench, &header, &frame);
        assert_eq!(receive(bench), None);
        assert_eq!(number(&device.status(), "/rx/dropped/no_buffer"), 250);
        post(bench, 1, 2048);
        send(bench, &Header::default(), &pattern(60));
        assert_eq!(receive(bench).unwrap().1, pattern(60), "nothing was lost but the segments");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sizes: a packet arrives whole, or not at all.
    #[test]
    fn packet_in_any_buffers_is_whole(len in 14..10_000_usize, rooms in prop::collection::vec(1..3000_usize, 1..20)) {
        each(&["--backend=loop"], MERGING, |device, bench| {
            for &room in &rooms {
                bench.send(RX, &[], &[room]);
            }
            send(bench, &Header::default(), &pattern(len));
            let mut useful = rooms.iter().skip_while(|&&room| room < HEADER_LEN);
            for _ in rooms.iter().take_while(|&&room| room < HEADER_LEN) {
                assert_eq!(bench.receive(RX).unwrap().len, 0);
            }
            let fits = useful.by_ref().copied().sum::<usize>() >= len + HEADER_LEN;
            assert_eq!(receive(bench).map(|(_, packet)| packet), fits.then(|| pattern(len)));
            assert_eq!(number(&device.status(), "/rx/dropped/no_buffer"), u64::from(!fits));
        });
    }
}

#[test]
fn packet_made_into_several_passes_a_limit_as_a_whole() {
    let (header, frame) = datagram(&pattern(3000));
    let header = Header { gso_type: HDR_GSO_UDP_L4, gso_size: 1000.into(), ..header };
    let features = MERGING | F_CSUM | F_HOST_USO;
    each(&["--backend=loop", "--rx-pps=10:1"], features, |device, bench| {
        post(bench, 10, 2048);
        // The first of them is let through at once, and none behind it is.
        (0..2).for_each(|_| send(bench, &header, &frame));
        assert_eq!(std::iter::from_fn(|| receive(bench)).count() % 3, 0);
        assert_eq!(number(&device.status(), "/rx/packets"), 3);
        assert_eq!(number(&device.status(), "/rx/dropped/rate"), 3);
    });
}

#[test]
fn buffers_of_no_use_are_looked_at_a_few_at_a_time() {
    each(&["--backend=loop"], MERGING, |device, bench| {
        for _ in 0..20 {
            bench.send(RX, &[&[0; 9]], &[]);
        }
        post(bench, 1, 2048);
        (0..3).for_each(|_| send(bench, &Header::default(), &pattern(60)));
        assert_eq!(number(&device.status(), "/rx/dropped/bad_buffer"), 2);
        assert_eq!(number(&device.status(), "/rx/packets"), 1);
    });
}
