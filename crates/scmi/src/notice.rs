//! Notifications: what the platform tells an agent unasked.

use crate::wire::{Header, Kind};

/// A notification, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The protocol that it is of.
    pub protocol: u8,
    /// Which of the protocol's events it tells of.
    pub event: u8,
    /// What it tells of.
    pub id: usize,
    /// The message with its header.
    pub bytes: Vec<u8>,
}

impl Notice {
    pub(crate) fn new(protocol: u8, event: u8, id: usize, words: &[u32]) -> Self {
        let header = Header::new(protocol, event, Kind::Notification, 0);
        let words = std::iter::once(&header.0).chain(words);
        Self { protocol, event, id, bytes: words.flat_map(|word| word.to_le_bytes()).collect() }
    }

    /// Whether a later notice of the same kind, of the same thing, says all that this one says: it tells how things are, and
    /// not that something happened.
    #[must_use]
    pub fn is_outdated_by(&self, later: &Self) -> bool {
        let states =
            !matches!((self.protocol, self.event), (crate::SYSTEM | crate::RESET, _) | (crate::SENSOR, 0));
        states && (self.protocol, self.event, self.id) == (later.protocol, later.event, later.id)
    }
}
