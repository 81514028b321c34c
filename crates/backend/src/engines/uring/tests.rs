use outboard_guest_memory::{Region, memfd};
use outboard_virtqueue::{
    Format, QueueConfig, Virtqueue,
    driver::{Buffer, DriverConfig, DriverQueue},
};

use super::*;

const START: u64 = 0x4000_0000;
const USER: u64 = 0x7000_0000_0000;
const LEN: u64 = 1 << 20;
/// Where buffers are, behind the ring.
const BUFFERS: u64 = START + LEN / 2;

fn region(gpa: u64) -> Region {
    Region { gpa, size: LEN, user_addr: USER + gpa - START, mmap_offset: 0 }
}

/// A ring in guest memory, with `count` requests of one device-writable page each.
fn ring(count: u16) -> (MemoryMap, DriverQueue, Virtqueue) {
    let memory = MemoryMap::from_table(vec![(region(START), memfd("guest", LEN).unwrap())]).unwrap();
    let config = DriverConfig {
        format: Format::Split,
        size: 256,
        event_idx: false,
        in_order: false,
        table_entries: 0,
        at: START,
    };
    let mut driver = DriverQueue::new(&config, &memory).unwrap();
    for nth in 0..u64::from(count) {
        let buffer = Buffer { gpa: BUFFERS + 512 * nth, len: 512 };
        driver.add::<Buffer, Buffer>(&[], &[buffer], nth).unwrap();
    }
    driver.publish();
    let layout = driver.layout();
    let queue = QueueConfig {
        id: QueueId(0),
        format: Format::Split,
        size: 256,
        mem: memory.clone(),
        desc: USER + layout.desc,
        avail: USER + layout.driver,
        used: USER + layout.device,
        log_used: None,
        log_data: false,
        event_idx: false,
        indirect: false,
        in_order: false,
        base: driver.fresh_base(),
        inflight: None,
    };
    (memory, driver, queue.activate().unwrap())
}

/// A file on a disk with 4 KiB in it: one that the ring reads.
fn file() -> OwnedFd {
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 4096], 0).unwrap();
    file.into()
}

/// The next operation that ended.
fn completion(engine: &mut UringEngine<()>) -> Completion<()> {
    loop {
        if let Some(completion) = engine.completion() {
            return completion;
        }
        engine.turn(Sleep::Forever).unwrap();
    }
}

#[test]
fn operation_queued_when_registered_memory_changes_goes_on() {
    for sqpoll in [false, true] {
        let wake = Notice::new().unwrap();
        let options = UringOptions { sqpoll, register_memory: true };
        let mut engine = UringEngine::<()>::new(&wake, options).unwrap();
        let file = engine.adopt(file()).unwrap();
        let (memory, _driver, mut queue) = ring(1);
        engine.memory(&memory);
        let chain = queue.pop().unwrap().unwrap();
        engine.submit(HostOp::ReadAt { file, offset: 0 }, chain, ());
        // A region before the others: what was registered first is second now.
        let more = memory.with_region(region(START - 2 * LEN), memfd("guest", LEN).unwrap()).unwrap();
        engine.memory(&more);
        let Completion { chain, result, .. } = completion(&mut engine);
        queue.complete(chain);
        assert_eq!(result.unwrap(), 512, "sqpoll: {sqpoll}");
    }
}

#[test]
fn operations_beyond_the_submission_ring_all_end() {
    for sqpoll in [false, true] {
        let wake = Notice::new().unwrap();
        let mut engine =
            UringEngine::<()>::new(&wake, UringOptions { sqpoll, ..UringOptions::default() }).unwrap();
        let file = engine.adopt(file()).unwrap();
        let (_memory, _driver, mut queue) = ring(256);
        let mut ended = 0_u32;
        // Many times the rings' sizes, none collected in between.
        while let Some(chain) = queue.pop().unwrap() {
            engine.submit(HostOp::ReadAt { file, offset: 0 }, chain, ());
        }
        for _ in 0..40 {
            for _ in 0..256 {
                let Completion { chain, result, .. } = completion(&mut engine);
                assert_eq!(result.unwrap(), 512);
                ended += 1;
                engine.submit(HostOp::ReadAt { file, offset: 0 }, chain, ());
            }
        }
        while engine.pending() > 0 {
            let Completion { chain, .. } = completion(&mut engine);
            queue.complete(chain);
            ended += 1;
        }
        assert_eq!(ended, 41 * 256);
    }
}
