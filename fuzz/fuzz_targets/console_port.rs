//! A hostile driver of a console device whose ports come and go meanwhile: messages about ports, bytes both ways, queues that
//! rest, and drivers that begin anew, on both ring formats, which must agree on every byte.
//!
//! Input: a byte whose lowest bit says whether several ports are agreed on; then steps, each a byte with what it is and another
//! one, called *n*. 0: a message of the driver, of the *n* bytes that follow. 1: one that may well be right: two bits of *n*
//! with what it says, three with the port, one with the value. 2: a buffer of *n* bytes for a message. 3: bytes of the guest for
//! a port (two bits of *n*), in pieces (the other bits), 512 times as many as a byte says. 4: a buffer for such bytes likewise,
//! of 64 times as many. 5: a command: which one, and its numbers, by *n*. 6: a write of the *n* bytes that follow (at most 15)
//! to the configuration, where the upper half of *n* says. 7: the queue *n* rests, or goes on. Else: another handler, and if
//! *n* is odd another driver.
#![no_main]

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use outboard_console::{ConsoleDevice, ConsoleHandler, ConsoleOptions};
use outboard_device::defs::console::{
    CONSOLE_PORT, DEVICE_ADD, DEVICE_READY, DEVICE_REMOVE, F_MULTIPORT, PORT_NAME, PORT_OPEN, PORT_READY,
    RESIZE,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Answer, Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, Patience, QueueId};

/// The most steps of one input.
const MOST: usize = 150;
/// Ports that there can be, of which the first two stay.
const PORTS: u16 = 4;
const QUEUES: u16 = 2 * PORTS + 2;
const MESSAGES: QueueId = QueueId(2);
const ORDERS: QueueId = QueueId(3);
/// Chains of a queue that are out at the most.
const OUT: u32 = 32;
/// Guest memory, and how much of it the steps use: it is not given back while a chain is out.
const MEMORY: u64 = 48 << 20;
const USED: usize = 12 << 20;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: ConsoleOptions,
}

/// A device in front of a driver.
struct Guest {
    device: ConsoleDevice,
    bench: Bench<ConsoleHandler>,
    agreed: Features,
    on: [bool; QUEUES as usize],
    /// Bytes of guest memory that were used.
    used: usize,
    /// Bytes that the guest has sent to [`Guest::echo`], which comes back.
    sent: usize,
    back: usize,
    all: Vec<(u16, Answer)>,
}

fn queue_to(port: u16) -> QueueId {
    QueueId(if port == 0 { 0 } else { 2 * port + 2 })
}

fn queue_from(port: u16) -> QueueId {
    QueueId(queue_to(port).0 + 1)
}

/// The byte at a place in what the guest sends.
fn byte_at(at: usize) -> u8 {
    (at % 251) as u8
}

impl Guest {
    fn open(format: Format, multiport: bool) -> Self {
        let args = ["console", "--console=echo", "--port=name=back,to=echo", "--port=name=kept,to=ring:4096"];
        let Line { options } = Line::parse_from(args.into_iter().chain(["--max-ports=4"]));
        let mut device = ConsoleDevice::open(&options).expect("the device opens");
        let agreed = Features(if multiport { F_MULTIPORT } else { 0 });
        device.forget(Group(0));
        let handler = device.handler(Group(0), agreed).expect("it has a handler");
        let setup = Setup { queues: QUEUES, size: 64, memory: MEMORY, ..Setup::new(format) };
        let bench = Bench::with(handler, &setup);
        let (on, all) = ([true; QUEUES as usize], Vec::new());
        Self { device, bench, agreed, on, used: 0, sent: 0, back: 0, all }
    }

    fn is_multiport(&self) -> bool {
        self.agreed.has(F_MULTIPORT)
    }

    /// A port that stays, with an echo, into which nothing else is put.
    fn echo(&self) -> u16 {
        u16::from(self.is_multiport())
    }

