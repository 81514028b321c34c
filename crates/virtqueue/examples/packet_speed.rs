//! How long one packet of 60 bytes takes in the rings alone, as `ring_speed` measures requests: driver's half and device's
//! half in one thread, in batches: as chains, and at once. Prints nanoseconds of the device's half: the best of many slices.
//!
//! `cargo run --release -p outboard-virtqueue --example packet_speed [SLICES]`
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for developers")]

use std::time::{Duration, Instant};

use outboard_guest_memory::{MemoryMap, Region, memfd};
use outboard_virtqueue::driver::{Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Format, QueueConfig, QueueId, Virtqueue};

const BATCHES: u32 = 200;
const BATCH: u64 = 32;
const SIZE: u16 = 256;
/// Header and packet.
const HEADER: usize = 12;
const LEN: usize = 60;
/// From one buffer to the next.
const STRIDE: u64 = 2048;
const RINGS: u64 = 0x10000;
const MEMORY: u64 = 2 * (RINGS + BATCH * STRIDE);

/// A ring with both halves, and where its buffers are.
struct Ring {
    driver: DriverQueue,
    queue: Virtqueue,
    buffers: u64,
}

impl Ring {
    fn new(mem: &MemoryMap, nth: u64, format: Format, in_order: bool) -> Self {
        let at = nth * RINGS;
        let layout = Layout::new(format, SIZE, 0);
        assert!(layout.len <= RINGS);
        let config = DriverConfig { format, size: SIZE, event_idx: true, in_order, table_entries: 0, at };
        let driver = DriverQueue::new(&config, mem).unwrap();
        let user = (1 << 32) + at;
        let queue = QueueConfig {
            id: QueueId(nth as u16),
            format,
            size: SIZE.into(),
            mem: mem.clone(),
            desc: user + layout.desc,
            avail: user + layout.driver,
            used: user + layout.device,
            log_used: None,
            log_data: false,
            event_idx: true,
            indirect: false,
            in_order,
            base: driver.fresh_base(),
            inflight: None,
        };
        Self { driver, queue: queue.activate().unwrap(), buffers: 2 * RINGS + nth * BATCH * STRIDE }
    }

    /// Makes a batch of buffers of `len` bytes available, to be read or to be written.
    fn fill(&mut self, len: u32, to_read: bool) {
        for token in 0..BATCH {
            let buffer = [Buffer { gpa: self.buffers + token * STRIDE, len }];
            let (readable, writable): (&[_], &[_]) = if to_read { (&buffer, &[]) } else { (&[], &buffer) };
            self.driver.add(readable, writable, token).unwrap();
        }
        self.driver.publish();
    }

    fn empty(&mut self, len: u32) {
        for _ in 0..BATCH {
            assert_eq!(self.driver.poll_used().unwrap().unwrap().1, len);
        }
    }

    fn end(&mut self) {
        self.queue.publish();
        self.queue.call_needed();
    }
}

fn main() {
    let slices = std::env::args().nth(1).map_or(1000, |arg| arg.parse().unwrap());
    for (format, name) in [(Format::Split, "split"), (Format::Packed, "packed")] {
        for in_order in [false, true] {
            let figures =
                [sent, received, looped, sent_at_once, received_at_once, looped_at_once].map(|way| {
                    let region = Region { gpa: 0, size: MEMORY, user_addr: 1 << 32, mmap_offset: 0 };
                    let mem =
                        MemoryMap::from_table(vec![(region, memfd("memory", MEMORY).unwrap())]).unwrap();
                    let mut rings = [0, 1].map(|nth| Ring::new(&mem, nth, format, in_order));
                    let slice = |rings: &mut _| (0..BATCHES).map(|_| way(rings)).sum();
                    let best: Duration = (0..slices).map(|_| slice(&mut rings)).min().unwrap();
                    best.as_nanos() as f64 / (u64::from(BATCHES) * BATCH) as f64
                });
            let order = if in_order { " in order" } else { "" };
            let [chains @ .., a, b, c] = figures;
            for (how, [sent, received, looped]) in [("as chains", chains), ("at once", [a, b, c])] {
                println!(
                    "{name}{order}, {how}: sent {sent:.1} ns, received {received:.1} ns, looped {looped:.1} ns"
                );
            }
        }
    }
}

