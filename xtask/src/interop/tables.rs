//! Tables for people, made of what the tools said in JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::load::{self, Load};
use super::subject::Subject;
use super::{Results, Tool};

/// The column of the checks that a type of device has for itself.
const OWN: &str = "its type";

/// The column of all checks.
const ALL: &str = "all";

/// The text for the part of `tool`.
pub(super) fn table(tool: Tool, subjects: &[Subject], results: &Results) -> Result<String> {
    if tool == Tool::Bench {
        return bench(subjects, results);
    }
    let mut said = Vec::new();
    for subject in subjects {
        if let Some(value) = results.read(tool, subject, "")? {
            said.push((subject, value));
        }
    }
    if said.is_empty() {
        return Ok("Not run yet.".to_owned());
    }
    let text = if tool == Tool::Probe { probe(&said) } else { check(&said, subjects) };
    text.with_context(|| format!("what `outboard {}` said is not as expected", tool.name()))
}

type Said<'a> = [(&'a Subject, Value)];

/// One row per back end, then who offers which feature.
fn probe(said: &Said<'_>) -> Result<String> {
    let mut text = row(&["back end", "version", "taken for", "queues", "ring", "config", "memory slots"]);
    text += &rule(7);
    for (subject, value) in said {
        let device = match (value.pointer("/device/type"), value.pointer("/device/confidence")) {
            (Some(Value::String(kind)), Some(Value::String(confidence))) => format!("{kind} ({confidence})"),
            _ => "?".to_owned(),
        };
        let longest = value.pointer("/queues/longest").and_then(Value::as_array);
        let longest = longest.into_iter().flatten().filter_map(|queue| queue.get("entries")?.as_u64()).max();
        let config = match (value.pointer("/config/length"), value.pointer("/config/exact")) {
            (Some(length), Some(Value::Bool(true))) => format!("{length} bytes"),
            (Some(length), _) if !length.is_null() => format!("{length} bytes or more"),
            _ => "none".to_owned(),
        };
        text += &row(&[
            subject.name,
            &subject.version,
            &device,
            &number(value.pointer("/queues/count")),
            &longest.map_or_else(|| "?".to_owned(), |entries| format!("up to {entries}")),
            &config,
            &number(value.pointer("/memory_slots")),
        ]);
    }
    for (key, what) in [("features", "virtio feature"), ("protocol_features", "protocol feature")] {
        text.push('\n');
        text += &offered(said, key, what);
    }
    Ok(text)
}

fn number(value: Option<&Value>) -> String {
    value.and_then(Value::as_u64).map_or_else(|| "–".to_owned(), |number| number.to_string())
}

/// Who offers which bit, a row for each back end. Device features (below 24) are left out: they mean
/// something else for each type.
fn offered(said: &Said<'_>, key: &str, what: &str) -> String {
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let mut sets = Vec::new();
    for (_, value) in said {
        let bits = value.get(key).and_then(|bits| bits.get("bits")?.as_array());
        let mut set = Vec::new();
        for bit in bits.into_iter().flatten() {
            let Some(index) = bit.get("bit").and_then(Value::as_u64) else { continue };
            if key == "features" && (index < 24 || (50..64).contains(&index)) {
                continue;
            }
            let name = bit.get("name").and_then(Value::as_str);
            names.insert(index, name.map_or_else(|| format!("bit {index}"), ToOwned::to_owned));
            set.push(index);
        }
        sets.push(set);
    }
    let mut heads = vec![what];
    heads.extend(names.values().map(String::as_str));
    let mut text = row(&heads);
    text += &rule(heads.len());
    for ((subject, _), set) in said.iter().zip(&sets) {
        let mut cells = vec![subject.name];
        cells.extend(names.keys().map(|bit| if set.contains(bit) { "yes" } else { "" }));
        text += &row(&cells);
    }
    text
}

