//! Death at a chosen moment, for the tests of the in-flight records. Every store to shared memory passes [`step`];
//! when as many have passed as [`kill_after`] allowed, the thread unwinds instead, and what stands in shared memory
//! is what a killed process would leave behind: a kill falls between two stores of the program.

use std::cell::Cell;

thread_local! {
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// What the unwinding carries.
pub(crate) struct Killed;

/// Lets `stores` more stores of this thread happen; the one after them kills.
pub(crate) fn kill_after(stores: u32) {
    LEFT.set(Some(stores));
}

/// No kill any more.
pub(crate) fn live() {
    LEFT.set(None);
}

/// Runs `what` without counting: stores of somebody who does not die.
pub(crate) fn exempt<R>(what: impl FnOnce() -> R) -> R {
    let left = LEFT.replace(None);
    let result = what();
    LEFT.set(left);
    result
}

#[inline]
pub(crate) fn step() {
    if std::thread::panicking() {
        return;
    }
    match LEFT.get() {
        None => {}
        Some(0) => {
            LEFT.set(None);
            std::panic::resume_unwind(Box::new(Killed));
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}
