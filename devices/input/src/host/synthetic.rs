//! What is simulated: a keyboard, a mouse, a tablet, a touch screen, driven by commands. Who drives is not trusted: what the device does
//! not have is refused.
//!
//! Commands come from the driving socket, the script and the control socket, on their threads; the simulation is under a lock, which
//! they hold for a moment. The frames go to the handler by a [`Hotline`].

use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_daemon::{Driven, Teller};
use outboard_device::defs::input::AbsInfo;
use outboard_device::serde_json::{Value, json};
use outboard_device::{DeviceError, Hotline};

use crate::config::{Abilities, Bits};
use crate::device::Held;
use crate::frame::{
    ABS_MT_SLOT, ABS_MT_TRACKING_ID, Change, EV_ABS, EV_KEY, EV_LED, EV_REL, EV_REP, EV_SND, Frame,
};
use crate::state::{Picture, SLOTS};

mod codes;
mod layout;

const BTN_LEFT: u16 = 0x110;
const BTN_EXTRA: u16 = 0x114;
const BTN_TOUCH: u16 = 0x14a;
const REL_X: u16 = 0;
const REL_Y: u16 = 1;
const REL_HWHEEL: u16 = 6;
const REL_WHEEL: u16 = 8;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const ABS_MT_POSITION_X: u16 = 0x35;
const ABS_MT_POSITION_Y: u16 = 0x36;
const PROP_DIRECT: u16 = 1;

/// The largest tracking id of a contact.
const LAST_ID: i32 = 0xffff;
/// The longest text that is typed at a time, in characters.
const TEXT_MAX: usize = 2000;
/// The most events in one command.
const EVENTS_MAX: usize = 4096;
const _: () = assert!(EVENTS_MAX < crate::kept::HALF, "no frame is longer than what it waits for");
/// Commands that the handler has not taken.
pub(crate) const COMMANDS: usize = 64;

/// What can be simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Keyboard,
    Mouse,
    Tablet { width: u32, height: u32 },
    MultiTouch { width: u32, height: u32, slots: u32 },
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, size) = text.split_once('=').map_or((text, None), |(name, size)| (name, Some(size)));
        let numbers: Option<Vec<u32>> = size
            .map(|size| {
                size.split('x')
                    .map(|number| number.parse().ok().filter(|n| (1..=1 << 20).contains(n)))
                    .collect()
            })
            .unwrap_or_else(|| Some(Vec::new()));
        match (name, numbers.as_deref()) {
            ("keyboard", Some([])) => Ok(Self::Keyboard),
            ("mouse", Some([])) => Ok(Self::Mouse),
            ("tablet", Some([])) => Ok(Self::Tablet { width: 0x8000, height: 0x8000 }),
            ("tablet", Some(&[width, height])) => Ok(Self::Tablet { width, height }),
            ("multi-touch", Some([])) => Ok(Self::MultiTouch { width: 0x8000, height: 0x8000, slots: 10 }),
            ("multi-touch", Some(&[width, height])) => Ok(Self::MultiTouch { width, height, slots: 10 }),
            ("multi-touch", Some(&[width, height, slots])) if slots <= SLOTS.cast_unsigned() => {
                Ok(Self::MultiTouch { width, height, slots })
            }
            _ => Err(format!("keyboard, mouse, tablet[=WxH] or multi-touch[=WxHxCONTACTS], at most {SLOTS}")),
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keyboard => "keyboard",
            Self::Mouse => "mouse",
            Self::Tablet { .. } => "tablet",
            Self::MultiTouch { .. } => "multi-touch",
        }
    }

    pub(crate) fn abilities(self) -> Abilities {
        let range = |last: u32| AbsInfo { max: last.into(), ..AbsInfo::default() };
        let device = Abilities::default();
        match self {
            Self::Keyboard => device.with(EV_KEY, 1..=248).with(EV_LED, 0..=2).with(EV_REP, 0..=1),
            Self::Mouse => {
                device.with(EV_KEY, BTN_LEFT..=BTN_EXTRA).with(EV_REL, [REL_X, REL_Y, REL_HWHEEL, REL_WHEEL])
            }
            Self::Tablet { width, height } => device
                .with(EV_KEY, BTN_LEFT..=BTN_EXTRA)
                .with(EV_REL, [REL_WHEEL])
                .axis(ABS_X, range(width - 1))
                .axis(ABS_Y, range(height - 1)),
            Self::MultiTouch { width, height, slots } => {
                let device = Abilities { props: Bits::of([PROP_DIRECT]), ..device };
                device
                    .with(EV_KEY, [BTN_TOUCH])
                    .axis(ABS_X, range(width - 1))
                    .axis(ABS_Y, range(height - 1))
                    .axis(ABS_MT_SLOT, range(slots - 1))
                    .axis(ABS_MT_POSITION_X, range(width - 1))
                    .axis(ABS_MT_POSITION_Y, range(height - 1))
                    .axis(ABS_MT_TRACKING_ID, range(LAST_ID.cast_unsigned()))
            }
        }
    }
}

