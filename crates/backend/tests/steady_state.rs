//! The data path allocates nothing per request, from the worker's loop down to the ring, on every engine and for
//! both ring formats.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

use std::{os::unix::net::UnixStream, path::PathBuf, slice, thread};

use outboard_backend::{Backend, EngineChoice, Options, Polling, Stop};
use outboard_blk::{Blk, BlkOptions};
use outboard_device::testing::Counting;
use outboard_frontend::{
    Format, Frontend, Options as FrontendOptions, Waiting, Wishes,
    drivers::{Blk as BlkDriver, BlkOptions as DriverOptions, BlkQueue},
};
use outboard_guest_memory::Segment;

/// Requests before the count begins: tables and pools grow to what the depth needs.
const WARM_UP: u64 = 20_000;
/// Requests that are counted.
const COUNTED: u64 = 50_000;
const DEPTH: u64 = 32;
const DISK: u64 = 16 << 20;
const BLOCK: usize = 4096;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Keeps `DEPTH` requests under way until `count` more are done. Every fourth writes, the others read.
fn drive(queue: &mut BlkQueue, buffers: &[Segment], count: u64) {
    let mut started = 0;
    let mut done = 0;
    let mut start = |queue: &mut BlkQueue, token: u64| {
        let sector = started * 7919 % (DISK / BLOCK as u64) * 8;
        let buffer = slice::from_ref(&buffers[token as usize]);
        if started % 4 == 0 {
            queue.write(sector, buffer, token).unwrap();
        } else {
            queue.read(sector, buffer, token).unwrap();
        }
        started += 1;
    };
    (0..DEPTH).for_each(|token| start(queue, token));
    queue.publish().unwrap();
    while done < count + DEPTH {
        let Some(completion) = queue.poll().unwrap() else {
            assert!(queue.wait(Waiting::Interrupt, FrontendOptions::default().timeout).unwrap(), "no answer");
            continue;
        };
        completion.result.unwrap();
        done += 1;
        if done <= count {
            start(queue, completion.token);
            queue.publish().unwrap();
        }
    }
}

fn allocations_under_load(disk: Blk, options: Options, format: Format) -> u64 {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let stop = Stop::new().unwrap();
    let mut backend = Backend::new(disk, options).unwrap();
    Counting::spare_this_thread();
    let server = thread::spawn(move || {
        // It looks at the host now and then, and so more often while requests take longer.
        Counting::spare_this_thread();
        backend.serve(theirs, &stop).map(drop)
    });
    let frontend = Frontend::from_stream(ours, FrontendOptions::default()).unwrap();
    let wishes = Wishes { format, ..DriverOptions::default().wishes };
    let driver_options = DriverOptions { wishes, queue_size: 256, ..DriverOptions::default() };
    let mut driver = BlkDriver::open(frontend, &driver_options).unwrap();
    let buffers: Vec<_> = (0..DEPTH).map(|_| driver.frontend().allocate(BLOCK).unwrap()).collect();
    let queue = &mut driver.queues()[0];
    drive(queue, &buffers, WARM_UP);
    let before = Counting::allocations();
    drive(queue, &buffers, COUNTED);
    let after = Counting::allocations();
    drop(driver);
    server.join().unwrap().unwrap();
    after - before
}

/// A file in memory and one on a disk take different ways through the engines.
fn disks() -> Vec<(&'static str, BlkOptions, Option<tempfile::TempDir>)> {
    let file = |dir: tempfile::TempDir| {
        let path: PathBuf = dir.path().join("disk.img");
        std::fs::File::create(&path).unwrap().set_len(DISK).unwrap();
        (BlkOptions { blk_file: Some(path), ..BlkOptions::default() }, Some(dir))
    };
    let ram = (BlkOptions { ram: Some(DISK), ..BlkOptions::default() }, None);
    let cached = file(tempfile::tempdir().unwrap());
    let mut disks = vec![("ram", ram.0, ram.1), ("file", cached.0, cached.1)];
    if let Ok(dir) = tempfile::tempdir_in("/dev/shm") {
        let shm = file(dir);
        disks.push(("file in memory", shm.0, shm.1));
    }
    disks
}

#[test]
fn worker_under_load_allocates_nothing_per_request() {
    for (name, disk, _dir) in disks() {
        for engine in [EngineChoice::Epoll, EngineChoice::IoUring] {
            for format in [Format::Split, Format::Packed] {
                for polling in [Polling::Off, Polling::default()] {
                    let options = Options { engine, polling, ..Options::default() };
                    let count = allocations_under_load(Blk::open(&disk).unwrap(), options, format);
                    assert_eq!(count, 0, "{name}, {engine:?}, {format:?}, {polling:?}");
                }
            }
        }
    }
}
