//! What threads share data by: the standard library's, or loom's where a model checker runs through all that can happen
//! (`cargo xtask test --only models`).

#[cfg(loom)]
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Arc, Mutex, MutexGuard, atomic};
