//! How long one request takes in the rings alone: driver's half and device's half in one thread, in batches, with
//! requests as a disk gets them (16 bytes to read, 4096 and a status byte to write). Prints nanoseconds for both
//! halves together, and for the device's alone: the best of many slices of half a millisecond or so, since other
//! programs only ever add.
//!
//! `cargo run --release -p outboard-virtqueue --example ring_speed [SLICES]`
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers")]

use std::time::{Duration, Instant};

use outboard_guest_memory::{MemoryMap, Region, memfd};
use outboard_virtqueue::driver::{Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Format, InflightRegion, QueueConfig, QueueId, Virtqueue};

const BATCHES: u32 = 200;
const BATCH: u64 = 32;
const SIZE: u16 = 256;

struct Case {
    name: &'static str,
    format: Format,
    table_entries: u16,
    in_order: bool,
    tracked: bool,
}

fn main() {
    let slices = std::env::args().nth(1).map_or(1000, |arg| arg.parse().unwrap());
    for (format, name) in [(Format::Split, "split"), (Format::Packed, "packed")] {
        for (more, table_entries, in_order, tracked) in [
            ("", 0, false, false),
            (" indirect", 4, false, false),
            (" in order", 0, true, false),
            (" in-flight records", 0, false, true),
        ] {
            let case = Case { name, format, table_entries, in_order, tracked };
            let (total, device) = run(&case, slices);
            let per = |time: Duration| time.as_nanos() as f64 / (u64::from(BATCHES) * BATCH) as f64;
            println!("{}{more}: {:.1} ns, device half {:.1} ns", case.name, per(total), per(device));
        }
    }
}

fn run(case: &Case, slices: u32) -> (Duration, Duration) {
    let &Case { format, table_entries, in_order, tracked, .. } = case;
    let (mut driver, mut queue, data) = start(format, table_entries, in_order, tracked);
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..slices {
        let begin = Instant::now();
        let device = slice(&mut driver, &mut queue, data);
        best = (best.0.min(begin.elapsed()), best.1.min(device));
    }
    best
}

/// Some batches; returns the time spent in the device's half.
fn slice(driver: &mut DriverQueue, queue: &mut Virtqueue, data: u64) -> Duration {
    let mut device = Duration::ZERO;
    for _ in 0..BATCHES {
        for token in 0..BATCH {
            let at = data + token * 8192;
            let header = Buffer { gpa: at, len: 16 };
            let answer = [Buffer { gpa: at + 4096, len: 4096 }, Buffer { gpa: at + 16, len: 1 }];
            driver.add(&[header], &answer, token).unwrap();
        }
        driver.publish();
        let begin = Instant::now();
        serve(queue);
        device += begin.elapsed();
        for _ in 0..BATCH {
            assert_eq!(driver.poll_used().unwrap().unwrap().1, 4097);
        }
    }
    device
}

fn serve(queue: &mut Virtqueue) {
    queue.suppress_kicks();
    while let Some(mut chain) = queue.pop().unwrap() {
        let header: [u64; 2] = chain.read_obj().unwrap();
        let status = chain.split_status().unwrap();
        chain.advance_writable(4096);
        chain.set_status(status, header[0] as u8);
        queue.complete(chain);
    }
    queue.publish();
    queue.call_needed();
    queue.arm_kicks();
}

fn start(format: Format, table_entries: u16, in_order: bool, tracked: bool) -> (DriverQueue, Virtqueue, u64) {
    let layout = Layout::new(format, SIZE, table_entries);
    let ring_len = layout.len.next_multiple_of(4096);
    let len = ring_len + BATCH * 8192;
    let region = Region { gpa: 0, size: len, user_addr: 1 << 32, mmap_offset: 0 };
    let mem = MemoryMap::from_table(vec![(region, memfd("memory", len).unwrap())]).unwrap();
    let config = DriverConfig { format, size: SIZE, event_idx: true, in_order, table_entries, at: 0 };
    let driver = DriverQueue::new(&config, &mem).unwrap();
    let records = tracked.then(|| InflightRegion::create(format, 1, SIZE).unwrap().0);
    let queue = QueueConfig {
        id: QueueId(0),
        format,
        size: SIZE.into(),
        mem,
        desc: (1 << 32) + layout.desc,
        avail: (1 << 32) + layout.driver,
        used: (1 << 32) + layout.device,
        log_used: None,
        log_data: false,
        event_idx: true,
        indirect: table_entries > 0,
        in_order,
        base: driver.fresh_base(),
        inflight: records.and_then(|records| records.queue(0).unwrap()),
    };
    (driver, queue.activate().unwrap(), ring_len)
}
