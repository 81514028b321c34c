//! `cargo xtask coverage`: every message, header flag and protocol feature that
//! `outboard-vhost-user` names has a row in `docs/protocol-coverage.md` with its
//! number, and every file, test and fuzz seed that a row names is there.
//!
//! The page's tables are read by the titles of their columns; a cell that names
//! tests may name the file first (`answers.rs: some_test`), else the file is the
//! one in the section's line that starts with `Tests:`.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{rust_files, verdict};
use crate::workspace::Workspace;

const PAGE: &str = "docs/protocol-coverage.md";
const CRATE: &str = "crates/vhost-user";

/// A group of names in the source, and the heading that has their rows.
struct Group {
    heading: &'static str,
    /// Names with their numbers, where those are the page's first column.
    names: Vec<(String, Option<String>)>,
}

/// One row of the page.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    heading: String,
    /// The section's file of tests.
    tests: Option<String>,
    /// Title of the column, and cell.
    cells: Vec<(String, String)>,
}

impl Row {
    fn cell(&self, title: &str) -> Option<&str> {
        self.cells.iter().find(|(of, _)| of == title).map(|(_, cell)| cell.as_str())
    }

    fn name(&self) -> &str {
        self.cell("name").unwrap_or_default()
    }
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
        for (name, number) in &group.names {
            checked += 1;
            let row = rows.iter().find(|row| row.heading == group.heading && row.name() == name);
            match (row, number) {
                (None, _) => faults.push(format!("no row for {name} under {}", group.heading)),
                (Some(row), Some(number)) if row.cells.first().is_none_or(|(_, cell)| cell != number) => {
                    faults.push(format!("{name} has the number {number}"));
                }
                _ => {}
            }
        }
    }
    for row in &rows {
        if let Some(group) = groups.iter().find(|group| group.heading == row.heading)
            && is_constant(row.name())
            && !group.names.iter().any(|(name, _)| name == row.name())
        {
            faults.push(format!("{} under {} is not in the source", row.name(), row.heading));
        }
        faults.extend(
            faults_of(&workspace.root, row).into_iter().map(|fault| format!("{}: {fault}", row.name())),
        );
    }
    let faults: Vec<String> = faults.into_iter().map(|fault| format!("{PAGE}: {fault}")).collect();
    verdict(&format!("{checked} messages, flags and features have rows, and what these name exists"), &faults)
}

/// The names in the source.
fn groups(root: &Path) -> Result<Vec<Group>> {
    let mut text = String::new();
    for file in rust_files(&root.join(CRATE).join("src"))? {
        text.push_str(&std::fs::read_to_string(file)?);
    }
    Ok(vec![
        Group { heading: "Front-end messages", names: assigned(block(&text, "    FrontendRequest {")) },
        Group { heading: "Back-end messages", names: assigned(block(&text, "    BackendRequest {")) },
        Group {
            heading: "Header flags",
            names: constants(block(&text, "pub mod flags {"), &["_MASK", "OF_REPLY"]),
        },
        Group { heading: "Protocol features", names: assigned(block(&text, "bits! {")) },
    ])
}

/// The lines from after `opening` to the brace that closes at its indentation.
fn block<'a>(text: &'a str, opening: &'a str) -> impl Iterator<Item = &'a str> {
    let closing = format!("{}}}", " ".repeat(opening.len() - opening.trim_start().len()));
    text.lines().skip_while(move |line| *line != opening).skip(1).take_while(move |line| **line != closing)
}

/// Names and numbers in lines such as `NAME = 1;`.
fn assigned<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, Option<String>)> {
    lines
        .filter_map(|line| line.trim().strip_suffix(';')?.split_once(" = "))
        .filter(|(name, value)| is_constant(name) && value.bytes().all(|byte| byte.is_ascii_digit()))
        .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
        .collect()
}

/// The names of constants, without those that end in one of `except`.
fn constants<'a>(lines: impl Iterator<Item = &'a str>, except: &[&str]) -> Vec<(String, Option<String>)> {
    lines
        .filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(':'))
        .map(|(name, _)| (name.to_owned(), None))
        .filter(|(name, _)| !except.iter().any(|end| name.ends_with(end)))
        .collect()
}

