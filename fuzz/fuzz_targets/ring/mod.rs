//! A hostile driver, and a hostile front end's in-flight records, against the device's half of a ring: nothing
//! panics, nothing is read or written outside of guest memory, no chain is longer than the ring and its tables allow,
//! and a ring that is faulty gives out nothing more.

use outboard_guest_memory::{MemoryMap, Region, memfd};
use outboard_virtqueue::{Base, Chain, Format, InflightRegion, QueueConfig, QueueId, Virtqueue};

/// Guest memory in bytes: the ring's parts are at its start, two regions with a hole behind them.
const REGION: u64 = 64 << 10;
const HOLE: u64 = 4 << 10;
/// Where the front end has guest memory, so that ring addresses differ from guest addresses.
const USER: u64 = 0x7f00_0000_0000;
/// What one round may pop: a ring can be refilled for ever.
const MOST: usize = 256;

fn guest() -> MemoryMap {
    let region = |gpa| {
        let fd = memfd("fuzz", REGION).expect("memory is left");
        (Region { gpa, size: REGION, user_addr: USER + gpa, mmap_offset: 0 }, fd)
    };
    MemoryMap::from_table(vec![region(0), region(REGION + HOLE)]).expect("a good table")
}

/// Takes numbers and bytes off the input.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Copies `len` bytes of input to guest address `gpa`, or what is left of either.
    fn poke(&mut self, memory: &MemoryMap, gpa: u64, len: usize) {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        let _ = memory.write_from(gpa, bytes);
    }
}

fn queue(input: &mut Input<'_>, memory: &MemoryMap, format: Format) -> Option<Virtqueue> {
    let size = match (input.byte(), format) {
        (choice, Format::Split) => 1 << (choice % 10),
        (choice, Format::Packed) => u32::from(choice) * 2 + 1,
    };
    let switches = input.byte();
    let inflight = if switches & 1 == 0 {
        None
    } else {
        let (region, fd) = InflightRegion::create(format, 1, 512).expect("memory is left");
        let records = InflightRegion::size(format, 1, 512);
        let view =
            MemoryMap::from_table(vec![(Region { gpa: 0, size: records, user_addr: 0, mmap_offset: 0 }, fd)]);
        let len = usize::from(input.byte()) * 8;
        input.poke(&view.expect("a good table"), 0, len);
        region.queue(0).expect("records of a good shape")
    };
    let base = Base(u32::from(input.word()) << 16 | u32::from(input.word()));
    let parts = [0, 0x4000, 0x8000];
    for part in parts {
        let len = usize::from(input.byte()) * 4;
        input.poke(memory, part, len);
    }
    QueueConfig {
        id: QueueId(0),
        format,
        size,
        mem: memory.clone(),
        desc: USER + parts[0],
        avail: USER + parts[1],
        used: USER + parts[2],
        log_used: None,
        log_data: false,
        event_idx: switches & 2 != 0,
        indirect: switches & 4 != 0,
        in_order: switches & 8 != 0,
        base,
        inflight,
    }
    .activate()
    .ok()
}

/// What a device may do with a chain.
fn serve(input: &mut Input<'_>, chain: &mut Chain) {
    let (readable, writable) = (chain.readable_len(), chain.writable_len());
    let sum = |vecs: &[libc::iovec]| vecs.iter().map(|vec| vec.iov_len).sum::<usize>();
    assert_eq!(sum(chain.readable()), readable);
    assert_eq!(sum(chain.writable()), writable);
    let mut header = [0; 16];
    let _ = chain.read_exact(&mut header);
    let status = chain.split_status();
    chain.skip_readable(input.byte().into());
    let _ = chain.write_all(&header);
    chain.truncate_writable(input.byte().into());
    chain.write_zeroes(usize::MAX);
    assert!(chain.written() as usize <= writable);
    if let Some(status) = status {
        chain.set_status(status, 0);
    }
    assert!(chain.written() as usize <= writable);
}

/// What a device may do with a request of one buffer.
fn short_cut(input: &mut Input<'_>, queue: &mut Virtqueue, kept: &mut Vec<Chain>) {
    let choice = input.byte();
    let len = usize::from(choice >> 2);
    let faulty = queue.fault().is_some();
    let served = match choice % 4 {
        0 => queue.put(&[0_u8; 12], [1; 64].get(..len).unwrap_or_default()),
        way @ (1 | 2) => {
            let mut front = [0; 64];
            let glanced = queue.glance(front.get_mut(..len).unwrap_or_default());
            let served = glanced.is_some();
            if let Some(glanced) = glanced {
                assert!(!glanced.is_empty());
                if way == 1 {
                    queue.dismiss(glanced);
                } else {
                    let len = glanced.len();
                    let chain = queue.open(glanced).expect("it is of this ring");
                    assert_eq!((chain.readable_len(), chain.writable_len()), (len, 0));
                    kept.push(chain);
                }
            }
            served
        }
        _ => false,
    };
    assert!(!(served && faulty));
}

pub fn run(data: &[u8], format: Format) {
    let memory = guest();
    let mut input = Input(data);
    let Some(mut queue) = queue(&mut input, &memory, format) else { return };
    let mut kept: Vec<Chain> = Vec::new();
    for _ in 0..MOST {
        short_cut(&mut input, &mut queue, &mut kept);
        let popped = queue.pop();
        if queue.fault().is_some() {
            assert!(queue.pop().expect("a fault is told once").is_none());
            break;
        }
        let Some(mut chain) = popped.expect("no fault") else {
            if input.0.is_empty() {
                break;
            }
            queue.publish();
            queue.arm_kicks();
            // The driver goes on, wherever it likes.
            let gpa = u64::from(input.word());
            let len = input.byte().into();
            input.poke(&memory, gpa, len);
            continue;
        };
        serve(&mut input, &mut chain);
        match input.byte() % 8 {
            0 => queue.put_back(chain),
            1 | 2 => kept.push(chain),
            3 if !kept.is_empty() => {
                kept.push(chain);
                queue.complete(kept.swap_remove(0));
            }
            _ => queue.complete(chain),
        }
        if input.byte() & 1 == 1 {
            queue.publish();
            queue.call_needed();
        }
    }
    kept.drain(..).for_each(|chain| queue.complete(chain));
    queue.publish();
    assert_eq!(queue.in_flight(), 0);
    queue.stop();
}
