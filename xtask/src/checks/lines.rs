//! `cargo xtask lines`: a device without host resources stays small, and a main
//! program smaller. Code lines are those that are neither blank, nor comment,
//! nor tests.

use std::path::Path;

use anyhow::{Context, Result};

use super::{is_test, rust_files, verdict};
use crate::workspace::Workspace;

/// The most code lines of the entropy device in all.
const RNG: usize = 60;

/// The most code lines of a device's `main.rs`.
const MAIN: usize = 10;

/// The most code lines of a small device outside `host/`.
const SMALL: usize = 500;

/// The small devices, how many lines more than [`SMALL`] each may have, and for what.
const SMALL_DEVICES: [(&str, usize, &str); 5] = [
    ("console", 470, "ports that come and go, flow control, and a language for what is at their far ends"),
    ("gpio", 0, ""),
    ("i2c", 100, "lists of addresses: by bus, renamed, read-only up to a pointer"),
    ("input", 250, "a guest that is slow or paused is told what it missed, key by key, and what waits"),
    ("scmi", 590, "the language of the description file, and hosts that take their time"),
];

/// Counts and compares.
pub(crate) fn lines(workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    let devices = workspace.root.join("devices");
    let mut rng = 0;
    for file in rust_files(&devices.join("rng/src"))? {
        rng += count(&file)?;
    }
    if rng > RNG {
        faults.push(format!("devices/rng has {rng} code lines, {RNG} are allowed"));
    }
    let mut most = 0;
    for entry in std::fs::read_dir(&devices)? {
        let main = entry?.path().join("src/main.rs");
        let lines = count(&main)?;
        most = most.max(lines);
        if lines > MAIN {
            faults.push(format!("{} has {lines} code lines, {MAIN} are allowed", main.display()));
        }
    }
    let mut small = Vec::new();
    for (name, more, reason) in SMALL_DEVICES {
        let source = devices.join(name).join("src");
        let mut lines = 0;
        for file in rust_files(&source)? {
            if !file.starts_with(source.join("host")) {
                lines += count(&file)?;
            }
        }
        if lines > SMALL + more {
            faults.push(format!(
                "devices/{name} has {lines} code lines outside host/, {} are allowed",
                SMALL + more
            ));
        }
        let reason = if lines > SMALL { format!(" ({reason})") } else { String::new() };
        small.push(format!("{name} {lines} of {SMALL}{reason}"));
    }
    let told = format!(
        "devices/rng: {rng} code lines of {RNG}; main.rs: at most {most} of {MAIN}; outside host/: {}",
        small.join(", ")
    );
    verdict(&told, &faults)
}

fn count(file: &Path) -> Result<usize> {
    if is_test(file) {
        return Ok(0);
    }
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(code(&text).count())
}

/// The code lines of a formatted source text, without what they are indented by, and their numbers.
pub(super) fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // The end of a test module, as it is indented, while inside one.
    let mut test_end: Option<String> = None;
    let mut after_attribute = false;
    (1..).zip(text.lines()).filter_map(move |(number, line)| {
        let code = line.trim();
        if let Some(end) = &test_end {
            if line == end {
                test_end = None;
            }
            return None;
        }
        if code.is_empty() || code.starts_with("//") {
            return None;
        }
        if code == "#[cfg(test)]" {
            after_attribute = true;
            return None;
        }
        if after_attribute {
            after_attribute = code.starts_with("#[");
            if code.ends_with('{') {
                let indent = line.len() - line.trim_start().len();
                test_end = Some(format!("{}}}", " ".repeat(indent)));
            }
            return None;
        }
        Some((number, code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_lines_leave_out_comments_blanks_and_tests() {
        let text = "//! doc\n\nuse a; // why\n/// doc\nfn f() {\n    g(); \n}\n\n#[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\nfn h() {}\n";
        let numbers: Vec<usize> = code(text).map(|(number, _)| number).collect();
        assert_eq!(numbers, [3, 5, 6, 7, 14]);
    }

    #[test]
    fn code_lines_leave_out_a_test_module_elsewhere() {
        assert_eq!(code("#[cfg(test)]\nmod tests;\nfn f() {}\n").count(), 1);
        assert_eq!(code("#[cfg(test)]\n#[path = \"t.rs\"]\nmod tests;\nfn f() {}\n").count(), 1);
    }
}
