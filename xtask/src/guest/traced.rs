//! What `outboard trace` must have shown of a machine's whole life with a disk: start, use, and end.

use anyhow::{Result, bail, ensure};
use serde_json::Value;

/// What QEMU says to a disk between its start and its end, whatever its version.
const SAID: [&str; 16] = [
    "GET_FEATURES",
    "GET_PROTOCOL_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "GET_QUEUE_NUM",
    "SET_OWNER",
    "GET_CONFIG",
    "SET_FEATURES",
    "GET_INFLIGHT_FD",
    "SET_INFLIGHT_FD",
    "SET_VRING_NUM",
    "SET_VRING_BASE",
    "SET_VRING_ADDR",
    "SET_VRING_KICK",
    "SET_VRING_CALL",
    "SET_VRING_ENABLE",
    "GET_VRING_BASE",
];

/// An error if something is missing, or if something was shown that should not have been said.
pub(super) fn whole_dialogue(lines: &[Value], packed: bool) -> Result<()> {
    for name in SAID {
        ensure!(requests(lines, name).next().is_some(), "the trace has no {name}");
    }
    // Either of the two ways.
    let memory = requests(lines, "SET_MEM_TABLE").chain(requests(lines, "ADD_MEM_REG"));
    let memory: Vec<&Value> = memory.filter_map(|line| line.pointer("/fds/0/name")).collect();
    ensure!(
        memory.iter().any(|name| **name == "memfd:memory-backend-memfd"),
        "the guest's memory is not in {memory:?}"
    );
    let names = |line: &Value| line.pointer("/fields/features/names").cloned().unwrap_or_default();
    let agreed: Vec<Value> = requests(lines, "SET_FEATURES").map(names).collect();
    let has =
        |name: &str| agreed.iter().filter_map(Value::as_array).any(|names| names.contains(&name.into()));
    ensure!(has("VERSION_1") && has("FLUSH") && has("RING_PACKED") == packed, "agreed on {agreed:?}");
    ensure!(
        requests(lines, "SET_VRING_ADDR").all(|line| line.pointer("/fields/descriptors").is_some()),
        "an address was not decoded"
    );
    for line in lines {
        let get = |key| line.get(key).cloned().unwrap_or_default();
        if get("kind") == "reply" {
            ensure!(get("answers").is_u64() && get("latency").is_number(), "not matched: {line}");
        }
        ensure!(get("warnings").as_array().is_none_or(Vec::is_empty), "warned: {line}");
        ensure!(get("type") != "note", "{line}");
        if get("type") == "closed" {
            ensure!(get("by") == "front-end" && get("unanswered") == Value::Array(Vec::new()), "{line}");
        }
    }
    match lines.iter().filter(|line| line.get("type").is_some_and(|kind| kind == "closed")).count() {
        1 => Ok(()),
        count => bail!("{count} connections were closed, not 1"),
    }
}

fn requests<'a>(lines: &'a [Value], name: &str) -> impl Iterator<Item = &'a Value> {
    let is = |line: &Value, key: &str, value: &str| line.get(key).is_some_and(|found| found == value);
    lines.iter().filter(move |line| is(line, "kind", "request") && is(line, "name", name))
}
