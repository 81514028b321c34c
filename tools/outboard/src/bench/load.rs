//! A measurement: lanes in threads of their own, their phases, and the figures in the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::figures::{Figures, Moment, Tally};
use super::lane::{Counted, Lane, Pace, Phase, Phases, drive};
use super::process::{Process, Usage, pin_this_thread};
use super::progress::Progress;

/// How long and how hard.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) pace: Pace,
    pub(super) warm_up: Duration,
    /// The time to measure for, where no number of requests is given.
    pub(super) time: Duration,
    /// Requests to count, of all queues together.
    pub(super) requests: Option<u64>,
    /// Where the lanes run, in turn.
    pub(super) cpus: Vec<usize>,
}

/// What a lane tells the main thread.
enum News {
    /// It counts no more.
    Ended,
    /// It failed: everybody is to end.
    Failed,
}

/// What the main thread saw while the lanes were counting.
struct Watched {
    back: Option<(i32, Usage)>,
    moments: Vec<Moment>,
}

/// Loads all lanes at once, and counts.
///
/// # Errors
/// What a lane that failed says. All have ended.
pub(super) fn run<L: Lane>(
    lanes: &mut [L],
    load: &Load,
    back: Option<Process>,
    progress: &Progress,
) -> Result<Figures> {
    let first = if load.warm_up.is_zero() { Phase::Measuring } else { Phase::Warming };
    let phases = Phases::new(first);
    let counters: Vec<AtomicU64> = lanes.iter().map(|_| AtomicU64::new(0)).collect();
    let (tell, told) = mpsc::channel();
    let shares = shares(load.requests, lanes.len() as u64);
    thread::scope(|scope| {
        let watch = Watch { load, phases: &phases, counters: &counters, back, told: &told, progress };
        let before = watch.usage();
        let mut threads = Vec::new();
        for ((lane, done), (nth, limit)) in lanes.iter_mut().zip(&counters).zip(shares) {
            let (tell, phases) = (tell.clone(), &phases);
            let cpu = load.cpus.iter().cycle().nth(nth).copied();
            let pace = Pace { limit, ..load.pace };
            threads.push(scope.spawn(move || -> Result<Counted> {
                let pinned = cpu.map_or(Ok(()), |cpu| pin_this_thread(&[cpu]));
                // Nobody listens any more once the measurement is over.
                let ended = || drop(tell.send(News::Ended));
                let counted = pinned.and_then(|()| drive(lane, pace, phases, done, ended));
                if counted.is_err() {
                    let _ = tell.send(News::Failed);
                }
                counted
            }));
        }
        let watched = watch.until_the_end(before);
        let mut counted = Vec::new();
        let mut failure = None;
        for thread in threads {
            match thread.join().unwrap_or_else(|_| Err(anyhow!("a thread that drives a queue panicked"))) {
                Ok(lane) => counted.push(lane),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or_else(|| Ok(figures(counted, watched)), Err)
    })
}

/// How many requests each lane is to count.
fn shares(requests: Option<u64>, lanes: u64) -> impl Iterator<Item = (usize, Option<u64>)> {
    (0..lanes).map(move |nth| {
        let share = requests.map(|all| all / lanes + u64::from(nth < all % lanes));
        (nth as usize, share)
    })
}

/// What the main thread works with while the lanes run.
struct Watch<'a> {
    load: &'a Load,
    phases: &'a Phases,
    counters: &'a [AtomicU64],
    back: Option<Process>,
    told: &'a Receiver<News>,
    progress: &'a Progress,
}

impl Watch<'_> {
    fn usage(&self) -> Option<Usage> {
        self.back.and_then(Process::usage)
    }

    fn done(&self) -> u64 {
        self.counters.iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Leads the lanes through the phases. `before` is what the back end had taken when they were started.
    fn until_the_end(&self, before: Option<Usage>) -> Watched {
        let mut before = before;
        let mut failed = false;
        if !self.load.warm_up.is_zero() {
            failed = self.told.recv_timeout(self.load.warm_up).is_ok();
            before = self.usage();
            self.phases.enter(Phase::Measuring);
        }
        let moments = if failed { Vec::new() } else { self.measuring() };
        let back = self.back.zip(self.usage().zip(before));
        self.phases.enter(Phase::Ending);
        let back = back.map(|(back, (after, before))| (back.number(), after.since(before)));
        Watched { back, moments }
    }

    fn measuring(&self) -> Vec<Moment> {
        let start = Instant::now();
        let interval = Progress::interval(self.load.time);
        let mut moments = Vec::new();
        let mut ended = 0;
        let mut last = (0.0, 0);
        loop {
            let left = self.load.time.saturating_sub(start.elapsed());
            let pause = if self.load.requests.is_some() { interval } else { interval.min(left) };
            match self.told.recv_timeout(pause) {
                Ok(News::Ended) if ended + 1 < self.counters.len() => ended += 1,
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let (at, done) = (start.elapsed().as_secs_f64(), self.done());
                    let rate = done.saturating_sub(last.1) as f64 / (at - last.0).max(1e-9);
                    moments.push(Moment { at, rate });
                    last = (at, done);
                    let part = match self.load.requests {
                        Some(requests) => done as f64 / requests.max(1) as f64,
                        None => at / self.load.time.as_secs_f64(),
                    };
                    self.progress.show(part, rate);
                    if self.load.requests.is_none() && part >= 1.0 {
                        break;
                    }
                }
            }
        }
        moments
    }
}

fn figures(lanes: Vec<Counted>, watched: Watched) -> Figures {
    let mut all = Figures {
        elapsed: Duration::from_nanos(1),
        ways: [Tally::new(), Tally::new()],
        flushes: 0,
        lost: 0,
        timed_every: 1,
        kicks: 0,
        calls: 0,
        front: Duration::ZERO,
        back: watched.back,
        moments: watched.moments,
    };
    for lane in lanes {
        all.elapsed = all.elapsed.max(lane.elapsed);
        all.ways.iter_mut().zip(&lane.ways).for_each(|(sum, way)| sum.add(way));
        all.flushes += lane.flushes;
        all.lost += lane.lost;
        all.timed_every = all.timed_every.max(lane.timed_every);
        all.kicks += lane.notifications.kicks;
        all.calls += lane.notifications.calls;
        all.front += lane.cpu;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        for (requests, lanes) in [(10, 3), (2, 4), (0, 1), (9, 9)] {
            let shares: Vec<u64> = shares(Some(requests), lanes).filter_map(|(_, share)| share).collect();
            assert_eq!((shares.len() as u64, shares.iter().sum()), (lanes, requests));
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
        assert!(shares(None, 3).all(|(_, share)| share.is_none()));
    }
}
