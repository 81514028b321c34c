//! The timers of one worker: a handful, so a plain list.

use std::time::{Duration, Instant};

use outboard_device::SourceId;

/// As good as never, and no more than clocks and system calls can count: a delay may come from a peer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// One-shot timers, one per source.
#[derive(Default)]
pub(crate) struct Timers(Vec<(Instant, SourceId)>);

impl Timers {
    /// Sets the timer of `source`, replacing an earlier one.
    pub(crate) fn set(&mut self, delay: Duration, source: SourceId) {
        let at = Instant::now() + delay.min(LONGEST);
        match self.0.iter_mut().find(|(_, other)| *other == source) {
            Some(timer) => timer.0 = at,
            None => self.0.push((at, source)),
        }
    }

    /// How long until the next timer runs out.
    pub(crate) fn next(&self) -> Option<Duration> {
        let at = self.0.iter().map(|(at, _)| *at).min()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Whether a timer has run out.
    pub(crate) fn is_due(&self) -> bool {
        !self.0.is_empty() && self.next().is_some_and(|left| left.is_zero())
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a timer that had run out before `now`: never one that was set after that, however short.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<SourceId> {
        let at = self.0.iter().position(|(at, _)| *at < now)?;
        Some(self.0.swap_remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timer_far_beyond_all_time_is_set() {
        let mut timers = Timers::default();
        timers.set(Duration::MAX, SourceId(0));
        assert!(timers.next().is_some_and(|left| left > Duration::from_secs(1000)));
        assert_eq!(timers.expired(Instant::now()), None);
    }

    #[test]
    fn timer_without_delay_runs_out_after_the_moment_in_which_it_was_set() {
        let mut timers = Timers::default();
        let now = Instant::now();
        timers.set(Duration::ZERO, SourceId(0));
        assert_eq!(timers.expired(now), None);
        assert_eq!(timers.expired(Instant::now() + Duration::from_nanos(1)), Some(SourceId(0)));
        assert!(timers.is_empty());
    }
}
