//! Rates: a token bucket for what devices limit, and a limit for warnings that a guest can cause.

use std::time::{Duration, Instant};

/// A token bucket: `capacity` tokens per `period`, refilled continuously. Time is passed in; nothing sleeps.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    capacity: u64,
    period: Duration,
    tokens: u64,
    /// `None` before the first use.
    filled_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket. `capacity` and `period` are at least 1 (a token, a nanosecond).
    #[must_use]
    pub fn new(capacity: u64, period: Duration, now: Instant) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, period: period.max(Duration::from_nanos(1)), tokens: capacity, filled_at: Some(now) }
    }

    /// An empty bucket, which fills from its first use on: whoever gets a fresh copy has gained nothing. A capacity of
    /// `u64::MAX` is no limit.
    #[must_use]
    pub fn idle(capacity: u64, period: Duration) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, period: period.max(Duration::from_nanos(1)), tokens: 0, filled_at: None }
    }

    /// Takes `wanted` tokens, or the capacity if that is less, and says how many; all or none.
    ///
    /// # Errors
    /// How long until they will be there.
    pub fn claim(&mut self, wanted: u64, now: Instant) -> Result<u64, Duration> {
        if self.capacity == u64::MAX {
            return Ok(wanted);
        }
        self.refill(now);
        let wanted = wanted.min(self.capacity);
        if wanted > self.tokens {
            return Err(self.delay(wanted, now));
        }
        self.tokens -= wanted;
        Ok(wanted)
    }

    /// Takes up to `wanted` tokens and says how many; at least 1 if any is there.
    pub fn take(&mut self, wanted: u64, now: Instant) -> u64 {
        self.refill(now);
        let granted = wanted.min(self.tokens);
        self.tokens -= granted;
        granted
    }

    /// How long until `wanted` tokens (at most the capacity) will be there.
    #[must_use]
    pub fn delay(&self, wanted: u64, now: Instant) -> Duration {
        let missing = wanted.min(self.capacity).saturating_sub(self.tokens);
        let nanos = u128::from(missing).saturating_mul(self.period.as_nanos());
        let needed = u64::try_from(nanos.div_ceil(u128::from(self.capacity))).unwrap_or(u64::MAX);
        let elapsed = self.filled_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        Duration::from_nanos(needed).saturating_sub(elapsed)
    }

    fn refill(&mut self, now: Instant) {
        let filled_at = *self.filled_at.get_or_insert(now);
        let elapsed = now.saturating_duration_since(filled_at);
        let earned = elapsed.as_nanos() * u128::from(self.capacity) / self.period.as_nanos();
        if earned == 0 {
            return;
        }
        let room = self.capacity - self.tokens;
        if earned >= u128::from(room) {
            self.tokens = self.capacity;
            self.filled_at = Some(now);
        } else {
            // Keep the remainder of a token: move the clock only by what was earned.
            self.tokens += u64::try_from(earned).unwrap_or(room);
            let nanos = earned * self.period.as_nanos() / u128::from(self.capacity);
            self.filled_at = Some(filled_at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)));
        }
    }
}

/// Lets a few warnings a second through and counts the rest.
#[derive(Debug)]
pub struct WarnLimit {
    bucket: TokenBucket,
    suppressed: u64,
    total: u64,
}

impl WarnLimit {
    /// At most `per_second` warnings.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self {
            bucket: TokenBucket::new(per_second, Duration::from_secs(1), Instant::now()),
            suppressed: 0,
            total: 0,
        }
    }

    /// How many warnings there were, written or not.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// `Some` if a warning may be written now, with the number of those that were not since the last.
    pub fn admit(&mut self) -> Option<u64> {
        self.total += 1;
        if self.bucket.take(1, Instant::now()) == 1 {
            Some(std::mem::take(&mut self.suppressed))
        } else {
            self.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_empty_refills_at_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, Duration::from_secs(1), start);
        assert_eq!(bucket.take(5000, start), 1000);
        assert_eq!(bucket.take(1, start), 0);
        assert_eq!(bucket.delay(10, start), Duration::from_millis(10));
        assert_eq!(bucket.take(10, start + Duration::from_millis(10)), 10);
        assert_eq!(bucket.take(10, start + Duration::from_micros(10_500)), 0);
        assert_eq!(bucket.take(10, start + Duration::from_millis(11)), 1);
    }

    #[test]
    fn bucket_idle_holds_no_more_than_its_capacity() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(8, Duration::from_secs(1), start);
        assert_eq!(bucket.take(100, start + Duration::from_secs(3600)), 8);
        assert_eq!(bucket.delay(100, start + Duration::from_secs(3600)), Duration::from_secs(1));
    }

    #[test]
    fn bucket_idle_at_first_starts_empty_whenever_it_is_first_used() {
        let start = Instant::now();
        let mut bucket = TokenBucket::idle(1000, Duration::from_secs(1));
        assert_eq!(bucket.claim(10, start), Err(Duration::from_millis(10)));
        let mut copy = TokenBucket::idle(1000, Duration::from_secs(1));
        let later = start + Duration::from_secs(3600);
        assert_eq!(copy.claim(10, later), Err(Duration::from_millis(10)));
        assert_eq!(copy.claim(10, later + Duration::from_millis(10)), Ok(10));
        assert_eq!(bucket.claim(5000, later), Ok(1000));
    }

    #[test]
    fn claim_after_the_delay_it_was_told_succeeds() {
        let start = Instant::now();
        for (capacity, period, wanted) in
            [(3, 7, 1), (3, 7, 3), (1, 1, 9), (1000, 3, 999), (u64::MAX, 1000, 4096)]
        {
            let mut bucket = TokenBucket::idle(capacity, Duration::from_millis(period));
            let mut now = start;
            for _ in 0..100 {
                if let Err(delay) = bucket.claim(wanted, now) {
                    now += delay;
                    assert_eq!(bucket.claim(wanted, now), Ok(wanted.min(capacity)));
                }
            }
        }
    }

    #[test]
    fn warnings_beyond_the_limit_are_counted() {
        let mut limit = WarnLimit::new(2);
        assert_eq!(limit.admit(), Some(0));
        assert_eq!(limit.admit(), Some(0));
        assert_eq!(limit.admit(), None);
        assert_eq!(limit.suppressed, 1);
    }
}