    fn send(&mut self, queue: QueueId, inputs: &[&[u8]], outputs: &[usize]) {
        let len = inputs.iter().map(|input| input.len()).sum::<usize>() + outputs.iter().sum::<usize>();
        if (!inputs.is_empty() || !outputs.is_empty())
            && self.bench.outstanding(queue) < OUT
            && self.used + len <= USED
        {
            self.used += len;
            self.bench.send(queue, inputs, outputs);
        }
    }

    /// Sends bytes by a port, in pieces.
    fn say(&mut self, port: u16, len: usize, pieces: usize) {
        let is_echo = port == self.echo();
        let begin = if is_echo { self.sent } else { 0 };
        let queue = queue_from(port);
        let bytes: Vec<u8> = (begin..begin + len).map(byte_at).collect();
        let before = self.used;
        if len > 0 {
            self.send(queue, &bytes.chunks(len.div_ceil(pieces)).collect::<Vec<_>>(), &[]);
        }
        if is_echo {
            self.sent += self.used - before;
        }
    }

    fn order(&mut self, bytes: &[u8]) {
        self.send(ORDERS, &bytes.chunks(3).collect::<Vec<_>>(), &[]);
    }

    fn likely_order(&mut self, n: u8) {
        let event = [DEVICE_READY, PORT_READY, PORT_OPEN, RESIZE][usize::from(n & 3)];
        let [id, value] = [u32::from(n >> 2 & 7), u32::from(n >> 5 & 1)];
        self.order(&[&id.to_le_bytes()[..], &event.to_le_bytes(), &(value as u16).to_le_bytes()].concat());
    }

    /// Has a command carried out, which needs the handler to run.
    fn command(&mut self, n: u8) {
        let number = n >> 3;
        let (command, arguments) = match n & 7 {
            0 => ("ports", json!({})),
            1 => ("resize", json!({ "port": number % 4, "cols": number, "rows": 25 })),
            2 => ("hangup", json!({ "port": number })),
            3 => ("add-port", json!({ "port": format!("name={number},to=echo") })),
            4 => (
                "add-port",
                json!({ "port": format!("to=ring:4096{}", [",console", ""][usize::from(number & 1)]) }),
            ),
            // Those before stay.
            5 => ("remove-port", json!({ "port": 2 + number % 3 })),
            6 => ("read", json!({ "port": number % 4, "from": u64::from(number) * 100 })),
            _ => ("write", json!({ "port": 2 + number % 2, "text": "x".repeat(usize::from(number) * 100) })),
        };
        let Self { device, bench, .. } = self;
        std::thread::scope(|scope| {
            // What makes no sense is refused, and what comes of the others shows at the queues.
            let asked = scope.spawn(|| drop::<Result<Value, _>>(device.control(command, &arguments)));
            while !asked.is_finished() {
                bench.run();
                std::thread::yield_now();
            }
        });
    }

    fn write_config(&mut self, offset: u8, data: &[u8]) {
        // A character is put out by the console, and that is the echo if there is but one port.
        if self.is_multiport() {
            let _ = self.device.write_config(offset.into(), data, &Patience::until(&|| true));
        }
    }

    fn turn(&mut self, n: u8) {
        let queue = u16::from(n) % QUEUES;
        let on = &mut self.on[usize::from(queue)];
        *on = !*on;
        let on = *on;
        self.bench.enable(QueueId(queue), on);
    }

    fn restart(&mut self, anew: bool) {
        let Self { device, bench, agreed, .. } = self;
        bench.restart(anew, || {
            if anew {
                device.forget(Group(0));
            }
            device.handler(Group(0), *agreed).expect("it has a handler")
        });
        self.on = [true; QUEUES as usize];
        if anew {
            (self.sent, self.back) = (0, 0);
        }
    }

