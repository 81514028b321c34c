//! One queue under load: the loop that keeps requests out, and what it counts.
//!
//! Theory of operation. A lane belongs to a thread. It goes through the phases of the whole measurement, which the
//! main thread announces: what happens while warming up is not counted; then everything is counted until the time
//! is up or the lane's share of requests is done; then what is still out is taken back. Nothing is allocated on the
//! way, and shared are only the phase, which is read, and a counter that the lane alone writes.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use outboard_frontend::{Error, Notifications, Waiting};
use rustix::time::{ClockId, clock_gettime};

use super::figures::{Tally, Way};

/// More requests a second than this are not timed one by one: reading the clock would slow them down.
const TIMED_PER_SECOND: u64 = 200_000;
/// How long to wait at a time for what may never come.
const LULL: Duration = Duration::from_millis(20);
/// So many requests are looked at before it is decided how many of them to time.
const PROBED: u64 = 4096;

/// A request that the device returned.
pub(super) struct Returned {
    /// Which of the lane's requests it was.
    pub(super) slot: u16,
    /// What it did.
    pub(super) what: Outcome,
}

/// What a request did.
pub(super) enum Outcome {
    /// It moved so many bytes.
    Moved(Way, u32),
    /// It made writes stable.
    Flushed,
    /// What became of it is not known: networks lose packets.
    Lost,
}

/// A queue of some device, with requests that are ready to be sent over and over.
pub(super) trait Lane: Send {
    /// Puts a request on the ring in place of `slot`'s last one; the device does not see it yet.
    fn stage(&mut self, slot: u16) -> Result<()>;
    /// Shows what was staged to the device.
    fn publish(&mut self) -> Result<(), Error>;
    /// The next request that came back.
    fn poll(&mut self) -> Result<Option<Returned>>;
    /// Waits until one is back; false when `timeout` is over.
    fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error>;
    /// Signals so far.
    fn notifications(&self) -> Notifications;
    /// How many slots it has, when the user asks for `depth`.
    fn slots(&self, depth: u16) -> u16 {
        depth
    }
    /// Whether the device answers to what is sent. If not, what comes has no latency, and need not come at all.
    fn is_asked(&self) -> bool {
        true
    }
    /// With nothing out: a last look at what the device has done.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What is the same of all lanes over one queue, their `queue`.
macro_rules! over_one_queue {
    () => {
        #[inline]
        fn publish(&mut self) -> Result<(), outboard_frontend::Error> {
            self.queue.publish()
        }

        fn wait(
            &mut self,
            how: outboard_frontend::Waiting,
            timeout: std::time::Duration,
        ) -> Result<bool, outboard_frontend::Error> {
            self.queue.wait(how, timeout)
        }

        fn notifications(&self) -> outboard_frontend::Notifications {
            self.queue.notifications()
        }
    };
}
pub(super) use over_one_queue;

/// Where the whole measurement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Under load, not counted.
    Warming,
    /// Counted.
    Measuring,
    /// No more requests.
    Ending,
}

/// The phase that all lanes are in.
pub(super) struct Phases(AtomicU8);

impl Phases {
    pub(super) fn new(phase: Phase) -> Self {
        Self(AtomicU8::new(phase as u8))
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Ordering::Release);
    }

    #[inline]
    fn now(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Warming,
            1 => Phase::Measuring,
            _ => Phase::Ending,
        }
    }
}

/// How a lane is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Requests out at once.
    pub(super) depth: u16,
    /// So many slots are filled at once.
    pub(super) batch: u16,
    pub(super) waiting: Waiting,
    /// The longest that the device may take for one.
    pub(super) timeout: Duration,
    /// How many requests to count; without, until told to end.
    pub(super) limit: Option<u64>,
    /// Time one in so many requests; 0: as many as it takes no time to time.
    pub(super) timed_every: u64,
}

/// What a lane counted.
pub(super) struct Counted {
    pub(super) elapsed: Duration,
    pub(super) ways: [Tally; 2],
    pub(super) flushes: u64,
    pub(super) lost: u64,
    pub(super) timed_every: u64,
    pub(super) notifications: Notifications,
    pub(super) cpu: Duration,
}

/// The state of a lane's loop.
struct Loop<'a, L> {
    lane: &'a mut L,
    pace: Pace,
    done: &'a AtomicU64,
    /// Slots that are not out.
    free: Vec<u16>,
    out: u32,
    origin: Instant,
    /// When the request of each slot was begun, in nanoseconds; 0 for those that are not timed.
    begun: Vec<u64>,
    timed_every: u64,
    until_timed: u64,
    ways: [Tally; 2],
    flushes: u64,
    lost: u64,
    counted: u64,
    /// Where to stop counting.
    limit: u64,
    /// How long nothing has come.
    quiet: Duration,
}