/// The packet is dropped behind its header.
fn sent([ring, _]: &mut [Ring; 2]) -> Duration {
    ring.fill((HEADER + LEN) as u32, true);
    let begin = Instant::now();
    while let Some(mut chain) = ring.queue.take() {
        let _: [u8; HEADER] = chain.read_obj().unwrap();
        ring.queue.complete(chain);
    }
    ring.end();
    let time = begin.elapsed();
    ring.empty(0);
    time
}

/// Header and packet are ours.
fn received([ring, _]: &mut [Ring; 2]) -> Duration {
    ring.fill(STRIDE as u32, false);
    let begin = Instant::now();
    while let Some(mut chain) = ring.queue.take() {
        chain.write_obj(&[1_u8; HEADER]).unwrap();
        chain.write_all(std::hint::black_box(&[2_u8; LEN])).unwrap();
        ring.queue.complete_together([chain]);
    }
    ring.end();
    let time = begin.elapsed();
    ring.empty((HEADER + LEN) as u32);
    time
}

/// From one ring to the other, behind a header of ours.
fn looped([from, to]: &mut [Ring; 2]) -> Duration {
    from.fill((HEADER + LEN) as u32, true);
    to.fill(STRIDE as u32, false);
    let begin = Instant::now();
    while let Some(mut chain) = from.queue.take() {
        let header: [u8; HEADER] = chain.read_obj().unwrap();
        let mut room = to.queue.take().unwrap();
        room.write_obj(&header).unwrap();
        chain.copy_to(&mut room, usize::MAX);
        to.queue.complete_together([room]);
        from.queue.complete(chain);
    }
    to.end();
    from.end();
    let time = begin.elapsed();
    from.empty(0);
    to.empty((HEADER + LEN) as u32);
    time
}

/// As [`sent`], without chains but the first.
fn sent_at_once([ring, _]: &mut [Ring; 2]) -> Duration {
    ring.fill((HEADER + LEN) as u32, true);
    let begin = Instant::now();
    let mut header = [0; HEADER];
    loop {
        if let Some(glanced) = ring.queue.glance(&mut header) {
            ring.queue.dismiss(glanced);
        } else if let Some(chain) = ring.queue.take() {
            ring.queue.complete(chain);
        } else {
            break;
        }
    }
    ring.end();
    let time = begin.elapsed();
    ring.empty(0);
    time
}

/// As [`received`], without chains but the first.
fn received_at_once([ring, _]: &mut [Ring; 2]) -> Duration {
    ring.fill(STRIDE as u32, false);
    let begin = Instant::now();
    while put(&mut ring.queue, &[1; HEADER], std::hint::black_box(&[2; LEN])) {}
    ring.end();
    let time = begin.elapsed();
    ring.empty((HEADER + LEN) as u32);
    time
}

fn put(queue: &mut Virtqueue, header: &[u8; HEADER], packet: &[u8]) -> bool {
    if queue.put(header, packet) {
        return true;
    }
    let Some(mut chain) = queue.take() else { return false };
    chain.write_obj_with(header, packet).unwrap();
    queue.complete(chain);
    true
}

/// As [`looped`], without chains but the first of each ring.
fn looped_at_once([from, to]: &mut [Ring; 2]) -> Duration {
    from.fill((HEADER + LEN) as u32, true);
    to.fill(STRIDE as u32, false);
    let begin = Instant::now();
    let mut front = [0; HEADER + LEN];
    loop {
        let taken = from.queue.glance(&mut front);
        let chain = if taken.is_none() { from.queue.take() } else { None };
        if taken.is_none() && chain.is_none() {
            break;
        }
        if let Some(mut chain) = chain {
            chain.read_exact(&mut front).unwrap();
            from.queue.complete(chain);
        }
        let (header, packet) = front.split_first_chunk().unwrap();
        assert!(put(&mut to.queue, header, packet));
        if let Some(glanced) = taken {
            from.queue.dismiss(glanced);
        }
    }
    to.end();
    from.end();
    let time = begin.elapsed();
    from.empty(0);
    to.empty((HEADER + LEN) as u32);
    time
}
