//! What a person at a terminal sees while a measurement runs. Nothing where there is no terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The steps of a full bar.
const STEPS: u64 = 1000;

/// A bar for the measurement that runs.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar, on standard error, if that is a terminal and standard output too: who redirects either wants text.
    pub(super) fn new() -> Self {
        if !(std::io::stdout().is_terminal() && std::io::stderr().is_terminal()) {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(STEPS);
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:30} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// A measurement begins.
    pub(super) fn begin(&self, what: &str) {
        self.0.set_prefix(what.to_owned());
        self.0.set_message("");
        self.0.set_position(0);
    }

    /// How far it is, from 0 to 1, and the rate at the moment.
    pub(super) fn show(&self, part: f64, rate: f64) {
        self.0.set_message(format!("{:.1} k requests/s", rate / 1e3));
        self.0.set_position((part.clamp(0.0, 1.0) * STEPS as f64) as u64);
    }

    /// How often to look at what is shown and recorded, for a measurement of this length.
    pub(super) fn interval(time: Duration) -> Duration {
        (time / 100).clamp(Duration::from_millis(10), Duration::from_millis(500))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
