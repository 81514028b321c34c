//! What came of the checks, for people, for programs, and for CI servers.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal;

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use super::catalogue::Check;
use super::runner::Outcome;
use super::verdict::Verdict;

/// One check in JSON.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    id: &'a str,
    title: &'a str,
    spec: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<u128>,
}

impl<'a> Entry<'a> {
    fn of_check(check: &Check) -> Self {
        let Check { id, title, spec, .. } = *check;
        Self { id, title, spec, verdict: None, reason: None, notes: &[], milliseconds: None }
    }

    fn of_outcome(outcome: &'a Outcome) -> Self {
        Self {
            verdict: Some(outcome.verdict.name()),
            reason: outcome.verdict.reason(),
            notes: &outcome.notes,
            milliseconds: Some(outcome.took.as_millis()),
            ..Self::of_check(outcome.check)
        }
    }
}

/// Prints the list of checks.
pub(crate) fn list(checks: &[&'static Check], json: bool) -> Result<()> {
    if json {
        let entries: Vec<Entry<'_>> = checks.iter().map(|check| Entry::of_check(check)).collect();
        println!("{}", serde_json::to_string_pretty(&entries)?);
        return Ok(());
    }
    for Check { id, title, spec, .. } in checks {
        println!("{id:<36} {title} [{spec}]");
    }
    Ok(())
}

/// Prints one outcome as it comes.
pub(crate) fn line(outcome: &Outcome, verbose: bool) {
    let (verdict, id) = (&outcome.verdict, outcome.check.id);
    let quiet = matches!(verdict, Verdict::NotApplicable(_) | Verdict::Skip(_));
    let word = coloured(verdict);
    match verdict.reason() {
        None => println!("{word} {id}: {}", outcome.check.title),
        Some(reason) if quiet => println!("{word} {id}: {reason}"),
        Some(reason) => {
            println!("{word} {id}: {}", outcome.check.title);
            println!("       {reason}");
            println!("       [{}]", outcome.check.spec);
        }
    }
    for note in outcome.notes.iter().filter(|_| verbose) {
        println!("       note: {note}");
    }
}

fn coloured(verdict: &Verdict) -> String {
    let (word, colour) = match verdict {
        Verdict::Pass => ("PASS", 32),
        Verdict::Fail(_) => ("FAIL", 31),
        Verdict::Skip(_) => ("SKIP", 33),
        Verdict::NotApplicable(_) => ("N/A ", 90),
    };
    if std::io::stdout().is_terminal() { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() }
}

/// How many checks came to which verdict.
pub(crate) fn totals(outcomes: &[Outcome]) -> BTreeMap<&'static str, usize> {
    let mut totals = BTreeMap::from([("pass", 0), ("fail", 0), ("skip", 0), ("n/a", 0)]);
    for outcome in outcomes {
        *totals.entry(outcome.verdict.name()).or_default() += 1;
    }
    totals
}

/// Prints how many checks came to which verdict.
pub(crate) fn summary(outcomes: &[Outcome]) {
    let totals = totals(outcomes);
    let count = |name| totals.get(name).copied().unwrap_or(0);
    println!(
        "{} checks: {} passed, {} failed, {} skipped, {} not applicable",
        outcomes.len(),
        count("pass"),
        count("fail"),
        count("skip"),
        count("n/a")
    );
}

/// Prints everything as one JSON object.
pub(crate) fn json(target: &str, device: &str, outcomes: &[Outcome]) -> Result<()> {
    let checks: Vec<Entry<'_>> = outcomes.iter().map(Entry::of_outcome).collect();
    let report = serde_json::json!({
        "target": target,
        "device": device,
        "checks": checks,
        "totals": totals(outcomes),
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// Writes a JUnit report.
pub(crate) fn junit(file: File, target: &str, outcomes: &[Outcome]) -> Result<()> {
    let mut report = Report::new("outboard check");
    let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
    for outcome in outcomes {
        let suite = suites.entry(outcome.check.group()).or_insert_with_key(|group| TestSuite::new(*group));
        let status = match &outcome.verdict {
            Verdict::Pass => TestCaseStatus::success(),
            Verdict::Fail(what) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status
                    .set_message(what.as_str())
                    .set_description(format!("{}\n{}\n[{}]", outcome.check.title, what, outcome.check.spec));
                status
            }
            Verdict::Skip(why) | Verdict::NotApplicable(why) => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(why.as_str());
                status
            }
        };
        let mut case = TestCase::new(outcome.check.id, status);
        case.set_classname(target).set_time(outcome.took);
        suite.add_test_case(case);
    }
    report.add_test_suites(suites.into_values());
    report.serialize(file).context("cannot write the JUnit report")
}
