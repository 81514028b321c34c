//! A hostile guest, and a host that does whatever it likes, against user-mode networking: nothing panics, what the guest is
//! given are frames to it from the gateway, no longer than they may be, and no more flows are kept than allowed.
//!
//! Input: steps, each a byte that says which, and what it takes. Frames are given as they are, or as TCP segments whose
//! numbers are near to those that the network has used last.
#![no_main]

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use outboard_frames::wire::{Ipv4, Tcp};
use outboard_frames::{L3, L4, Layers, Limits as Frames, MAX_HEADERS, MAX_LEN, Offload, Sum, Takes, check};
use outboard_usernet::{Ending, Limits, Net4, Net6, Readiness, Settings, SocketId, Sockets, UserNet};
use outboard_virtio_defs::net::{HDR_F_NEEDS_CSUM, Header};
use zerocopy::{FromBytes, IntoBytes};

const GUEST: [u8; 4] = [10, 0, 2, 15];
const FAR: [u8; 4] = [192, 0, 2, 9];
const OURS: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const FLOWS: usize = 16;

/// What the host does next.
#[derive(Default)]
struct Host {
    open: HashMap<u32, ()>,
    next: u32,
    mood: u8,
    bytes: usize,
}

impl Host {
    fn open(&mut self) -> io::Result<SocketId> {
        if self.mood & 1 != 0 {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        self.next += 1;
        self.open.insert(self.next, ());
        assert!(self.open.len() <= FLOWS);
        Ok(SocketId(self.next))
    }
}

impl Sockets for Host {
    fn connect(&mut self, _: SocketAddr) -> io::Result<SocketId> {
        self.open()
    }

    fn outcome(&mut self, socket: SocketId) -> io::Result<()> {
        assert!(self.open.contains_key(&socket.0));
        match self.mood >> 1 & 3 {
            0 => Err(ErrorKind::WouldBlock.into()),
            1 => Err(ErrorKind::HostUnreachable.into()),
            _ => Ok(()),
        }
    }

    fn accept(&mut self, _: usize) -> io::Result<(SocketId, SocketAddr)> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<SocketId> {
        self.open()
    }

    fn ping(&mut self, _: IpAddr) -> io::Result<SocketId> {
        self.open()
    }

    fn read(&mut self, socket: SocketId, into: &mut [u8]) -> io::Result<usize> {
        assert!(self.open.contains_key(&socket.0));
        match self.mood >> 3 & 7 {
            0 => Ok(0),
            1 => Err(ErrorKind::ConnectionReset.into()),
            _ if self.bytes == 0 => Err(ErrorKind::WouldBlock.into()),
            _ => {
                let len = self.bytes.min(into.len());
                self.bytes -= len;
                into[..len].fill(0x5a);
                Ok(len)
            }
        }
    }

