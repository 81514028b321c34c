//! The findings as text for people.

use super::decode::size;
use super::findings::{
    Bits, Confidence, Config, Device, Findings, FrontEnd, Migration, Queues, Value, Verdict,
};

/// Where the second column begins, and where lines end.
const INDENT: usize = 17;
const WIDTH: usize = 100;

/// All of it.
pub(super) fn show(findings: &Findings) -> String {
    let mut page = Page(printable(&findings.target) + "\n");
    let page = &mut page;
    if let Some(program) = &findings.program {
        let file = program.executable.as_deref().unwrap_or("which the kernel does not name");
        page.line("program", &format!("{file}, pid {}", program.pid));
        if program.command.len() > 1 {
            page.wrapped("", program.command.iter().map(String::as_str));
        }
    }
    if let Some(device) = &findings.device {
        add_device(page, device);
    }
    add_bits(page, "features", findings.features.as_ref());
    add_bits(page, "protocol", findings.protocol_features.as_ref());
    if findings.features.is_some() && findings.protocol_features.is_none() && findings.error.is_none() {
        page.line("protocol", "no protocol features");
    }
    add_queues(page, &findings.queues);
    if let Some(slots) = findings.memory_slots {
        page.line("memory", &format!("{slots} regions at once"));
    }
    if let Some(config) = &findings.config {
        add_config(page, config);
    }
    if let Some(regions) = &findings.shared_memory {
        let regions: Vec<String> =
            regions.iter().map(|region| format!("region {}: {}", region.id, size(region.bytes))).collect();
        page.line(
            "shared memory",
            if regions.is_empty() { "none".to_owned() } else { regions.join(", ") }.as_str(),
        );
    }
    if let Some(buffer) = &findings.inflight {
        let rings = if buffer.queues == 1 { "ring" } else { "rings" };
        let of = format!("for {} {rings} of {}", buffer.queues, buffer.queue_size);
        let text = if buffer.bytes == 0 { "no buffer".to_owned() } else { size(buffer.bytes) };
        page.line("in flight", &format!("{text} {of}"));
    }
    if let Some(taken) = findings.back_channel {
        page.line("back channel", if taken { "accepted" } else { "refused" });
    }
    if let Some(status) = findings.status {
        page.line("status", &format!("{status:#x}"));
    }
    if let Some(migration) = &findings.migration {
        page.line("migration", &migration_in_words(migration));
    }
    add_front_ends(page, &findings.front_ends);
    for note in &findings.notes {
        page.wrapped("note", note.split(' '));
    }
    if let Some(error) = &findings.error {
        page.wrapped("ERROR", error.split(' '));
    }
    std::mem::take(&mut page.0)
}

fn add_device(page: &mut Page, device: &Device) {
    let sure = match device.confidence {
        Confidence::Asked => "as you say",
        Confidence::Likely => "a likely guess",
        Confidence::Possible => "possible, a guess",
        Confidence::Unknown => "hardly more than a guess",
    };
    let article = format!("{} (id {}): {sure}", device.kind, device.id);
    page.line("device", &article);
    for (label, reasons) in [("for it", &device.pro), ("against it", &device.contra)] {
        if !reasons.is_empty() {
            page.wrapped("", format!("{label}: {}", reasons.join("; ")).split(' '));
        }
    }
    if !device.alternatives.is_empty() {
        page.wrapped("", format!("or: {}", device.alternatives.join(", ")).split(' '));
    }
}

fn add_bits(page: &mut Page, label: &str, bits: Option<&Bits>) {
    let Some(set) = bits else { return };
    page.line(label, &set.value);
    let names = set.bits.iter().map(|bit| bit.name.map_or_else(|| format!("bit {}", bit.bit), str::to_owned));
    let names: Vec<String> = names.collect();
    page.wrapped("", names.iter().map(String::as_str));
}

fn add_queues(page: &mut Page, queues: &Queues) {
    match (queues.count, queues.known) {
        (Some(count), Some("tried")) => page.line("queues", &format!("{count}, found by trial")),
        (Some(count), _) => page.line("queues", &count.to_string()),
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
        page.line("", &format!("{which}: rings of up to {entries}"));
    }
}

fn add_config(page: &mut Page, config: &Config) {
    let text = match (config.exact, config.bytes.len()) {
        (true, len) => format!("{len} bytes; more is refused"),
        (false, 0) => "nothing but zeroes".to_owned(),
        (false, len) => format!("{len} bytes or more; zeroes follow"),
    };
    page.line("configuration", &text);
    for value in config.fields.iter().filter(|value| value.counts) {
        page.line("", &format!("{:<32} {}", value.name, in_words(value)));
    }
    // Nothing is said by zeroes in fields that do not count.
    let left = config.fields.iter().filter(|value| !value.counts && !is_nothing(value));
    let left: Vec<_> = left.map(|value| format!("{} {}", value.name, in_words(value))).collect();
    if !left.is_empty() {
        page.wrapped("", format!("filled in without their features: {}", left.join("; ")).split(' '));
    }
    if config.fields.is_empty() {
        for (row, bytes) in config.bytes.chunks(16).enumerate() {
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let text: String = bytes
                .iter()
                .map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' })
                .collect();
            page.line("", &format!("{:04x}  {:<47}  {text}", row * 16, hex.join(" ")));
        }
    }
}

fn migration_in_words(migration: &Migration) -> String {
    let parts = [
        (migration.dirty_log, "dirty log"),
        (migration.inflight, "requests in flight"),
        (migration.device_state, "device state"),
        (migration.postcopy, "postcopy"),
    ];
    let named = |has| {
        let names: Vec<_> = parts.iter().filter(|part| part.0 == has).map(|part| part.1).collect();
        names.join(if has { ", " } else { ", no " })
    };
    match (named(true), named(false)) {
        (with, without) if with.is_empty() => format!("no {without}"),
        (with, without) if without.is_empty() => with,
        (with, without) => format!("{with}; no {without}"),
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

fn add_front_ends(page: &mut Page, front_ends: &[FrontEnd]) {
    if front_ends.is_empty() {
        return;
    }
    page.line("front ends", "derived from what they demand, not tried:");
    for one in front_ends.iter().filter(|one| one.verdict != Verdict::NoDevice) {
        let verdict = match one.verdict {
            Verdict::Works => "would work",
            Verdict::Limited => "would work:",
            Verdict::Refuses => "would refuse:",
            Verdict::NoDevice => "",
        };
        let text = format!("{:<17} {verdict} {}", one.name, one.reasons.join("; "));
        page.line("", text.trim_end());
    }
    let none: Vec<_> =
        front_ends.iter().filter(|one| one.verdict == Verdict::NoDevice).map(|one| one.name).collect();
    if !none.is_empty() {
        page.line("", &format!("no such device    {}", none.join(", ")));
    }
}

/// Text in two columns.
struct Page(String);

impl Page {
    fn line(&mut self, label: &str, text: &str) {
        let line = format!("  {label:<width$}{}", printable(text), width = INDENT - 2);
        self.0.push_str(line.trim_end());
        self.0.push('\n');
    }

    /// Words over as many lines as they take.
    fn wrapped<'a>(&mut self, label: &str, words: impl Iterator<Item = &'a str>) {
        let mut label = label;
        let mut text = String::new();
        for word in words {
            if !text.is_empty() && INDENT + text.len() + 1 + word.len() > WIDTH {
                self.line(label, &text);
                (label, text) = ("", String::new());
            }
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        if !text.is_empty() {
            self.line(label, &text);
        }
    }
}

/// What a peer chose must not reach the terminal as it is.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
