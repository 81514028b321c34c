//! What a file says that a device can do: JSON, with the names that crosvm gives to its parts. The file is not trusted: what the
//! kernel of the guest could not take is refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use outboard_device::defs::input::{AbsInfo, Devids};
use outboard_device::{DeviceError, serde_json};
use serde::Deserialize;

use crate::config::{Abilities, Bits};
use crate::frame::{ABS_MT_SLOT, EV_ABS, EV_KEY, EV_LED, EV_MSC, EV_REL, EV_REP, EV_SND, EV_SW};
use crate::options::{ids, text};
use crate::state::SLOTS;

/// The longest file, in bytes.
const MOST: u64 = 1 << 20;
/// Types of events, and the last code of each.
const TYPES: [(u16, u16); 8] = [
    (EV_KEY, 0x2ff),
    (EV_REL, 0xf),
    (EV_ABS, 0x3f),
    (EV_MSC, 7),
    (EV_SW, 0x10),
    (EV_LED, 0xf),
    (EV_SND, 7),
    (EV_REP, 1),
];
const LAST_PROPERTY: u16 = 0x1f;

/// The file. Names of events, axes and properties are for who reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: Option<String>,
    serial_name: Option<String>,
    ids: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, u16>,
    events: Vec<Events>,
    #[serde(default)]
    axis_info: Vec<Axis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    event_type: String,
    event_type_code: u16,
    supported_events: BTreeMap<String, u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Axis {
    axis: String,
    axis_code: u16,
    min: i32,
    max: i32,
    #[serde(default)]
    fuzz: u32,
    #[serde(default)]
    flat: u32,
    #[serde(default)]
    resolution: u32,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or makes no sense.
pub(super) fn read(path: &Path) -> Result<Abilities, DeviceError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes))
        .map_err(|error| DeviceError::host(format!("cannot read {}", path.display()), error))?;
    let abilities = match bytes.len() as u64 {
        0..=MOST => parse(&bytes),
        _ => Err(format!("more than {MOST} bytes")),
    };
    abilities.map_err(|reason| DeviceError::Invalid(format!("{}: {reason}", path.display())))
}

fn parse(bytes: &[u8]) -> Result<Abilities, String> {
    let file: Description = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let line = |given: Option<String>, what| match given {
        Some(given) if given.contains('\0') => Err(format!("{what}: it has an end within")),
        Some(given) => text(&given).map(String::into_bytes).map_err(|reason| format!("{what}: {reason}")),
        None => Ok(Vec::new()),
    };
    let mut abilities = Abilities {
        name: line(file.name, "name")?,
        serial: line(file.serial_name, "serial_name")?,
        ..Abilities::default()
    };
    abilities.ids = match file.ids {
        Some(given) => ids(&given).map_err(|reason| format!("ids: {reason}"))?,
        // Virtual things.
        None => Devids { bustype: 6.into(), ..Devids::default() },
    };
    abilities.props = Bits::of(file.properties.values().copied());
    if let Some((name, code)) = file.properties.iter().find(|(_, code)| **code > LAST_PROPERTY) {
        return Err(format!("{name} cannot be the property {code}"));
    }
    for Events { event_type, event_type_code, supported_events } in file.events {
        let known = TYPES.iter().find(|(kind, _)| *kind == event_type_code);
        let (kind, last) =
            known.ok_or_else(|| format!("{event_type} cannot be the type {event_type_code}"))?;
        if let Some((name, code)) = supported_events.iter().find(|(_, code)| *code > last) {
            return Err(format!("{name} cannot be the event {code} of {event_type}"));
        }
        if !supported_events.is_empty() {
            abilities = abilities.with(*kind, supported_events.into_values());
        }
    }
    if abilities.codes.is_empty() {
        return Err("there are no events".to_owned());
    }
    for axis in file.axis_info {
        abilities = axis.add_to(abilities)?;
    }
    let axes = abilities.codes.get(&EV_ABS);
    let without = axes.and_then(|axes| axes.iter().find(|code| !abilities.axes.contains_key(code)));
    match without {
        Some(code) => Err(format!("the axis {code} has no range in axis_info")),
        None => Ok(abilities),
    }
}