    fn write(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize> {
        assert!(self.open.contains_key(&socket.0));
        match self.mood >> 6 {
            0 => Err(ErrorKind::WouldBlock.into()),
            1 => Err(ErrorKind::BrokenPipe.into()),
            2 => Ok(data.len().div_ceil(2)),
            _ => Ok(data.len()),
        }
    }

    fn read_from(&mut self, _: usize, _: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write_to(&mut self, _: usize, _: &[u8], _: SocketAddr) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn shutdown(&mut self, socket: SocketId) {
        assert!(self.open.contains_key(&socket.0));
    }

    fn close(&mut self, socket: SocketId, _: Ending) {
        assert!(self.open.remove(&socket.0).is_some());
    }

    fn resolver(&mut self) -> Option<SocketAddr> {
        Some(([198, 51, 100, 53], 53).into())
    }
}

/// A segment of the guest.
fn segment(port: u16, flags: u8, sequence: u32, acknowledged: u32, window: u16, payload: usize) -> Vec<u8> {
    let mut ip = Ipv4::read_from_bytes(&[0; 20]).expect("a header");
    (ip.first, ip.lifetime, ip.protocol) = (0x45, 64, 6);
    ip.total_len = ((40 + payload) as u16).into();
    ip.addresses.copy_from_slice([GUEST, FAR].as_flattened());
    ip.checksum = Sum::default().plus(ip.as_bytes()).checksum();
    let mut tcp = Tcp::read_from_bytes(&[0; 20]).expect("a header");
    tcp.ports.copy_from_slice([port.to_be_bytes(), 80_u16.to_be_bytes()].as_flattened());
    (tcp.sequence, tcp.acknowledged) = (sequence.into(), acknowledged.into());
    (tcp.offset, tcp.flags, tcp.window) = (5 << 4, flags, window.into());
    [OURS.as_slice(), &MAC, &[8, 0], ip.as_bytes(), tcp.as_bytes(), &vec![7; payload]].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((&takes, mut rest)) = data.split_first() else { return };
    let takes = Takes::by_driver(if takes & 1 == 0 { 0 } else { u64::MAX });
    let settings = Settings {
        net: Net4::default(),
        net6: Some(Net6::default()),
        mtu: 1500,
        takes,
        host_loopback: true,
        forwards: Vec::new(),
        limits: Limits { flows: FLOWS, memory: 4 << 20, window: 64 << 10 },
        seed: 1,
    };
    let mut now = Instant::now();
    let mut net = UserNet::new(settings, Host::default(), now).expect("settings");
    let all = Frames { takes: Takes::by_device(u64::MAX), mtu: MAX_LEN };
    // By the guest's port: where the network is, and what it expects next.
    let mut numbers: HashMap<u16, (u32, u32)> = HashMap::new();
    while let Some((&step, behind)) = rest.split_first() {
        rest = behind;
        let mut byte = || rest.split_off_first().copied().unwrap_or(0);
        match step % 6 {
            0 => {
                let len = usize::from(byte()) * 2;
                let frame = rest.split_off(..len.min(rest.len())).unwrap_or_default();
                let mut frame = [OURS.as_slice(), &MAC, frame].concat();
                let header = Header {
                    flags: if step & 8 == 0 { 0 } else { HDR_F_NEEDS_CSUM },
                    csum_start: 34.into(),
                    csum_offset: 16.into(),
                    ..Header::default()
                };
                let head = &frame[..frame.len().min(MAX_HEADERS)];
                if let Ok(offload) = check(&header, frame.len() as u32, head, &all) {
                    net.take(&mut frame, &offload, now);
                }
            }
            1 | 2 => {
                let port = 1000 + u16::from(byte() % 4);
                let (near, far) = numbers.get(&port).copied().unwrap_or_default();
                let (flags, window) = (byte(), u16::from_be_bytes([byte(), byte()]));
                let (sequence, acknowledged) = (i32::from(byte() as i8), i32::from(byte() as i8));
                let scale = if step & 16 == 0 { 1 } else { 1 << 20 };
                let sequence = far.wrapping_add_signed(sequence.wrapping_mul(scale));
                let acknowledged = near.wrapping_add_signed(acknowledged.wrapping_mul(scale));
                let mut frame = segment(port, flags, sequence, acknowledged, window, usize::from(byte()) * 8);
                let header = Header {
                    flags: HDR_F_NEEDS_CSUM,
                    csum_start: 34.into(),
                    csum_offset: 16.into(),
                    ..Header::default()
                };
                let head = &frame[..frame.len().min(MAX_HEADERS)];
                let offload = check(&header, frame.len() as u32, head, &all).expect("a segment");
                net.take(&mut frame, &offload, now);
            }
            3 => {
                net.sockets().mood = byte();
                net.sockets().bytes = usize::from(byte()) << 8;
                let open: Vec<_> = net.sockets().open.keys().copied().collect();
                open.iter()
                    .for_each(|socket| net.ready(SocketId(*socket), Readiness { read: true, write: true }));
            }
            4 => now += Duration::from_millis(1 << (byte() % 18)),
            _ => {}
        }
        let mut buffers = if step & 32 == 0 { 64 } else { 1 };
        net.give(now, |offload, frame| {
            if buffers == 0 {
                return false;
            }
            buffers -= 1;
            assert!(frame.len() <= MAX_LEN as usize && frame[6..12] == OURS);
            assert!(takes.has(offload));
            assert!(frame.len() <= 1514 || matches!(offload, Offload::Segments(_)));
            let layers = Layers::parse(&frame[..frame.len().min(MAX_HEADERS)]).expect("a frame");
            if (layers.l3, layers.l4) == (L3::Ipv4, L4::Tcp) {
                let (tcp, _) = Tcp::ref_from_prefix(&frame[usize::from(layers.l4_at)..]).expect("a segment");
                let payload = frame.len() - usize::from(layers.end);
                let near = tcp.sequence.get().wrapping_add(payload as u32 + u32::from(tcp.flags & 3 != 0));
                let port = u16::from_be_bytes([tcp.ports[2], tcp.ports[3]]);
                numbers.insert(port, (near, tcp.acknowledged.get()));
            }
            true
        });
        assert!(net.counters().flows <= FLOWS);
        assert_eq!(net.counters().flows, net.sockets().open.len());
    }
});
