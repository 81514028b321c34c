//! vhost-user-blk is killed while the front end writes with verification: fifty times, at any moment. The next
//! process resumes what was in flight: no error is seen, no request is lost or done twice, no byte is wrong.
//!
//! How "exactly once" shows: a token that completes twice is a fault of the ring ([`DeviceFault`]), one that never
//! completes is waited for in vain. How "in order" shows: writes to the same sector are never in flight together
//! here, except in the test about just that.
//!
//! [`DeviceFault`]: outboard_virtqueue::driver::DeviceFault
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::collections::HashMap;
use std::slice;
use std::time::{Duration, Instant};

use outboard_frontend::drivers::{Blk, BlkQueue};
use outboard_frontend::{Error, Format, Waiting};
use outboard_guest_memory::Segment;
use rig::{Daemon, LONG, file_of, pattern};

const KILLS: usize = 50;
const QUEUES: u16 = 2;
const DEPTH: usize = 16;
const SECTORS_PER_BLOCK: u64 = 8;
const BLOCK: usize = 4096;
const BLOCKS_PER_QUEUE: u64 = 512;

/// One queue's work: blocks written at random, each with a new pattern, and read back at random.
struct Writer {
    index: u64,
    buffers: Vec<Segment>,
    /// What each slot is doing: block, and the seed of the pattern if it writes.
    busy: Vec<Option<(u64, Option<u64>)>>,
    /// The seed of the pattern that each block has.
    written: HashMap<u64, u64>,
    state: u64,
    completed: u64,
}

impl Writer {
    fn new(index: u64, blk: &mut Blk) -> Self {
        let buffers = (0..DEPTH).map(|_| blk.frontend().allocate(BLOCK).unwrap()).collect();
        Self {
            index,
            buffers,
            busy: vec![None; DEPTH],
            written: HashMap::new(),
            state: index + 1,
            completed: 0,
        }
    }

