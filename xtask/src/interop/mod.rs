//! `cargo xtask interop`: what the tools find out about our back ends and about
//! other people's, in tables in `docs/interop.md`.
//!
//! Each tool is run on each back end and its JSON kept under the target
//! directory, so that one of them can be run again alone; the tables are made of
//! all that is there. Findings are not failures here: whoever runs this reads
//! them.

mod document;
mod load;
mod subject;
mod tables;

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::subject::{Files, Subject};
use crate::guest::{Inside, Told, inside};
use crate::peers::Machine;
use crate::setup;
use crate::workspace::{Workspace, run};

/// How long one tool may take for one back end.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// A tool that is run on back ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tool {
    /// What is offered
    Probe,
    /// What is kept of the specification
    Check,
    /// How fast it is, beside ours of its type
    Bench,
}

impl Tool {
    const ALL: [Self; 3] = [Self::Probe, Self::Check, Self::Bench];

    fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Check => "check",
            Self::Bench => "bench",
        }
    }
}

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Only back ends whose name contains this (may be repeated)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only this tool (may be repeated)
    #[arg(long, value_name = "TOOL", value_enum)]
    tool: Vec<Tool>,
    /// Print the names of the back ends, with the commands that start them, and stop
    #[arg(long)]
    list: bool,
    /// Make the tables of the results of earlier runs
    #[arg(long, conflicts_with_all = ["only", "tool"])]
    no_run: bool,
}

/// Runs the chosen tools on the chosen back ends, then writes the tables.
pub(crate) fn interop(workspace: &Workspace, options: &Options) -> Result<()> {
    let files = Files::create()?;
    let subjects = subject::all(workspace, &files)?;
    let is_chosen = |subject: &Subject| {
        options.only.is_empty() || options.only.iter().any(|part| subject.name.contains(part))
    };
    let chosen: Vec<&Subject> = subjects.iter().filter(|subject| is_chosen(subject)).collect();
    if chosen.is_empty() {
        bail!("no back end has such a name; `--list` shows them");
    }
    if options.list {
        for subject in chosen {
            println!("{:<20} {}", subject.name, subject.quoted());
        }
        return Ok(());
    }
    let results = Results { directory: workspace.target.join("interop") };
    std::fs::create_dir_all(&results.directory)?;
    let mut without = 0;
    if !options.no_run {
        let programs = subjects.iter().filter_map(|subject| subject.kind.filter(|_| subject.ours));
        let packages = programs.flat_map(|kind| ["-p".to_owned(), format!("outboard-{kind}")]);
        run(workspace.cargo().args(["build", "--quiet", "--release", "-p", "outboard"]).args(packages))?;
        if chosen.iter().any(|subject| subject.machine.is_some()) {
            setup::setup(workspace, setup::Options::default())?;
        }
        for tool in Tool::ALL {
            if options.tool.is_empty() || options.tool.contains(&tool) {
                for subject in &chosen {
                    for run in subject.runs(tool, &subjects) {
                        without += u32::from(!apply(workspace, &results, tool, subject, &run)?);
                    }
                }
            }
        }
    }
    let path = workspace.root.join("docs/interop.md");
    let old = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut new = old.clone();
    for tool in Tool::ALL {
        let table = tables::table(tool, &subjects, &results)?;
        new = document::replace(&new, tool.name(), &table)?;
    }
    if new == old {
        println!("{} stays as it is", path.display());
    } else {
        std::fs::write(&path, new)?;
        println!("{} is up to date", path.display());
    }
    if without > 0 {
        bail!("{without} times a tool came to no result: see above");
    }
    Ok(())
}

/// What the tools said, one file for each run.
struct Results {
    directory: PathBuf,
}

impl Results {
    fn path(&self, tool: Tool, subject: &Subject, name: &str, end: &str) -> PathBuf {
        self.directory.join(format!("{}.{}{name}.{end}", subject.name, tool.name()))
    }

    /// What `tool` said of `subject` in the run of this name; `None` if that never was.
    fn read(&self, tool: Tool, subject: &Subject, name: &str) -> Result<Option<Value>> {
        let path = self.path(tool, subject, name, "json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let value = serde_json::from_slice(&bytes);
                value.map(Some).with_context(|| format!("{} is not JSON", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}

/// One run of a tool.
struct Run {
    /// Tells runs of one tool on one back end apart: empty, or begins with a dot.
    name: String,
    options: Vec<OsString>,
    /// What starts the back end.
    command: Vec<OsString>,
}

/// Runs one tool on one back end and keeps what it says. False if it came to no
/// result.
fn apply(workspace: &Workspace, results: &Results, tool: Tool, subject: &Subject, run: &Run) -> Result<bool> {
    let path = |end| results.path(tool, subject, &run.name, end);
    let (json, log) = (path("json"), path("log"));
    // A file of its own, so that two of these do not get in each other's way.
    let fresh = tempfile::NamedTempFile::new_in(&results.directory)?;
    let shown = format!("{}{} {}", tool.name(), run.name, subject.name);
    let start = Instant::now();
    let code = match subject.machine {
        None => here(workspace, tool, run, fresh.reopen()?, File::create(&log)?)?,
        Some(machine) => {
            let outcome = in_a_guest(workspace, tool, run, machine)?;
            std::fs::write(fresh.path(), outcome.output)?;
            std::fs::write(&log, outcome.errors)?;
            outcome.status
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    // Status 1 says that a check failed: a finding, and a result like another.
    let is_result = code == Some(0) || (tool == Tool::Check && code == Some(1));
    if is_result {
        fresh.persist(&json).with_context(|| json.display().to_string())?;
        println!("ok      {shown} ({seconds:.1} s)");
    } else {
        println!("FAILED  {shown} ({seconds:.1} s), status {code:?}");
        show_end(&log);
        // An earlier result would not be what is seen now.
        remove(&json)?;
    }
    Ok(is_result)
}

/// Runs a tool on this machine; its exit status, `None` after a signal.
fn here(workspace: &Workspace, tool: Tool, run: &Run, output: File, errors: File) -> Result<Option<i32>> {
    let mut child = Command::new(workspace.release_binary("outboard"))
        .arg(tool.name())
        .args(&run.options)
        .arg("--")
        .args(&run.command)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("starting outboard {}", tool.name()))?;
    await_end(&mut child)
}

/// Runs a tool and the back end in a guest.
fn in_a_guest(workspace: &Workspace, tool: Tool, run: &Run, machine: Machine) -> Result<Told> {
    let directory = tempfile::Builder::new().prefix("outboard-").tempdir()?;
    let arguments: Vec<OsString> = std::iter::once(tool.name().into()).chain(run.options.clone()).collect();
    let tool = workspace.release_binary("outboard");
    let what = Inside { machine, tool, arguments: &arguments, back_end: &run.command };
    inside(workspace, &what, directory.path())
}

/// Removes a file that may be there.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// The exit status; `None` after a signal. A tool that does not end is killed.
fn await_end(child: &mut Child) -> Result<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("it still ran after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last lines of a log.
fn show_end(path: &Path) {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(20)) {
        println!("  {line}");
    }
}
