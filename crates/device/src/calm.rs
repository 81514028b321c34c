//! Calls that wait for each other, if a driver prefers few of them to early ones.
//!
//! Never lost: whatever is not understood here, and whatever ends the wait, makes a call that is due. Whether the driver
//! wants one is asked then, and about all that was completed meanwhile.

use std::time::{Duration, Instant};

/// How a queue's calls are held back.
#[derive(Debug)]
pub(crate) struct Calm {
    packets: u64,
    delay: Duration,
    /// Chains that were completed when the last call was due.
    told: u64,
    /// A call is held back until then.
    until: Option<Instant>,
}

impl Calm {
    /// A call is due with so many chains, or so long after the first of them. `None`: at once, always.
    pub(crate) fn new(packets: u32, delay: Duration, completed: u64) -> Option<Self> {
        let holds = packets > 1 && !delay.is_zero();
        holds.then_some(Self { packets: packets.into(), delay, told: completed, until: None })
    }

    /// Until when a call is held back.
    pub(crate) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// What is held back goes on being held back, by other rules.
    pub(crate) const fn continues(&mut self, before: &Self) {
        (self.told, self.until) = (before.told, before.until);
    }

    /// Whether a call is due, of a queue that has completed so many chains since it started.
    pub(crate) fn is_due(&mut self, completed: u64, now: impl FnOnce() -> Instant) -> bool {
        let waiting = completed.wrapping_sub(self.told);
        if waiting > 0 && waiting < self.packets {
            let now = now();
            if now < *self.until.get_or_insert(now + self.delay) {
                return false;
            }
        }
        self.end(completed)
    }

    /// Nothing is held back of so many chains. That is, a call is due.
    pub(crate) const fn end(&mut self, completed: u64) -> bool {
        (self.told, self.until) = (completed, None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_micros(100);

    #[test]
    fn call_is_due_with_the_last_packet_or_after_the_delay() {
        let start = Instant::now();
        let mut calm = Calm::new(3, DELAY, 10).unwrap();
        assert!(calm.is_due(10, || panic!("there is nothing to hold back")));
        assert!(!calm.is_due(11, || start));
        assert!(!calm.is_due(12, || start + DELAY - Duration::from_nanos(1)));
        assert_eq!(calm.until(), Some(start + DELAY));
        assert!(calm.is_due(13, || panic!("so many need not be timed")));
        assert_eq!(calm.until(), None);
        // It is counted, and timed, from the next packet on.
        assert!(!calm.is_due(15, || start + 5 * DELAY));
        assert!(!calm.is_due(15, || start + 5 * DELAY));
        assert!(calm.is_due(15, || start + 6 * DELAY));
        assert!(calm.is_due(30, || panic!("too many at once")));
    }

    #[test]
    fn other_rules_go_for_what_is_held_back() {
        let start = Instant::now();
        let mut old = Calm::new(3, DELAY, 0).unwrap();
        assert!(!old.is_due(2, || start));
        for (packets, due) in [(2, true), (4, false)] {
            let mut new = Calm::new(packets, 9 * DELAY, 2).unwrap();
            new.continues(&old);
            assert_eq!(new.is_due(2, || start), due);
            assert!(new.is_due(2, || start + DELAY), "not later than it was to be");
        }
    }

    #[test]
    fn nothing_is_held_back_for_one_packet_or_no_time() {
        for (packets, delay) in [(0, DELAY), (1, DELAY), (7, Duration::ZERO)] {
            assert!(Calm::new(packets, delay, 0).is_none());
        }
    }
}