/// What is simulated, and who hears of it.
pub(crate) struct Synthetic {
    abilities: Abilities,
    simulated: Mutex<Simulated>,
    teller: Teller,
    hotline: Hotline<Vec<Frame>>,
    held: Arc<Held>,
}

#[derive(Default)]
struct Simulated {
    is: Picture,
    leds: Bits,
    last_id: i32,
}

fn wrong(reason: impl Into<String>) -> DeviceError {
    DeviceError::Invalid(reason.into())
}

impl Synthetic {
    pub(crate) fn new(abilities: Abilities, teller: Teller, held: Arc<Held>) -> Self {
        let simulated = Mutex::new(Simulated { last_id: -1, ..Simulated::default() });
        Self { abilities, simulated, teller, hotline: Hotline::new(COMMANDS), held }
    }

    /// Where the handler gets its frames.
    pub(crate) const fn hotline(&self) -> &Hotline<Vec<Frame>> {
        &self.hotline
    }

    /// The guest uses the device.
    pub(crate) fn begin(&self) {
        self.teller.begin();
    }

    /// The guest has switched something on or off.
    pub(crate) fn feedback(&self, change: Change) {
        let (event, names) = match change.kind {
            EV_LED => ("led", codes::LEDS),
            EV_SND => ("sound", codes::SOUNDS),
            _ => ("repeat", [].as_slice()),
        };
        if change.kind == EV_LED {
            self.simulated().leds.set(change.code, change.value != 0);
        }
        self.teller.tell(|| {
            let code = layout::name_of(names, change.code);
            json!({ "event": event, "code": code, "value": change.value })
        });
    }

    /// The lights that are on.
    pub(crate) fn leds(&self) -> Value {
        let simulated = self.simulated();
        simulated.leds.iter().map(|code| layout::name_of(codes::LEDS, code)).collect()
    }

    fn simulated(&self) -> MutexGuard<'_, Simulated> {
        self.simulated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has frames happen: all or none.
    fn happen(&self, frames: Vec<Vec<Change>>) -> Result<(), DeviceError> {
        for change in frames.iter().flatten() {
            self.check(*change)?;
        }
        let mut simulated = self.simulated();
        let frames: Vec<Frame> =
            frames.into_iter().map(|changes| Frame { changes, as_state: false }).collect();
        let all: Vec<Change> = frames.iter().flat_map(|frame| frame.changes.iter().copied()).collect();
        if let Err(frames) = self.hotline.tell(frames) {
            // Nobody uses the device, or nobody has taken what was sent before.
            self.held
                .with(|kept| kept.accept_unattended(frames))
                .ok_or_else(|| wrong("the guest's queues are busy with what was sent before"))?;
        }
        all.into_iter().for_each(|change| simulated.is.apply(change));
        Ok(())
    }

    fn check(&self, change: Change) -> Result<(), DeviceError> {
        let Change { kind, code, value } = change;
        if !self.abilities.has(kind, code) {
            return Err(wrong(format!("the device has no event of type {kind:#x} and code {code:#x}")));
        }
        let range = self.abilities.axes.get(&code).filter(|_| kind == EV_ABS);
        let range = range.map(|info| (info.min.get().cast_signed(), info.max.get().cast_signed()));
        match (kind, range) {
            (EV_KEY, _) if !(0..=2).contains(&value) => {
                Err(wrong("a key is 0 (up), 1 (down) or 2 (repeated)"))
            }
            (EV_ABS, _) if code == ABS_MT_TRACKING_ID && value == -1 => Ok(()),
            (EV_ABS, Some((min, max))) if !(min..=max).contains(&value) => {
                Err(wrong(format!("{value} is not between {min} and {max}")))
            }
            _ => Ok(()),
        }
    }

    fn touch(&self, slot: i32, x: i32, y: i32) -> Vec<Change> {
        let mut simulated = self.simulated();
        let (first, known) = (simulated.is.contacts().next().is_none(), simulated.is.contact(slot) >= 0);
        let mut changes = vec![Change::new(EV_ABS, ABS_MT_SLOT, slot)];
        if !known {
            simulated.last_id = if simulated.last_id >= LAST_ID { 0 } else { simulated.last_id + 1 };
            changes.push(Change::new(EV_ABS, ABS_MT_TRACKING_ID, simulated.last_id));
        }
        changes.push(Change::new(EV_ABS, ABS_MT_POSITION_X, x));
        changes.push(Change::new(EV_ABS, ABS_MT_POSITION_Y, y));
        if first {
            changes.push(Change::new(EV_KEY, BTN_TOUCH, 1));
        }
        if first || simulated.is.contacts().next() == Some(slot) {
            changes.extend([Change::new(EV_ABS, ABS_X, x), Change::new(EV_ABS, ABS_Y, y)]);
        }
        changes
    }