    /// Lets the device run, and judges what it answers.
    fn settle(&mut self) {
        self.bench.run();
        for queue in (0..QUEUES).map(QueueId) {
            while let Some(answer) = self.bench.receive(queue) {
                let mut bytes = answer.outputs.concat();
                let rest = bytes.split_off(answer.len as usize);
                assert!(rest.iter().all(|byte| *byte == UNTOUCHED), "more was written than is counted");
                if queue == MESSAGES && !bytes.is_empty() {
                    judge(&bytes);
                } else if queue == queue_to(self.echo()) {
                    let same = bytes.iter().enumerate().all(|(at, byte)| *byte == byte_at(self.back + at));
                    assert!(same, "other bytes came back than were sent");
                    self.back += bytes.len();
                    assert!(self.back <= self.sent, "more came back than was sent");
                }
                self.all.push((queue.0, answer));
            }
        }
        if self.on[usize::from(ORDERS.0)] {
            assert_eq!(self.bench.outstanding(ORDERS), 0, "what the driver says is taken at once");
        }
    }

    /// With buffers for it, all comes back that is still on its way.
    fn drain(&mut self) {
        for queue in 0..QUEUES {
            self.bench.enable(QueueId(queue), true);
        }
        self.on = [true; QUEUES as usize];
        // In this order: the driver, port 1, its guest.
        for n in [0b10_0000, 0b10_0101, 0b10_0110] {
            self.likely_order(n);
            self.settle();
        }
        let echo = self.echo();
        // Buffers that are out already may be of a few bytes each.
        for _ in 0..100 + self.sent / 4096 {
            if self.bench.outstanding(queue_to(echo)) < OUT {
                self.bench.send(queue_to(echo), &[], &[4096]);
            }
            self.settle();
        }
        assert_eq!(self.back, self.sent, "bytes were lost");
        assert_eq!(self.bench.outstanding(queue_from(echo)), 0, "a chain was");
    }
}

/// Judges a message of the device.
fn judge(message: &[u8]) {
    let (front, more) = message.split_at_checked(8).expect("a message is whole");
    let half = |at: usize| u16::from_le_bytes([front[at], front[at + 1]]);
    let (id, event, value) = ([half(0), half(2)], half(4), half(6));
    assert!(id[0] < PORTS && id[1] == 0, "there is no port {id:?}");
    let expected = match event {
        DEVICE_ADD | DEVICE_REMOVE | CONSOLE_PORT => value == 1 && more.is_empty(),
        PORT_OPEN => value <= 1 && more.is_empty(),
        RESIZE => more.len() == 4,
        PORT_NAME => !more.is_empty(),
        _ => false,
    };
    assert!(expected, "{event} with {value} and {more:?}");
}

fn run(data: &[u8], format: Format) -> Vec<(u16, Answer)> {
    let Some((&first, mut data)) = data.split_first() else { return Vec::new() };
    let mut guest = Guest::open(format, first & 1 != 0);
    for _ in 0..MOST {
        let &[what, n, ref rest @ ..] = data else { break };
        data = rest;
        let mut take = |len: usize| {
            let (bytes, rest) = data.split_at(len.min(data.len()));
            data = rest;
            bytes
        };
        let port = u16::from(n) % PORTS;
        match what {
            0 => guest.order(take(n.into())),
            1 => guest.likely_order(n),
            2 => guest.send(MESSAGES, &[], &[n.into()]),
            3 => {
                let len = take(1).first().map_or(0, |len| usize::from(*len) * 512);
                guest.say(port, len, 1 + usize::from(n >> 2));
            }
            4 => {
                let len = take(1).first().map_or(0, |len| usize::from(*len) * 64);
                guest.send(queue_to(port), &[], &vec![len; 1 + usize::from(n >> 6)]);
            }
            5 => guest.command(n),
            6 => guest.write_config(n >> 4, take(usize::from(n & 15))),
            7 => guest.turn(n),
            _ => guest.restart(n & 1 != 0),
        }
        guest.settle();
    }
    guest.drain();
    guest.all
}

fuzz_target!(|data: &[u8]| assert_eq!(
    run(data, Format::Split),
    run(data, Format::Packed),
    "the formats differ"
));
