//! `outboard completions`: what makes a shell complete the options, from the same source as `--help`.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Command;
use clap_complete::Shell;

use crate::stdout;

/// Print the script by which a shell completes the options of a program
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,

    /// The program: outboard, or a back end (vhost-user-blk)
    #[arg(long, value_name = "NAME", default_value = "outboard")]
    program: String,
}

const EXAMPLES: &str = "\
Examples:
  source <(outboard completions bash)
  outboard completions zsh > ~/.zfunc/_outboard
  outboard completions fish --program vhost-user-blk > ~/.config/fish/completions/vhost-user-blk.fish";

/// Prints the script for one of `programs`.
pub(crate) fn run(args: &Args, programs: Vec<Command>) -> ExitCode {
    match print(args, programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outboard completions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(args: &Args, programs: Vec<Command>) -> Result<()> {
    let names: Vec<String> = programs.iter().map(|program| program.get_name().to_owned()).collect();
    let Some(mut program) = programs.into_iter().find(|program| program.get_name() == args.program) else {
        bail!("there is no program {}: {}", args.program, names.join(", "));
    };
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, &args.program, &mut script);
    stdout::show(&String::from_utf8(script)?);
    Ok(())
}
