//! The tables of a description, and what is made of them.

use outboard_device::DeviceError;
use outboard_scmi_protocols::{
    Axis, Clock, Interval, Level, Performance, Power, Reset, Right, Rights, Sensor, Steps, System, Voltage,
    What,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Description;
use crate::host::{Origin, Wanted};

/// Room for a name in messages, its final 0 aside.
const LONGEST_NAME: usize = 63;

fn invalid(reason: impl Into<String>) -> DeviceError {
    DeviceError::Invalid(reason.into())
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entries {
    #[serde(default = "guest")]
    agent: String,
    #[serde(default)]
    sensor: Vec<Entry>,
    #[serde(default)]
    clock: Vec<Entry>,
    #[serde(default)]
    power: Vec<Entry>,
    #[serde(default)]
    performance: Vec<Entry>,
    #[serde(default)]
    reset: Vec<Entry>,
    #[serde(default)]
    voltage: Vec<Entry>,
    system: Option<SystemEntry>,
}

fn guest() -> String {
    "guest".to_owned()
}

/// What every thing has.
#[derive(Deserialize)]
struct Entry {
    name: String,
    #[serde(default)]
    source: Origin,
    #[serde(default)]
    may: Vec<May>,
    /// What only things of its kind have.
    #[serde(flatten)]
    rest: toml::Table,
}

/// What only things of a kind have, of the thing `name`.
fn rest<T: DeserializeOwned>(name: &str, rest: toml::Table) -> Result<T, DeviceError> {
    rest.try_into().map_err(|error: toml::de::Error| invalid(format!("{name}: {}", error.message())))
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum May {
    State,
    Level,
    Limits,
    Rate,
    Enable,
    Reset,
    Shutdown,
    Reboot,
    Suspend,
}

impl May {
    fn right(self) -> Right {
        match self {
            Self::State => Right::State,
            Self::Level => Right::Level,
            Self::Limits => Right::Limits,
            Self::Rate => Right::Rate,
            Self::Enable => Right::Enable,
            Self::Reset => Right::Reset,
            Self::Shutdown => Right::Shutdown,
            Self::Reboot => Right::Reboot,
            Self::Suspend => Right::Suspend,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StepsEntry {
    List(Vec<i64>),
    Range { min: i64, max: i64, step: i64 },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum UnitEntry {
    Name(String),
    Number(u8),
}

#[derive(Deserialize)]
struct RangeEntry {
    min: i64,
    max: i64,
    resolution: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SensorEntry {
    unit: Option<UnitEntry>,
    #[serde(default)]
    scale: i8,
    #[serde(default)]
    axes: Vec<String>,
    #[serde(default)]
    trip_points: u8,
    #[serde(default = "second")]
    intervals_ms: Vec<u16>,
    range: Option<RangeEntry>,
    #[serde(default)]
    value: i64,
    #[serde(default)]
    values: Vec<i64>,
}

fn second() -> Vec<u16> {
    vec![1000]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ClockEntry {
    rates: StepsEntry,
    rate: Option<i64>,
    #[serde(default)]
    latency_us: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PowerEntry {
    #[serde(default)]
    off: bool,
}

#[derive(Deserialize)]
struct LevelEntry {
    level: u32,
    #[serde(default)]
    power: u32,
    #[serde(default)]
    latency: u16,
}

#[derive(Default, Deserialize)]
struct SustainedEntry {
    khz: u32,
    level: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PerformanceEntry {
    levels: Vec<LevelEntry>,
    #[serde(default)]
    sustained: SustainedEntry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ResetEntry {
    latency_us: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VoltageEntry {
    levels: StepsEntry,
    microvolts: Option<i64>,
    /// Where it is switched, if not in the directory that has its level.
    state: Option<Origin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SystemEntry {
    #[serde(default)]
    may: Vec<May>,
    #[serde(default)]
    timeout_ms: u32,
}

impl Entries {
    /// Makes the view, opens the sources and names the points.
    pub(super) fn build(self, to: &mut Description) -> Result<(), DeviceError> {
        to.view.agent = name(&self.agent)?;
        for entry in self.sensor {
            sensor(entry, to)?;
        }
        for entry in self.clock {
            clock(entry, to)?;
        }
        for Entry { name: called, source, may, rest: table } in self.power {
            let rest: PowerEntry = rest(&called, table)?;
            let rights = rights(&called, &may, &[Right::State])?;
            let id = to.view.power.len();
            to.view.power.push(Power { name: name(&called)?, rights, tells: source.tells() });
            let state = if rest.off { 1 << 30 } else { 0 };
            to.host.add(&source, id, &[Wanted::new(What::Power, state, rights.has(Right::State))])?;
            to.name(&format!("power.{called}"), id, &[(What::Power, "")])?;
        }
        for entry in self.performance {
            performance(entry, to)?;
        }
        for Entry { name: called, source, may, rest: table } in self.reset {
            let rest: ResetEntry = rest(&called, table)?;
            let rights = rights(&called, &may, &[Right::Reset])?;
            let id = to.view.resets.len();
            to.view.resets.push(Reset { name: name(&called)?, rights, latency: rest.latency_us });
            to.host.add(&source, id, &[Wanted::new(What::Reset, 0, rights.has(Right::Reset))])?;
            to.name(&format!("reset.{called}"), id, &[(What::Reset, "")])?;
        }
        for entry in self.voltage {
            voltage(entry, to)?;
        }
        if let Some(SystemEntry { may, timeout_ms }) = self.system {
            let rights = rights("system", &may, &[Right::Shutdown, Right::Reboot, Right::Suspend])?;
            to.view.system = Some(System { rights, timeout_ms });
            to.host.add(&Origin::Simulated, 0, &[Wanted::new(What::System, 3, true)])?;
            to.name("system", 0, &[(What::System, "")])?;
        }
        Ok(())
    }
}

/// A name that fits into messages.
fn name(name: &str) -> Result<String, DeviceError> {
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(|char| char.is_ascii_graphic());
    if fits {
        Ok(name.to_owned())
    } else {
        Err(invalid(format!("{name:?} is no name: 1 to 63 visible ASCII characters")))
    }
}

fn rights(name: &str, may: &[May], possible: &[Right]) -> Result<Rights, DeviceError> {
    may.iter().try_fold(Rights::NONE, |rights, may| {
        if !possible.contains(&may.right()) {
            return Err(invalid(format!("{name}: there is no {may:?} to be allowed")));
        }
        Ok(rights.with(may.right()))
    })
}

/// Steps of at least one value, ascending, within `min` and `max`.
fn steps(name: &str, entry: StepsEntry, min: i64, max: i64) -> Result<(Steps, i64), DeviceError> {
    let (first, last, steps) = match entry {
        StepsEntry::List(list) if !list.is_empty() && list.is_sorted_by(|a, b| a < b) => {
            (list.first().copied(), list.last().copied(), Steps::List(list))
        }
        StepsEntry::Range { min, max, step } if min <= max && step > 0 => {
            (Some(min), Some(max), Steps::Range([min, max, step]))
        }
        _ => return Err(invalid(format!("{name}: values are to ascend, and there is to be one"))),
    };
    match (first, last) {
        (Some(first), Some(last)) if first >= min && last <= max => Ok((steps, first)),
        _ => Err(invalid(format!("{name}: values from {min} to {max} are possible"))),
    }
}

fn sensor(entry: Entry, to: &mut Description) -> Result<(), DeviceError> {
    let Entry { name: called, source, may, rest: table } = entry;
    let rest: SensorEntry = rest(&called, table)?;
    rights(&called, &may, &[])?;
    let unit = match rest.unit {
        Some(UnitEntry::Number(number)) => number,
        Some(UnitEntry::Name(unit)) => UNITS
            .iter()
            .find_map(|(name, number)| (*name == unit).then_some(*number))
            .ok_or_else(|| invalid(format!("{called}: there is no unit {unit:?}; its number would do")))?,
        None => source.quantity().map_or(0, |quantity| quantity.unit),
    };
    if let Some(quantity) = source.quantity().filter(|quantity| quantity.unit != unit) {
        return Err(invalid(format!("{called}: what its channel measures has the unit {}", quantity.unit)));
    }
    if !(-16..=15).contains(&rest.scale) || rest.axes.len() > 63 || rest.intervals_ms.is_empty() {
        return Err(invalid(format!(
            "{called}: scale is -16 to 15, axes at most 63, intervals at least one"
        )));
    }
    if !rest.axes.is_empty() && rest.trip_points > 0 {
        return Err(invalid(format!("{called}: a sensor with axes has no trip points")));
    }
    let id = to.view.sensors.len();
    let axes =
        rest.axes.iter().map(|axis| Ok(Axis { name: name(axis)? })).collect::<Result<_, DeviceError>>()?;
    let sensor = Sensor {
        name: name(&called)?,
        unit,
        scale: rest.scale,
        axes,
        trip_points: rest.trip_points,
        intervals: rest.intervals_ms.iter().map(|&ms| Interval::millis(ms)).collect(),
        range: rest.range.map(|range| (range.min, range.max, range.resolution)),
    };
    for axis in 0..sensor.dimensions() {
        let value = rest.values.get(usize::from(axis)).copied().unwrap_or(rest.value);
        let axis_name = sensor.axes.get(usize::from(axis)).map(|axis| axis.name.as_str());
        let wanted = Wanted::new(What::Reading(axis), value, false);
        let wanted = Wanted { axis: axis_name, scale: rest.scale, ..wanted };
        to.host.add(&source, id, &[wanted])?;
        let suffix = axis_name.map(|axis| format!(".{axis}")).unwrap_or_default();
        to.name(&format!("sensor.{called}"), id, &[(What::Reading(axis), &suffix)])?;
    }
    to.view.sensors.push(sensor);
    Ok(())
}

fn clock(entry: Entry, to: &mut Description) -> Result<(), DeviceError> {
    let Entry { name: called, source, may, rest: table } = entry;
    let rest: ClockEntry = rest(&called, table)?;
    let rights = rights(&called, &may, &[Right::Rate, Right::Enable])?;
    let (rates, first) = steps(&called, rest.rates, 0, i64::MAX)?;
    let rate = rest.rate.unwrap_or(first);
    if !rates.has(rate) {
        return Err(invalid(format!("{called}: {rate} is none of its rates")));
    }
    let id = to.view.clocks.len();
    to.host.add(&source, id, &[Wanted::new(What::Rate, rate, rights.has(Right::Rate))])?;
    // Nothing of the host says whether a clock runs.
    to.host.add(&Origin::Simulated, id, &[Wanted::new(What::Running, 1, true)])?;
    let tells = source.tells();
    to.view.clocks.push(Clock { name: name(&called)?, rights, tells, rates, latency: rest.latency_us });
    to.name(&format!("clock.{called}"), id, &[(What::Rate, ".rate"), (What::Running, ".running")])
}

fn performance(entry: Entry, to: &mut Description) -> Result<(), DeviceError> {
    let Entry { name: called, source, may, rest: table } = entry;
    let rest: PerformanceEntry = rest(&called, table)?;
    let rights = rights(&called, &may, &[Right::Level, Right::Limits])?;
    let levels: Vec<Level> = rest
        .levels
        .iter()
        .map(|&LevelEntry { level, power, latency }| Level { level, power, latency })
        .collect();
    if levels.is_empty() || !levels.is_sorted_by(|a, b| a.level < b.level) {
        return Err(invalid(format!("{called}: levels are to ascend, and there is to be one")));
    }
    let sustained = (rest.sustained.khz, rest.sustained.level);
    let domain = Performance { name: name(&called)?, rights, tells: source.tells(), levels, sustained };
    let (min, max) = domain.range();
    let id = to.view.performance.len();
    let limits = rights.has(Right::Limits);
    to.host.add(
        &source,
        id,
        &[
            Wanted::new(What::Level, max, rights.has(Right::Level)),
            Wanted::new(What::MaxLevel, max, limits),
            Wanted::new(What::MinLevel, min, limits),
        ],
    )?;
    to.view.performance.push(domain);
    let points = [(What::Level, ".level"), (What::MaxLevel, ".max"), (What::MinLevel, ".min")];
    to.name(&format!("performance.{called}"), id, &points)
}

fn voltage(entry: Entry, to: &mut Description) -> Result<(), DeviceError> {
    let Entry { name: called, source, may, rest: table } = entry;
    let rest: VoltageEntry = rest(&called, table)?;
    let rights = rights(&called, &may, &[Right::Level, Right::Enable])?;
    let (levels, first) = steps(&called, rest.levels, i64::from(i32::MIN), i64::from(i32::MAX))?;
    let level = rest.microvolts.unwrap_or(first);
    if !levels.has(level) {
        return Err(invalid(format!("{called}: {level} is none of its levels")));
    }
    let id = to.view.voltages.len();
    to.host.add(&source, id, &[Wanted::new(What::Microvolts, level, rights.has(Right::Level))])?;
    let mode = Wanted::new(What::Mode, 7, rights.has(Right::Enable));
    match rest.state {
        Some(state) => to.host.add(&state, id, &[Wanted { alone: true, ..mode }])?,
        None => to.host.add(&source, id, &[mode])?,
    }
    to.view.voltages.push(Voltage { name: name(&called)?, rights, levels });
    to.name(&format!("voltage.{called}"), id, &[(What::Microvolts, ".microvolts"), (What::Mode, ".mode")])
}

/// The units that have a name here (DEN0056, table of sensor types); others go by their numbers.
const UNITS: [(&str, u8); 16] = [
    ("celsius", 2),
    ("fahrenheit", 3),
    ("kelvin", 4),
    ("volts", 5),
    ("amperes", 6),
    ("watts", 7),
    ("joules", 8),
    ("lux", 0x0d),
    ("revolutions-per-minute", 0x13),
    ("hertz", 0x14),
    ("seconds", 0x15),
    ("gauss", 0x2d),
    ("percent", 0x41),
    ("pascals", 0x42),
    ("radians-per-second", 0x57),
    ("metres-per-second-squared", 0x59),
];
