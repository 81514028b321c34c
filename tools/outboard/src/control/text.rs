//! Answers of a control socket as text for people. What they hold is the back end's word.

use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::features::feature_names;
use serde_json::{Map, Value};

/// Where lines of names end.
const WIDTH: usize = 100;
/// What the first line of a device has.
const HEAD: [&str; 5] = ["name", "type", "device_id", "socket", "connected"];

/// All of it.
pub(super) fn show(answer: &Value) -> String {
    let mut lines = Vec::new();
    match answer {
        Value::Array(devices) => devices.iter().for_each(|device| add(device, &mut lines)),
        answer => add(answer, &mut lines),
    }
    lines.into_iter().map(|line| printable(line.trim_end()) + "\n").collect()
}

fn add(value: &Value, lines: &mut Vec<String>) {
    match value {
        Value::Object(fields) if fields.contains_key("name") => add_device(fields, lines),
        Value::Object(fields) => lines.extend(aligned(&pairs(fields, &[]), "")),
        Value::Null => {}
        other => lines.push(plain(other)),
    }
}

fn add_device(device: &Map<String, Value>, lines: &mut Vec<String>) {
    let text = |key: &str| device.get(key).map(plain);
    let connected = device
        .get("connected")
        .and_then(Value::as_bool)
        .map(|connected| if connected { "front end connected" } else { "no front end" }.to_owned());
    let socket = text("socket").map(|socket| format!("at {socket}"));
    let head: Vec<String> = [text("type"), connected, socket].into_iter().flatten().collect();
    let name = text("name").unwrap_or_default();
    lines.push(if head.is_empty() { name } else { format!("{name}: {}", head.join(", ")) });
    let mut rows = Vec::new();
    if let Some(features) = device.get("features").and_then(Value::as_str) {
        rows.push(("features".to_owned(), features.to_owned()));
        rows.extend(names(device, features).into_iter().map(|line| (String::new(), line)));
    }
    rows.extend(
        pairs(device, &["features", "queues", "device"])
            .into_iter()
            .filter(|(key, _)| !HEAD.contains(&key.as_str())),
    );
    if let Some(Value::Object(own)) = device.get("device") {
        rows.extend(pairs(own, &[]));
    }
    lines.extend(aligned(&rows, "  "));
    if let Some(Value::Array(queues)) = device.get("queues") {
        add_queues(queues, lines);
    }
}

/// The names of feature bits, in lines.
fn names(device: &Map<String, Value>, features: &str) -> Vec<String> {
    let bits = features.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let id = device.get("device_id").and_then(Value::as_u64).and_then(|id| u16::try_from(id).ok());
    let (Some(bits), Some(id)) = (bits, id) else { return Vec::new() };
    let mut lines = vec![String::new()];
    for (bit, name) in feature_names(DeviceId(id), bits) {
        let name = name.map_or_else(|| format!("bit {bit}"), str::to_owned);
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line = name,
            Some(line) if line.len() + name.len() < WIDTH - 20 => *line = format!("{line} {name}"),
            _ => lines.push(name),
        }
    }
    lines
}

/// A table: a row for each queue, and a column for each thing that one of them has.
fn add_queues(queues: &[Value], lines: &mut Vec<String>) {
    let queues: Vec<&Map<String, Value>> = queues.iter().filter_map(Value::as_object).collect();
    let mut columns: Vec<&str> =
        ["queue", "name", "running", "requests", "kicks", "calls", "errors"].to_vec();
    for key in queues.iter().flat_map(|queue| queue.keys()) {
        if !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    if queues.is_empty() {
        return;
    }
    let mut table = vec![columns.iter().map(ToString::to_string).collect::<Vec<_>>()];
    for queue in queues {
        table.push(columns.iter().map(|column| queue.get(*column).map(plain).unwrap_or_default()).collect());
    }
    let width = |at: usize| table.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for row in &table {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        lines.push(format!("  {}", cells.collect::<Vec<_>>().join("  ")));
    }
}

/// Keys and values.
fn pairs(fields: &Map<String, Value>, without: &[&str]) -> Vec<(String, String)> {
    let shown = fields.iter().filter(|(key, _)| !without.contains(&key.as_str()));
    shown.map(|(key, value)| (key.clone(), plain(value))).collect()
}

fn aligned(pairs: &[(String, String)], indent: &str) -> Vec<String> {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    pairs.iter().map(|(key, value)| format!("{indent}{key:width$}  {value}")).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Null => "-".to_owned(),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| format!("{key} {}", plain(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Number(number) => number.to_string(),
    }
}

/// Control characters are escaped: they are for terminals, not for people.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_is_a_head_the_features_by_name_and_a_table() {
        let shown = show(&json!([
            {
                "name": "blk0", "type": "block", "device_id": 2, "socket": "/run/0.sock", "connected": true,
                "features": "0x100000200",
                "queues": [
                    { "queue": 0, "name": "requestq", "running": true, "requests": 12345, "kicks": 7, "calls": 6, "errors": 0 },
                    { "queue": 11, "name": "requestq", "running": false, "requests": 1, "kicks": 1, "calls": 1, "errors": 0 },
                ],
                "device": { "size": 1024, "limits": { "iops": 5, "reads": null } },
            },
            { "name": "x", "type": "block", "socket": "/run/1.sock", "error": "the device does not answer" },
        ]));
        assert_eq!(
            shown,
            "blk0: block, front end connected, at /run/0.sock\n\
             \x20 features  0x100000200\n\
             \x20           FLUSH VERSION_1\n\
             \x20 limits    iops 5, reads -\n\
             \x20 size      1024\n\
             \x20 queue      name  running  requests  kicks  calls  errors\n\
             \x20     0  requestq      yes     12345      7      6       0\n\
             \x20    11  requestq       no         1      1      1       0\n\
             x: block, at /run/1.sock\n\
             \x20 error  the device does not answer\n"
        );
    }

    #[test]
    fn result_of_a_command_is_its_fields_and_nothing_a_terminal_obeys() {
        assert_eq!(show(&json!({ "size": 5, "before": 4 })), "before  4\nsize    5\n");
        assert_eq!(show(&json!("a\u{1b}[31m\nb")), "a\\u{1b}[31m\\nb\n");
        assert_eq!(show(&Value::Null), "");
        assert_eq!(show(&json!([])), "");
    }
}
