//! Requests of a hostile guest against the simulated bus, on both ring formats, which must agree on every byte.
//!
//! Input: requests, each a byte with the length of what is read and a byte with that of what is written, in which 0xff
//! stands for more than a bus takes, and then the bytes to read. A length to read with its highest bit set: those so far
//! run before the next come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outboard_device::defs::i2c::{ERR, F_ZERO_LENGTH_REQUEST, OK};
use outboard_device::testing::{Answer, Bench, Format, Setup};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_i2c::{I2c, I2cHandler, I2cOptions};
use std::time::Duration;

/// The most requests of one input.
const MOST: usize = 100;
const LONG: usize = 9000;
/// Longer than a group waits for its end.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs what was sent; the answers.
fn settle(bench: &mut Bench<I2cHandler>, sent: usize) -> Vec<Answer> {
    bench.run();
    bench.pass(PAUSE);
    let answers: Vec<Answer> = std::iter::from_fn(|| bench.receive(QueueId(0))).collect();
    assert_eq!(answers.len(), sent, "each request is answered, and there is no fault");
    for Answer { outputs, len, .. } in &answers {
        let bytes = outputs.concat();
        match bytes.last() {
            Some(&OK) => assert_eq!(*len as usize, bytes.len()),
            Some(status) => assert_eq!((*status, *len), (ERR, 1)),
            None => assert_eq!(*len, 0),
        }
    }
    answers
}

fn run(mut data: &[u8], format: Format) -> Vec<Answer> {
    let mut device = I2c::open(&I2cOptions::default()).expect("the bus opens");
    let handler = device.handler(Group(0), Features(F_ZERO_LENGTH_REQUEST)).expect("it has a handler");
    let mut bench = Bench::with(handler, &Setup { indirect: true, ..Setup::new(format) });
    let (mut all, mut sent) = (Vec::new(), 0);
    for _ in 0..MOST {
        let &[readable, writable, ref rest @ ..] = data else { break };
        let settles = readable & 0x80 != 0;
        let (bytes, rest) = rest.split_at(usize::from(readable & 0x7f).min(rest.len()));
        data = rest;
        let long = vec![0; LONG];
        let more: &[u8] = if readable & 0x7f == 0x7f { &long } else { &[] };
        let room = if writable == 0xff { LONG } else { usize::from(writable) };
        if bytes.is_empty() && more.is_empty() && room == 0 {
            continue;
        }
        // The header is cut, wherever that is.
        let (first, second) = bytes.split_at(bytes.len() / 3);
        let inputs: Vec<&[u8]> = [first, second, more].into_iter().filter(|part| !part.is_empty()).collect();
        let outputs: Vec<usize> = [room / 2, room - room / 2].into_iter().filter(|len| *len > 0).collect();
        bench.send(QueueId(0), &inputs, &outputs);
        sent += 1;
        if settles || sent == 40 {
            all.extend(settle(&mut bench, std::mem::take(&mut sent)));
        }
    }
    all.extend(settle(&mut bench, sent));
    all
}

fuzz_target!(|data: &[u8]| assert_eq!(
    run(data, Format::Split),
    run(data, Format::Packed),
    "the formats differ"
));
