//! What is counted, by address.

use outboard_device::Counter;
use outboard_device::serde_json::{Value, json};

use crate::address::Address;
use crate::transaction::Message;

/// Of one address.
#[derive(Debug, Default)]
struct Tally {
    transfers: Counter,
    naks: Counter,
    refused: Counter,
}

/// One thread counts, others look.
#[derive(Debug)]
pub(crate) struct Tallies {
    by_address: Vec<Tally>,
    malformed: Counter,
}

impl Default for Tallies {
    fn default() -> Self {
        Self {
            by_address: (0..0x80 + 0x400).map(|_| Tally::default()).collect(),
            malformed: Counter::default(),
        }
    }
}

impl Tallies {
    /// Counts a transaction whose first `good` messages went well, and the next did not.
    pub(crate) fn count(&self, messages: &[Message], good: usize) {
        for (nth, message) in messages.iter().enumerate().take(good + 1) {
            let Some(tally) = self.by_address.get(message.address.index()) else { continue };
            if nth < good { tally.transfers.add(1) } else { tally.naks.add(1) }
        }
    }

    /// Counts requests that were not to be carried out; those without an address have no sense.
    pub(crate) fn refuse(&self, address: Option<Address>, count: usize) {
        match address.and_then(|address| self.by_address.get(address.index())) {
            Some(tally) => tally.refused.add(count as u64),
            None => self.malformed.add(count as u64),
        }
    }

    /// For `status` on the control socket.
    pub(crate) fn status(&self) -> Value {
        let mut addresses = Vec::new();
        for (index, tally) in self.by_address.iter().enumerate() {
            let [transfers, naks, refused] =
                [&tally.transfers, &tally.naks, &tally.refused].map(Counter::value);
            if transfers + naks + refused > 0 {
                let address = Address::of_index(index).to_string();
                addresses.push(json!({
                    "address": address, "transfers": transfers, "naks": naks, "refused": refused,
                }));
            }
        }
        json!({ "addresses": addresses, "malformed": self.malformed.value() })
    }
}