/// Back ends against groups of checks, then what failed with each. The group of a device's own checks is called after its
/// type: all of these are one column.
fn check(said: &Said<'_>, subjects: &[Subject]) -> Result<String> {
    let is_type = |group: &str| subjects.iter().any(|subject| subject.kind == Some(group));
    let mut groups: Vec<&str> = Vec::new();
    let mut rows = Vec::new();
    for (subject, value) in said {
        let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
        for entry in checks(subject, value)? {
            let group = entry.id.split('.').next().unwrap_or_default();
            let group = if is_type(group) { OWN } else { group };
            if !groups.contains(&group) {
                groups.push(group);
            }
            counts.entry(group).or_default().add(entry.verdict);
            counts.entry(ALL).or_default().add(entry.verdict);
        }
        rows.push((subject.name, counts));
    }
    groups.push(ALL);
    let mut text = row_of("back end", &groups);
    text += &rule(1 + groups.len());
    for (name, counts) in rows {
        let cells: Vec<String> =
            groups.iter().map(|group| counts.get(group).copied().unwrap_or_default().shown()).collect();
        text += &row_of(name, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for (subject, value) in said {
        text += &failures(subject, value)?;
    }
    Ok(text)
}

fn failures(subject: &Subject, value: &Value) -> Result<String> {
    let mut text = format!("\n### {} {}\n\n", subject.name, subject.version);
    let entries = checks(subject, value)?;
    let failed: Vec<_> = entries.iter().filter(|entry| entry.verdict == "fail").collect();
    let skipped: Vec<_> = entries.iter().filter(|entry| entry.verdict == "skip").collect();
    if failed.is_empty() {
        text += "Nothing failed.\n";
    } else {
        text += &row(&["check", "what was seen", "specification"]);
        text += &rule(3);
        for entry in failed {
            text += &row(&[&format!("`{}`", entry.id), entry.reason, entry.spec]);
        }
    }
    if !skipped.is_empty() {
        let _ = writeln!(text, "\nSkipped:\n");
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for entry in skipped {
            match reasons.iter_mut().find(|(reason, _)| *reason == entry.reason) {
                Some((_, ids)) => ids.push(entry.id),
                None => reasons.push((entry.reason, vec![entry.id])),
            }
        }
        for (reason, ids) in reasons {
            let ids: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
            let _ = writeln!(text, "- {}: {}", one_line(reason), ids.join(", "));
        }
    }
    Ok(text)
}

/// One row per load: theirs beside ours, where we have the type.
fn bench(subjects: &[Subject], results: &Results) -> Result<String> {
    let heads = [
        "back end",
        "load",
        "requests/s",
        "ours",
        "ratio (spread)",
        "p50 µs",
        "ours",
        "back end's CPU µs per request",
        "ours",
    ];
    let mut text = String::new();
    for subject in subjects {
        for load in load::of(subject.kind.unwrap_or_default()) {
            let Some(value) = results.read(Tool::Bench, subject, &format!(".{}", load.name))? else {
                continue;
            };
            text += &measured(subject, load, &value)?;
        }
    }
    if text.is_empty() {
        return Ok("Not run yet.".to_owned());
    }
    Ok(row(&heads) + &rule(heads.len()) + &text)
}

fn measured(subject: &Subject, load: &Load, value: &Value) -> Result<String> {
    let targets = value.get("targets").and_then(Value::as_array);
    let (theirs, ours) = match targets.map(Vec::as_slice) {
        Some([theirs]) => (theirs, None),
        Some([ours, theirs]) => (theirs, Some(ours)),
        _ => bail!("{}: {}: not one or two back ends were measured", subject.name, load.name),
    };
    let figure = |target: Option<&Value>, name: &str, digits: usize| {
        let figure = target.and_then(|target| target.get("median")?.get(name)?.as_f64());
        figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$}"))
    };
    let ratio =
        |name: &str| value.pointer(&format!("/ratios/0/figures/requests_per_second/{name}"))?.as_f64();
    let ratio = match (ratio("median"), ratio("min"), ratio("max")) {
        (Some(median), Some(min), Some(max)) => format!("{median:.2} ({min:.2} to {max:.2})"),
        _ => "–".to_owned(),
    };
    let theirs = Some(theirs);
    Ok(row(&[
        subject.name,
        load.title,
        &figure(theirs, "requests_per_second", 0),
        &figure(ours, "requests_per_second", 0),
        &ratio,
        &figure(theirs, "latency_p50_us", 1),
        &figure(ours, "latency_p50_us", 1),
        &figure(theirs, "back_end_cpu_us", 2),
        &figure(ours, "back_end_cpu_us", 2),
    ]))
}

/// How many checks came to which verdict.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    pass: u32,
    fail: u32,
    skip: u32,
}

impl Count {
    fn add(&mut self, verdict: &str) {
        *match verdict {
            "pass" => &mut self.pass,
            "fail" => &mut self.fail,
            "skip" => &mut self.skip,
            _ => return,
        } += 1;
    }

    /// Passed of tried, the failed ones, those that could not be tried.
    fn shown(&self) -> String {
        let tried = self.pass + self.fail;
        if tried + self.skip == 0 {
            return "–".to_owned();
        }
        let mut text = format!("{}/{tried}", self.pass);
        if self.fail > 0 {
            text = format!("**{text}**");
        }
        if self.skip > 0 {
            let _ = write!(text, " ({} skipped)", self.skip);
        }
        text
    }
}

/// One check's outcome.
struct Entry<'a> {
    id: &'a str,
    verdict: &'a str,
    reason: &'a str,
    spec: &'a str,
}

fn checks<'a>(subject: &Subject, value: &'a Value) -> Result<Vec<Entry<'a>>> {
    let checks = value.get("checks").and_then(Value::as_array);
    let checks = checks.with_context(|| format!("{}: no checks", subject.name))?;
    checks
        .iter()
        .map(|check| {
            let field = |name| check.get(name).and_then(Value::as_str);
            Ok(Entry {
                id: field("id").context("a check without id")?,
                verdict: field("verdict").context("a check without verdict")?,
                reason: field("reason").unwrap_or_default(),
                spec: field("spec").unwrap_or_default(),
            })
        })
        .collect()
}

fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| one_line(cell)).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn row_of(first: &str, rest: &[&str]) -> String {
    let cells: Vec<&str> = std::iter::once(first).chain(rest.iter().copied()).collect();
    row(&cells)
}

fn rule(columns: usize) -> String {
    format!("|{}\n", "---|".repeat(columns))
}

/// Text that stays within a cell.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}
