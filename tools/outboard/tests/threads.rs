//! Each queue in a thread of its own, written and read with verification, while the process behind them is killed
//! again and again: every thread sees the end, the control thread connects anew, every thread goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use outboard_frontend::drivers::{Blk, BlkQueue};
use outboard_frontend::{Error, Waiting};
use outboard_guest_memory::Segment;
use rig::{Daemon, FORMATS, LONG, eventually, file_of, pattern};

const QUEUES: u16 = 4;
const KILLS: u64 = 12;
const BLOCK: usize = 4096;

/// One place on the disk: written and read in turns, one request at a time, each time with something new.
struct Place {
    sector: u64,
    buffer: Segment,
    step: u64,
}

impl Place {
    fn data(&self) -> Vec<u8> {
        pattern((self.sector << 32) | (self.step / 2), BLOCK)
    }

    fn stage(&self, queue: &mut BlkQueue, token: usize) {
        let buffer = slice::from_ref(&self.buffer);
        if self.step.is_multiple_of(2) {
            self.buffer.write_from(0, &self.data()).unwrap();
            queue.write(self.sector, buffer, token as u64).unwrap();
        } else {
            self.buffer.fill(0);
            queue.read(self.sector, buffer, token as u64).unwrap();
        }
    }

    fn done(&mut self) {
        let mut bytes = vec![0; BLOCK];
        self.buffer.read_into(0, &mut bytes).unwrap();
        assert!(bytes == self.data(), "sector {} step {}", self.sector, self.step);
        self.step += 1;
    }
}

fn places(blk: &mut Blk, queue: u64) -> Vec<Place> {
    let place = |number: u64| Place {
        sector: (queue * 8 + number) * (BLOCK as u64 / 512),
        buffer: blk.frontend().allocate(BLOCK).unwrap(),
        step: 0,
    };
    (0..8).map(place).collect()
}

/// Drives the queue until the connection ends.
fn drive(queue: &mut BlkQueue, places: &mut [Place], done: &AtomicU64) {
    loop {
        while let Some(completion) = queue.poll().unwrap() {
            assert_eq!(completion.result, Ok(()));
            let token = completion.token as usize;
            places[token].done();
            places[token].stage(queue, token);
            done.fetch_add(1, Ordering::Relaxed);
        }
        queue.publish().unwrap();
        match queue.wait(Waiting::Interrupt, LONG) {
            Ok(true) => {}
            Ok(false) => panic!("a request was lost"),
            Err(Error::Disconnected) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn queues_in_threads_go_on_after_each_kill_and_lose_nothing() {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = file_of(dir.path().join("disk"), 1 << 20);
        let mut daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
        let mut blk = daemon.blk(format, QUEUES, 32);
        let mut lanes: Vec<_> = (0..QUEUES.into()).map(|queue| places(&mut blk, queue)).collect();
        for (queue, lane) in blk.queues().iter_mut().zip(&lanes) {
            (0..).zip(lane).for_each(|(token, place)| place.stage(queue, token));
        }
        for kill in 0..KILLS {
            let counts: Vec<_> = lanes.iter().map(|_| AtomicU64::new(0)).collect();
            std::thread::scope(|scope| {
                for ((queue, lane), done) in blk.queues().iter_mut().zip(&mut lanes).zip(&counts) {
                    scope.spawn(move || drive(queue, lane, done));
                }
                eventually("every queue moves", || {
                    counts.iter().all(|done| done.load(Ordering::Relaxed) > 20 + kill * 3)
                });
                daemon.kill();
            });
            daemon.restart();
            blk.reconnect().unwrap();
        }
        let steps: u64 = lanes.iter().flatten().map(|place| place.step).sum();
        assert!(steps > KILLS * u64::from(QUEUES) * 20);
    }
}
