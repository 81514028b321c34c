//! The rate that nothing can beat which goes through a ring in memory: two threads, two rings of plain integers, and
//! nothing checked.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::process::pin_this_thread;

/// Entries of each ring.
const SIZE: u64 = 256;
/// Round trips between two looks at the clock.
const LOOK: u64 = 4096;

/// One direction: entries, and how many there have been. Each in cache lines of its own.
struct Ring {
    entries: Vec<Entry>,
    index: Index,
}

/// As large as a descriptor.
#[repr(align(16))]
struct Entry(AtomicU64, AtomicU64);

#[repr(align(128))]
struct Index(AtomicU64);

impl Ring {
    fn new() -> Self {
        let entries = (0..SIZE).map(|_| Entry(AtomicU64::new(0), AtomicU64::new(0))).collect();
        Self { entries, index: Index(AtomicU64::new(0)) }
    }

    #[inline]
    fn write(&self, at: u64, value: u64) {
        if let Some(Entry(first, second)) = self.entries.get((at % SIZE) as usize) {
            first.store(value, Relaxed);
            second.store(value, Relaxed);
        }
    }

    #[inline]
    fn read(&self, at: u64) -> u64 {
        let entry = self.entries.get((at % SIZE) as usize);
        entry.map_or(0, |Entry(first, second)| first.load(Relaxed) ^ second.load(Relaxed) ^ at)
    }
}

/// Requests a second that go there and back, `depth` at once, between threads on the two CPUs, where they are given.
///
/// # Errors
/// The threads cannot be put there.
pub(super) fn measure(depth: u64, time: Duration, cpus: [Option<usize>; 2]) -> Result<f64> {
    let (there, back, stop) = (Ring::new(), Ring::new(), AtomicBool::new(false));
    let pin = |cpu: Option<usize>| cpu.map_or(Ok(()), |cpu| pin_this_thread(&[cpu]));
    let [near, far] = cpus;
    thread::scope(|scope| {
        let front = scope.spawn(|| {
            let rate = pin(near).map(|()| request(&there, &back, depth, time));
            stop.store(true, Relaxed);
            rate
        });
        let device = scope.spawn(|| pin(far).map(|()| answer(&there, &back, &stop)));
        let gone = |_| Err(anyhow!("a thread panicked"));
        let rate = front.join().unwrap_or_else(gone)?;
        device.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))?;
        Ok(rate)
    })
}

/// Returns everything that comes, all that is there at once.
fn answer(there: &Ring, back: &Ring, stop: &AtomicBool) {
    let mut done = 0;
    while !stop.load(Relaxed) {
        let seen = there.index.0.load(Acquire);
        if seen == done {
            std::hint::spin_loop();
            continue;
        }
        while done != seen {
            back.write(done, there.read(done));
            done += 1;
        }
        back.index.0.store(done, Release);
    }
}

/// Keeps `depth` requests out, and counts.
fn request(there: &Ring, back: &Ring, depth: u64, time: Duration) -> f64 {
    let (mut sent, mut done, mut checked) = (0, 0, 0);
    let start = Instant::now();
    let mut elapsed = Duration::ZERO;
    while elapsed < time {
        if done - checked >= LOOK || sent == 0 || done == checked {
            checked = done;
            elapsed = start.elapsed();
        }
        while sent - done < depth {
            there.write(sent, sent);
            sent += 1;
        }
        there.index.0.store(sent, Release);
        let seen = back.index.0.load(Acquire);
        while done != seen {
            std::hint::black_box(back.read(done));
            done += 1;
        }
    }
    done as f64 / elapsed.as_secs_f64()
}
