//! Requests of a hostile guest against a simulated chip that changes meanwhile, on both ring formats, which must agree on
//! every byte.
//!
//! Input: steps, each a byte with what it is. 0: a byte with the room for the answer, and 8 bytes of a request. 1: the same
//! for a buffer of the event queue, and 2 bytes. Else: a byte with a line and its level from outside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outboard_device::defs::gpio::F_IRQ;
use outboard_device::serde_json::json;
use outboard_device::testing::{Answer, Bench, Format, Setup};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_gpio::{Gpio, GpioOptions};

/// The most steps of one input.
const MOST: usize = 200;
const REQUESTS: QueueId = QueueId(0);
const EVENTS: QueueId = QueueId(1);
/// Lines of the chip.
const LINES: u16 = 4;

fn run(mut data: &[u8], format: Format) -> Vec<Answer> {
    let lines = Some("0=door,1,2=LED,3".parse().expect("lines"));
    let options = GpioOptions { simulate: Some(LINES), lines, ..GpioOptions::default() };
    let mut device = Gpio::open(&options).expect("the chip opens");
    let handler = device.handler(Group(0), Features(F_IRQ)).expect("it has a handler");
    let mut bench = Bench::with(handler, &Setup { queues: 2, ..Setup::new(format) });
    let mut all = Vec::new();
    for _ in 0..MOST {
        let &[what, room, ref rest @ ..] = data else { break };
        data = rest;
        if what > 1 {
            let arguments = json!({ "line": u16::from(room / 2) % LINES, "value": room % 2 });
            device.control("set", &arguments).expect("the line changes");
        } else {
            let (queue, len) = if what == 0 { (REQUESTS, 8) } else { (EVENTS, 2) };
            let (bytes, rest) = data.split_at(len.min(data.len()));
            data = rest;
            let inputs: Vec<&[u8]> = bytes.chunks(3).collect();
            let outputs: &[usize] = if room > 0 { &[room.into()] } else { &[] };
            // Those that are held take up the ring.
            if (inputs.is_empty() && outputs.is_empty()) || bench.outstanding(queue) > 64 {
                continue;
            }
            bench.send(queue, &inputs, outputs);
        }
        bench.run();
        for queue in [REQUESTS, EVENTS] {
            while let Some(answer) = bench.receive(queue) {
                assert!(answer.len as usize <= answer.outputs.concat().len());
                all.push(answer);
            }
        }
        assert_eq!(bench.outstanding(REQUESTS), 0, "requests are answered at once");
        assert!(bench.outstanding(EVENTS) <= u32::from(LINES), "a buffer for each line is held");
    }
    // What is held goes back.
    bench.enable(EVENTS, false);
    all
}

fuzz_target!(|data: &[u8]| assert_eq!(
    run(data, Format::Split),
    run(data, Format::Packed),
    "the formats differ"
));
