//! The device on both ring formats, with a driver that sends what it likes.

mod closing;
mod data;
mod hostile;
mod opening;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use clap::{Command, FromArgMatches};
use outboard_device::defs::vsock::*;
use outboard_device::serde_json::Value;
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, DeviceError, Features, Group, QueueId};
use zerocopy::{FromBytes, IntoBytes};

use super::*;

pub(super) const CID: u32 = 5;
const RX: QueueId = QueueId(RX_QUEUE);
const TX: QueueId = QueueId(TX_QUEUE);
pub(super) const EVENTS: QueueId = QueueId(EVENT_QUEUE);

/// What the guest received.
pub(super) struct Received {
    pub(super) header: Header,
    pub(super) data: Vec<u8>,
}

/// A guest with a device before it.
pub(super) struct Guest {
    // Before the device: it gives back what the device keeps.
    pub(super) bench: Bench<VsockHandler>,
    pub(super) device: Vsock,
    buffers: (usize, usize),
    came: VecDeque<Received>,
}

pub(super) fn options(args: &[&str]) -> VsockOptions {
    let command = <VsockOptions as clap::Args>::augment_args(Command::new("vsock").no_binary_name(true));
    let args = ["--guest-cid=5"].iter().chain(args);
    VsockOptions::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
}

/// Both formats.
pub(super) fn each(args: &[&str], test: impl Fn(&mut Guest)) {
    for format in [Format::Split, Format::Packed] {
        test(&mut Guest::new(args, format));
    }
}

/// Both formats, with a directory whose `vm` is the path.
pub(super) fn each_with_path(args: &[&str], test: impl Fn(&mut Guest, &std::path::Path)) {
    for format in [Format::Split, Format::Packed] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        let option = format!("--uds-path={}", path.display());
        test(&mut Guest::new(&[&[option.as_str()], args].concat(), format), &path);
    }
}

impl Guest {
    pub(super) fn new(args: &[&str], format: Format) -> Self {
        Self::of(Vsock::open(&options(args), &Arc::default()).unwrap(), format)
    }

    pub(super) fn of(mut device: Vsock, format: Format) -> Self {
        device.forget(Group(0));
        let handler = device.handler(Group(0), Features(F_SEQPACKET | F_STREAM)).unwrap();
        let setup = Setup { queues: 3, memory: 64 << 20, ..Setup::new(format) };
        let mut guest =
            Self { bench: Bench::with(handler, &setup), device, buffers: (0, 0), came: VecDeque::new() };
        guest.post(16, 4096);
        guest
    }

    /// Posts receive buffers, as many whenever some came back.
    pub(super) fn post(&mut self, count: usize, len: usize) {
        self.buffers = (count, len);
        self.refill();
    }

    fn refill(&mut self) {
        while (self.bench.outstanding(RX) as usize) < self.buffers.0 {
            self.bench.send(RX, &[], &[self.buffers.1]);
        }
    }

    pub(super) fn send(&mut self, header: Header, data: &[u8]) {
        if data.is_empty() {
            self.bench.send(TX, &[header.as_bytes()], &[]);
        } else {
            self.bench.send(TX, &[header.as_bytes(), data], &[]);
        }
    }

    /// Lets everything run, and takes what came.
    pub(super) fn run(&mut self) {
        loop {
            self.bench.run();
            while let Some(answer) = self.bench.receive(TX) {
                assert_eq!(answer.len, 0);
            }
            let mut any = false;
            while let Some(answer) = self.bench.receive(RX) {
                any = true;
                let bytes = answer.outputs.concat();
                if answer.len == 0 {
                    continue;
                }
                let (header, data) = Header::read_from_prefix(&bytes[..answer.len as usize]).unwrap();
                assert_eq!(header.len.get() as usize, data.len());
                assert_eq!(header.dst_cid.get(), u64::from(self.device.setting.cid));
                self.came.push_back(Received { header, data: data.to_vec() });
            }
            if !any {
                return;
            }
            self.refill();
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.bench.pass(time);
        self.run();
    }

    /// The next packet that came.
    pub(super) fn next(&mut self) -> Option<Received> {
        if self.came.is_empty() {
            self.run();
        }
        self.came.pop_front()
    }

    /// The operation of the next packet; 0 if there is none.
    pub(super) fn next_op(&mut self) -> u16 {
        self.next().map_or(0, |packet| packet.header.op.get())
    }

    pub(super) fn request(&mut self, port: u32) -> u16 {
        self.send(packet(port, OP_REQUEST), b"");
        self.next_op()
    }

    /// A connection to a port of the host.
    pub(super) fn connect(&mut self, port: u32) {
        assert_eq!(self.request(port), OP_RESPONSE);
    }

    /// A connection to a port of the host that goes to this listener; its end there.
    pub(super) fn connect_to(&mut self, port: u32, listener: &TcpListener) -> TcpStream {
        self.send(packet(port, OP_REQUEST), b"");
        self.run();
        let (stream, _) = listener.accept().unwrap();
        while self.next_op() != OP_RESPONSE {}
        stream
    }

    /// Data that came, and how many packets that took. What is not data is left out.
    pub(super) fn data(&mut self) -> (Vec<u8>, usize) {
        let (mut all, mut packets) = (Vec::new(), 0);
        while let Some(Received { header, data }) = self.next() {
            if header.op.get() == OP_RW {
                packets += 1;
                all.extend(data);
            }
        }
        (all, packets)
    }

    /// Has the control half carry out a command. It is posted by another thread, as the worker runs only when told.
    pub(super) fn command(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let Self { device, bench, .. } = self;
        std::thread::scope(|scope| {
            let answer = scope.spawn(|| device.control(command, arguments));
            while !answer.is_finished() {
                bench.run();
                std::thread::yield_now();
            }
            answer.join().unwrap()
        })
    }

    pub(super) fn refused(&self, name: &str) -> u64 {
        self.device.status()["refused"][name].as_u64().unwrap()
    }
}

/// A packet of the guest's port 1000, with all the credit that there is.
pub(super) fn packet(port: u32, op: u16) -> Header {
    Header {
        src_cid: u64::from(CID).into(),
        dst_cid: CID_HOST.into(),
        src_port: 1000.into(),
        dst_port: port.into(),
        kind: TYPE_STREAM.into(),
        op: op.into(),
        buf_alloc: (1 << 30).into(),
        ..Header::default()
    }
}

pub(super) fn data_packet(port: u32, len: usize) -> Header {
    Header { len: (len as u32).into(), ..packet(port, OP_RW) }
}

pub(super) fn shutdown(port: u32, flags: u32) -> Header {
    Header { flags: flags.into(), ..packet(port, OP_SHUTDOWN) }
}

/// Somebody who listens for the guest's port.
pub(super) fn listen(path: &std::path::Path, port: u32) -> std::os::unix::net::UnixListener {
    std::os::unix::net::UnixListener::bind(format!("{}_{port}", path.display())).unwrap()
}

/// A connection of the guest to a program of the host.
pub(super) fn meet(guest: &mut Guest, path: &std::path::Path, port: u32) -> UnixStream {
    let listener = listen(path, port);
    guest.connect(port);
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// All that is there.
pub(super) fn drain(stream: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut block = vec![0; 1 << 16];
    while let Ok(count) = stream.read(&mut block) {
        if count == 0 {
            break;
        }
        all.extend(&block[..count]);
    }
    all
}

pub(super) fn say(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
}

/// Bytes of which no two stretches are alike.
pub(super) fn text(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).take(len).collect()
}
