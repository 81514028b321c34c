//! What went by, for programs: a JSON object per line. Addresses, masks and raw bytes are strings in hex.

use outboard_vhost_user::MessageId;
use outboard_vhost_user::observe::{
    Descriptor, DescriptorKind, Field, Observed, Seen, Side, Unanswered, Value,
};
use serde_json::{Map, Value as Json, json};

use super::witness::Event;

/// A message, decoded.
pub(super) fn message(seen: &Seen, observed: &Observed) -> String {
    let mut object = json!({
        "type": "message",
        "connection": seen.connection,
        "number": observed.number,
        "time": seen.time.as_secs_f64(),
        "from": side(seen.from),
        "channel": if seen.channel.is_main() { "main".to_owned() } else { format!("back-{}", seen.channel.0) },
        "kind": if seen.is_request() { "request" } else { "reply" },
        "length": seen.len,
        "fds": seen.fds.iter().map(descriptor).collect::<Vec<_>>(),
        "warnings": observed.warnings,
    });
    if let Some(header) = seen.header() {
        put(&mut object, "request", header.request);
        put(&mut object, "flags", header.flags);
        put(&mut object, "size", header.size);
    }
    put(&mut object, "name", observed.id.and_then(name));
    match &observed.fields {
        Some(found) => put(&mut object, "fields", fields(found)),
        None => put(&mut object, "raw", hex(&seen.bytes)),
    }
    if seen.is_request() {
        put(&mut object, "awaits_reply", observed.awaits);
    }
    if let Some(answered) = observed.answers {
        put(&mut object, "answers", answered.number);
        put(&mut object, "latency", answered.latency.as_secs_f64());
    }
    line(&object)
}

/// The end of a connection.
pub(super) fn closed(event: &Event, unanswered: &[Unanswered]) -> String {
    let Event::Closed { connection, time, by } = event else { return String::new() };
    let unanswered: Vec<Json> = unanswered
        .iter()
        .map(|Unanswered { number, id }| json!({ "number": number, "name": id.to_string() }))
        .collect();
    let (time, by) = (time.as_secs_f64(), side(*by));
    line(&json!({
        "type": "closed", "connection": connection, "time": time, "by": by, "unanswered": unanswered,
    }))
}

/// Anything else.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Opened { connection, time, front, back } => {
            let time = time.as_secs_f64();
            line(&json!({
                "type": "opened", "connection": connection, "time": time, "front_end": front, "back_end": back,
            }))
        }
        Event::Note { connection, text } => {
            line(&json!({ "type": "note", "connection": connection, "text": text }))
        }
        Event::Message { .. } | Event::Closed { .. } | Event::Gone { .. } => String::new(),
    }
}

fn line(object: &Json) -> String {
    format!("{object}\n")
}

fn put(object: &mut Json, key: &str, value: impl Into<Json>) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value.into());
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::FrontEnd => "front-end",
        Side::BackEnd => "back-end",
    }
}

fn name(id: MessageId) -> Option<&'static str> {
    match id {
        MessageId::Frontend(code) => code.name(),
        MessageId::Backend(code) => code.name(),
    }
}

pub(super) fn fields(fields: &[Field]) -> Json {
    let pairs = fields.iter().map(|field| (field.name.to_owned(), value(&field.value)));
    Json::Object(pairs.collect::<Map<_, _>>())
}

fn value(value: &Value) -> Json {
    match value {
        Value::Number(number) => json!(number),
        Value::Hex(number) => json!(format!("{number:#x}")),
        Value::Bits(bits, names) => json!({ "bits": format!("{bits:#x}"), "names": names }),
        Value::Word(word) => json!(word),
        Value::Bytes(bytes) => json!(hex(bytes)),
        Value::List(items) => items.iter().map(|item| fields(item)).collect(),
    }
}

fn descriptor(fd: &Descriptor) -> Json {
    let kind = match fd.kind {
        DescriptorKind::Other => "other",
        DescriptorKind::File => "file",
        DescriptorKind::Event => "eventfd",
        DescriptorKind::Socket => "socket",
        DescriptorKind::PipeRead => "pipe-read",
        DescriptorKind::PipeWrite => "pipe-write",
    };
    match fd.kind {
        DescriptorKind::File => json!({ "kind": kind, "name": fd.name, "size": fd.size }),
        _ => json!({ "kind": kind, "name": fd.name }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
