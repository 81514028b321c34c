//! Adaptive polling: how long to look at the rings before going to sleep.
//!
//! Theory of operation: a wake-up costs both sides many microseconds, so a worker that expects another request soon
//! spins for it. Two things keep that from burning a CPU for nothing. Each spin that finds nothing halves the next
//! one, down to none, and each request that arrives within the longest spin of the last one restores it. And a
//! budget, a share of one CPU, fills with time and empties with every nanosecond spun, useful or not.

use std::time::{Duration, Instant};

use crate::Polling;

/// Spins shorter than this are not worth their clock reads.
const SHORTEST: Duration = Duration::from_nanos(500);
/// The budget that can be saved up.
const SAVINGS: Duration = Duration::from_millis(10);

/// The polling state of one worker.
pub(crate) struct Spin {
    polling: Polling,
    current: Duration,
    saved: Duration,
    counted_at: Instant,
    idle_since: Option<Instant>,
}

impl Spin {
    pub(crate) fn new(polling: Polling, now: Instant) -> Self {
        let current = match polling {
            Polling::Adaptive { longest, .. } => longest,
            Polling::Off | Polling::Always => Duration::ZERO,
        };
        Self { polling, current, saved: SAVINGS, counted_at: now, idle_since: None }
    }

    /// True if the worker never sleeps while a ring runs.
    pub(crate) fn is_endless(&self) -> bool {
        self.polling == Polling::Always
    }

    /// How long to spin now; zero: sleep.
    pub(crate) fn allowance(&mut self, now: Instant) -> Duration {
        let Polling::Adaptive { budget, .. } = self.polling else { return Duration::ZERO };
        let earned = now.saturating_duration_since(self.counted_at) * u32::from(budget.min(100)) / 100;
        self.saved = (self.saved + earned).min(SAVINGS);
        self.counted_at = now;
        let allowed = self.current.min(self.saved);
        if allowed < SHORTEST { Duration::ZERO } else { allowed }
    }

    /// A spin from `start` to `end` found something, or not.
    pub(crate) fn spun(&mut self, start: Instant, end: Instant, found: bool) {
        let Polling::Adaptive { longest, .. } = self.polling else { return };
        self.saved = self.saved.saturating_sub(end.saturating_duration_since(start));
        self.current = if found { longest } else { self.current / 2 };
    }

    /// The worker goes to sleep.
    pub(crate) fn sleeps(&mut self, now: Instant) {
        self.idle_since = Some(now);
    }

    /// The worker was woken by a request: had it come within the longest spin, spinning pays again.
    pub(crate) fn woken(&mut self, now: Instant) {
        if let (Polling::Adaptive { longest, .. }, Some(since)) = (self.polling, self.idle_since.take())
            && now.saturating_duration_since(since) <= longest
        {
            self.current = longest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_micros(64);

    fn adaptive(budget: u8, now: Instant) -> Spin {
        Spin::new(Polling::Adaptive { longest: LONGEST, budget }, now)
    }

    #[test]
    fn spin_fruitless_shrinks_to_nothing_and_a_quick_request_restores_it() {
        let mut now = Instant::now();
        let mut spin = adaptive(100, now);
        for _ in 0..8 {
            let allowed = spin.allowance(now);
            spin.spun(now, now + allowed, false);
            now += allowed;
        }
        assert_eq!(spin.allowance(now), Duration::ZERO);
        spin.sleeps(now);
        spin.woken(now + Duration::from_millis(5));
        assert_eq!(spin.allowance(now), Duration::ZERO);
        spin.sleeps(now);
        spin.woken(now + Duration::from_micros(20));
        assert_eq!(spin.allowance(now), LONGEST);
    }

    #[test]
    fn spin_under_load_stays_within_its_budget() {
        let start = Instant::now();
        let mut now = start;
        let mut spin = adaptive(20, now);
        let mut spun = Duration::ZERO;
        for _ in 0..100_000 {
            let allowed = spin.allowance(now);
            spin.spun(now, now + allowed, true);
            spun += allowed;
            now += allowed + Duration::from_micros(2);
        }
        let elapsed = now.duration_since(start);
        assert!(spun <= elapsed / 5 + SAVINGS, "{spun:?} of {elapsed:?}");
        assert!(spun >= elapsed / 6, "{spun:?} of {elapsed:?}");
    }

    #[test]
    fn spin_off_or_endless_allows_nothing() {
        let now = Instant::now();
        assert_eq!(Spin::new(Polling::Off, now).allowance(now), Duration::ZERO);
        assert!(Spin::new(Polling::Always, now).is_endless());
    }
}
