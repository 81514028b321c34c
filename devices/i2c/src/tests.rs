//! The device as a driver sees it, on both ring formats.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use outboard_device::defs::i2c::{
    ERR, F_ZERO_LENGTH_REQUEST, FAIL_NEXT, M_RD, OK, OutHdr, seven_bit, ten_bit,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId, Recall};

use crate::address::ReadOnly;
use crate::executor::{Bus, Executor};
use crate::handler::Place;
use crate::host::errands::start;
use crate::transaction::Message;
use crate::{I2c, I2cHandler, I2cOptions};

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
const QUEUE: QueueId = QueueId(0);
/// No statuses.
const NONE: [u8; 0] = [];

/// The fields of a header as its bytes.
fn header(addr: u16, flags: u32) -> Vec<u8> {
    let mut bytes = [addr.to_le_bytes(), [0; 2]].concat();
    bytes.extend(flags.to_le_bytes());
    assert_eq!(bytes.len(), size_of::<OutHdr>());
    bytes
}

fn options(parts: &[&str], read_only: Option<&str>) -> I2cOptions {
    I2cOptions {
        simulate: parts.iter().map(|part| part.parse().unwrap()).collect(),
        read_only: read_only.map(|list| list.parse().unwrap()),
        ..I2cOptions::default()
    }
}

fn bench_with(options: &I2cOptions, format: Format) -> (I2c, Bench<I2cHandler>) {
    let mut device = I2c::open(options).unwrap();
    let handler = device.handler(Group(0), Features(F_ZERO_LENGTH_REQUEST)).unwrap();
    (device, Bench::with(handler, &Setup { size: 64, indirect: true, ..Setup::new(format) }))
}

fn bench(format: Format) -> (I2c, Bench<I2cHandler>) {
    let parts = ["eeprom@0x50", "thermometer@0x48", "registers:4@0x150"];
    bench_with(&options(&parts, Some("0x48")), format)
}

/// What is asked of a chip.
#[derive(Clone, Copy)]
enum Ask<'a> {
    Write(&'a [u8]),
    Read(usize),
}
use Ask::{Read, Write};

