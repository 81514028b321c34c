//! The device on the bench: what the driver says and hears, and what comes out at far ends.

mod far_ends;
mod messages;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use outboard_device::defs::console::{
    CONSOLE_PORT, DEVICE_ADD, DEVICE_READY, F_MULTIPORT, PORT_NAME, PORT_OPEN, PORT_READY, RESIZE,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, DeviceError, Features, Group, Patience, QueueId};

use crate::talk::control;
use crate::{ConsoleDevice, ConsoleHandler, ConsoleOptions};

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
const IN: QueueId = QueueId(0);
const OUT: QueueId = QueueId(1);
const MESSAGES: QueueId = QueueId(2);
const ORDERS: QueueId = QueueId(3);
const IN_1: QueueId = QueueId(4);
const OUT_1: QueueId = QueueId(5);

#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    options: ConsoleOptions,
}

fn open(args: &[&str]) -> Result<ConsoleDevice, String> {
    let line: Line = clap::Parser::try_parse_from(args).map_err(|error| error.to_string())?;
    ConsoleDevice::open(&line.options).map_err(|error| error.to_string())
}

/// A device, and the queues of a driver that has agreed to several ports, or not.
struct Rig {
    device: ConsoleDevice,
    bench: Bench<ConsoleHandler>,
    agreed: Features,
}

fn rig(args: &[&str], format: Format, multiport: bool) -> Rig {
    let mut device = open(args).unwrap();
    let agreed = Features(if multiport { F_MULTIPORT } else { 0 });
    device.forget(Group(0));
    let queues = device.profile().queues.len() as u16;
    let handler = device.handler(Group(0), agreed).unwrap();
    let bench = Bench::with(handler, &Setup { queues, size: 64, ..Setup::new(format) });
    Rig { device, bench, agreed }
}

impl Rig {
    fn restart(&mut self, anew: bool) {
        let Self { device, bench, agreed } = self;
        bench.restart(anew, || {
            if anew {
                device.forget(Group(0));
            }
            device.handler(Group(0), *agreed).unwrap()
        });
    }

    /// Gives the device buffers.
    fn refill(&mut self, queue: QueueId, count: usize, len: usize) {
        for _ in 0..count {
            self.bench.send(queue, &[], &[len]);
        }
    }

    fn say(&mut self, id: u32, event: u16, value: u16) {
        self.bench.send(ORDERS, &[&control(id, event, value)], &[]);
    }

    /// What has come into the buffers of a queue, a piece each.
    fn received(&mut self, queue: QueueId) -> Vec<Vec<u8>> {
        self.bench.run();
        let mut all = Vec::new();
        while let Some(answer) = self.bench.receive(queue) {
            let mut bytes = answer.outputs.concat();
            assert!(bytes[answer.len as usize..].iter().all(|byte| *byte == UNTOUCHED));
            bytes.truncate(answer.len as usize);
            all.push(bytes);
        }
        all
    }

    /// Sends, and says how many chains came back.
    fn send(&mut self, queue: QueueId, bytes: &[u8]) -> usize {
        self.bench.send(queue, &[bytes], &[]);
        self.received(queue).len()
    }

    fn command(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        // What is asked for between two handlers needs nobody; on a bench, nobody else runs the handler.
        let Self { device, bench, .. } = self;
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| device.control(command, arguments));
            while !asked.is_finished() {
                bench.run();
                std::thread::yield_now();
            }
            asked.join().unwrap()
        })
    }

    fn show(&mut self, port: usize) -> Value {
        self.command("ports", &json!({})).unwrap()["ports"][port].clone()
    }

    /// A driver like Linux's makes itself known, and has port 0, and 1 if there is one, ready and open.
    fn greet(&mut self) -> Vec<Vec<u8>> {
        self.refill(MESSAGES, 16, 64);
        self.say(0, DEVICE_READY, 1);
        let mut heard = self.received(MESSAGES);
        for added in heard.clone() {
            let id = u32::from_le_bytes(added[..4].try_into().unwrap());
            self.say(id, PORT_READY, 1);
            self.say(id, PORT_OPEN, 1);
            heard.extend(self.received(MESSAGES));
        }
        heard
    }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// What there is.
fn read(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("{error}"),
    }
    bytes
}

#[test]
fn console_alone_talks_both_ways_through_its_ring() {
    for format in FORMATS {
        let mut rig = rig(&["--single"], format, false);
        assert_eq!(rig.device.profile().queues.len(), 2);
        assert_eq!(rig.send(OUT, b"login: "), 1);
        assert_eq!(
            rig.command("read", &json!({})).unwrap(),
            json!({ "from": 0, "next": 7, "text": "login: " })
        );
        rig.command("write", &json!({ "text": "root\n" })).unwrap();
        assert!(rig.received(IN).is_empty(), "there is no buffer");
        rig.bench.send(IN, &[], &[0]);
        rig.refill(IN, 2, 3);
        assert_eq!(rig.received(IN), [&b""[..], b"roo", b"t\n"]);
        let port = rig.show(0);
        assert_eq!((&port["in"], &port["out"], &port["dropped"]), (&json!(5), &json!(7), &json!(0)));
    }
}

