//! No allocation per request at steady state, in either half of either format: an allocator that counts.
#![allow(unsafe_code)] // a global allocator
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use outboard_guest_memory::{MemoryMap, Region, memfd};
use outboard_virtqueue::driver::{Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Chain, Format, InflightRegion, QueueConfig, QueueId, Virtqueue};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a count beside it that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, place: *mut u8, memory: Memory) {
        // SAFETY: likewise.
        unsafe { System.dealloc(place, memory) }
    }

    unsafe fn realloc(&self, place: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: likewise.
        unsafe { System.realloc(place, memory, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const SIZE: u16 = 64;
const USER: u64 = 1 << 32;

struct Halves {
    driver: DriverQueue,
    queue: Virtqueue,
    held: Vec<Chain>,
    data: u64,
}

impl Halves {
    fn start(format: Format, table_entries: u16, in_order: bool) -> Self {
        let layout = Layout::new(format, SIZE, table_entries);
        let data = layout.len.next_multiple_of(4096);
        let len = data + 0x1_0000;
        let region = Region { gpa: 0, size: len, user_addr: USER, mmap_offset: 0 };
        let mem = MemoryMap::from_table(vec![(region, memfd("memory", len).unwrap())]).unwrap();
        let config = DriverConfig { format, size: SIZE, event_idx: true, in_order, table_entries, at: 0 };
        let driver = DriverQueue::new(&config, &mem).unwrap();
        let records = InflightRegion::create(format, 1, SIZE).unwrap().0;
        let queue = QueueConfig {
            id: QueueId(0),
            format,
            size: SIZE.into(),
            mem,
            desc: USER + layout.desc,
            avail: USER + layout.driver,
            used: USER + layout.device,
            log_used: None,
            log_data: false,
            event_idx: true,
            indirect: table_entries > 0,
            in_order,
            base: driver.fresh_base(),
            inflight: records.queue(0).unwrap(),
        };
        let held = Vec::with_capacity(SIZE.into());
        Self { driver, queue: queue.activate().unwrap(), held, data }
    }

    /// Fills the ring and empties it: some completed at once, some put back, some late and out of order.
    fn round(&mut self) {
        let buffer = |at: u64, len| Buffer { gpa: self.data + at, len };
        let (header, answer) = (buffer(0, 16), [buffer(4096, 512), buffer(64, 1)]);
        while self.driver.add(&[header], &answer, 7).is_ok() {}
        self.driver.publish();
        while let Some(mut chain) = self.queue.pop().unwrap() {
            let header: [u64; 2] = chain.read_obj().unwrap();
            let status = chain.split_status().unwrap();
            chain.write_zeroes(512);
            chain.set_status(status, header[0] as u8);
            self.held.push(chain);
            if self.held.len().is_multiple_of(5) {
                let chain = self.held.pop().unwrap();
                self.queue.put_back(chain);
                let chain = self.queue.pop().unwrap().unwrap();
                self.queue.complete(chain);
            }
        }
        while !self.held.is_empty() {
            let chain = self.held.swap_remove(self.held.len() / 2);
            self.queue.complete(chain);
        }
        self.queue.publish();
        self.queue.call_needed();
        self.queue.arm_kicks();
        while self.driver.poll_used().unwrap().is_some() {}
        assert_eq!(self.driver.outstanding(), 0);
    }
}

fn check(format: Format) {
    for (table_entries, in_order) in [(0, false), (4, false), (0, true)] {
        let mut halves = Halves::start(format, table_entries, in_order);
        (0..3).for_each(|_| halves.round());
        let before = ALLOCATIONS.get();
        (0..100).for_each(|_| halves.round());
        assert_eq!(ALLOCATIONS.get(), before, "{format:?}, tables of {table_entries}, in order {in_order}");
    }
}

#[test]
fn split_ring_at_steady_state_allocates_nothing() {
    check(Format::Split);
}

#[test]
fn packed_ring_at_steady_state_allocates_nothing() {
    check(Format::Packed);
}
