//! Whoever reads our output may stop reading (`outboard check ... | head`). That is no fault of ours to shout about:
//! the program ends, quietly, and what it started is ended on the way.

use std::any::Any;
use std::panic::{self, UnwindSafe};
use std::process::ExitCode;

/// The status that a shell shows for a program that SIGPIPE ended.
const ENDED_BY_SIGPIPE: u8 = 128 + 13;

/// Runs a tool. `println!` panics when standard output is closed: such a panic unwinds, so that what a tool owns is
/// dropped as ever, and is not shown.
pub(crate) fn tolerated(tool: impl FnOnce() -> ExitCode + UnwindSafe) -> ExitCode {
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_closed_stdout(info.payload()) {
            shown(info);
        }
    }));
    match panic::catch_unwind(tool) {
        Ok(code) => code,
        Err(payload) if is_closed_stdout(&*payload) => ExitCode::from(ENDED_BY_SIGPIPE),
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// The words of the standard library, which has no type for this.
fn is_closed_stdout(payload: &(dyn Any + Send)) -> bool {
    payload
        .downcast_ref::<String>()
        .is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("Broken pipe"))
}
