//! `outboard man`: the manual pages, from the same source as `--help`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Command;

use crate::stdout;

/// Write the manual pages of all programs
///
/// One page for outboard and each of its subcommands, and one for each back end. Prints the path of each.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to write them; made if need be
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  outboard man --out /usr/local/share/man/man1
  outboard man --out /tmp/pages && man /tmp/pages/outboard-probe.1";

/// Writes the pages of `programs`, and prints their paths.
pub(crate) fn run(args: &Args, programs: Vec<Command>) -> ExitCode {
    match write(&args.out, programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outboard man: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(out: &Path, programs: Vec<Command>) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    for program in programs {
        let mut program = program.disable_help_subcommand(true);
        program.build();
        let pages = program.get_subcommands().cloned().collect::<Vec<_>>();
        for command in std::iter::once(program).chain(pages) {
            let (name, text) = page(command)?;
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            stdout::show(&format!("{}\n", path.display()));
        }
    }
    Ok(())
}

/// A page: the name of its file, and its text.
fn page(command: Command) -> Result<(String, String)> {
    let after = command.get_after_help().map(ToString::to_string);
    // What follows the options is mostly commands to be copied: laid out here, line by line.
    let manual = clap_mangen::Man::new(command.after_help(None::<&str>))
        .manual("Outboard")
        .source(concat!("Outboard ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    manual.render(&mut text)?;
    let mut text = String::from_utf8(text)?;
    let at = text.find("\n.SH VERSION").map_or(text.len(), |at| at + 1);
    text.insert_str(at, &after.as_deref().map(section).unwrap_or_default());
    Ok((manual.get_filename(), text))
}

/// A section whose lines stay as they are. Its first line may be its title: `Examples:`.
fn section(text: &str) -> String {
    let (title, lines) = match text.split_once(":\n") {
        Some((title, lines)) if title.bytes().all(|byte| byte.is_ascii_alphabetic()) => (title, lines),
        _ => ("Notes", text),
    };
    let lines: String = lines.lines().map(|line| format!("{}\n", escaped(line))).collect();
    format!(".SH {}\n.nf\n{lines}.fi\n", title.to_uppercase())
}

/// A line that roff shows as it is.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if line.starts_with('.') { format!("\\&{line}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_keeps_lines_and_what_roff_would_take_for_its_own() {
        let text = section("Examples:\n  a --b 'c' \\\n.d");
        assert_eq!(text, ".SH EXAMPLES\n.nf\n  a \\-\\-b \\(aqc\\(aq \\e\n\\&.d\n.fi\n");
        assert_eq!(section("Mind this: that\n"), ".SH NOTES\n.nf\nMind this: that\n.fi\n");
    }
}
