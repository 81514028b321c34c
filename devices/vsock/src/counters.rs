//! What a device counts. One thread writes, any thread reads.

use outboard_device::Counter;
use outboard_device::serde_json::{Map, Value, json};

/// Why a packet or a connection of the guest is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is shorter than a header.
    Short,
    /// It is not from the guest.
    Source,
    /// It is for nobody.
    Destination,
    /// Its type is none, or was not agreed to.
    Type,
    /// A port that is none.
    Port,
    /// An operation that is none.
    Op,
    /// Its data are longer than it is.
    Length,
    /// It is of a connection that there is not.
    Unknown,
    /// It does not fit what was said before.
    State,
    /// More than there is room for, or more done away with than was sent.
    Credit,
    /// The rules do not allow it.
    Rules,
    /// Nobody listens.
    Nobody,
    /// Too many connections, or no memory for one.
    Room,
    /// A message is longer than its receiver takes.
    Message,
}

impl Refused {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Short, "short"),
        (Self::Source, "source"),
        (Self::Destination, "destination"),
        (Self::Type, "type"),
        (Self::Port, "port"),
        (Self::Op, "operation"),
        (Self::Length, "length"),
        (Self::Unknown, "unknown_connection"),
        (Self::State, "state"),
        (Self::Credit, "credit"),
        (Self::Rules, "rules"),
        (Self::Nobody, "nobody_listens"),
        (Self::Room, "no_room"),
        (Self::Message, "message_too_long"),
    ];
}

/// What one way has carried.
#[derive(Debug, Default)]
pub(crate) struct Way {
    pub(crate) packets: Counter,
    pub(crate) bytes: Counter,
    /// System calls.
    pub(crate) calls: Counter,
}

impl Way {
    pub(crate) fn count(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// All of a device.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) to_host: Way,
    pub(crate) to_guest: Way,
    pub(crate) connections: Counter,
    pub(crate) resets_sent: Counter,
    pub(crate) resets_received: Counter,
    /// Answers that had no room.
    pub(crate) unanswered: Counter,
    refused: [Counter; Refused::ALL.len()],
}

impl Counters {
    pub(crate) fn refuse(&self, why: Refused) {
        let at = Refused::ALL.iter().position(|(other, _)| *other == why);
        if let Some(counter) = at.and_then(|at| self.refused.get(at)) {
            counter.add(1);
        }
    }

    pub(crate) fn refused(&self, why: Refused) -> u64 {
        let at = Refused::ALL.iter().position(|(other, _)| *other == why);
        at.and_then(|at| self.refused.get(at)).map_or(0, Counter::value)
    }

    pub(crate) fn show(&self) -> Value {
        let refused: Map<String, Value> = (Refused::ALL.iter())
            .map(|(why, name)| ((*name).to_owned(), json!(self.refused(*why))))
            .collect();
        let way = |way: &Way, calls: &str| json!({ "packets": way.packets.value(), "bytes": way.bytes.value(), calls: way.calls.value() });
        json!({
            "opened": self.connections.value(),
            "guest_to_host": way(&self.to_host, "sends"),
            "host_to_guest": way(&self.to_guest, "receives"),
            "resets": { "sent": self.resets_sent.value(), "received": self.resets_received.value() },
            "unanswered": self.unanswered.value(),
            "refused": refused,
        })
    }
}
