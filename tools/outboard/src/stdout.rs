//! What a tool prints. Whoever reads it may stop reading (`outboard check ... | head`). That is no fault of ours to
//! shout about: the program ends, quietly, and what it started is ended on the way. Where printing fails for another
//! reason, that is said, in a line.
#![allow(clippy::print_stdout, reason = "this is the program's output")]

use std::any::Any;
use std::io::Write as _;
use std::panic::{self, UnwindSafe};
use std::process::ExitCode;

/// The status that a shell shows for a program that SIGPIPE ended.
const ENDED_BY_SIGPIPE: u8 = 128 + 13;

/// Prints `text` as it is. Where nobody reads it, [`tolerated`] is where that ends.
pub(crate) fn show(text: &str) {
    print!("{text}");
}

/// Runs a tool. `println!` panics when standard output fails: such a panic unwinds, so that what a tool owns is
/// dropped as ever, and is not shown.
pub(crate) fn tolerated(tool: impl FnOnce() -> ExitCode + UnwindSafe) -> ExitCode {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if failure(info.payload()).is_none() {
            shown(info);
        }
    }));
    match panic::catch_unwind(tool) {
        Ok(code) => code,
        Err(payload) => match failure(&*payload) {
            Some(reason) if reason.contains("Broken pipe") => ExitCode::from(ENDED_BY_SIGPIPE),
            Some(reason) => {
                let _ = writeln!(std::io::stderr(), "outboard: cannot write to standard output: {reason}");
                ExitCode::FAILURE
            }
            None => panic::resume_unwind(payload),
        },
    }
}

/// Why printing failed, if that is what a panic is about: the words of the standard library, which has no type for
/// this.
fn failure(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<String>()?.strip_prefix("failed printing to stdout: ")
}
