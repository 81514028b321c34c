//! An answer held against the recorded one. What depends on what was in guest memory, or on where things happened to
//! lie, is left aside.

use std::borrow::Cow;
use std::fmt;

use outboard_vhost_user::observe::{Field, Observed, Seen, Value};
use outboard_vhost_user::{FrontendRequest, MessageId};
use serde_json::{Value as Json, json};

/// How many differing bytes are shown.
const SHOWN: usize = 16;

/// Something that is not as it was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The message of the recording.
    number: u64,
    name: String,
    /// What is different; empty where there was no answer at all.
    what: String,
    recorded: String,
    now: String,
}

impl Difference {
    pub(super) fn of(number: u64, id: Option<MessageId>, recorded: &str, now: impl Into<String>) -> Self {
        let name = id.map_or_else(|| "incomplete message".to_owned(), |id| id.to_string());
        Self { number, name, what: String::new(), recorded: recorded.to_owned(), now: now.into() }
    }

    pub(super) fn json(&self) -> Json {
        let Self { number, name, what, recorded, now } = self;
        json!({
            "type": "difference", "number": number, "name": name, "what": what, "recorded": recorded, "now": now,
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {}: ", self.number, self.name)?;
        if !self.what.is_empty() {
            write!(f, "{} ", self.what)?;
        }
        f.write_str(&self.now)?;
        if self.recorded.is_empty() { Ok(()) } else { write!(f, ", recorded {}", self.recorded) }
    }
}

/// All that is different between an answer then and now.
pub(super) fn compare(then: (&Seen, &Observed), now: (&Seen, &Observed)) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |what: &str, recorded: String, now: String| {
        if recorded != now {
            let (number, name) = (then.1.number, then.1.id.map(|id| id.to_string()).unwrap_or_default());
            found.push(Difference { number, name, what: what.to_owned(), recorded, now });
        }
    };
    note("is", name(then.1), name(now.1));
    if then.1.id != now.1.id {
        return found;
    }
    note("flags", flags(then.0), flags(now.0));
    match (&then.1.fields, &now.1.fields) {
        (Some(old), Some(new)) => {
            for name in names(old, new) {
                if is_aside(then.1.id, name) {
                    continue;
                }
                let (recorded, now) = values(value(old, name), value(new, name));
                note(name, recorded, now);
            }
        }
        _ => {
            let (recorded, now) = bytes(then.0.body(), now.0.body());
            note("payload", recorded, now);
        }
    }
    note("descriptors", descriptors(then.0), descriptors(now.0));
    found
}

/// Where a ring stands follows from what was in it; where in its file a buffer lies is the back end's choice.
fn is_aside(id: Option<MessageId>, field: &str) -> bool {
    let Some(MessageId::Frontend(code)) = id else { return false };
    match code {
        FrontendRequest::GET_VRING_BASE | FrontendRequest::GET_VRING_BASE_SKIP_DRAIN => field == "num",
        FrontendRequest::GET_INFLIGHT_FD => field == "offset",
        _ => false,
    }
}

fn name(observed: &Observed) -> String {
    observed.id.map(|id| format!("the answer to {id}")).unwrap_or_default()
}

fn flags(seen: &Seen) -> String {
    seen.header().map(|header| format!("{:#x}", header.flags)).unwrap_or_default()
}

fn descriptors(seen: &Seen) -> String {
    let kinds: Vec<String> = seen.fds.iter().map(|fd| format!("{:?}", fd.kind).to_lowercase()).collect();
    format!("[{}]", kinds.join(", "))
}

/// The names of both, in order.
fn names<'a>(old: &'a [Field], new: &'a [Field]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = old.iter().map(|field| field.name).collect();
    for field in new {
        if !names.contains(&field.name) {
            names.push(field.name);
        }
    }
    names
}

fn value<'a>(fields: &'a [Field], name: &str) -> Option<&'a Value> {
    fields.iter().find(|field| field.name == name).map(|field| &field.value)
}

/// Both as text, cut down to what is different.
fn values(old: Option<&Value>, new: Option<&Value>) -> (String, String) {
    match (old, new) {
        (Some(Value::Bytes(old)), Some(Value::Bytes(new))) => bytes(old, new),
        (Some(Value::Bits(old, old_names)), Some(Value::Bits(new, new_names))) if old != new => {
            let only = |of: &[Cow<'_, str>], other: &[Cow<'_, str>]| -> Vec<String> {
                of.iter().filter(|name| !other.contains(name)).map(ToString::to_string).collect()
            };
            let shown = |bits: &u64, only: Vec<String>| match only.as_slice() {
                [] => format!("{bits:#x}"),
                only => format!("{bits:#x} [.. {}]", only.join(" ")),
            };
            (shown(old, only(old_names, new_names)), shown(new, only(new_names, old_names)))
        }
        (old, new) => (text(old), text(new)),
    }
}

