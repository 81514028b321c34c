//! How one queue keeps to the limits of its disk. The guest decides what comes, and may change a request that waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outboard_device::QueueId;

use super::{Price, Set, Throttle};
use crate::counters::QueueCounters;

/// After how long a request that waits looks whether the limits have changed.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// What lets one queue's requests through.
pub(crate) struct Gate {
    throttle: Arc<Throttle>,
    version: u64,
    /// `None`: nothing is limited.
    set: Option<Arc<Set>>,
    turn: Option<Turn>,
    /// Since when a request waits.
    since: Option<Instant>,
}

/// The reservation of a request that waits.
struct Turn {
    queue: QueueId,
    price: Price,
    from: Instant,
}

impl Gate {
    pub(crate) fn new(throttle: &Arc<Throttle>) -> Self {
        let mut gate =
            Self { throttle: Arc::clone(throttle), version: 0, set: None, turn: None, since: None };
        gate.renew();
        gate
    }

    /// Whether a request has to be [admitted](Self::admit): false where nothing is limited, and was not before.
    #[inline]
    pub(crate) fn is_limited(&self) -> bool {
        self.set.is_some()
            || self.since.is_some()
            || self.throttle.version.load(Ordering::Relaxed) != self.version
    }

    /// Whether the next request of `queue` may go ahead; else after how long it is to ask again. No clock is looked at
    /// where nothing is limited.
    #[inline]
    pub(crate) fn admit(
        &mut self,
        queue: QueueId,
        price: Price,
        now: impl FnOnce() -> Instant,
        counters: &QueueCounters,
    ) -> Option<Duration> {
        if self.throttle.version.load(Ordering::Relaxed) != self.version {
            self.renew();
        }
        if !self.is_limited() {
            return None;
        }
        self.admit_limited(queue, price, now(), counters)
    }

    #[cold]
    fn admit_limited(
        &mut self,
        queue: QueueId,
        price: Price,
        now: Instant,
        counters: &QueueCounters,
    ) -> Option<Duration> {
        let left = match &self.set {
            None => Duration::ZERO,
            Some(set) => {
                let turn = match self.turn.take() {
                    Some(turn) if (turn.queue, turn.price) == (queue, price) => turn,
                    other => {
                        // The driver has changed a request that waits.
                        if let Some(turn) = other {
                            set.give_back(turn.price);
                        }
                        Turn { queue, price, from: now + set.reserve(price, now) }
                    }
                };
                let left = turn.from.saturating_duration_since(now);
                self.turn = (!left.is_zero()).then_some(turn);
                left
            }
        };
        if left.is_zero() {
            if let Some(since) = self.since.take() {
                let waited = now.saturating_duration_since(since).as_micros();
                counters.waited.add(u64::try_from(waited).unwrap_or(u64::MAX));
            }
            return None;
        }
        if self.since.is_none() {
            self.since = Some(now);
            counters.throttled.add(1);
        }
        Some(left.min(LOOK))
    }

    /// A request that was let through goes back for another reason, and will ask again.
    pub(crate) fn take_back(&self, price: Price) {
        if let Some(set) = &self.set {
            set.give_back(price);
        }
    }

    /// A request that was let through takes more: those behind it wait for that.
    pub(crate) fn debit(&self, price: Price, now: impl FnOnce() -> Instant) {
        if let Some(set) = &self.set {
            let now = now();
            set.of(price).for_each(|(bucket, tokens)| bucket.debit(tokens, now));
        }
    }

    /// The queue stops: what waits has no turn any more.
    pub(crate) fn leave(&mut self) {
        if let (Some(set), Some(turn)) = (&self.set, self.turn.take()) {
            set.give_back(turn.price);
        }
        self.since = None;
    }

    /// Takes over the limits as they are now.
    #[cold]
    fn renew(&mut self) {
        if let (Some(set), Some(turn)) = (&self.set, self.turn.take()) {
            set.give_back(turn.price);
        }
        let set = self.throttle.set();
        self.version = self.throttle.version.load(Ordering::Relaxed);
        self.set = (!set.is_empty()).then(|| Arc::clone(&set));
    }
}