    fn lift(&self, slot: i32) -> Vec<Change> {
        let simulated = self.simulated();
        if simulated.is.contact(slot) < 0 {
            return Vec::new();
        }
        let mut changes =
            vec![Change::new(EV_ABS, ABS_MT_SLOT, slot), Change::new(EV_ABS, ABS_MT_TRACKING_ID, -1)];
        if simulated.is.contacts().all(|other| other == slot) {
            changes.push(Change::new(EV_KEY, BTN_TOUCH, 0));
        }
        changes
    }
}

/// The arguments of a command.
struct Arguments<'a>(&'a Value);

impl Arguments<'_> {
    fn number(&self, key: &str) -> Result<i32, DeviceError> {
        let number = self.0.get(key).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
        number.ok_or_else(|| wrong(format!("{key}: a number")))
    }

    fn number_or(&self, key: &str, default: i32) -> Result<i32, DeviceError> {
        if self.0.get(key).is_some() { self.number(key) } else { Ok(default) }
    }

    fn list(&self, key: &str) -> Result<&Vec<Value>, DeviceError> {
        let list = self.0.get(key).and_then(Value::as_array);
        list.filter(|list| list.len() <= EVENTS_MAX)
            .ok_or_else(|| wrong(format!("{key}: a list of at most {EVENTS_MAX}")))
    }

    fn key(&self) -> Result<u16, DeviceError> {
        let code = self.0.get("code").ok_or_else(|| wrong("code: the name or number of a key"))?;
        layout::key_of(code).map_err(wrong)
    }
}

impl Driven for Synthetic {
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let arguments = Arguments(arguments);
        let key = |code, value| vec![Change::new(EV_KEY, code, value)];
        let moved = |pairs: [(u16, i32); 2]| {
            let moved = pairs.into_iter().filter(|(_, by)| *by != 0);
            vec![moved.map(|(code, by)| Change::new(EV_REL, code, by)).collect::<Vec<_>>()]
        };
        let frames = match command {
            "leds" => return Ok(self.leds()),
            "key" | "button" => vec![key(arguments.key()?, arguments.number("value")?)],
            "press" => {
                let codes = arguments.list("codes")?.iter().map(layout::key_of);
                let codes = codes.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
                let down = codes.iter().map(|&code| key(code, 1));
                down.chain(codes.iter().rev().map(|&code| key(code, 0))).collect()
            }
            "type" => {
                let text =
                    arguments.0.get("text").and_then(Value::as_str).ok_or_else(|| wrong("text: a text"))?;
                if text.chars().count() > TEXT_MAX {
                    return Err(wrong(format!("at most {TEXT_MAX} characters at a time")));
                }
                layout::typed(text).map_err(wrong)?
            }
            "move" => moved([(REL_X, arguments.number_or("dx", 0)?), (REL_Y, arguments.number_or("dy", 0)?)]),
            "wheel" => moved([
                (REL_WHEEL, arguments.number_or("vertical", 0)?),
                (REL_HWHEEL, arguments.number_or("horizontal", 0)?),
            ]),
            "point" => vec![vec![
                Change::new(EV_ABS, ABS_X, arguments.number("x")?),
                Change::new(EV_ABS, ABS_Y, arguments.number("y")?),
            ]],
            "touch" => {
                let slot = arguments.number_or("slot", 0)?;
                self.check(Change::new(EV_ABS, ABS_MT_SLOT, slot))?;
                vec![self.touch(slot, arguments.number("x")?, arguments.number("y")?)]
            }
            "lift" => vec![self.lift(arguments.number_or("slot", 0)?)],
            "events" => vec![arguments.list("events")?.iter().map(raw).collect::<Result<_, _>>()?],
            _ => return Err(DeviceError::UnknownCommand(command.to_owned())),
        };
        self.happen(frames.into_iter().filter(|frame| !frame.is_empty()).collect())?;
        Ok(Value::Null)
    }
}

/// An event as `[type, code, value]`.
fn raw(event: &Value) -> Result<Change, DeviceError> {
    let number = |at: usize| event.get(at).and_then(Value::as_i64);
    let change = match (number(0), number(1), number(2), event.as_array().map(Vec::len)) {
        (Some(kind), Some(code), Some(value), Some(3)) => {
            u16::try_from(kind).ok().zip(u16::try_from(code).ok()).zip(i32::try_from(value).ok())
        }
        _ => None,
    };
    let ((kind, code), value) = change.ok_or_else(|| wrong("an event is [type, code, value]"))?;
    Ok(Change::new(kind, code, value))
}
