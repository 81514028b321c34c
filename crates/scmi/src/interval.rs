//! How often a sensor tells of itself: a mantissa and a power of ten, in seconds (DEN0056, 4.7.2.10).

use std::time::Duration;

/// The shortest time that a platform polls in.
const SHORTEST: Duration = Duration::from_millis(10);

/// A mantissa of 16 bits and an exponent of 5 bits, in two's complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(u32);

impl Interval {
    /// So many milliseconds.
    #[must_use]
    pub const fn millis(ms: u16) -> Self {
        Self::new(ms, -3)
    }

    const fn new(mantissa: u16, exponent: i8) -> Self {
        Self((mantissa as u32) << 5 | exponent as u32 & 0x1f)
    }

    /// The form that lists of intervals have: mantissa in 20:5, exponent in 4:0.
    #[must_use]
    pub const fn listed(self) -> u32 {
        self.0
    }

    /// The form that a sensor's configuration has: mantissa in 31:16, exponent in 15:11.
    pub(crate) const fn configured(self) -> u32 {
        self.0 << 11
    }

    /// What a configuration asks for; `None` if it leaves the interval as it is.
    pub(crate) const fn of_config(config: u32) -> Option<Self> {
        if config >> 16 == 0 { None } else { Some(Self(config >> 11)) }
    }

    /// How long it is.
    #[must_use]
    pub fn duration(self) -> Duration {
        let exponent = ((self.0 & 0x1f) << 27) as i32 >> 27;
        let seconds = f64::from(self.0 >> 5) * 10f64.powi(exponent);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).max(SHORTEST)
    }

    /// The one of `possible` that comes next to it. `rounding` is the configuration's field 10:9: 0 down, 1 up, else whichever
    /// is nearer.
    pub(crate) fn rounded(self, possible: &[Self], rounding: u32) -> Option<Self> {
        let wanted = self.duration();
        let fits = |of: &&Self| match rounding {
            0 => of.duration() <= wanted,
            1 => of.duration() >= wanted,
            _ => true,
        };
        possible.iter().filter(fits).min_by_key(|of| of.duration().abs_diff(wanted)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_an_interval_are_those_of_the_specification() {
        let interval = Interval::millis(1000);
        assert_eq!(interval.listed(), 1000 << 5 | 0x1d);
        assert_eq!(interval.configured(), 1000 << 16 | 0x1d << 11);
        assert_eq!(Interval::of_config(interval.configured() | 3), Some(interval));
        assert_eq!(Interval::of_config(3), None);
        assert_eq!(interval.duration(), Duration::from_secs(1));
        assert_eq!(Interval::new(7, 1).duration(), Duration::from_secs(70));
        assert_eq!(Interval::new(1, -9).duration(), SHORTEST, "nobody polls a million times a second");
        assert!(Interval::new(u16::MAX, 15).duration() > Duration::from_secs(1 << 40));
    }

    #[test]
    fn interval_is_rounded_as_the_agent_asks() {
        let possible = [Interval::millis(100), Interval::millis(1000)];
        let wanted = Interval::millis(400);
        assert_eq!(wanted.rounded(&possible, 0), Some(possible[0]));
        assert_eq!(wanted.rounded(&possible, 1), Some(possible[1]));
        assert_eq!(wanted.rounded(&possible, 2), Some(possible[0]));
        assert_eq!(Interval::millis(50).rounded(&possible, 0), None);
    }
}
