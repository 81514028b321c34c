use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use outboard_device::Durability;
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
    file.write_all_at(&[0x5a; 4096], 0).unwrap();
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
        let options = UringOptions { sqpoll, register_memory: true, ..UringOptions::default() };
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

/// What is in `file` at `offset`.
fn content(file: &OwnedFd, offset: u64) -> [u8; 512] {
    let mut data = [0; 512];
    std::fs::File::from(file.try_clone().unwrap()).read_exact_at(&mut data, offset).unwrap();
    data
}

#[test]
fn registered_memory_that_goes_and_comes_back_has_the_data_of_its_requests() {
    for (sqpoll, iopoll) in [(false, false), (true, false), (false, true)] {
        let wake = Notice::new().unwrap();
        let options = UringOptions { sqpoll, iopoll, register_memory: true, ..UringOptions::default() };
        let mut engine = UringEngine::<()>::new(&wake, options).unwrap();
        let disk = file();
        let file = engine.adopt(disk.try_clone().unwrap()).unwrap();
        let (memory, mut driver, mut queue) = ring(0);
        engine.memory(&memory);
        let region = region(START + 2 * LEN);
        // Mapped where the last one was, more often than not.
        for round in 1..=8_u8 {
            let added = memfd("added", LEN).unwrap();
            std::fs::File::from(added.try_clone().unwrap()).write_all_at(&[round; 512], 8192).unwrap();
            let more = memory.with_region(region, added.try_clone().unwrap()).unwrap();
            engine.memory(&more);
            queue.update(more.clone()).unwrap();
            let at = |gpa| Buffer { gpa, len: 512 };
            driver.add::<Buffer, Buffer>(&[], &[at(region.gpa)], 0).unwrap();
            driver.add::<Buffer, Buffer>(&[at(region.gpa + 8192)], &[], 1).unwrap();
            driver.add::<Buffer, Buffer>(&[], &[at(BUFFERS)], 2).unwrap();
            driver.publish();
            drop(more);
            let mut chains = std::iter::from_fn(|| queue.pop().unwrap()).collect::<VecDeque<_>>();
            let mut next = || chains.pop_front().unwrap();
            let offset = 4096 * u64::from(round);
            engine.submit(HostOp::ReadAt { file, offset: 0 }, next(), ());
            engine.submit(HostOp::WriteAt { file, offset, durability: Durability::Cached }, next(), ());
            // The region goes while the kernel is at work there, and elsewhere.
            engine.memory(&memory);
            engine.submit(HostOp::ReadAt { file, offset: 0 }, next(), ());
            while engine.pending() > 0 {
                let Completion { chain, result, .. } = completion(&mut engine);
                assert_eq!(result.unwrap(), 512);
                queue.complete(chain);
            }
            queue.update(memory.clone()).unwrap();
            queue.publish();
            while driver.poll_used().unwrap().is_some() {}
            assert_eq!(content(&added, 0), [0x5a; 512], "round {round}: read into the region");
            assert_eq!(content(&disk, offset), [round; 512], "round {round}: written from the region");
            let mut kept = [0; 512];
            memory.read_into(BUFFERS, &mut kept).unwrap();
            assert_eq!(kept, [0x5a; 512], "round {round}: read into the region that stays");
            memory.write_from(BUFFERS, &[0; 512]).unwrap();
        }
    }
}

#[test]
fn file_that_turns_out_not_to_be_polled_is_served_by_interrupts() {
    let named = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    named.as_file().write_all_at(&[0x5a; 65536], 0).unwrap();
    let direct = std::fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(named.path()).unwrap();
    let wake = Notice::new().unwrap();
    let options = UringOptions { iopoll: true, ..UringOptions::default() };
    let mut engine = UringEngine::<()>::new(&wake, options).unwrap();
    let file = engine.adopt(direct.into()).unwrap();
    engine.files[0].polled = true;
    engine.files[0].in_memory = false;
    let polled = engine.polled.as_ref().unwrap();
    polled.ring.register_file(0, engine.files[0].fd.as_raw_fd()).unwrap();

    let (memory, mut driver, mut queue) = ring(0);
    for nth in 0..8 {
        let buffer = Buffer { gpa: BUFFERS + 4096 * nth, len: 4096 };
        driver.add::<Buffer, Buffer>(&[], &[buffer], nth).unwrap();
    }
    driver.publish();
    while let Some(chain) = queue.pop().unwrap() {
        engine.submit(HostOp::ReadAt { file, offset: 4096 }, chain, ());
    }
    assert!(engine.must_look());
    for _ in 0..8 {
        let Completion { chain, result, .. } = completion(&mut engine);
        assert_eq!(result.unwrap(), 4096);
        queue.complete(chain);
    }
    let mut data = [0; 8 * 4096];
    memory.read_into(BUFFERS, &mut data).unwrap();
    assert!(data.iter().all(|&byte| byte == 0x5a));
    assert!(!engine.must_look());
    // Where the disk is polled after all, or the kernel is an older one, looking has found them out.
    let ended = engine.polled.as_ref().unwrap().ended;
    assert_eq!((ended, engine.files[0].polled), if ended == 0 { (0, false) } else { (8, true) });
}

#[test]
fn file_that_is_not_polled_costs_no_looking() {
    let wake = Notice::new().unwrap();
    let options = UringOptions { iopoll: true, ..UringOptions::default() };
    let mut engine = UringEngine::<()>::new(&wake, options).unwrap();
    let file = engine.adopt(file()).unwrap();
    engine.prepared();
    assert!(engine.polled.is_none());
    let (_memory, _driver, mut queue) = ring(1);
    engine.submit(HostOp::ReadAt { file, offset: 0 }, queue.pop().unwrap().unwrap(), ());
    assert!(!engine.must_look());
    queue.complete(completion(&mut engine).chain);
}

#[test]
fn device_whose_node_is_in_memory_is_not_in_memory_itself() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(!is_in_memory(file.as_fd()));
    assert!(is_in_memory(memfd("memory", 4096).unwrap().as_fd()));
}

#[test]
fn source_that_could_not_be_watched_once_is_watched_when_it_is_asked_for_again() {
    const SOURCE: SourceId = SourceId(7);
    let wake = Notice::new().unwrap();
    let mut engine = UringEngine::<()>::new(&wake, UringOptions::default()).unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    engine.watch(event.try_clone().unwrap(), SOURCE, Watching::Once).unwrap();
    let is_source =
        |slot: &Option<Watch>| slot.as_ref().is_some_and(|watch| watch.token == Token::Source(SOURCE));
    let slot = engine.watches.iter().position(is_source).unwrap();
    // Before the poll is in the kernel: as if that had refused it.
    engine.watch_ended(slot, -libc::ENOMEM);
    assert_eq!(engine.readable(), Some(SOURCE));
    engine.rearm(SOURCE);
    engine.turn(Sleep::No).unwrap();
    assert_eq!(engine.readable(), None);
    rustix::io::write(&event, &1_u64.to_ne_bytes()).unwrap();
    let long = std::time::Duration::from_secs(10);
    engine.turn(Sleep::For(long)).unwrap();
    assert_eq!(engine.readable(), Some(SOURCE));
}
