//! Packets of a hostile guest against a socket device whose host is within the process, on split rings and on packed ones: both
//! must answer the same, and nothing that a guest could not do with.
//!
//! Input: packets, each a byte that says how its header comes about (bit 0) and in how many buffers it lies (bits 1 to 3),
//! and then the header: 44 bytes as they are, or ten of which one is made that may well be right. Behind it come as many bytes
//! of data as a byte says, times 16.
#![no_main]

use std::sync::Arc;

use clap::{Args as _, Command, FromArgMatches as _};
use libfuzzer_sys::fuzz_target;
use outboard_device::defs::vsock::{CID_HOST, F_SEQPACKET, F_STREAM, HEADER_LEN, Header, OP_RST, OP_RW};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_vsock::{Vsock, VsockHandler, VsockOptions};
use zerocopy::{FromBytes, IntoBytes};

const RX: QueueId = QueueId(0);
const TX: QueueId = QueueId(1);
const CID: u64 = 5;
/// The most packets of one input.
const MOST: usize = 64;
/// Receive buffers, and bytes of each.
const BUFFERS: u32 = 64;
const BUFFER: usize = 256;
/// Where services are, and where nobody is.
const PORTS: [u32; 4] = [7, 9, 19, 20];

/// A device in front of a guest.
struct Guest {
    bench: Bench<VsockHandler>,
    device: Vsock,
}

impl Guest {
    fn open(format: Format) -> Self {
        let command = VsockOptions::augment_args(Command::new("vsock").no_binary_name(true));
        let args = ["--guest-cid=5", "--service=7=echo", "--service=9=discard", "--service=19=chargen"];
        let args = args.into_iter().chain(["--max-connections=8", "--buffer=4", "--buffer-max=16"]);
        let matches = command.try_get_matches_from(args).expect("options of a socket device");
        let options = VsockOptions::from_arg_matches(&matches).expect("options of a socket device");
        let mut device = Vsock::open(&options, &Arc::default()).expect("a socket device");
        device.forget(Group(0));
        let handler = device.handler(Group(0), Features(F_STREAM | F_SEQPACKET)).expect("a handler");
        let setup = Setup { queues: 3, size: 128, memory: 4 << 20, ..Setup::new(format) };
        Self { bench: Bench::with(handler, &setup), device }
    }

    /// Sends a packet; gives what the device sends then, as far as there are buffers.
    fn exchange(&mut self, pieces: &[&[u8]]) -> Vec<(Header, Vec<u8>)> {
        while self.bench.outstanding(RX) < BUFFERS {
            self.bench.send(RX, &[], &[BUFFER]);
        }
        let token = self.bench.send(TX, pieces, &[]);
        self.bench.run();
        let sent = self.bench.receive(TX).expect("what is sent is returned");
        assert_eq!((sent.token, sent.len), (token, 0));
        let mut packets = Vec::new();
        while let Some(came) = self.bench.receive(RX) {
            let mut bytes = came.outputs.concat();
            let rest = bytes.split_off(came.len as usize);
            assert!(rest.iter().all(|&byte| byte == UNTOUCHED), "more was written than is counted");
            let (header, data) = Header::read_from_prefix(&bytes).expect("a header");
            assert_eq!(header.len.get() as usize, data.len());
            assert_eq!(header.dst_cid.get(), CID);
            packets.push((header, data.to_vec()));
        }
        packets
    }
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    taken
}

/// A header that may be right, of ten bytes.
fn header(bytes: &[u8; 10], len: usize) -> Header {
    let [op, kind, port, from, flags, alloc, alloc_high, forwarded, forwarded_high, more] = *bytes;
    Header {
        src_cid: CID.into(),
        dst_cid: CID_HOST.into(),
        src_port: (1000 + u32::from(from & 3)).into(),
        dst_port: PORTS[usize::from(port & 3)].into(),
        // Now and then there is more, or less, than it says.
        len: (len as u32).wrapping_add_signed(i32::from(more.cast_signed() >> 4)).into(),
        kind: (1 + u16::from(kind & 1)).into(),
        op: u16::from(op & 7).into(),
        flags: u32::from(flags & 7).into(),
        buf_alloc: (u32::from(alloc) | u32::from(alloc_high) << 10).into(),
        fwd_cnt: (u32::from(forwarded) | u32::from(forwarded_high) << 8).into(),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mut alike = [Format::Split, Format::Packed].map(Guest::open);
    // What had no buffer the last time comes now.
    let mut left = false;
    for _ in 0..MOST {
        let Some((&how, rest)) = data.split_first() else { break };
        data = rest;
        let raw = how & 1 != 0;
        let front = take(&mut data, if raw { HEADER_LEN } else { 10 });
        let count = take(&mut data, 1).first().map_or(0, |count| usize::from(*count) * 16);
        let payload = take(&mut data, count);
        let mut packet = match <&[u8; 10]>::try_from(front) {
            Ok(front) if !raw => header(front, payload.len()).as_bytes().to_vec(),
            _ => front.to_vec(),
        };
        let is_rst = packet.get(30..32) == Some(&OP_RST.to_le_bytes());
        packet.extend_from_slice(payload);
        if packet.is_empty() {
            break;
        }
        let len = packet.len().div_ceil(1 + usize::from(how >> 1 & 7));
        let pieces: Vec<&[u8]> = packet.chunks(len).collect();
        let [one, other] = &mut alike;
        let (first, second) = (one.exchange(&pieces), other.exchange(&pieces));
        assert_eq!(first, second, "the formats differ");
        if is_rst && !left {
            assert!(first.iter().all(|(header, _)| header.op.get() != OP_RST), "an RST for an RST");
        }
        left = first.len() >= BUFFERS as usize;
        for (header, data) in &first {
            assert!(data.is_empty() || header.op.get() == OP_RW, "data of {header:?}");
        }
    }
    for guest in &alike {
        let status = guest.device.status();
        let announced = status["announced"].as_u64().expect("a number");
        assert!(announced <= 8 * (16 << 10), "{announced} bytes of eight connections");
        assert!(status["connections"].as_u64() <= Some(8), "{status}");
    }
});
