//! What stands behind an agent's view.

use std::time::Duration;

use crate::Status;

/// What can be read or set of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// A power domain's state (4.3.2.5): 0 on, 0x4000_0000 off.
    Power,
    /// The system's state (4.4.2.4): 0 shut down, 1 cold reset, 2 warm reset, 3 up, 4 suspended; [`FORCED`] beside it.
    System,
    /// A performance domain's level.
    Level,
    /// The highest level that a performance domain may have.
    MaxLevel,
    /// The lowest one.
    MinLevel,
    /// A clock's rate in Hz.
    Rate,
    /// Whether a clock runs: 0 or 1.
    Running,
    /// What a sensor's axis reads, in the sensor's unit and scale. A scalar is axis 0.
    Reading(u8),
    /// What is done to a reset domain: [`RESET_DEASSERT`], [`RESET_ASSERT`], [`RESET_CYCLE`].
    Reset,
    /// A voltage domain's level in microvolts.
    Microvolts,
    /// A voltage domain's mode (4.9.2.6): 0 off, 7 on.
    Mode,
}

/// The reset line goes.
pub const RESET_DEASSERT: i64 = 0;
/// The reset line comes.
pub const RESET_ASSERT: i64 = 1;
/// The line comes and goes.
pub const RESET_CYCLE: i64 = 2;
/// Of a request for a state of the system: the agent does not ask, and nothing is to be ended in order first.
pub const FORCED: i64 = 1 << 32;

/// A thing of the view, and what is meant of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// What is meant.
    pub what: What,
    /// The place of the thing among those of its protocol in the view.
    pub id: usize,
}

/// The host's side. Values were checked against the view before they come here.
pub trait Platform {
    /// What the thing is now.
    ///
    /// # Errors
    /// What the agent is told instead; [`Status::HardwareError`] if the host cannot say.
    fn read(&mut self, point: Point) -> Result<i64, Status>;

    /// Makes it so.
    ///
    /// # Errors
    /// What the agent is told; nothing has changed then.
    fn write(&mut self, point: Point, value: i64) -> Result<(), Status>;

    /// A clock that never goes back, from any beginning.
    fn now(&self) -> Duration;
}