fn is_constant(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// All rows of tables that have a column `name`.
fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut heading = String::new();
    let mut tests = None;
    let mut titles: Vec<String> = Vec::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.trim().clone_into(&mut heading);
            tests = None;
        } else if let Some(rest) = line.strip_prefix("Tests: `") {
            tests = rest.split('`').next().map(str::to_owned);
        }
        let Some(inner) = line.strip_prefix('|') else {
            titles.clear();
            continue;
        };
        let cells: Vec<String> =
            inner.trim_end().trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        if titles.is_empty() {
            titles = cells;
        } else if titles.iter().any(|title| title == "name") && !inner.starts_with('-') {
            let cells = titles.iter().cloned().zip(cells).collect();
            rows.push(Row { heading: heading.clone(), tests: tests.clone(), cells });
        }
    }
    rows
}

/// What a row names that is not there, or does not name though it should.
fn faults_of(root: &Path, row: &Row) -> Vec<String> {
    let mut faults = Vec::new();
    for (title, cell) in &row.cells {
        let found = match title.as_str() {
            "decode/encode" | "read and written" => files(root, &format!("{CRATE}/src"), cell),
            "fuzz seed" => files(root, "fuzz/seeds", cell),
            "test" => tests(root, row, cell, ""),
            "decode test" => tests(root, row, cell, "decode"),
            "refusal test" => tests(root, row, cell, "refused"),
            _ => Ok(()),
        };
        if let Err(reason) = found {
            faults.push(format!("{title}: {reason}"));
        }
    }
    faults
}

/// An error unless the cell names files, separated by commas, and all exist.
fn files(root: &Path, below: &str, cell: &str) -> Result<(), String> {
    for name in cell.split(',').map(str::trim) {
        if name.is_empty() || !root.join(below).join(name).is_file() {
            return Err(format!("there is no file {below}/{name}"));
        }
    }
    Ok(())
}

/// An error unless the cell names tests that exist and are about `about`.
fn tests(root: &Path, row: &Row, cell: &str, about: &str) -> Result<(), String> {
    for entry in cell.split(',').map(str::trim) {
        let (file, test) = match entry.split_once(": ") {
            Some((file, test)) => (file, test),
            None => (row.tests.as_deref().unwrap_or_default(), entry),
        };
        let path = match file.strip_prefix("src/") {
            Some(_) => format!("{CRATE}/{file}"),
            None => format!("{CRATE}/tests/{file}"),
        };
        let text = std::fs::read_to_string(root.join(&path)).map_err(|error| format!("{path}: {error}"))?;
        if test.is_empty() || !text.contains(&format!("fn {test}(")) {
            return Err(format!("there is no test {test} in {path}"));
        }
        if !test.contains(about) {
            return Err(format!("{test} does not say {about}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_block_are_those_assigned() {
        let text = "codes! {\n    /// x\n    FrontendRequest {\n        /// y = 2;\n        A_B = 1;\n        C = 2;\n    }\n    D = 3;\n}\n";
        let names = assigned(block(text, "    FrontendRequest {"));
        assert_eq!(names, [("A_B".to_owned(), Some("1".to_owned())), ("C".to_owned(), Some("2".to_owned()))]);
    }

    #[test]
    fn rows_are_read_by_heading_and_title() {
        let page = "## One\nTests: `t.rs`.\n\n| id | name |\n|---:|---|\n| 1 | A_B |\n\n| x | y |\n|---|---|\n| 2 | 3 |\n";
        let rows = rows(page);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].heading.as_str(), rows[0].name()), ("One", "A_B"));
        assert_eq!(rows[0].tests.as_deref(), Some("t.rs"));
        assert_eq!(rows[0].cell("id"), Some("1"));
    }

    #[test]
    fn row_that_names_what_is_not_there_is_at_fault() {
        let cell = |title: &str, text: &str| (title.to_owned(), text.to_owned());
        let directory = tempfile::tempdir().unwrap();
        let tests = directory.path().join(CRATE).join("tests");
        std::fs::create_dir_all(&tests).unwrap();
        std::fs::write(tests.join("t.rs"), "fn a_decodes() {}\n").unwrap();
        let row = |cells| Row { heading: String::new(), tests: Some("t.rs".to_owned()), cells };
        assert!(faults_of(directory.path(), &row(vec![cell("decode test", "a_decodes")])).is_empty());
        for (title, text) in [
            ("decode test", "b_decodes"),
            ("decode test", "other.rs: a_decodes"),
            ("refusal test", "a_decodes"),
            ("test", ""),
            ("fuzz seed", "session/a"),
            ("decode/encode", ""),
        ] {
            assert_eq!(
                faults_of(directory.path(), &row(vec![cell(title, text)])).len(),
                1,
                "{title}: {text}"
            );
        }
    }
}
