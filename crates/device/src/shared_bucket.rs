//! A token bucket for several threads.
//!
//! Theory of operation (the generic cell rate algorithm). The bucket is one number: when it will be full again. To take
//! tokens moves that time on by what they cost; as long as it is no further ahead than the burst is worth, the tokens
//! were there. If it is, they will be there after the difference, and are taken all the same: who waits has his turn,
//! and nobody who comes later gets before him. A request that is larger than the burst has its turn when the bucket is
//! full, and those behind it pay for it.
//!
//! Callers are trusted to wait as long as they are told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time is counted in sixteenths of a nanosecond, for 36 years: a token may cost less than a nanosecond.
const NANO: u64 = 16;
const SECOND: u64 = 1_000_000_000 * NANO;
/// What tokens cost at most, however many: nobody waits for ever.
const DEAREST: u64 = 3600 * SECOND;
/// The bucket was not used yet, and is empty.
const UNUSED: u64 = u64::MAX;

/// A token bucket for several threads, without locks. Time is passed in; nothing sleeps.
#[derive(Debug)]
pub struct SharedBucket {
    rate: u64,
    burst: u64,
    /// What the burst is worth.
    tolerance: u64,
    start: Instant,
    full_at: AtomicU64,
}

impl SharedBucket {
    /// A full bucket: `rate` tokens a second, at most `burst` saved up; each at least 1.
    #[must_use]
    pub fn new(rate: u64, burst: u64) -> Self {
        let (rate, burst) = (rate.max(1), burst.max(1));
        let tolerance = u128::from(burst) * u128::from(SECOND) / u128::from(rate);
        let now = Instant::now();
        Self {
            rate,
            burst,
            tolerance: u64::try_from(tolerance).unwrap_or(u64::MAX).min(u64::MAX / 4),
            // Callers may have looked at the clock some time ago.
            start: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now),
            full_at: AtomicU64::new(0),
        }
    }

    /// An empty bucket, which fills from its first use on.
    #[must_use]
    pub fn empty(rate: u64, burst: u64) -> Self {
        Self { full_at: AtomicU64::new(UNUSED), ..Self::new(rate, burst) }
    }

    /// Tokens a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// The most tokens saved up.
    #[must_use]
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// Takes tokens, and says how long to wait before they are used. At most an hour is asked for each request.
    pub fn reserve(&self, tokens: u64, now: Instant) -> Duration {
        let (cost, now) = (self.cost(tokens), self.time(now));
        let before = self.take(cost, now);
        // The bucket fills up to the tolerance: more is not waited for, but paid for.
        let start = before.saturating_add(cost).saturating_sub(self.tolerance.max(cost));
        Duration::from_nanos(start.saturating_sub(now).div_ceil(NANO))
    }

    /// Takes tokens that are used already: those who come later wait for them.
    pub fn debit(&self, tokens: u64, now: Instant) {
        self.take(self.cost(tokens), self.time(now));
    }

    /// Gives tokens back that were taken and not used.
    pub fn give_back(&self, tokens: u64) {
        let cost = self.cost(tokens);
        let less = |full_at: u64| (full_at != UNUSED).then(|| full_at.saturating_sub(cost));
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Moves the time on at which the bucket is full again, and says when that was before, at least now.
    fn take(&self, cost: u64, now: u64) -> u64 {
        let begin = |full_at| if full_at == UNUSED { now + self.tolerance } else { now.max(full_at) };
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            Some(begin(full_at).saturating_add(cost).min(UNUSED - 1))
        });
        begin(taken.unwrap_or_else(|full_at| full_at))
    }

    fn cost(&self, tokens: u64) -> u64 {
        let cost = (u128::from(tokens) * u128::from(SECOND)).div_ceil(self.rate.into());
        u64::try_from(cost).unwrap_or(u64::MAX).min(DEAREST)
    }

    fn time(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.start).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX).min(u64::MAX / NANO / 4) * NANO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_full_gives_its_burst_at_once_and_then_its_rate() {
        let bucket = SharedBucket::new(1000, 3);
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(bucket.reserve(1, now), Duration::ZERO);
        }
        for turn in 1..100 {
            assert_eq!(bucket.reserve(1, now), Duration::from_millis(turn));
        }
    }

    #[test]
    fn bucket_empty_waits_for_the_first_token() {
        let bucket = SharedBucket::empty(1000, 3);
        let now = Instant::now() + Duration::from_secs(50);
        assert_eq!(bucket.reserve(1, now), Duration::from_millis(1));
        assert_eq!(bucket.reserve(2, now + Duration::from_millis(3)), Duration::ZERO);
    }

    #[test]
    fn bucket_unused_for_long_holds_no_more_than_its_burst() {
        let bucket = SharedBucket::new(1000, 3);
        let now = Instant::now() + Duration::from_secs(86_400);
        assert_eq!(bucket.reserve(3, now), Duration::ZERO);
        assert_eq!(bucket.reserve(1, now), Duration::from_millis(1));
    }

    #[test]
    fn reserve_of_more_than_the_burst_passes_when_full_and_is_paid_by_the_next() {
        let bucket = SharedBucket::new(1000, 10);
        let now = Instant::now();
        assert_eq!(bucket.reserve(500, now), Duration::ZERO);
        assert_eq!(bucket.reserve(1, now), Duration::from_millis(491));
        let later = now + Duration::from_secs(1);
        assert_eq!(bucket.reserve(1, later), Duration::ZERO);
        assert_eq!(bucket.reserve(500, later), Duration::from_millis(1), "until it is full again");
    }

    #[test]
    fn reserve_given_back_leaves_no_trace() {
        let bucket = SharedBucket::new(1000, 10);
        let now = Instant::now();
        bucket.reserve(10, now);
        for _ in 0..1000 {
            assert_eq!(bucket.reserve(500, now), Duration::from_millis(10));
            bucket.give_back(500);
        }
        assert_eq!(bucket.reserve(1, now), Duration::from_millis(1));
        let unused = SharedBucket::empty(10, 10);
        unused.give_back(1000);
        assert_eq!(unused.reserve(1, now), Duration::from_millis(100));
    }

    #[test]
    fn debit_is_waited_for_by_the_next() {
        let bucket = SharedBucket::new(1000, 10);
        let now = Instant::now();
        bucket.debit(110, now);
        assert_eq!(bucket.reserve(1, now), Duration::from_millis(101));
    }

    #[test]
    fn reserve_of_anything_at_any_rate_ends_within_its_hour() {
        for rate in [0, 1, 7, u64::MAX] {
            for tokens in [0, 1, u64::from(u32::MAX), u64::MAX] {
                let now = Instant::now();
                assert_eq!(SharedBucket::new(rate, u64::MAX).reserve(tokens, now), Duration::ZERO);
                let bucket = SharedBucket::empty(rate, 1);
                assert!(bucket.reserve(tokens, now) <= Duration::from_secs(2 * 3600));
            }
        }
    }

    #[test]
    fn rate_is_kept_to_over_time_whatever_is_asked_for() {
        for (rate, burst, size) in [(3, 1, 1), (1_000_000, 50, 7), (10 << 30, 1 << 20, 512), (777, 9, 100)] {
            let bucket = SharedBucket::new(rate, burst);
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0);
            for _ in 0..1000 {
                now += bucket.reserve(size, now);
                taken += size;
            }
            let earned = now.duration_since(start).as_secs_f64() * rate as f64;
            let most = earned + (burst.max(size) + 1) as f64;
            assert!(taken as f64 <= most, "{taken} of {most}");
            assert!(taken as f64 >= 0.98 * earned, "{taken} of {earned}");
        }
    }

    #[test]
    fn bucket_shared_by_threads_gives_no_token_twice() {
        let bucket = SharedBucket::new(1000, 100);
        let now = Instant::now();
        let waits = std::thread::scope(|scope| {
            let take = || (0..250).map(|_| bucket.reserve(1, now)).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(waits.iter().filter(|wait| wait.is_zero()).count(), 100);
        let mut waits: Vec<_> = waits.into_iter().filter(|wait| !wait.is_zero()).collect();
        waits.sort_unstable();
        assert!(waits.iter().zip(1..).all(|(wait, turn)| *wait == Duration::from_millis(turn)));
    }
}
