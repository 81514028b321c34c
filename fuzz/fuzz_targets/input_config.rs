//! A hostile driver of an input device that is used meanwhile: writes to its configuration, and events of its own, on both ring
//! formats, which must agree on every event.
//!
//! Input: steps, each a byte with what it is and another one. 0: a write to the configuration at that place, with the length
//! in a third byte. 1: an event of the driver of so many bytes. 2: a buffer for an event, of so many bytes. Else: a key goes down
//! and up, or the pen moves there.
#![no_main]

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use outboard_device::defs::input::Config;
use outboard_device::serde_json::json;
use outboard_device::testing::{Answer, Bench, Format, Setup};
use outboard_device::{Device, Features, Group, Patience, QueueId};
use outboard_input::{Input, InputOptions};
use zerocopy::FromBytes;

/// The most steps of one input.
const MOST: usize = 200;
/// Buffers that are out at the most.
const BUFFERS: u32 = 64;
const EVENTS: QueueId = QueueId(0);
const STATUS: QueueId = QueueId(1);

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: InputOptions,
}

fn open() -> Input {
    let Line { options } = Line::parse_from(["input", "--synthetic=keyboard", "--synthetic=tablet"]);
    Input::open(&options).expect("the device opens")
}

fn write(device: &mut Input, offset: u32, data: &[u8]) -> bool {
    device.write_config(offset, data, &Patience::until(&|| true)).is_ok()
}

fn config(device: &Input) -> Config {
    Config::read_from_bytes(device.config()).expect("a configuration of its length")
}

/// What is told depends on what is wanted, and on nothing else.
fn judge(device: &mut Input, offset: usize, data: &[u8]) {
    let before = config(device);
    let taken = write(device, offset as u32, data);
    let after = config(device);
    if !taken {
        assert_eq!(before, after, "a write that was refused has changed something");
        return;
    }
    let byte = |at: usize| at.checked_sub(offset).and_then(|at| data.get(at)).copied();
    let wanted = [byte(0).unwrap_or(before.select), byte(1).unwrap_or(before.subsel)];
    assert_eq!([after.select, after.subsel], wanted);
    assert!(usize::from(after.size) <= after.data.len());
    assert!(
        after.data.iter().skip(after.size.into()).all(|byte| *byte == 0),
        "something is left behind the answer"
    );
    assert!(write(device, 0, &wanted));
    assert_eq!(config(device), after, "what is told depends on the way it was asked for");
}

fn run(mut data: &[u8], format: Format) -> Vec<Answer> {
    let mut device = open();
    let handler = device.handler(Group(0), Features(0)).expect("it has a handler");
    let mut bench = Bench::with(handler, &Setup { queues: 2, ..Setup::new(format) });
    let mut all = Vec::new();
    for _ in 0..MOST {
        let &[what, second, ref rest @ ..] = data else { break };
        data = rest;
        let mut take = |len: usize| {
            let (bytes, rest) = data.split_at(len.min(data.len()));
            data = rest;
            bytes
        };
        match what {
            0 => {
                let len = take(1).first().copied().unwrap_or_default();
                judge(&mut device, second.into(), take(len.into()));
            }
            1 => {
                let (front, back) = take(second.into()).split_at_checked(3).unwrap_or_default();
                let parts: Vec<&[u8]> = [front, back].into_iter().filter(|part| !part.is_empty()).collect();
                if !parts.is_empty() {
                    bench.send(STATUS, &parts, &[]);
                    bench.run();
                    assert_eq!(bench.receive(STATUS).expect("it comes back").len, 0);
                }
            }
            2 if second > 0 && bench.outstanding(EVENTS) < BUFFERS => {
                bench.send(EVENTS, &[], &[second.into()]);
            }
            2 => {}
            _ => {
                let key = json!({ "codes": [1 + u32::from(second) % 0x50] });
                let point = json!({ "x": u32::from(second) * 100, "y": what });
                let done = if what % 2 == 0 { ("press", key) } else { ("point", point) };
                // What it does not have is refused.
                let _ = device.control(done.0, &done.1);
            }
        }
        bench.run();
        while let Some(answer) = bench.receive(EVENTS) {
            let room = answer.outputs.concat().len();
            assert!(
                answer.len == 8 || answer.len == 0 && room < 8,
                "{} bytes in room for {room}",
                answer.len
            );
            all.push(answer);
        }
    }
    all
}

fuzz_target!(|data: &[u8]| assert_eq!(
    run(data, Format::Split),
    run(data, Format::Packed),
    "the formats differ"
));
