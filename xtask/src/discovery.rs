//! `cargo xtask discovery`: the files by which management software finds the
//! back ends. `outboard discovery` makes them; this builds it and runs it, for
//! those who package the project.

use std::path::Path;

use anyhow::Result;

use crate::workspace::{Workspace, run};

/// Writes `50-outboard-*.json` into `out` for programs installed in `bindir`.
pub(crate) fn discovery(workspace: &Workspace, out: &Path, bindir: &Path) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--package", "outboard", "--", "discovery", "--out"]);
    // The command runs in the workspace's root, not here.
    run(command.arg(std::path::absolute(out)?).arg("--bindir").arg(bindir))
}
