//! What an agent has asked of a sensor: how often to tell of it, and at which readings.

use std::time::Duration;

use crate::agent::PLATFORM;
use crate::protocols::SENSOR;
use crate::wire::Reply;
use crate::{Interval, Notice, Platform, Point, Sensor, Status, What};

/// Bits of a sensor's configuration (4.7.2.10).
pub(crate) const ENABLED: u32 = 1 << 0;
pub(crate) const TIMESTAMPED: u32 = 1 << 1;

/// A trip point. Both its bits 0: it is off.
#[derive(Clone, Copy, Default)]
pub(crate) struct Trip {
    /// Bit 0: tell when a reading comes up to `value`; bit 1: when it falls below it.
    pub(crate) mode: u8,
    pub(crate) value: i64,
}

/// What an agent has asked of a sensor.
pub(crate) struct Watch {
    pub(crate) config: u32,
    pub(crate) trips: Vec<Trip>,
    /// What a scalar read when it was looked at last.
    last: Option<i64>,
    /// When it is to be looked at.
    due: Option<Duration>,
}

impl Watch {
    /// Of a sensor of which nobody has asked anything.
    pub(crate) fn new(sensor: &Sensor) -> Self {
        let interval = sensor.intervals.first().map_or(0, |interval| interval.configured());
        let trips = vec![Trip::default(); usize::from(sensor.trip_points)];
        Self { config: interval | ENABLED, trips, last: None, due: None }
    }

    /// How often it is to be looked at.
    fn interval(&self) -> Duration {
        Interval::of_config(self.config).map_or(Duration::from_secs(1), Interval::duration)
    }

    /// When it is to be looked at next, if the agent hears of `updates` or `trips` and the sensor is on; asked after each change
    /// of those.
    pub(crate) fn plan(&mut self, updates: bool, trips: bool, now: Duration) -> Option<Duration> {
        let trips = trips && self.trips.iter().any(|trip| trip.mode != 0);
        if self.config & ENABLED == 0 || !(updates || trips) {
            (self.due, self.last) = (None, None);
        } else if self.due.is_none_or(|due| due > now + self.interval()) {
            // What is to be passed is passed from where it is now.
            self.due = Some(now + if trips { Duration::ZERO } else { self.interval() });
        }
        self.due
    }

    /// Whether its time has come; then the next one is planned.
    pub(crate) fn is_due(&mut self, now: Duration) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = Some(now + self.interval());
        }
        due
    }

    /// A scalar reads `value`: which trip points it has passed since it was looked at last, and whether upwards.
    pub(crate) fn passed(&mut self, value: i64) -> impl Iterator<Item = (usize, bool)> + '_ {
        let last = self.last.replace(value).unwrap_or(value);
        self.trips.iter().enumerate().filter_map(move |(index, trip)| {
            let (was, is) = (last >= trip.value, value >= trip.value);
            let told = was != is && trip.mode & if is { 1 } else { 2 } != 0;
            told.then_some((index, is))
        })
    }

    /// Notices of the trip points that `value` passes.
    pub(crate) fn trip(&mut self, id: usize, value: i64, notices: &mut Vec<Notice>) {
        for (index, up) in self.passed(value) {
            let words = [PLATFORM, id as u32, u32::from(up) << 16 | index as u32];
            notices.push(Notice::new(SENSOR, 0, id, &words));
        }
    }
}

/// What a sensor reads now, all its axes, each with the time if that is asked for (4.7.2.8).
pub(crate) fn readings(
    sensor: &Sensor,
    id: usize,
    config: u32,
    platform: &mut dyn Platform,
    reply: &mut Reply<'_>,
) -> Result<i64, Status> {
    let time = if config & TIMESTAMPED == 0 { Duration::ZERO } else { platform.now() };
    let mut first = None;
    for axis in 0..sensor.dimensions() {
        let value = platform.read(Point { what: What::Reading(axis), id })?;
        first.get_or_insert(value);
        reply.long(value as u64)?;
        reply.long(time.as_micros() as u64)?;
    }
    first.ok_or(Status::NotFound)
}
