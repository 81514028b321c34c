//! What of one port's packets waits for each other port, over all of its pairs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use outboard_switch::PortId;

use crate::backlog::Backlog;

/// So many ports are remembered for which nothing waits.
const IDLE: usize = 64;

/// Of one sender, for one port.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    /// Entries of rings with packets that were lent.
    pub(super) lent: Backlog,
    /// Copies.
    pub(super) copied: Backlog,
}

/// Of one sender, by who they are for.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<BTreeMap<u16, Share>>);

impl Shares {
    pub(super) fn of(&self, PortId(port): PortId) -> Share {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() > IDLE && !shares.contains_key(&port) {
            shares.retain(|_, share| !(share.lent.is_alone() && share.copied.is_alone()));
        }
        shares.entry(port).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_forgotten_when_nothing_of_it_waits() {
        let shares = Shares::default();
        let place = shares.of(PortId(0)).copied.enter(1);
        for port in 1..=1000 {
            assert_eq!(shares.of(PortId(port)).copied.waiting(), 0);
        }
        assert!(shares.0.lock().unwrap().len() <= IDLE + 2);
        assert_eq!(shares.of(PortId(0)).copied.waiting(), 1);
        drop(place);
        assert_eq!(shares.of(PortId(0)).copied.waiting(), 0);
    }
}
