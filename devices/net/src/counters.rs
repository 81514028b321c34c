//! What a pair of queues has done, for `status` on the control socket and for the log at the end. Each number is written
//! by the one thread that serves the pair. "Received" is the guest's word: towards it.

use outboard_device::Counter;
use outboard_device::serde_json::{Map, Value, json};
use outboard_frames::Refused;

use crate::rx::Dropped;

/// The counters of a pair, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct PairCounters {
    received: Way,
    sent: Way,
    dropped: [Counter; Dropped::ALL.len()],
    refused: [Counter; REFUSED.len()],
    /// Sent while there was no link.
    unlinked: Counter,
    /// Not taken by the host.
    host_refused: Counter,
    /// Kept waiting by a limit.
    limited: Counter,
}

#[derive(Debug, Default)]
struct Way {
    packets: Counter,
    bytes: Counter,
}

/// By what name a reason to refuse is counted.
const REFUSED: [(Refused, &str); 8] = [
    (Refused::TooShort, "too_short"),
    (Refused::TooLong, "too_long"),
    (Refused::CsumNotAgreed, "csum_not_agreed"),
    (Refused::CsumRange, "csum_range"),
    (Refused::GsoType, "gso_type"),
    (Refused::GsoNotAgreed, "gso_not_agreed"),
    (Refused::GsoSize, "gso_size"),
    (Refused::Layers, "layers"),
];

impl Way {
    fn count(&self, bytes: u64) {
        self.packets.add(1);
        self.bytes.add(bytes);
    }
}

impl PairCounters {
    /// A packet of so many bytes is in the guest's buffers.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.count(bytes);
    }

    /// A packet for the guest was dropped.
    pub(crate) fn dropped(&self, why: Dropped) {
        if let Some((counter, _)) =
            self.dropped.iter().zip(Dropped::ALL).find(|(_, (known, _))| *known == why)
        {
            counter.add(1);
        }
    }

    /// A packet of so many bytes was taken from the guest.
    pub(crate) fn sent(&self, bytes: u64) {
        self.sent.count(bytes);
    }

    /// A packet of the guest was dropped, by its fault.
    pub(crate) fn refused(&self, why: Refused) {
        if let Some((counter, _)) = self.refused.iter().zip(REFUSED).find(|(_, (known, _))| *known == why) {
            counter.add(1);
        }
    }

    /// A packet of the guest was dropped, since there is no link.
    pub(crate) fn unlinked(&self) {
        self.unlinked.add(1);
    }

    /// A packet of the guest has to wait for a limit.
    pub(crate) fn limited(&self) {
        self.limited.add(1);
    }

    /// A packet of the guest was dropped, since the host did not take it.
    pub(crate) fn host_refused(&self) {
        self.host_refused.add(1);
    }

    /// Whether nothing was ever counted.
    pub(crate) fn is_empty(&self) -> bool {
        let all = [&self.received.packets, &self.sent.packets, &self.unlinked, &self.host_refused];
        all.into_iter().chain(&self.dropped).chain(&self.refused).all(|counter| counter.value() == 0)
    }
}

/// What some pairs have done together, towards the guest, for `status`.
pub(crate) fn rx<'a>(pairs: &(impl Iterator<Item = &'a PairCounters> + Clone)) -> Value {
    let sum = |of: &dyn Fn(&PairCounters) -> u64| pairs.clone().map(of).sum::<u64>();
    let dropped = |at: usize| sum(&|pair| pair.dropped.get(at).map_or(0, Counter::value));
    let dropped: Map<_, _> = Dropped::ALL
        .iter()
        .enumerate()
        .map(|(at, (_, name))| ((*name).to_owned(), dropped(at).into()))
        .collect();
    json!({
        "packets": sum(&|pair| pair.received.packets.value()),
        "bytes": sum(&|pair| pair.received.bytes.value()),
        "dropped": dropped,
    })
}

/// What some pairs have done together, from the guest, for `status`.
pub(crate) fn tx<'a>(pairs: &(impl Iterator<Item = &'a PairCounters> + Clone)) -> Value {
    let sum = |of: &dyn Fn(&PairCounters) -> u64| pairs.clone().map(of).sum::<u64>();
    let refused = |at: usize| sum(&|pair| pair.refused.get(at).map_or(0, Counter::value));
    let refused: Map<_, _> =
        REFUSED.iter().enumerate().map(|(at, (_, name))| ((*name).to_owned(), refused(at).into())).collect();
    json!({
        "packets": sum(&|pair| pair.sent.packets.value()),
        "bytes": sum(&|pair| pair.sent.bytes.value()),
        "refused": refused,
        "link_down": sum(&|pair| pair.unlinked.value()),
        "host_refused": sum(&|pair| pair.host_refused.value()),
        "rate": sum(&|pair| pair.limited.value()),
    })
}