    fn random(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    /// Fills every free slot with a request for a block that nothing is in flight for.
    fn stage(&mut self, queue: &mut BlkQueue) {
        for slot in 0..DEPTH {
            if self.busy[slot].is_some() {
                continue;
            }
            let block = self.index * BLOCKS_PER_QUEUE + self.random() % BLOCKS_PER_QUEUE;
            if self.busy.iter().flatten().any(|(busy, _)| *busy == block) {
                continue;
            }
            let (sector, seed) = (block * SECTORS_PER_BLOCK, self.random());
            let buffer = &self.buffers[slot];
            if seed.is_multiple_of(3) {
                buffer.fill(0xee);
                queue.read(sector, slice::from_ref(buffer), slot as u64).unwrap();
                self.busy[slot] = Some((block, None));
            } else {
                buffer.write_from(0, &pattern(seed, BLOCK)).unwrap();
                queue.write(sector, slice::from_ref(buffer), slot as u64).unwrap();
                self.busy[slot] = Some((block, Some(seed)));
            }
        }
    }

    /// Takes what has completed, and compares what was read.
    fn reap(&mut self, queue: &mut BlkQueue) {
        while let Some(completion) = queue.poll().unwrap() {
            assert_eq!(completion.result, Ok(()));
            let slot = completion.token as usize;
            let (block, wrote) = self.busy[slot].take().expect("completed twice");
            self.completed += 1;
            match wrote {
                Some(seed) => drop(self.written.insert(block, seed)),
                None => self.compare(block, slot),
            }
        }
    }

    fn compare(&self, block: u64, slot: usize) {
        let mut data = vec![0; BLOCK];
        self.buffers[slot].read_into(0, &mut data).unwrap();
        let expected = self.written.get(&block).map_or_else(|| vec![0; BLOCK], |&seed| pattern(seed, BLOCK));
        assert!(data == expected, "block {block}");
    }

    /// Compares the whole of its part with the file.
    fn compare_all(&self, file: &[u8]) {
        for block in self.index * BLOCKS_PER_QUEUE..(self.index + 1) * BLOCKS_PER_QUEUE {
            let at = block as usize * BLOCK;
            let expected =
                self.written.get(&block).map_or_else(|| vec![0; BLOCK], |&seed| pattern(seed, BLOCK));
            assert!(file[at..at + BLOCK] == expected, "block {block} of the file");
        }
    }
}

/// Waits until one of the queues has something; false if the connection has ended and neither has.
fn wait(blk: &mut Blk) -> bool {
    let (frontend, queues) = blk.parts();
    if queues.iter_mut().any(|queue| queue.queue().has_used()) {
        return true;
    }
    match frontend.wait(Duration::from_millis(1)) {
        Ok(_) => true,
        Err(Error::Disconnected) => false,
        Err(error) => panic!("{error}"),
    }
}

fn killed_while_writing(format: Format, args: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let blocks = u64::from(QUEUES) * BLOCKS_PER_QUEUE;
    let path = file_of(dir.path().join("disk"), blocks * BLOCK as u64);
    let blk_file = format!("--blk-file={}", path.display());
    let mut daemon = Daemon::spawn("blk", &[[blk_file.as_str()].as_slice(), args].concat());
    let mut blk = daemon.blk(format, QUEUES, 64);
    assert!(blk.frontend().has_inflight());
    let mut writers: Vec<_> = (0..QUEUES).map(|index| Writer::new(index.into(), &mut blk)).collect();
    let mut interrupted = 0;
    for kill in 0..KILLS {
        // At another moment each time: after so many requests, and some microseconds more.
        let until = writers.iter().map(|writer| writer.completed).sum::<u64>() + kill as u64 * 7;
        let deadline = Instant::now() + LONG;
        loop {
            for (writer, queue) in writers.iter_mut().zip(blk.queues()) {
                writer.reap(queue);
                writer.stage(queue);
                queue.publish().unwrap();
            }
            if writers.iter().map(|writer| writer.completed).sum::<u64>() >= until {
                break;
            }
            assert!(wait(&mut blk), "it ended by itself");
            assert!(Instant::now() < deadline, "no progress");
        }
        std::thread::sleep(Duration::from_micros(writers[0].random() % 300));
        daemon.kill();
        interrupted += blk.queues().iter().map(|queue| u64::from(queue.outstanding())).sum::<u64>();
        daemon.restart();
        blk.reconnect().unwrap();
    }
    finish(&mut blk, &mut writers);
    let file = std::fs::read(&path).unwrap();
    writers.iter().for_each(|writer| writer.compare_all(&file));
    let completed: u64 = writers.iter().map(|writer| writer.completed).sum();
    assert!(interrupted > KILLS as u64, "only {interrupted} of {completed} requests met a kill");
}

fn finish(blk: &mut Blk, writers: &mut [Writer]) {
    for (writer, queue) in writers.iter_mut().zip(blk.queues()) {
        while queue.outstanding() > 0 {
            assert!(queue.wait(Waiting::Interrupt, LONG).unwrap(), "a request was lost");
            writer.reap(queue);
        }
    }
}

#[test]
fn blk_killed_fifty_times_while_writing_split_loses_and_repeats_nothing() {
    killed_while_writing(Format::Split, &[]);
}

#[test]
fn blk_killed_fifty_times_while_writing_packed_loses_and_repeats_nothing() {
    killed_while_writing(Format::Packed, &[]);
}

#[test]
fn blk_killed_fifty_times_with_epoll_split_loses_and_repeats_nothing() {
    killed_while_writing(Format::Split, &["--engine=epoll"]);
}

#[test]
fn blk_killed_fifty_times_with_epoll_packed_loses_and_repeats_nothing() {
    killed_while_writing(Format::Packed, &["--engine=epoll"]);
}

/// The epoll engine does one request after the other, so completions come in the order in which it took requests:
/// those of the process that was killed first, oldest first.
fn resumed_in_order(format: Format) {
    const REQUESTS: u64 = 32;
    const LEN: usize = 64 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), LEN as u64);
    let blk_file = format!("--blk-file={}", path.display());
    let mut daemon = Daemon::spawn("blk", &[&blk_file, "--engine=epoll"]);
    let mut blk = daemon.blk(format, 1, 128);
    let buffers: Vec<_> = (0..REQUESTS).map(|_| blk.frontend().allocate(LEN).unwrap()).collect();
    let mut resumed = 0;
    for round in 0..KILLS as u64 {
        let queue = &mut blk.queues()[0];
        for (number, buffer) in (0..).zip(&buffers) {
            buffer.fill((round * 5 + number) as u8);
            queue.write(0, slice::from_ref(buffer), round * REQUESTS + number).unwrap();
        }
        queue.publish().unwrap();
        std::thread::sleep(Duration::from_micros(round * 17));
        daemon.kill();
        let mut tokens = Vec::new();
        let mut collect = |queue: &mut BlkQueue| {
            while let Some(completion) = queue.poll().unwrap() {
                assert_eq!(completion.result, Ok(()));
                tokens.push(completion.token);
            }
        };
        collect(&mut blk.queues()[0]);
        resumed += u64::from(blk.queues()[0].outstanding());
        daemon.restart();
        blk.reconnect().unwrap();
        let queue = &mut blk.queues()[0];
        while queue.outstanding() > 0 {
            assert!(queue.wait(Waiting::Interrupt, LONG).unwrap(), "a request was lost");
            collect(queue);
        }
        assert_eq!(tokens, (round * REQUESTS..(round + 1) * REQUESTS).collect::<Vec<_>>());
        let last = (round * 5 + REQUESTS - 1) as u8;
        assert!(std::fs::read(&path).unwrap().iter().all(|&byte| byte == last), "round {round}");
    }
    assert!(resumed > 0, "no request met a kill");
}

#[test]
fn blk_killed_with_writes_to_the_same_place_resumes_them_in_order() {
    rig::FORMATS.into_iter().for_each(resumed_in_order);
}

#[test]
fn blk_killed_while_idle_goes_on_with_the_next_request() {
    for format in rig::FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path().join("disk"), 1 << 20);
        let mut daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
        let mut blk = daemon.blk(format, 1, 16);
        for round in 0..40_u8 {
            blk.write_at(u64::from(round), &[round; 512]).unwrap();
            daemon.kill();
            daemon.restart();
            blk.reconnect().unwrap();
            let mut back = [0xff; 512];
            blk.read_at(u64::from(round), &mut back).unwrap();
            assert_eq!(back, [round; 512]);
        }
    }
}

#[test]
fn blk_killed_before_it_looked_serves_what_it_never_saw() {
    for format in rig::FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path().join("disk"), 1 << 20);
        let mut daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
        let mut blk = daemon.blk(format, 1, 16);
        let data = blk.frontend().allocate(512).unwrap();
        data.fill(0x77);
        daemon.kill();
        let queue = &mut blk.queues()[0];
        queue.write(9, &[data], 1).unwrap();
        queue.publish().unwrap();
        daemon.restart();
        blk.reconnect().unwrap();
        let queue = &mut blk.queues()[0];
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        assert_eq!(queue.poll().unwrap().map(|done| (done.token, done.result)), Some((1, Ok(()))));
        assert_eq!(std::fs::read(&path).unwrap()[9 * 512..10 * 512], [0x77; 512]);
    }
}

#[test]
fn blk_killed_fifty_times_while_limited_loses_and_repeats_nothing() {
    killed_while_writing(Format::Split, &["--iops=10000:4"]);
    killed_while_writing(Format::Packed, &["--bandwidth=40M:16K"]);
}
