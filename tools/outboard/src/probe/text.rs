//! The findings as text for people.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use super::decode::size;
use super::findings::{Bits, Confidence, Config, Device, Findings, FrontEnd, Queues, Value, Verdict};

/// Where the second column begins, and where lines end.
const INDENT: usize = 17;
const WIDTH: usize = 100;

/// Prints all of it.
pub(super) fn print(findings: &Findings) {
    println!("{}", printable(&findings.target));
    if let Some(program) = &findings.program {
        let file = program.executable.as_deref().unwrap_or("which the kernel does not name");
        line("program", &format!("{file}, pid {}", program.pid));
        if program.command.len() > 1 {
            wrapped("", program.command.iter().map(String::as_str));
        }
    }
    if let Some(device) = &findings.device {
        print_device(device);
    }
    print_bits("features", findings.features.as_ref());
    print_bits("protocol", findings.protocol_features.as_ref());
    if findings.features.is_some() && findings.protocol_features.is_none() && findings.error.is_none() {
        line("protocol", "no protocol features");
    }
    print_queues(&findings.queues);
    if let Some(slots) = findings.memory_slots {
        line("memory", &format!("{slots} regions at once"));
    }
    if let Some(config) = &findings.config {
        print_config(config);
    }
    if let Some(regions) = &findings.shared_memory {
        let regions: Vec<String> =
            regions.iter().map(|region| format!("region {}: {}", region.id, size(region.bytes))).collect();
        line(
            "shared memory",
            if regions.is_empty() { "none".to_owned() } else { regions.join(", ") }.as_str(),
        );
    }
    if let Some(buffer) = &findings.inflight {
        let rings = if buffer.queues == 1 { "ring" } else { "rings" };
        let of = format!("for {} {rings} of {}", buffer.queues, buffer.queue_size);
        let text = if buffer.bytes == 0 { "no buffer".to_owned() } else { size(buffer.bytes) };
        line("in flight", &format!("{text} {of}"));
    }
    if let Some(taken) = findings.back_channel {
        line("back channel", if taken { "accepted" } else { "refused" });
    }
    if let Some(status) = findings.status {
        line("status", &format!("{status:#x}"));
    }
    print_front_ends(&findings.front_ends);
    for note in &findings.notes {
        wrapped("note", note.split(' '));
    }
    if let Some(error) = &findings.error {
        wrapped("ERROR", error.split(' '));
    }
}

fn print_device(device: &Device) {
    let sure = match device.confidence {
        Confidence::Asked => "as you say",
        Confidence::Likely => "a likely guess",
        Confidence::Possible => "possible, a guess",
        Confidence::Unknown => "hardly more than a guess",
    };
    let article = format!("{} (id {}): {sure}", device.kind, device.id);
    line("device", &article);
    for (label, reasons) in [("for it", &device.pro), ("against it", &device.contra)] {
        if !reasons.is_empty() {
            wrapped("", format!("{label}: {}", reasons.join("; ")).split(' '));
        }
    }
    if !device.alternatives.is_empty() {
        wrapped("", format!("or: {}", device.alternatives.join(", ")).split(' '));
    }
}

fn print_bits(label: &str, bits: Option<&Bits>) {
    let Some(set) = bits else { return };
    line(label, &set.value);
    let names = set.bits.iter().map(|bit| bit.name.map_or_else(|| format!("bit {}", bit.bit), str::to_owned));
    let names: Vec<String> = names.collect();
    wrapped("", names.iter().map(String::as_str));
}

fn print_queues(queues: &Queues) {
    match (queues.count, queues.known) {
        (Some(count), Some("tried")) => line("queues", &format!("{count}, found by trial")),
        (Some(count), _) => line("queues", &count.to_string()),
        (None, _) => {}
    }
    let mut runs: Vec<(u32, u32, u32)> = Vec::new();
    for longest in &queues.longest {
        match runs.last_mut() {
            Some((_, last, entries)) if *entries == longest.entries => *last = longest.queue,
            _ => runs.push((longest.queue, longest.queue, longest.entries)),
        }
    }
    for (first, last, entries) in runs {
        let which =
            if first == last { format!("queue {first}") } else { format!("queues {first} to {last}") };
        line("", &format!("{which}: rings of up to {entries}"));
    }
}

fn print_config(config: &Config) {
    let text = match (config.exact, config.bytes.len()) {
        (true, len) => format!("{len} bytes; more is refused"),
        (false, 0) => "nothing but zeroes".to_owned(),
        (false, len) => format!("{len} bytes or more; zeroes follow"),
    };
    line("configuration", &text);
    for value in config.fields.iter().filter(|value| value.counts) {
        line("", &format!("{:<32} {}", value.name, in_words(value)));
    }
    // Nothing is said by zeroes in fields that do not count.
    let left = config.fields.iter().filter(|value| !value.counts && !is_nothing(value));
    let left: Vec<_> = left.map(|value| format!("{} {}", value.name, in_words(value))).collect();
    if !left.is_empty() {
        wrapped("", format!("filled in without their features: {}", left.join("; ")).split(' '));
    }
    if config.fields.is_empty() {
        for (row, bytes) in config.bytes.chunks(16).enumerate() {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text: String = bytes
                .iter()
                .map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' })
                .collect();
            line("", &format!("{:04x}  {:<47}  {text}", row * 16, hex.join(" ")));
        }
    }
}

/// `131072 sectors (64 MiB)`
fn in_words(value: &Value) -> String {
    let mut text = match &value.value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if !value.unit.is_empty() {
        text = format!("{text} {}", value.unit);
    }
    match &value.words {
        Some(words) => format!("{text} ({words})"),
        None => text,
    }
}

fn is_nothing(value: &Value) -> bool {
    match &value.value {
        serde_json::Value::String(text) => text.is_empty() || text.trim_matches(['0', 'x', ':']).is_empty(),
        other => other == 0,
    }
}

fn print_front_ends(front_ends: &[FrontEnd]) {
    if front_ends.is_empty() {
        return;
    }
    line("front ends", "derived from what they demand, not tried:");
    for one in front_ends.iter().filter(|one| one.verdict != Verdict::NoDevice) {
        let verdict = match one.verdict {
            Verdict::Works => "would work",
            Verdict::Limited => "would work:",
            Verdict::Refuses => "would refuse:",
            Verdict::NoDevice => "",
        };
        let text = format!("{:<17} {verdict} {}", one.name, one.reasons.join("; "));
        line("", text.trim_end());
    }
    let none: Vec<_> =
        front_ends.iter().filter(|one| one.verdict == Verdict::NoDevice).map(|one| one.name).collect();
    if !none.is_empty() {
        line("", &format!("no such device    {}", none.join(", ")));
    }
}

fn line(label: &str, text: &str) {
    println!("  {label:<width$}{}", printable(text).trim_end(), width = INDENT - 2);
}

/// Words over as many lines as they take.
fn wrapped<'a>(label: &str, words: impl Iterator<Item = &'a str>) {
    let mut label = label;
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && INDENT + text.len() + 1 + word.len() > WIDTH {
            line(label, &text);
            (label, text) = ("", String::new());
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(word);
    }
    if !text.is_empty() {
        line(label, &text);
    }
}

/// What a peer chose must not reach the terminal as it is.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
