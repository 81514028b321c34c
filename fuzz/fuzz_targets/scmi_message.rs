//! Commands of a hostile guest against a platform that is simulated and changes meanwhile, on both ring formats, which must
//! agree on every answer.
//!
//! Input: steps, each a byte with what it is and another one. Less than 0xf0: a command of so many bytes, and the room for its
//! answer. 0xf0 to 0xf7: a buffer for notifications of so many bytes. Else: something that is simulated changes to that value.
#![no_main]

use std::time::Duration;

use clap::Parser as _;
use libfuzzer_sys::fuzz_target;
use outboard_device::defs::scmi::VIRTIO_SCMI_F_P2A_CHANNELS;
use outboard_device::serde_json::json;
use outboard_device::testing::{Answer, Bench, Format, Setup};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_scmi::{Scmi, ScmiOptions};

/// The most steps of one input.
const MOST: usize = 200;
/// Buffers for notifications that are out at the most.
const BUFFERS: u32 = 8;
const COMMANDS: QueueId = QueueId(0);
const EVENTS: QueueId = QueueId(1);

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: ScmiOptions,
}

/// An answer has the header of its command and a status, and no more than there is room for.
fn judge(command: &[u8], room: usize, answer: &Answer) {
    let (bytes, len) = (answer.outputs.concat(), answer.len as usize);
    assert!(len <= room, "{len} bytes in room for {room}");
    if len > 0 {
        assert!(len >= 8 && len % 4 == 0, "an answer of {len} bytes");
        assert_eq!(bytes[..4], command[..4], "the header of another command");
        assert!(bytes[4..8] == [0; 4] || len == 8, "there is something behind a status that is not success");
    }
}

fn run(mut data: &[u8], format: Format) -> Vec<Answer> {
    let Line { options } = Line::parse_from(["scmi"]);
    let mut device = Scmi::open(&options).expect("the platform opens");
    let points = device.control("points", &json!({})).expect("there are points");
    let points: Vec<&String> = points.as_object().expect("by their names").keys().collect();
    let handler = device.handler(Group(0), Features(VIRTIO_SCMI_F_P2A_CHANNELS)).expect("it has a handler");
    let mut bench = Bench::with(handler, &Setup { queues: 2, ..Setup::new(format) });
    let mut all = Vec::new();
    for step in 0..MOST {
        let &[what, second, ref rest @ ..] = data else { break };
        data = rest;
        match what {
            0..0xf0 => {
                let (command, rest) = data.split_at(usize::from(what).min(data.len()));
                data = rest;
                let room = usize::from(second);
                let (front, back) = command.split_at(command.len() / 3);
                let inputs: Vec<&[u8]> = [front, back].into_iter().filter(|part| !part.is_empty()).collect();
                let outputs: &[usize] = if room > 0 { &[room] } else { &[] };
                if inputs.is_empty() && outputs.is_empty() {
                    continue;
                }
                bench.send(COMMANDS, &inputs, outputs);
                bench.run();
                let answer = bench.receive(COMMANDS).expect("it is answered at once");
                judge(command, room, &answer);
                all.push(answer);
            }
            0xf0..0xf8 if bench.outstanding(EVENTS) < BUFFERS && second > 0 => {
                bench.send(EVENTS, &[], &[second.into()]);
            }
            0xf0..0xf8 => {}
            _ => {
                let point = &points[step % points.len()];
                // What cannot be set is refused.
                let _ = device.control("set", &json!({ "point": point, "value": u32::from(second) * 100 }));
            }
        }
        bench.pass(Duration::ZERO);
        while let Some(answer) = bench.receive(EVENTS) {
            assert!(answer.len as usize <= answer.outputs.concat().len());
        }
    }
    all
}

fuzz_target!(|data: &[u8]| assert_eq!(
    run(data, Format::Split),
    run(data, Format::Packed),
    "the formats differ"
));
