//! Packets of a hostile guest against interfaces that loop: on split rings and packed ones, with buffers that hold any packet
//! and with small ones that are merged. All must give back the same, and nothing that a guest could not do with.
//!
//! Input: a byte that says what was agreed, and packets, each a byte with the numbers of buffers to read (low half) and to
//! write, for each buffer to read two bytes with its length, and then the bytes of the buffers to read.
#![no_main]

use clap::{Args as _, Command, FromArgMatches as _};
use libfuzzer_sys::fuzz_target;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4, F_GUEST_USO6,
    F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, F_MRG_RXBUF, HEADER_LEN, Header,
};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_frames::{Limits, MAX_HEADERS, MAX_LEN, MAX_SEGMENTS, Takes, check};
use outboard_net::{Net, NetHandler, NetOptions};
use zerocopy::FromBytes;

const RX: QueueId = QueueId(0);
const TX: QueueId = QueueId(1);
/// The most packets of one input.
const MOST: usize = 8;
/// Receive buffers, in bytes: for any packet, and to be merged.
const LARGE: usize = HEADER_LEN + MAX_LEN as usize;
const SMALL: usize = 1024;
/// So many of the large ones there are at least.
const FEW: usize = 6;

const SENT: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;
const RECEIVED: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    header: [u8; HEADER_LEN - 2],
    frame: Vec<u8>,
}

struct Loop {
    bench: Bench<NetHandler>,
    /// Keeps what the handler shares with it.
    _device: Net,
    mergeable: bool,
}

impl Loop {
    fn open(format: Format, features: u64, mergeable: bool) -> Self {
        let command = NetOptions::augment_args(Command::new("net").no_binary_name(true));
        let matches = command.try_get_matches_from(["--backend=loop"]).expect("options of an interface");
        let options = NetOptions::from_arg_matches(&matches).expect("options of an interface");
        let mut device = Net::open(&options).expect("an interface that loops");
        let merged = if mergeable { F_MRG_RXBUF } else { 0 };
        let agreed = Features(features | merged | VIRTIO_F_VERSION_1);
        device.agreed(agreed);
        let handler = device.handler(Group(0), agreed).expect("a pair of queues");
        let setup = Setup { queues: 2, size: 256, memory: 4 << 20, ..Setup::new(format) };
        Self { bench: Bench::with(handler, &setup), _device: device, mergeable }
    }

    /// Sends a packet; gives what comes of it.
    fn exchange(&mut self, readable: &[&[u8]], writable: &[usize]) -> Vec<Packet> {
        let (count, len) = if self.mergeable { (140, SMALL) } else { (FEW as u32, LARGE) };
        while self.bench.outstanding(RX) < count {
            self.bench.send(RX, &[], &[len]);
        }
        self.bench.run();
        let token = self.bench.send(TX, readable, writable);
        self.bench.run();
        let sent = self.bench.receive(TX).expect("what is sent is returned");
        assert_eq!((sent.token, sent.len), (token, 0));
        assert!(sent.outputs.concat().iter().all(|&byte| byte == UNTOUCHED), "what is sent was written to");
        let mut packets = Vec::new();
        while let Some(first) = self.bench.receive(RX) {
            let mut bytes = whole(&first.outputs, first.len);
            let header = Header::read_from_bytes(&bytes[..HEADER_LEN]).expect("a header");
            let buffers = header.num_buffers.get();
            assert!(buffers == 1 || (self.mergeable && buffers > 1), "{buffers} buffers");
            for _ in 1..buffers {
                assert_eq!(bytes.len() % SMALL, 0, "a buffer that is not the last is not full");
                let next = self.bench.receive(RX).expect("all buffers of a packet at once");
                bytes.extend(whole(&next.outputs, next.len));
            }
            let frame = bytes.split_off(HEADER_LEN);
            bytes.truncate(HEADER_LEN - 2);
            packets.push(Packet { header: bytes.try_into().expect("a header"), frame });
        }
        packets
    }
}

/// What was written to a buffer, and nothing behind it.
fn whole(outputs: &[Vec<u8>], len: u32) -> Vec<u8> {
    let mut bytes = outputs.concat();
    let rest = bytes.split_off(len as usize);
    assert!(rest.iter().all(|&byte| byte == UNTOUCHED), "more was written than is counted");
    bytes
}

/// What a driver must be able to rely on that agreed to these features.
fn judge(packet: &Packet, features: u64) {
    let mut header = [0; HEADER_LEN];
    header[..HEADER_LEN - 2].copy_from_slice(&packet.header);
    let header = Header::read_from_bytes(&header).expect("a header");
    let limits = Limits { takes: Takes::by_driver(features), mtu: u32::MAX };
    let head = &packet.frame[..packet.frame.len().min(MAX_HEADERS)];
    let offload =
        check(&header, packet.frame.len() as u32, head, &limits).expect("a packet that can be received");
    assert_eq!(offload.header(), header, "a header that says more than it asks for");
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    taken
}

fuzz_target!(|data: &[u8]| {
    let Some((&agreed, mut data)) = data.split_first() else { return };
    let sent = if agreed & 1 == 0 { 0 } else { SENT };
    let received = [0, F_GUEST_CSUM, RECEIVED, RECEIVED & !F_GUEST_ECN][usize::from(agreed >> 1 & 3)];
    let features = sent | received;
    let mut alike: Vec<Loop> = [Format::Split, Format::Packed]
        .into_iter()
        .flat_map(|format| [false, true].map(|mergeable| Loop::open(format, features, mergeable)))
        .collect();
    for _ in 0..MOST {
        let Some((&counts, rest)) = data.split_first() else { break };
        data = rest;
        let lengths = take(&mut data, 2 * usize::from(counts & 7));
        let lengths = lengths.chunks_exact(2).map(|len| usize::from(u16::from_le_bytes([len[0], len[1]])));
        let lengths: Vec<usize> = lengths.collect();
        let readable: Vec<&[u8]> =
            lengths.into_iter().map(|len| take(&mut data, len)).filter(|bytes| !bytes.is_empty()).collect();
        let writable = vec![64; usize::from(counts >> 4 & 3)];
        if readable.is_empty() && writable.is_empty() {
            continue;
        }
        let mut answers = alike.iter_mut().map(|one| one.exchange(&readable, &writable));
        let first = answers.next().expect("four interfaces");
        assert!(first.len() <= MAX_SEGMENTS as usize);
        first.iter().for_each(|packet| judge(packet, received));
        answers.for_each(|answer| {
            // Of many segments those are dropped for which there is no buffer.
            let enough = |packets: &[Packet]| packets.len() >= FEW;
            assert!(
                answer.len() == first.len() || (enough(&answer) && enough(&first)),
                "the interfaces differ"
            );
            assert!(answer.iter().zip(&first).all(|(one, other)| one == other), "the interfaces differ");
        });
    }
});
