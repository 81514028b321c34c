//! Commands of a hostile guest on the control queue of an interface with several pairs, on both ring formats, which must
//! agree: on each answer, on the configuration, and on what still gets through.
//!
//! Input: a byte that says what was agreed, and commands, each a byte with the room for the answer, two with the length of
//! the command, and its bytes.
#![no_main]

use clap::{Args as _, Command, FromArgMatches as _};
use libfuzzer_sys::fuzz_target;
use outboard_device::defs::features::VIRTIO_F_VERSION_1;
use outboard_device::defs::net::{
    F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN, F_CTRL_VQ,
    F_GUEST_ANNOUNCE, F_GUEST_CSUM, F_GUEST_TSO4, F_HASH_REPORT, F_MQ, F_MRG_RXBUF, F_NOTF_COAL, F_RSS,
    F_VQ_NOTF_COAL, HASH_HEADER_LEN, HEADER_LEN,
};
use outboard_device::defs::net_control::{ERR, OK};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_net::{Net, NetHandler, NetOptions};

/// Pairs of queues.
const PAIRS: u16 = 3;
/// The most commands of one input.
const MOST: usize = 32;
/// What a tagged frame for another address, one for all, and one for the device itself begin with.
const FRAMES: [[u8; 16]; 3] = [
    [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 5],
    [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 0, 0],
    [0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 0, 0],
];

struct Machine {
    device: Net,
    pairs: Vec<Bench<NetHandler>>,
    control: Bench<NetHandler>,
    queue: QueueId,
    /// Bytes of the header of each packet.
    header: usize,
}

impl Machine {
    fn open(format: Format, features: u64) -> Self {
        let command = NetOptions::augment_args(Command::new("net").no_binary_name(true));
        let pairs = format!("--pairs={PAIRS}");
        let words = ["--backend=loop", "--mac=52:54:00:12:34:56", "--rss", &pairs];
        let matches = command.try_get_matches_from(words).expect("options of an interface");
        let options = NetOptions::from_arg_matches(&matches).expect("options of an interface");
        let mut device = Net::open(&options).expect("an interface that loops");
        let agreed = Features(features | F_MRG_RXBUF | VIRTIO_F_VERSION_1);
        device.agreed(agreed);
        let mut bench = |group: u16| {
            let handler = device.handler(Group(group), agreed).expect("queues");
            let setup = Setup { queues: 2 * group + 2, size: 64, memory: 1 << 20, ..Setup::new(format) };
            Bench::with(handler, &setup)
        };
        let group = if agreed.has(F_MQ) || agreed.has(F_RSS) { PAIRS } else { 1 };
        let header = if agreed.has(F_HASH_REPORT) { HASH_HEADER_LEN } else { HEADER_LEN };
        let pairs = (0..group).map(&mut bench).collect();
        let mut machine = Self { pairs, control: bench(group), queue: QueueId(2 * group), header, device };
        machine.run();
        machine
    }

    /// Lets all of them run until none has anything to do for another.
    fn run(&mut self) {
        for _ in 0..3 {
            self.control.run();
            self.pairs.iter_mut().for_each(Bench::run);
        }
    }

    /// The answer to a command.
    fn command(&mut self, bytes: &[u8], room: usize) -> (Vec<u8>, u32) {
        let readable: &[&[u8]] = if bytes.is_empty() { &[] } else { &[bytes] };
        let writable: &[usize] = if room == 0 { &[] } else { &[room] };
        self.control.send(self.queue, readable, writable);
        self.run();
        let answer = self.control.receive(self.queue).expect("an answer");
        (answer.outputs.concat(), answer.len)
    }

    /// How many of these frames get back to the guest.
    fn passing(&mut self) -> Vec<bool> {
        let header = vec![0; self.header];
        let frames = FRAMES.iter().map(|front| [&header, &front[..], &[0; 50]].concat());
        let (rx, tx) = (QueueId(0), QueueId(1));
        frames
            .map(|frame| {
                let pair = &mut self.pairs[0];
                if pair.outstanding(rx) == 0 {
                    pair.send(rx, &[], &[2048]);
                }
                pair.send(tx, &[&frame], &[]);
                self.run();
                self.pairs[0].receive(tx).expect("what is sent is returned");
                self.pairs[0].receive(rx).is_some()
            })
            .collect()
    }
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    taken
}

fuzz_target!(|data: &[u8]| {
    const OPTIONAL: [u64; 8] = [
        F_MQ,
        F_CTRL_RX,
        F_CTRL_RX_EXTRA | F_NOTF_COAL | F_VQ_NOTF_COAL,
        F_CTRL_VLAN,
        F_CTRL_MAC_ADDR,
        F_CTRL_GUEST_OFFLOADS,
        F_GUEST_ANNOUNCE,
        F_RSS | F_HASH_REPORT,
    ];
    let Some((&agreed, mut data)) = data.split_first() else { return };
    let chosen = OPTIONAL.iter().enumerate().filter(|(bit, _)| agreed >> bit & 1 != 0);
    let features = chosen.map(|(_, feature)| feature).sum::<u64>() | F_CTRL_VQ | F_GUEST_CSUM | F_GUEST_TSO4;
    let mut split = Machine::open(Format::Split, features);
    let mut packed = Machine::open(Format::Packed, features);
    for _ in 0..MOST {
        let &[room, low, high, ref rest @ ..] = data else { break };
        data = rest;
        let bytes = take(&mut data, usize::from(u16::from_le_bytes([low, high]) & 0x7ff));
        let room = usize::from(room & 0x1f);
        if bytes.is_empty() && room == 0 {
            continue;
        }
        let (answer, len) = split.command(bytes, room);
        assert_eq!(packed.command(bytes, room), (answer.clone(), len), "the formats differ");
        // How calls of a queue are coalesced is told behind the acknowledgement.
        let told = if bytes.starts_with(&[6, 3]) && answer.first() == Some(&OK) { 8 } else { 0 };
        assert!(len as usize <= room && (room == 0 || len == 1 + told), "length {len} of {room}");
        if let Some((ack, rest)) = answer.split_first() {
            assert!([OK, ERR].contains(ack), "an acknowledgement of {ack}");
            let rest = rest.get(told as usize..).expect("room for what is told");
            assert!(rest.iter().all(|&byte| byte == UNTOUCHED), "more was written than is counted");
        }
    }
    for machine in [&mut split, &mut packed] {
        machine.device.settle();
    }
    assert_eq!(split.device.config(), packed.device.config());
    assert_eq!(split.passing(), packed.passing());
});