fn text(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

fn bytes(old: &[u8], new: &[u8]) -> (String, String) {
    if old == new {
        return Default::default();
    }
    let at = old.iter().zip(new).position(|(a, b)| a != b).unwrap_or(old.len().min(new.len()));
    let shown = |bytes: &[u8]| {
        let hex: String = bytes.iter().skip(at).take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
        let rest = if bytes.len() > at.saturating_add(SHOWN) { ".." } else { "" };
        format!("from byte {at} of {}: {hex}{rest}", bytes.len())
    };
    (shown(old), shown(new))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outboard_vhost_user::observe::{Channel, Descriptor, DescriptorKind, Observer, Side};

    use super::*;

    /// The answer to a request, as an observer of both sees it.
    fn answer(code: FrontendRequest, body: &[u8], fds: usize) -> (Seen, Observed) {
        let mut observer = Observer::new(None);
        let mut see = |from, flags: u32, body: &[u8], fds: usize| {
            let mut bytes: Vec<u8> = [code.0, flags, body.len() as u32].map(u32::to_ne_bytes).concat();
            bytes.extend_from_slice(body);
            let fd = Descriptor { kind: DescriptorKind::File, size: 4096, name: String::new() };
            let (len, fds) = (bytes.len() as u64, vec![fd; fds]);
            let (connection, channel, time) = (1, Channel::MAIN, Duration::ZERO);
            let seen = Seen { connection, channel, from, time, bytes, len, fds };
            let observed = observer.see(&seen);
            (seen, observed)
        };
        see(Side::FrontEnd, 1, &[], 0);
        see(Side::BackEnd, 5, body, fds)
    }

    fn differences(code: FrontendRequest, then: (&[u8], usize), now: (&[u8], usize)) -> Vec<String> {
        let (then, now) = (answer(code, then.0, then.1), answer(code, now.0, now.1));
        compare((&then.0, &then.1), (&now.0, &now.1)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn compare_same_answers_finds_nothing() {
        let same = (&[7; 8][..], 0);
        assert_eq!(differences(FrontendRequest::GET_FEATURES, same, same), [""; 0]);
    }

    #[test]
    fn compare_features_names_the_bits_that_changed() {
        let (then, now) = ((3_u64 << 32).to_ne_bytes(), (5_u64 << 32).to_ne_bytes());
        assert_eq!(
            differences(FrontendRequest::GET_FEATURES, (&then, 0), (&now, 0)),
            [
                "#2 GET_FEATURES: features 0x500000000 [.. RING_PACKED], recorded 0x300000000 [.. ACCESS_PLATFORM]"
            ]
        );
    }

    #[test]
    fn compare_config_shows_the_bytes_that_changed() {
        let config = |data: [u8; 4]| [&[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0][..], &data].concat();
        assert_eq!(
            differences(FrontendRequest::GET_CONFIG, (&config([1, 2, 3, 4]), 0), (&config([1, 2, 9, 4]), 0)),
            ["#2 GET_CONFIG: data from byte 2 of 4: 0904, recorded from byte 2 of 4: 0304"]
        );
    }

    #[test]
    fn compare_leaves_the_position_of_a_ring_aside_but_not_its_number() {
        let state = |index: u32, num: u32| [index, num].map(u32::to_ne_bytes).concat();
        let code = FrontendRequest::GET_VRING_BASE;
        assert_eq!(differences(code, (&state(0, 700), 0), (&state(0, 0), 0)), [""; 0]);
        assert_eq!(
            differences(code, (&state(0, 0), 0), (&state(1, 0), 0)),
            ["#2 GET_VRING_BASE: index 1, recorded 0"]
        );
    }

    #[test]
    fn compare_missing_descriptor_is_a_difference() {
        let body = [0; 24];
        assert_eq!(
            differences(FrontendRequest::GET_INFLIGHT_FD, (&body, 1), (&body, 0)),
            ["#2 GET_INFLIGHT_FD: descriptors [], recorded [file]"]
        );
    }

    #[test]
    fn compare_payload_that_does_not_decode_is_compared_as_bytes() {
        assert_eq!(
            differences(FrontendRequest::GET_FEATURES, (&[1; 8], 0), (&[1; 7], 0)),
            ["#2 GET_FEATURES: payload from byte 7 of 7: , recorded from byte 7 of 8: 01"]
        );
    }
}
