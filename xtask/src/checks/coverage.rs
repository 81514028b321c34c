//! `cargo xtask coverage`: every message, header flag and protocol feature that
//! `outboard-vhost-user` names has a row in `docs/protocol-coverage.md`, and
//! every file and test that a row names is there.
//!
//! A row's first cell is the name; what is to be checked stands in backquotes:
//! a file (`crates/x/src/y.rs`, `fuzz/seeds/session/z`), or a test in one
//! (`crates/x/tests/y.rs::test_name`). A message's row names a test that ends in
//! `_decodes` or the like, one about a refusal, and a fuzz seed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{rust_files, verdict};
use crate::workspace::Workspace;

const PAGE: &str = "docs/protocol-coverage.md";

/// A group of names, and the heading under which the page has their rows.
struct Group {
    heading: &'static str,
    names: Vec<String>,
    /// Whether a row needs decode test, refusal test and seed; else one test.
    messages: bool,
}

/// Compares source and page.
pub(crate) fn coverage(workspace: &Workspace) -> Result<()> {
    let groups = groups(&workspace.root)?;
    let page = std::fs::read_to_string(workspace.root.join(PAGE)).context(PAGE)?;
    let rows = rows(&page);
    let mut faults = Vec::new();
    let mut checked = 0;
    for group in &groups {
        ensure!(!group.names.is_empty(), "no names found in the source for {}", group.heading);
        for name in &group.names {
            checked += 1;
            match rows.get(&(group.heading.to_owned(), name.clone())) {
                None => faults.push(format!("{PAGE}: no row for {name} under {}", group.heading)),
                Some(row) => faults.extend(missing_parts(row, group.messages, name)),
            }
        }
    }
    for ((heading, name), row) in &rows {
        if let Some(group) = groups.iter().find(|group| group.heading == heading)
            && !group.names.contains(name)
        {
            faults.push(format!("{PAGE}: {name} under {heading} is not in the source"));
        }
        for reference in references(row) {
            if let Err(reason) = look_up(&workspace.root, reference) {
                faults.push(format!("{PAGE}: {name}: {reason}"));
            }
        }
    }
    verdict(&format!("{checked} messages, flags and features have rows, and what these name exists"), &faults)
}

/// The names in the source.
fn groups(root: &Path) -> Result<Vec<Group>> {
    let mut text = String::new();
    for file in rust_files(&root.join("crates/vhost-user/src"))? {
        text.push_str(&std::fs::read_to_string(file)?);
    }
    Ok(vec![
        Group {
            heading: "Front-end messages",
            names: assigned(block(&text, "    FrontendRequest {")),
            messages: true,
        },
        Group {
            heading: "Back-end messages",
            names: assigned(block(&text, "    BackendRequest {")),
            messages: true,
        },
        Group {
            heading: "Header flags",
            names: constants(block(&text, "pub mod flags {"), &["_MASK", "OF_REPLY"]),
            messages: false,
        },
        Group { heading: "Protocol features", names: assigned(block(&text, "bits! {")), messages: false },
    ])
}

/// The lines from after `opening` to the brace that closes at its indentation.
fn block<'a>(text: &'a str, opening: &'a str) -> impl Iterator<Item = &'a str> {
    let closing = format!("{}}}", " ".repeat(opening.len() - opening.trim_start().len()));
    text.lines().skip_while(move |line| *line != opening).skip(1).take_while(move |line| **line != closing)
}

/// The names in lines such as `NAME = 1;`.
fn assigned<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    lines
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "))
        .filter(|(_, value)| value.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// The names of constants, without those that end in one of `except`.
fn constants<'a>(lines: impl Iterator<Item = &'a str>, except: &[&str]) -> Vec<String> {
    lines
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !except.iter().any(|end| name.ends_with(end)))
        .collect()
}

/// The page's table rows by heading and first cell.
fn rows(page: &str) -> BTreeMap<(String, String), &str> {
    let mut heading = String::new();
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.trim().clone_into(&mut heading);
        } else if let Some(row) = line.strip_prefix('|') {
            let name = row.split('|').next().unwrap_or_default().trim().trim_matches('`');
            if !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            {
                rows.insert((heading.clone(), name.to_owned()), row);
            }
        }
    }
    rows
}

/// What stands in backquotes and is a path.
fn references(row: &str) -> impl Iterator<Item = &str> {
    row.split('`').skip(1).step_by(2).filter(|span| span.contains('/'))
}

fn missing_parts(row: &str, message: bool, name: &str) -> Vec<String> {
    let tests: Vec<&str> = references(row).filter_map(|span| Some(span.split_once("::")?.1)).collect();
    let mut wanted = Vec::new();
    if message {
        let lower = name.to_lowercase();
        wanted.push((
            "decode test",
            tests.iter().any(|test| test.starts_with(&lower) && test.contains("decode")),
        ));
        wanted.push((
            "refusal test",
            tests.iter().any(|test| test.starts_with(&lower) && test.contains("refused")),
        ));
        let seed = |span: &str| span.starts_with("fuzz/seeds/") && span.ends_with(&lower);
        wanted.push(("fuzz seed", references(row).any(seed)));
    } else {
        wanted.push(("test", !tests.is_empty()));
    }
    wanted
        .into_iter()
        .filter(|(_, found)| !found)
        .map(|(part, _)| format!("{PAGE}: the row of {name} names no {part}"))
        .collect()
}

/// An error if a file, or a test in it, is not there.
fn look_up(root: &Path, reference: &str) -> Result<(), String> {
    let (path, test) = match reference.split_once("::") {
        Some((path, test)) => (path, Some(test)),
        None => (reference, None),
    };
    let file = root.join(path);
    if !file.exists() {
        return Err(format!("there is no {path}"));
    }
    let Some(test) = test else { return Ok(()) };
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{path}: {error}"))?;
    if text.contains(&format!("fn {test}(")) {
        Ok(())
    } else {
        Err(format!("there is no test {test} in {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_block_are_those_assigned() {
        let text = "codes! {\n    /// x\n    FrontendRequest {\n        /// y = 2;\n        A_B = 1;\n        C = 2;\n    }\n    D = 3;\n}\n";
        assert_eq!(assigned(block(text, "    FrontendRequest {")), ["A_B", "C"]);
    }

    #[test]
    fn rows_are_found_by_heading_and_name() {
        let page = "## One\n\n| name | test |\n|---|---|\n| `A_B` | `x/y.rs::t` |\n## Two\n| A_B | - |\n";
        let rows = rows(page);
        assert_eq!(rows.len(), 2);
        let row = rows[&("One".to_owned(), "A_B".to_owned())];
        assert_eq!(references(row).collect::<Vec<_>>(), ["x/y.rs::t"]);
    }

    #[test]
    fn row_of_a_message_without_seed_is_incomplete() {
        let row = " GET_X | `a/b.rs::get_x_decodes` | `a/b.rs::get_x_without_y_is_refused` |";
        assert_eq!(missing_parts(row, true, "GET_X").len(), 1);
        let row = format!("{row} `fuzz/seeds/session/get_x` |");
        assert!(missing_parts(&row, true, "GET_X").is_empty());
    }
}
