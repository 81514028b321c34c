//! The timers of one worker: a handful, so a plain list.

use std::time::{Duration, Instant};

use outboard_device::SourceId;

/// One-shot timers, one per source.
#[derive(Default)]
pub(crate) struct Timers(Vec<(Instant, SourceId)>);

impl Timers {
    /// Sets the timer of `source`, replacing an earlier one.
    pub(crate) fn set(&mut self, delay: Duration, source: SourceId) {
        let at = Instant::now() + delay;
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

    /// Takes a timer that has run out.
    pub(crate) fn expired(&mut self) -> Option<SourceId> {
        if self.0.is_empty() {
            return None;
        }
        let now = Instant::now();
        let at = self.0.iter().position(|(at, _)| *at <= now)?;
        Some(self.0.swap_remove(at).1)
    }
}
