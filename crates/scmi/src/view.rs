//! What an agent sees and may do: the things of each protocol in the order of their ids, and the rights to them.

use crate::Interval;

/// What an agent may do to a thing that it sees. Whatever it sees it may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Right {
    /// Set a power domain's state.
    State = 1 << 0,
    /// Set a performance domain's or a voltage domain's level.
    Level = 1 << 1,
    /// Set a performance domain's limits.
    Limits = 1 << 2,
    /// Set a clock's rate.
    Rate = 1 << 3,
    /// Start and stop a clock, or turn a voltage domain on and off.
    Enable = 1 << 4,
    /// Reset a reset domain.
    Reset = 1 << 5,
    /// Shut the system down.
    Shutdown = 1 << 6,
    /// Reset the system, cold or warm.
    Reboot = 1 << 7,
    /// Suspend the system.
    Suspend = 1 << 8,
}

/// A set of [`Right`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u16);

impl Rights {
    /// No more than to look.
    pub const NONE: Self = Self(0);
    /// All there are.
    pub const ALL: Self = Self(0x1ff);

    /// These and `right`.
    #[must_use]
    pub const fn with(self, right: Right) -> Self {
        Self(self.0 | right as u16)
    }

    /// Whether `right` is among them.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right as u16 != 0
    }
}

/// Values that are possible, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// These.
    List(Vec<i64>),
    /// From the first to the second in steps of the third, which is positive.
    Range([i64; 3]),
}

impl Steps {
    /// Whether `value` is one of them.
    #[must_use]
    pub fn has(&self, value: i64) -> bool {
        self.near(value, |below, _| below) == Some(value)
    }

    /// The value that is possible next to `value`, if it lies within; `choose` says which of the next one below and the next
    /// one above.
    #[must_use]
    pub fn near(&self, value: i64, choose: impl Fn(i64, i64) -> i64) -> Option<i64> {
        let (below, above) = match self {
            Self::List(list) => (
                list.iter().copied().rfind(|&step| step <= value)?,
                list.iter().copied().find(|&step| step >= value)?,
            ),
            Self::Range([min, max, step]) => {
                let over = value.checked_sub(*min).filter(|_| (*min..=*max).contains(&value))?;
                let below = value - over.checked_rem(*step)?;
                let above = if below == value { value } else { below.saturating_add(*step) };
                (below, if above > *max { below } else { above })
            }
        };
        Some(choose(below, above))
    }

    /// The numbers that describe them.
    pub(crate) fn numbers(&self) -> &[i64] {
        match self {
            Self::List(list) => list,
            Self::Range(triplet) => triplet,
        }
    }

    /// The bit that says how [`Steps::numbers`] are meant.
    pub(crate) fn format(&self) -> u32 {
        u32::from(matches!(self, Self::Range(_))) << 12
    }
}

/// A power domain (4.3).
#[derive(Clone, Debug, Default)]
pub struct Power {
    /// Its name.
    pub name: String,
    /// What may be done.
    pub rights: Rights,
    /// Whether changes are told to whoever asks for it: those that somebody else makes come to be known.
    pub tells: bool,
}

/// The power of the system as a whole (4.4).
#[derive(Clone, Copy, Debug, Default)]
pub struct System {
    /// What may be done.
    pub rights: Rights,
    /// How long the platform waits for the agent to comply with a request, in milliseconds.
    pub timeout_ms: u32,
}

/// A level of a performance domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// The level, in the platform's own measure; in kHz where the domain is a processor's frequency.
    pub level: u32,
    /// What it costs, in milliwatts.
    pub power: u32,
    /// How long it takes to get there, in microseconds.
    pub latency: u16,
}

/// A performance domain (4.5).
#[derive(Clone, Debug, Default)]
pub struct Performance {
    /// Its name.
    pub name: String,
    /// What may be done.
    pub rights: Rights,
    /// Whether changes are told to whoever asks for it: those that somebody else makes come to be known.
    pub tells: bool,
    /// The levels, ascending, at least one.
    pub levels: Vec<Level>,
    /// The frequency that can be sustained, in kHz, and the level that it belongs to; zeroes for no such thing.
    pub sustained: (u32, u32),
}

impl Performance {
    /// The lowest and the highest level.
    #[must_use]
    pub fn range(&self) -> (i64, i64) {
        let end = |level: Option<&Level>| level.map_or(0, |level| i64::from(level.level));
        (end(self.levels.first()), end(self.levels.last()))
    }
}

/// A clock (4.6).
#[derive(Clone, Debug)]
pub struct Clock {
    /// Its name.
    pub name: String,
    /// What may be done.
    pub rights: Rights,
    /// Whether changes are told to whoever asks for it: those that somebody else makes come to be known.
    pub tells: bool,
    /// The rates in Hz, none negative.
    pub rates: Steps,
    /// How long it takes to start, in microseconds; 0 if nobody knows.
    pub latency: u32,
}

/// An axis of a sensor.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// Its name.
    pub name: String,
}

/// A sensor (4.7).
#[derive(Clone, Debug, Default)]
pub struct Sensor {
    /// Its name.
    pub name: String,
    /// What its readings are (table 18 of the specification): 2 degrees Celsius.
    pub unit: u8,
    /// A reading is to be multiplied by ten to this power, -16 to 15.
    pub scale: i8,
    /// The axes of a sensor of several dimensions; none for a scalar. At most 63.
    pub axes: Vec<Axis>,
    /// How many trip points can be set; only a scalar has any.
    pub trip_points: u8,
    /// How often updates can come, at least one; the first holds until another is asked for.
    pub intervals: Vec<Interval>,
    /// The least and the greatest reading, and the smallest difference between two, if known.
    pub range: Option<(i64, i64, u32)>,
}

impl Sensor {
    /// How many numbers a reading has.
    #[must_use]
    pub fn dimensions(&self) -> u8 {
        self.axes.len().clamp(1, 63) as u8
    }
}

/// A reset domain (4.8).
#[derive(Clone, Debug, Default)]
pub struct Reset {
    /// Its name.
    pub name: String,
    /// What may be done.
    pub rights: Rights,
    /// How long a reset takes at most, in microseconds, if known.
    pub latency: Option<u32>,
}

/// A voltage domain (4.9).
#[derive(Clone, Debug)]
pub struct Voltage {
    /// Its name.
    pub name: String,
    /// What may be done.
    pub rights: Rights,
    /// The levels in microvolts.
    pub levels: Steps,
}

/// All that an agent sees. A thing's place is its id; a protocol of which there is nothing is not there.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The agent's name.
    pub agent: String,
    /// Power domains.
    pub power: Vec<Power>,
    /// The system's power.
    pub system: Option<System>,
    /// Performance domains.
    pub performance: Vec<Performance>,
    /// Clocks.
    pub clocks: Vec<Clock>,
    /// Sensors.
    pub sensors: Vec<Sensor>,
    /// Reset domains.
    pub resets: Vec<Reset>,
    /// Voltage domains.
    pub voltages: Vec<Voltage>,
}