#[test]
fn control_queues_of_a_driver_without_messages_do_nothing() {
    for format in FORMATS {
        let mut rig = rig(&["--port", "name=x,to=echo"], format, false);
        rig.refill(MESSAGES, 4, 64);
        rig.say(0, DEVICE_READY, 1);
        assert!(rig.received(MESSAGES).is_empty());
        assert_eq!((rig.received(ORDERS).len(), rig.send(OUT_1, b"x"), rig.send(OUT, b"x")), (1, 1, 1));
        assert_eq!([rig.show(0)["out"].clone(), rig.show(1)["out"].clone()], [1, 0]);
    }
}

#[test]
fn echo_that_nobody_took_is_not_the_next_drivers() {
    for format in FORMATS {
        let mut rig = rig(&["--console", "echo"], format, false);
        // The echo has no more room, nor has the backlog; then one has to wait.
        let mut sent = 0;
        while rig.send(OUT, &[b'x'; 40_000]) == 1 {
            sent += 1;
        }
        assert!(sent > 1, "{sent}");
        rig.restart(true);
        assert_eq!(rig.send(OUT, b"news"), 1);
        rig.refill(IN, 1, 64);
        assert_eq!(rig.received(IN), [b"news"]);
    }
}

#[test]
fn bytes_echoed_are_all_there_in_order_however_buffers_are_cut() {
    for format in FORMATS {
        let mut rig = rig(&["--port", "name=x,to=echo"], format, true);
        rig.greet();
        let text: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let (mut sent, mut got) = (0, Vec::new());
        let mut turn = 0;
        while got.len() < text.len() {
            turn += 1;
            assert!(turn < 10_000, "no progress at {}", got.len());
            if sent < text.len() && rig.bench.outstanding(OUT_1) < 8 {
                let end = text.len().min(sent + 1 + turn * 37 % 9000);
                rig.bench.send(OUT_1, &[&text[sent..end]], &[]);
                sent = end;
            }
            if rig.bench.outstanding(IN_1) < 8 {
                rig.bench.send(IN_1, &[], &[turn * 13 % 50, 1 + turn * 101 % 7000]);
            }
            got.extend(rig.received(IN_1).concat());
            rig.received(OUT_1);
        }
        assert_eq!(got, text);
        assert_eq!(rig.show(1)["dropped"], 0);
    }
}

#[test]
fn character_in_an_emergency_needs_no_queue() {
    let patience = || true;
    let mut rig = rig(&[], Format::Split, true);
    let text = |rig: &mut Rig| rig.command("read", &json!({})).unwrap()["text"].clone();
    rig.device.write_config(8, b"a\0\0\0", &Patience::until(&patience)).unwrap();
    assert_eq!(text(&mut rig), "a");
    let mut alone = open(&[]).unwrap();
    alone.write_config(8, b"b", &Patience::until(&patience)).unwrap();
    let whole = *b"\x50\0\x18\0\x01\0\0\0c\0\0\0";
    alone.write_config(0, &whole, &Patience::until(&patience)).unwrap();
    assert_eq!(alone.control("read", &json!({})).unwrap()["text"], "bc");
    for (offset, data) in [(0, &whole[..8]), (9, b"x"), (8, b"xxxxx"), (12, b"x"), (u32::MAX, b"x"), (8, b"")]
    {
        assert!(alone.write_config(offset, data, &Patience::until(&patience)).is_err(), "{offset}");
    }
    assert_eq!(alone.config()[8..], [0; 4], "it reads as nothing");
}

#[test]
fn character_in_an_emergency_reaches_a_client_that_came_before_the_driver() {
    let patience = || true;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut device = open(&["--console", &format!("unix:{}", path.display())]).unwrap();
    device.write_config(8, b"a\0\0\0", &Patience::until(&patience)).unwrap();
    let mut client = connect(&path);
    device.write_config(8, b"b\0\0\0", &Patience::until(&patience)).unwrap();
    assert_eq!(read(&mut client), b"b");
    let port = device.control("ports", &json!({})).unwrap()["ports"][0].clone();
    assert_eq!([&port["out"], &port["dropped"]], [1, 1]);
}

#[test]
fn chain_beyond_all_bounds_is_cut_and_what_is_cut_is_counted() {
    let mut rig = rig(&["--console", "null"], Format::Split, false);
    let mib = vec![b'x'; 1 << 20];
    rig.bench.send(OUT, &[&mib, &mib[..10]], &[]);
    assert_eq!(rig.received(OUT).len(), 1);
    let port = rig.show(0);
    assert_eq!((port["out"].as_u64(), port["dropped"].as_u64()), (Some(1 << 20), Some(10)));
}
