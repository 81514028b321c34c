//! The device's state: its status, its reset, and what of it can be moved to another host.

use crate::check::catalogue::Check;

mod reset;
mod transfer;

/// The checks of this group, part by part.
pub(super) const RESET: &[Check] = reset::CHECKS;
/// As [`RESET`].
pub(super) const TRANSFER: &[Check] = transfer::CHECKS;