/// A group, and whom each request is for.
type Asks<'a> = &'a [(u16, Ask<'a>)];

const EEPROM: u16 = seven_bit(0x50);
const THERMOMETER: u16 = seven_bit(0x48);
const ABSENT: u16 = seven_bit(0x51);

fn send(bench: &mut Bench<I2cHandler>, addr: u16, ask: Ask<'_>, flags: u32) -> u64 {
    match ask {
        Write(data) => bench.send(QUEUE, &[&header(addr, flags), data], &[1]),
        Read(0) => bench.send(QUEUE, &[&header(addr, flags | M_RD)], &[1]),
        Read(len) => bench.send(QUEUE, &[&header(addr, flags | M_RD)], &[len, 1]),
    }
}

/// Sends a group at once; statuses and what was read, in the order of the requests.
fn group(bench: &mut Bench<I2cHandler>, asks: Asks<'_>) -> (Vec<u8>, Vec<Vec<u8>>) {
    for (nth, (addr, ask)) in asks.iter().enumerate() {
        send(bench, *addr, *ask, if nth + 1 < asks.len() { FAIL_NEXT } else { 0 });
    }
    bench.run();
    answers(bench)
}

fn answers(bench: &mut Bench<I2cHandler>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut statuses, mut data) = (Vec::new(), Vec::new());
    let mut last = None;
    while let Some(answer) = bench.receive(QUEUE) {
        assert!(last < Some(answer.token), "requests are answered in order");
        last = Some(answer.token);
        let mut bytes = answer.outputs.concat();
        statuses.push(bytes.pop().unwrap());
        if statuses.last() == Some(&OK) {
            assert_eq!(answer.len as usize, bytes.len() + 1);
        } else {
            assert!(answer.len == 1 && bytes.iter().all(|&byte| byte == UNTOUCHED));
        }
        data.push(bytes);
    }
    (statuses, data)
}

#[test]
fn eeprom_gives_back_what_was_written() {
    for format in FORMATS {
        let (_, mut bench) = bench(format);
        assert_eq!(group(&mut bench, &[(EEPROM, Write(&[3, 1, 2]))]).0, [OK]);
        let (statuses, data) = group(&mut bench, &[(EEPROM, Write(&[3])), (EEPROM, Read(3))]);
        assert_eq!((statuses, &data[1][..]), (vec![OK, OK], &[1, 2, 0xff][..]));
        let (_, data) = group(&mut bench, &[(THERMOMETER, Write(&[0])), (THERMOMETER, Read(2))]);
        assert_eq!(data[1], [25, 0]);
        let (_, data) = group(
            &mut bench,
            &[(ten_bit(0x150), Write(&[1, 7])), (ten_bit(0x150), Write(&[1])), (ten_bit(0x150), Read(1))],
        );
        assert_eq!(data[2], [7]);
    }
}

#[test]
fn failure_takes_along_what_is_behind_it_in_its_group() {
    let table: &[(Asks<'_>, &[u8])] = &[
        (&[(EEPROM, Write(&[])), (EEPROM, Read(0))], &[OK, OK]),
        (&[(ABSENT, Write(&[]))], &[ERR]),
        (&[(EEPROM, Write(&[0, 9])), (ABSENT, Write(&[0])), (EEPROM, Write(&[0, 8]))], &[OK, ERR, ERR]),
        (&[(EEPROM, Write(&[0])), (EEPROM, Read(1))], &[OK, OK]),
        (&[(THERMOMETER, Write(&[1, 1])), (EEPROM, Read(1))], &[ERR, ERR]),
        (&[(THERMOMETER, Write(&[1])), (THERMOMETER, Read(1))], &[OK, OK]),
        (
            &[(EEPROM, Write(&[0, 7])), (THERMOMETER, Write(&[1, 1])), (EEPROM, Write(&[0, 6]))],
            &[OK, ERR, ERR],
        ),
    ];
    for format in FORMATS {
        let (device, mut bench) = bench(format);
        for (nth, (asks, expected)) in table.iter().enumerate() {
            assert_eq!(group(&mut bench, asks).0, *expected, "group {nth}");
        }
        let (_, data) = group(&mut bench, &[(EEPROM, Write(&[0])), (EEPROM, Read(1))]);
        assert_eq!(data[1], [7], "what came behind a failure was not written");
        let status = device.status();
        let of = |address: &str| {
            let all = status["addresses"].as_array().unwrap();
            all.iter().find(|row| row["address"] == address).cloned().unwrap()
        };
        assert_eq!(of("0x51"), json!({"address": "0x51", "transfers": 0, "naks": 2, "refused": 0}));
        assert_eq!(of("0x48"), json!({"address": "0x48", "transfers": 2, "naks": 0, "refused": 2}));
    }
}

#[test]
fn read_only_chips_take_a_pointer_before_a_read_and_nothing_else() {
    let expander = seven_bit(0x20);
    let table: &[(Asks<'_>, &[u8])] = &[
        (&[(THERMOMETER, Write(&[1]))], &[ERR]),
        (&[(THERMOMETER, Write(&[]))], &[ERR]),
        (&[(THERMOMETER, Read(1))], &[OK]),
        (&[(THERMOMETER, Write(&[1])), (THERMOMETER, Read(1))], &[OK, OK]),
        (&[(THERMOMETER, Write(&[1])), (THERMOMETER, Read(0))], &[ERR, ERR]),
        (&[(THERMOMETER, Write(&[])), (THERMOMETER, Read(1))], &[ERR, ERR]),
        (&[(THERMOMETER, Write(&[1])), (EEPROM, Read(1))], &[ERR, ERR]),
        (&[(THERMOMETER, Write(&[1, 1])), (THERMOMETER, Read(1))], &[ERR, ERR]),
        (&[(THERMOMETER, Write(&[1])), (THERMOMETER, Write(&[1])), (THERMOMETER, Read(1))], &[ERR; 3]),
        (&[(THERMOMETER, Read(1)), (THERMOMETER, Write(&[1]))], &[OK, ERR]),
        (&[(EEPROM, Write(&[0, 5])), (EEPROM, Read(1)), (EEPROM, Write(&[0])), (EEPROM, Read(1))], &[OK; 4]),
        (&[(EEPROM, Write(&[0, 5, 1])), (EEPROM, Read(1))], &[ERR, ERR]),
        (&[(expander, Write(&[1])), (expander, Read(1))], &[ERR, ERR]),
        (&[(expander, Read(1))], &[OK]),
    ];
    let parts = ["eeprom:4096@0x50", "thermometer@0x48", "registers:4@0x20"];
    for format in FORMATS {
        let (_, mut bench) = bench_with(&options(&parts, Some("0x48,0x50/2,0x20/0")), format);
        for (nth, (asks, expected)) in table.iter().enumerate() {
            assert_eq!(group(&mut bench, asks).0, *expected, "group {nth}");
        }
        send(&mut bench, THERMOMETER, Write(&[1]), FAIL_NEXT);
        bench.run();
        bench.pass(Duration::from_millis(20));
        send(&mut bench, THERMOMETER, Read(1), 0);
        bench.run();
        assert_eq!(answers(&mut bench).0, [ERR, ERR], "in parts, there is a stop behind the pointer");
    }
}

#[test]
fn groups_that_come_together_are_told_apart() {
    for format in FORMATS {
        let (_, mut bench) = bench(format);
        for (addr, flags) in [(ABSENT, FAIL_NEXT), (EEPROM, 0), (EEPROM, FAIL_NEXT), (EEPROM, 0), (EEPROM, 0)]
        {
            send(&mut bench, addr, Write(&[0]), flags);
        }
        bench.run();
        assert_eq!(answers(&mut bench).0, [ERR, ERR, OK, OK, OK]);
    }
}

#[test]
fn group_that_does_not_end_is_carried_out_after_a_while_and_goes_on() {
    for format in FORMATS {
        let (_, mut bench) = bench(format);
        send(&mut bench, EEPROM, Write(&[0]), FAIL_NEXT);
        bench.run();
        assert_eq!(answers(&mut bench).0, NONE);
        bench.pass(Duration::from_millis(19));
        send(&mut bench, ABSENT, Write(&[0]), FAIL_NEXT);
        bench.run();
        bench.pass(Duration::from_millis(19));
        assert_eq!(answers(&mut bench).0, NONE, "each request has its time");
        bench.pass(Duration::from_millis(1));
        assert_eq!(answers(&mut bench).0, [OK, ERR]);
        send(&mut bench, EEPROM, Write(&[0]), 0);
        send(&mut bench, EEPROM, Write(&[0]), 0);
        bench.run();
        assert_eq!(answers(&mut bench).0, [ERR, OK], "the group's failure, and the next group");
        bench.pass(Duration::from_secs(1));
        assert_eq!(answers(&mut bench).0, NONE);
    }
}

#[test]
fn group_of_more_than_42_is_refused_as_a_whole() {
    for format in FORMATS {
        let (_, mut bench) = bench(format);
        for nth in 0..44 {
            send(&mut bench, EEPROM, Write(&[0, 1]), if nth < 43 { FAIL_NEXT } else { 0 });
        }
        send(&mut bench, EEPROM, Write(&[0]), FAIL_NEXT);
        send(&mut bench, EEPROM, Read(1), 0);
        bench.run();
        let (statuses, data) = answers(&mut bench);
        assert_eq!((&statuses[..44], &statuses[44..]), (&[ERR; 44][..], &[OK, OK][..]));
        assert_eq!(data[45], [0xff], "nothing was written");
        let asks: Vec<_> = (0..42).map(|_| (EEPROM, Write(&[][..]))).collect();
        assert_eq!(group(&mut bench, &asks).0, [OK; 42]);
    }
}

#[test]
fn malformed_requests_are_answered_as_far_as_they_can_be() {
    let good = header(EEPROM, 0);
    type Row<'a> = (&'a [&'a [u8]], &'a [usize], &'a [u8]);
    let table: &[Row<'_>] = &[
        (&[&good[..7]], &[1], &[ERR]),
        (&[], &[1], &[ERR]),
        (&[&good, &[0]], &[], &[]),
        (&[&good, &[0]], &[2], &[UNTOUCHED, ERR]),
        (&[&header(EEPROM, M_RD), &[0]], &[2], &[UNTOUCHED, ERR]),
        (&[&header(EEPROM, 1 << 2), &[0]], &[1], &[ERR]),
        (&[&header(EEPROM + 1, 0), &[0]], &[1], &[ERR]),
        (&[&header(EEPROM | 0x100, 0), &[0]], &[1], &[ERR]),
        (&[&good, &[0; 8193]], &[1], &[ERR]),
        (&[&good[..3], &good[3..], &[5], &[1]], &[1], &[OK]),
        (&[&header(EEPROM, M_RD)], &[1, 1, 1], &[0xff, 0xff, OK]),
    ];
    for format in FORMATS {
        let (device, mut bench) = bench(format);
        for (nth, (readable, writable, expected)) in table.iter().enumerate() {
            let (outputs, len) = bench.request(readable, writable);
            assert_eq!(&outputs.concat(), expected, "request {nth}");
            let bad = expected.last() == Some(&ERR);
            assert_eq!(len as usize, if bad { 1 } else { expected.len() }, "request {nth}");
        }
        let (outputs, len) = bench.request(&[&header(EEPROM, M_RD)], &[1 << 20]);
        assert_eq!((outputs[0].last(), len), (Some(&ERR), 1));
        assert_eq!(device.status()["malformed"], 10);
    }
}

#[test]
fn requests_that_rest_come_again() {
    for format in FORMATS {
        let (_, mut bench) = bench(format);
        send(&mut bench, EEPROM, Write(&[3]), FAIL_NEXT);
        send(&mut bench, EEPROM, Write(&[3]), FAIL_NEXT);
        bench.run();
        bench.enable(QUEUE, false);
        send(&mut bench, EEPROM, Read(1), 0);
        bench.pass(Duration::from_secs(1));
        assert_eq!(answers(&mut bench).0, NONE);
        bench.enable(QUEUE, true);
        bench.run();
        assert_eq!(answers(&mut bench).0, [OK, OK, OK]);
    }
}

/// A bus that says which bytes begin, and goes on when it is told to.
struct Held {
    begun: Sender<Vec<u8>>,
    go_on: Receiver<()>,
}

impl Bus for Held {
    fn transfer(&mut self, messages: &mut [Message]) -> usize {
        let data = messages.iter().flat_map(|message| message.data.clone()).collect();
        self.begun.send(data).unwrap();
        self.go_on.recv().unwrap();
        messages.len()
    }
}

#[test]
fn rest_waits_for_what_the_bus_has_begun_and_for_nothing_behind_it() {
    for format in FORMATS {
        for stops in [false, true] {
            let ((begun, begins), (go_on, held)) = (channel(), channel());
            let bus = Box::new(Held { begun, go_on: held });
            let errands = start(Executor::new(bus, ReadOnly::default(), Arc::default())).unwrap();
            let handler = || I2cHandler::new(Place::There(errands.clone(), Recall::default()));
            let mut bench = Bench::with(handler(), &Setup { size: 64, ..Setup::new(format) });
            let tied = [(1, 0), (2, 0), (3, FAIL_NEXT), (4, 0), (5, FAIL_NEXT)];
            for (byte, flags) in tied {
                send(&mut bench, EEPROM, Write(&[byte]), flags);
            }
            bench.run();
            assert_eq!(begins.recv().unwrap(), [1]);
            bench.enable(QUEUE, false);
            go_on.send(()).unwrap();
            bench.run_until_home();
            assert_eq!((answers(&mut bench).0, begins.try_recv()), (vec![OK], Err(TryRecvError::Empty)));
            (0..3).for_each(|_| go_on.send(()).unwrap());
            if stops {
                bench.restart(false, handler);
            } else {
                bench.enable(QUEUE, true);
            }
            send(&mut bench, EEPROM, Write(&[6]), 0);
            bench.run_until_home();
            assert_eq!(answers(&mut bench).0, [OK; 5]);
            assert_eq!(begins.try_iter().collect::<Vec<_>>(), [vec![2], vec![3, 4], vec![5, 6]]);
        }
    }
}

#[test]
fn driver_without_the_mandatory_feature_is_refused() {
    let mut device = I2c::open(&I2cOptions::default()).unwrap();
    assert!(device.handler(Group(0), Features(0)).is_err());
    assert_eq!(device.profile().features, Features(F_ZERO_LENGTH_REQUEST));
}

#[test]
fn commands_reach_the_simulated_parts() {
    let (mut device, mut bench) = bench_with(&I2cOptions::default(), Format::Split);
    device.control("temperature", &json!({"address": "0x48", "celsius": 21.5})).unwrap();
    let (_, data) = group(&mut bench, &[(THERMOMETER, Write(&[0])), (THERMOMETER, Read(2))]);
    assert_eq!(data[1], [21, 0x80]);
    assert!(device.control("link", &Value::Null).is_err());
    assert_eq!(device.status()["simulated"][1]["part"], "eeprom");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    for parts in [&["eeprom@0x50", "registers@0x50"][..], &["eeprom@0x50,file=/nowhere/at/all"]] {
        assert!(I2c::open(&options(parts, None)).is_err(), "{parts:?}");
    }
}
