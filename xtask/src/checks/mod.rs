//! What the project promises about its own source, checked.

pub(crate) mod coverage;
pub(crate) mod graph;
pub(crate) mod lines;
pub(crate) mod repeats;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Ends a check: says what was found, and fails if there are faults.
fn verdict(checked: &str, faults: &[String]) -> Result<()> {
    for fault in faults {
        println!("  {fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults", faults.len());
    }
    println!("  {checked}");
    Ok(())
}

/// Whether a file has nothing but tests.
fn is_test(file: &Path) -> bool {
    file.iter().any(|name| name == "tests" || name == "tests.rs")
}

/// All Rust files below a directory.
fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| next.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
