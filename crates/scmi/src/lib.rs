//! The platform's side of Arm's System Control and Management Interface (SCMI, DEN0056, version 3.1): the protocols
//! base, power domain, system power, performance, clock, sensor, reset and voltage, for one agent. Bytes in, bytes out;
//! no I/O and no clock of its own.
//!
//! An [`Agent`] answers commands and makes notifications. What it may see and do is its [`View`], which ids count from
//! 0; what stands behind the view is a [`Platform`], which knows nothing of messages. The agent's bytes are hostile: a
//! request that is short, long, unknown or not allowed is answered with the status that the specification has for it.

mod agent;
mod call;
mod interval;
mod notice;
mod platform;
mod protocols;
mod status;
mod view;
mod watch;
mod wire;

pub use agent::{AGENT, Agent, PLATFORM};
pub use interval::Interval;
pub use notice::Notice;
pub use platform::{FORCED, Platform, Point, RESET_ASSERT, RESET_CYCLE, RESET_DEASSERT, What};
pub use protocols::{BASE, CLOCK, PERFORMANCE, POWER, RESET, SENSOR, SYSTEM, VOLTAGE};
pub use status::Status;
pub use view::{
    Axis, Clock, Level, Performance, Power, Reset, Right, Rights, Sensor, Steps, System, View, Voltage,
};
pub use wire::{Header, Kind};