/// Loads `lane` until its share is done or the phase is over. `progress` follows what it counts. `ended` is called
/// when it counts no more, before what is still out is awaited.
pub(super) fn drive<L: Lane>(
    lane: &mut L,
    pace: Pace,
    phases: &Phases,
    progress: &AtomicU64,
    ended: impl FnOnce(),
) -> Result<Counted> {
    let slots = lane.slots(pace.depth);
    let mut this = Loop {
        lane,
        pace,
        done: progress,
        free: (0..slots).rev().collect(),
        out: 0,
        origin: Instant::now(),
        begun: vec![0; slots.into()],
        timed_every: pace.timed_every.max(1),
        until_timed: 1,
        ways: [Tally::new(), Tally::new()],
        flushes: 0,
        lost: 0,
        counted: 0,
        limit: u64::MAX,
        quiet: Duration::ZERO,
    };
    this.warm_up(phases)?;
    let start = (Instant::now(), this.lane.notifications(), thread_cpu());
    this.limit = pace.limit.unwrap_or(u64::MAX);
    while this.counted < this.limit && phases.now() != Phase::Ending {
        this.step()?;
    }
    let (end, signals) = (Instant::now(), this.lane.notifications());
    let counted = Counted {
        elapsed: end.duration_since(start.0),
        ways: this.ways.clone(),
        flushes: this.flushes,
        lost: this.lost,
        timed_every: this.timed_every,
        notifications: Notifications {
            kicks: signals.kicks - start.1.kicks,
            calls: signals.calls - start.1.calls,
        },
        cpu: thread_cpu().saturating_sub(start.2),
    };
    ended();
    this.limit = u64::MAX;
    while this.out > 0 && this.lane.is_asked() {
        this.collect()?;
    }
    this.lane.finish()?;
    Ok(counted)
}

impl<L: Lane> Loop<'_, L> {
    fn warm_up(&mut self, phases: &Phases) -> Result<()> {
        let mut probed = 0;
        while phases.now() == Phase::Warming {
            self.step()?;
            if self.pace.timed_every == 0 && self.counted - probed >= PROBED {
                let rate =
                    (u128::from(self.counted) * 1_000_000_000 / u128::from(self.nanos().max(1))) as u64;
                self.timed_every = rate.div_ceil(TIMED_PER_SECOND).max(1);
                probed = self.counted;
            }
        }
        self.ways.iter_mut().for_each(Tally::clear);
        (self.counted, self.flushes, self.lost) = (0, 0, 0);
        self.done.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Sends what there is room for, and takes what is back.
    #[inline]
    fn step(&mut self) -> Result<()> {
        if self.free.len() >= usize::from(self.pace.batch) || self.out == 0 {
            self.fill()?;
        }
        self.collect()
    }

    #[inline]
    fn fill(&mut self) -> Result<()> {
        let asked = self.lane.is_asked();
        // What comes unasked needs all the room there is.
        let left = self.limit.saturating_sub(self.counted).saturating_sub(self.out.into());
        let mut wanted = if asked { left } else { u64::MAX };
        let mut now = 0;
        while wanted > 0
            && let Some(slot) = self.free.pop()
        {
            wanted -= 1;
            self.until_timed = self.until_timed.saturating_sub(1);
            let mut begun = 0;
            if self.until_timed == 0 && asked {
                self.until_timed = self.timed_every;
                if now == 0 {
                    now = self.nanos();
                }
                begun = now;
            }
            if let Some(place) = self.begun.get_mut(usize::from(slot)) {
                *place = begun;
            }
            self.lane.stage(slot)?;
            self.out += 1;
        }
        Ok(self.lane.publish()?)
    }

    /// Takes everything that is back, and waits for the first of it.
    #[inline]
    fn collect(&mut self) -> Result<()> {
        let mut now = 0;
        let mut found = false;
        loop {
            while self.counted < self.limit
                && let Some(returned) = self.lane.poll()?
            {
                found = true;
                self.count(&returned, &mut now);
                self.free.push(returned.slot);
                self.out = self.out.saturating_sub(1);
            }
            if found {
                self.done.store(self.counted, Ordering::Relaxed);
                self.quiet = Duration::ZERO;
                return Ok(());
            }
            let Pace { waiting, timeout, .. } = self.pace;
            if self.lane.is_asked() {
                if !self.lane.wait(waiting, timeout)? {
                    bail!("the device did not return a request within {timeout:?}");
                }
            } else if !self.lane.wait(waiting, LULL)? {
                self.quiet += LULL;
                if self.limit != u64::MAX && self.quiet > timeout {
                    bail!("nothing came within {timeout:?}");
                }
                return Ok(());
            }
        }
    }

    #[inline]
    fn count(&mut self, returned: &Returned, now: &mut u64) {
        let (way, bytes) = match returned.what {
            Outcome::Moved(way, bytes) => (way, bytes),
            Outcome::Flushed => {
                self.flushes += 1;
                return;
            }
            Outcome::Lost => {
                self.lost += 1;
                return;
            }
        };
        self.counted += 1;
        let begun = self.begun.get(usize::from(returned.slot)).copied().unwrap_or(0);
        if begun != 0 && *now == 0 {
            *now = self.nanos();
        }
        if let Some(tally) = self.ways.get_mut(way as usize) {
            tally.requests += 1;
            tally.bytes += u64::from(bytes);
            if begun != 0 {
                tally.latency.saturating_record(now.saturating_sub(begun));
            }
        }
    }

    #[inline]
    fn nanos(&self) -> u64 {
        (self.origin.elapsed().as_nanos() as u64).max(1)
    }
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
