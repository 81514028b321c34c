//! Sensor management protocol (4.7).

use super::{
    LONG_NAME, Message, Protocol, SENSOR, SHORT_NAME, counted, extended, flags, long_name, message,
    subscription,
};
use crate::watch::{self, ENABLED, TIMESTAMPED, Trip};
use crate::wire::Reply;
use crate::{Interval, Sensor, Status, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: SENSOR,
    version: 0x3_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| !view.sensors.is_empty(),
};

const DESCRIPTION_GET: u8 = 3;
const TRIP_POINT_NOTIFY: u8 = 4;
const TRIP_POINT_CONFIG: u8 = 5;
const READING_GET: u8 = 6;
const AXIS_DESCRIPTION_GET: u8 = 7;
const LIST_UPDATE_INTERVALS: u8 = 8;
const CONFIG_GET: u8 = 9;
const CONFIG_SET: u8 = 0xa;
const CONTINUOUS_UPDATE_NOTIFY: u8 = 0xb;
const NAME_GET: u8 = 0xc;
const AXIS_NAME_GET: u8 = 0xd;

const MESSAGES: [Message; 11] = [
    message(DESCRIPTION_GET, 1),
    subscription(TRIP_POINT_NOTIFY, 2),
    subscription(TRIP_POINT_CONFIG, 4),
    message(READING_GET, 2),
    message(AXIS_DESCRIPTION_GET, 2),
    message(LIST_UPDATE_INTERVALS, 2),
    message(CONFIG_GET, 1),
    message(CONFIG_SET, 2),
    subscription(CONTINUOUS_UPDATE_NOTIFY, 2),
    message(NAME_GET, 1),
    message(AXIS_NAME_GET, 2),
];

/// Timestamps are in microseconds: ten to the power of -6, in 14:10, with the bit that says that there are any.
const TIMESTAMPS: u32 = 0x1a << 10 | 1 << 9;
/// A description goes on with power, resolution and range.
const EXTENDED: u32 = 1 << 8;
/// How many trip points, axes and sensors an answer has in 5:0, and how many remain in 31:26.
const AXES_MOST: usize = 63;

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let sensors = &call.view.sensors;
    match message {
        DESCRIPTION_GET => {
            let first = call.params.word()?;
            return call.reply.parts((sensors, first, 0xfff), described, counted(0), describe);
        }
        // How many, none of which answers late, and no region of readings.
        message if message < DESCRIPTION_GET => return call.reply.words(&[sensors.len() as u32, 0, 0, 0]),
        _ => {}
    }
    let id = call.id(sensors)?;
    let sensor = sensors.get(id).ok_or(Status::NotFound)?;
    match message {
        TRIP_POINT_NOTIFY => call.subscribe(SENSOR, 0, id),
        TRIP_POINT_CONFIG => set_trip_point(call, id),
        READING_GET => {
            flags(call.params.word()?, 0, 1)?;
            let config = call.state.sensors.get(id).map_or(0, |watch| watch.config);
            watch::readings(sensor, id, config, call.platform, &mut call.reply).map(drop)
        }
        AXIS_DESCRIPTION_GET => {
            let first = call.params.word()?;
            call.reply.parts(
                (&sensor.axes, first, AXES_MOST),
                |_| 28,
                few,
                |reply, index, axis| {
                    reply.words(&[index as u32, extended(&axis.name, 9), kind(sensor)])?;
                    reply.name(&axis.name, SHORT_NAME)
                },
            )
        }
        LIST_UPDATE_INTERVALS => {
            let first = call.params.word()?;
            call.reply.parts(
                (&sensor.intervals, first, 0xfff),
                |_| 4,
                counted(0),
                |reply, _, interval| reply.word(interval.listed()),
            )
        }
        CONFIG_GET => {
            let config = call.state.sensors.get(id).map_or(0, |watch| watch.config);
            call.reply.word(config)
        }
        CONFIG_SET => configure(call, id, sensor),
        CONTINUOUS_UPDATE_NOTIFY => call.subscribe(SENSOR, 1, id),
        NAME_GET => long_name(&sensor.name, &mut call.reply),
        _ => {
            let first = call.params.word()?;
            call.reply.parts(
                (&sensor.axes, first, AXES_MOST),
                |_| 4 + LONG_NAME,
                few,
                |reply, index, axis| {
                    reply.word(index as u32)?;
                    reply.name(&axis.name, LONG_NAME)
                },
            )
        }
    }
}

fn few(returned: u32, remaining: u32) -> u32 {
    returned | remaining << 26
}

/// Scale and type of a sensor and of its axes.
fn kind(sensor: &Sensor) -> u32 {
    u32::from(sensor.unit) | (sensor.scale as u32 & 0x1f) << 11
}

/// How long the description of a sensor is.
fn described(sensor: &Sensor) -> usize {
    28 + match sensor.range {
        Some(_) if sensor.axes.is_empty() => 24,
        Some(_) => 4,
        None => 0,
    }
}

fn describe(reply: &mut Reply<'_>, id: usize, sensor: &Sensor) -> Result<(), Status> {
    let more = if sensor.range.is_some() { EXTENDED } else { 0 };
    // Bit 30: continuous updates.
    let low = 1 << 30 | extended(&sensor.name, 29) | TIMESTAMPS | more | u32::from(sensor.trip_points);
    let axes = sensor.axes.len() as u32;
    let high = kind(sensor) | u32::from(axes > 0) << 8 | axes << 16;
    reply.words(&[id as u32, low, high])?;
    reply.name(&sensor.name, SHORT_NAME)?;
    if let Some((min, max, resolution)) = sensor.range {
        // Nobody knows what power it needs.
        reply.word(0)?;
        if sensor.axes.is_empty() {
            reply.word(resolution & 0x7ff_ffff | (sensor.scale as u32 & 0x1f) << 27)?;
            reply.long(min as u64)?;
            reply.long(max as u64)?;
        }
    }
    Ok(())
}

fn set_trip_point(call: &mut Call<'_>, id: usize) -> Result<(), Status> {
    // Which events in 1:0, the trip point in 11:4.
    let control = flags(call.params.word()?, 0xff3, 0)?;
    let value = call.params.long()? as i64;
    let watch = call.state.sensors.get_mut(id).ok_or(Status::NotFound)?;
    let trip = watch.trips.get_mut((control >> 4) as usize).ok_or(Status::InvalidParameters)?;
    *trip = Trip { mode: control as u8 & 3, value };
    Ok(())
}

/// Mantissa and exponent of the interval in 31:11, how to round it in 10:9, timestamps and the sensor itself in 1:0.
fn configure(call: &mut Call<'_>, id: usize, sensor: &Sensor) -> Result<(), Status> {
    let asked = flags(call.params.word()?, 0xffff_fe03, 0)?;
    let watch = call.state.sensors.get_mut(id).ok_or(Status::NotFound)?;
    let rounding = asked >> 9 & 3;
    let interval = match Interval::of_config(asked) {
        Some(wanted) if rounding < 3 => {
            wanted.rounded(&sensor.intervals, rounding).ok_or(Status::InvalidParameters)?.configured()
        }
        Some(_) => return Err(Status::InvalidParameters),
        None => watch.config & 0xffff_f800,
    };
    watch.config = interval | asked & (ENABLED | TIMESTAMPED);
    Ok(())
}
