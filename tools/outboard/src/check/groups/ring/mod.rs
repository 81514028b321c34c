//! Rings that work as they should: requests of every shape, notifications, starts and stops.

pub(super) mod events;
pub(super) mod requests;
pub(in crate::check::groups) mod shapes;
pub(super) mod sizes;
pub(super) mod stops;