impl Axis {
    fn add_to(self, abilities: Abilities) -> Result<Abilities, String> {
        let Self { axis, axis_code: code, min, max, .. } = self;
        if !abilities.has(EV_ABS, code) {
            return Err(format!("{axis} is the axis {code}, which is none of the events"));
        }
        if abilities.axes.contains_key(&code) {
            return Err(format!("{axis} is the axis {code}, which has a range already"));
        }
        if min > max {
            return Err(format!("{axis} ends at {max} and begins at {min}"));
        }
        if code == ABS_MT_SLOT && (min, max >= SLOTS) != (0, false) {
            return Err(format!("{axis} begins at 0 and ends before {SLOTS}"));
        }
        let [min, max] = [min, max].map(i32::cast_unsigned);
        let [min, max, fuzz, flat, res] = [min, max, self.fuzz, self.flat, self.resolution].map(Into::into);
        Ok(abilities.axis(code, AbsInfo { min, max, fuzz, flat, res }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As crosvm has it, but for the ids and the resolution.
    const PEDAL: &str = r#"{
        "name": "Pedal",
        "serial_name": "p-1",
        "ids": "3:46d:c52b:111",
        "properties": { "INPUT_PROP_POINTER": 0, "INPUT_PROP_ACCELEROMETER": 6 },
        "events": [
            { "event_type": "EV_KEY", "event_type_code": 1, "supported_events": { "KEY_ESC": 1, "BTN_0": 256 } },
            { "event_type": "EV_ABS", "event_type_code": 3, "supported_events": { "ABS_X": 0, "ABS_GAS": 9 } },
            { "event_type": "EV_LED", "event_type_code": 17, "supported_events": { "LED_CAPSL": 1 } }
        ],
        "axis_info": [
            { "axis": "ABS_X", "axis_code": 0, "min": -5, "max": 32767, "fuzz": 1, "flat": 2, "resolution": 3 },
            { "axis": "ABS_GAS", "axis_code": 9, "min": 0, "max": 0 }
        ]
    }"#;

    #[test]
    fn file_says_all_that_a_device_is() {
        let pedal = parse(PEDAL.as_bytes()).unwrap();
        assert_eq!((pedal.name.as_slice(), pedal.serial.as_slice()), (&b"Pedal"[..], &b"p-1"[..]));
        assert_eq!((pedal.ids.vendor.get(), pedal.ids.version.get()), (0x46d, 0x111));
        assert_eq!(pedal.props, Bits::of([0, 6]));
        let codes = |kind| pedal.codes.get(&kind).map(|codes| codes.iter().collect::<Vec<_>>());
        assert_eq!([1, 3, 17, 2].map(codes), [Some(vec![1, 256]), Some(vec![0, 9]), Some(vec![1]), None]);
        let x = pedal.axes.get(&0).unwrap();
        assert_eq!([x.min.get().cast_signed(), x.max.get().cast_signed()], [-5, 32767]);
        assert_eq!([x.fuzz.get(), x.flat.get(), x.res.get()], [1, 2, 3]);
    }

    #[test]
    fn file_that_makes_no_sense_is_refused_with_the_reason() {
        for (from, to, reason) in [
            ("{", "[", "line 2"),
            ("\"name\"", "\"nom\"", "unknown field `nom`"),
            ("\"Pedal\"", "\"\"", "name: 1 to 127 bytes"),
            ("\"Pedal\"", "\"Pe\\u0000dal\"", "name: it has an end within"),
            ("3:46d", "46d", "ids: four numbers"),
            ("\"events\"", "\"axis_info\": [], \"events\"", "duplicate field"),
            ("ACCELEROMETER\": 6", "ACCELEROMETER\": 32", "cannot be the property 32"),
            ("\"event_type_code\": 1,", "\"event_type_code\": 0,", "EV_KEY cannot be the type 0"),
            ("\"event_type_code\": 17", "\"event_type_code\": 21", "EV_LED cannot be the type 21"),
            ("\"BTN_0\": 256", "\"BTN_0\": 768", "BTN_0 cannot be the event 768 of EV_KEY"),
            ("\"BTN_0\": 256", "\"BTN_0\": -1", "invalid value"),
            ("\"ABS_GAS\": 9", "\"ABS_GAS\": 64", "ABS_GAS cannot be the event 64"),
            ("\"axis_code\": 9", "\"axis_code\": 10", "ABS_GAS is the axis 10, which is none of the events"),
            ("\"axis_code\": 9", "\"axis_code\": 0", "which has a range already"),
            ("\"ABS_X\": 0,", "\"ABS_X\": 0, \"ABS_Y\": 1,", "the axis 1 has no range"),
            ("\"min\": -5, \"max\": 32767", "\"min\": 5, \"max\": 4", "ABS_X ends at 4 and begins at 5"),
            ("32767", "2147483648", "invalid value"),
        ] {
            assert!(PEDAL.contains(from), "{from}");
            let error = parse(PEDAL.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{from} -> {to}: {error}");
        }
        let slots = PEDAL
            .replace("\"ABS_GAS\": 9", "\"ABS_MT_SLOT\": 47")
            .replace("\"axis_code\": 9", "\"axis_code\": 47");
        assert!(parse(slots.as_bytes()).is_ok());
        for range in ["\"min\": 1, \"max\": 2", "\"min\": 0, \"max\": 32"] {
            let error = parse(slots.replace("\"min\": 0, \"max\": 0", range).as_bytes()).unwrap_err();
            assert!(error.contains("ends before 32"), "{error}");
        }
        assert!(parse(br#"{"events": []}"#).unwrap_err().contains("no events"));
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
