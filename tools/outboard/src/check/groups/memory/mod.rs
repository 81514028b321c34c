//! Guest memory: tables, slots, and tables that are wrong.

use crate::check::catalogue::Check;

mod layout;
mod slots;
mod wrong;

/// The checks of this group, part by part.
pub(super) const LAYOUT: &[Check] = layout::CHECKS;
/// As [`LAYOUT`].
pub(super) const SLOTS: &[Check] = slots::CHECKS;
/// As [`LAYOUT`].
pub(super) const WRONG: &[Check] = wrong::CHECKS;
