//! `cargo xtask discovery`: the files by which management software finds the
//! back ends (QEMU's `docs/interop/vhost-user.json`), made from what each
//! program says of itself.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::workspace::{Workspace, metadata, output, run};

/// Device types that the schema has; a file with another one breaks its readers.
const TYPES: [&str; 15] = [
    "9p",
    "balloon",
    "block",
    "caif",
    "console",
    "crypto",
    "fs",
    "gpu",
    "input",
    "net",
    "rng",
    "rpmsg",
    "rproc-serial",
    "scsi",
    "vsock",
];

/// Writes `50-outboard-*.json` into `out` for programs installed in `bindir`.
pub(crate) fn discovery(workspace: &Workspace, out: &Path, bindir: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    for (package, program) in programs(workspace)? {
        run(workspace.cargo().args(["build", "--quiet", "--release", "-p", &package]))?;
        let binary = workspace.release_binary(&program);
        let said = output(workspace.command(&binary.to_string_lossy()).arg("--print-capabilities"))?;
        let capabilities: Value =
            serde_json::from_slice(&said).with_context(|| format!("what {program} prints"))?;
        let kind = capabilities.get("type").and_then(Value::as_str).context("capabilities without a type")?;
        if !TYPES.contains(&kind) {
            println!("  {program}: the schema has no type {kind}, so there is no file");
            continue;
        }
        let help = output(workspace.command(&binary.to_string_lossy()).arg("--help"))?;
        let help = String::from_utf8_lossy(&help).into_owned();
        let name = program.strip_prefix("vhost-user-").unwrap_or(&program);
        let path = out.join(format!("50-outboard-{name}.json"));
        let file = json!({
            "description": help.lines().next().unwrap_or_default().trim(),
            "type": kind,
            "binary": bindir.join(&program),
            "tags": ["outboard"],
        });
        std::fs::write(&path, format!("{file:#}\n"))?;
        println!("  {}", path.display());
    }
    Ok(())
}

/// Package and name of every back-end program.
pub(crate) fn programs(workspace: &Workspace) -> Result<Vec<(String, String)>> {
    let metadata = metadata(&workspace.root)?;
    let mut programs = Vec::new();
    for package in metadata.get("packages").and_then(Value::as_array).context("no packages")? {
        let Some(name) = package.get("name").and_then(Value::as_str) else { continue };
        for target in package.get("targets").and_then(Value::as_array).into_iter().flatten() {
            let is_program = target
                .get("kind")
                .and_then(Value::as_array)
                .is_some_and(|kinds| kinds.contains(&json!("bin")));
            if let Some(program) = target.get("name").and_then(Value::as_str)
                && is_program
                && program.starts_with("vhost-user-")
            {
                programs.push((name.to_owned(), program.to_owned()));
            }
        }
    }
    Ok(programs)
}
