//! What is simulated: a keyboard, a mouse, a tablet, a touch screen and more ([`kind`]), driven by commands. Who drives is not trusted: what the device does
//! not have is refused.
//!
//! Commands come from the driving socket, the script and the control socket, on their threads; the simulation is under a lock, which
//! they hold for a moment. The frames go to the handler by a [`Hotline`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_daemon::{Driven, Teller};
use outboard_device::serde_json::{Value, json};
use outboard_device::{DeviceError, Hotline};

use crate::config::{Abilities, Bits};
use crate::device::Held;
use crate::frame::{
    ABS_MT_SLOT, ABS_MT_TRACKING_ID, Change, EV_ABS, EV_KEY, EV_LED, EV_REL, EV_SND, EV_SW, Frame,
};
use crate::state::Picture;

mod codes;
mod custom;
mod kind;
mod layout;

pub(crate) use kind::Kind;
use kind::{
    ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_X, ABS_Y, BTN_TOUCH, FINGERS, LAST_ID, REL_HWHEEL, REL_WHEEL,
    REL_X, REL_Y,
};

/// The longest text that is typed at a time, in characters.
const TEXT_MAX: usize = 2000;
/// The most events in one command.
const EVENTS_MAX: usize = 4096;
const _: () = assert!(EVENTS_MAX < crate::kept::HALF, "no frame is longer than what it waits for");
/// Commands that the handler has not taken.
pub(crate) const COMMANDS: usize = 64;

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

    /// Whether contacts are told apart.
    fn has_slots(&self) -> bool {
        self.abilities.has(EV_ABS, ABS_MT_SLOT)
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
            (EV_SW, _) if !(0..=1).contains(&value) => Err(wrong("a switch is 0 (off) or 1 (on)")),
            (EV_ABS, _) if code == ABS_MT_TRACKING_ID && value == -1 => Ok(()),
            (EV_ABS, Some((min, max))) if !(min..=max).contains(&value) => {
                Err(wrong(format!("{value} is not between {min} and {max}")))
            }
            _ => Ok(()),
        }
    }

    /// What tells how many fingers touch, when `before` have and `after` do.
    fn fingers(&self, before: usize, after: usize) -> impl Iterator<Item = Change> + '_ {
        let buttons =
            FINGERS.into_iter().zip(1..).map(move |(code, count)| (code, before == count, after == count));
        let buttons = [(BTN_TOUCH, before > 0, after > 0)].into_iter().chain(buttons);
        let changed =
            buttons.filter(|(code, before, after)| before != after && self.abilities.has(EV_KEY, *code));
        changed.map(|(code, _, after)| Change::new(EV_KEY, code, after.into()))
    }

    /// A finger on what tells none from another.
    fn touch_only(&self, x: i32, y: i32) -> Vec<Change> {
        let touched = usize::from(self.simulated().is.is_pressed(BTN_TOUCH));
        let place = [Change::new(EV_ABS, ABS_X, x), Change::new(EV_ABS, ABS_Y, y)];
        self.fingers(touched, 1).chain(place).collect()
    }

    fn touch(&self, slot: i32, x: i32, y: i32) -> Vec<Change> {
        let last_id =
            self.abilities.axes.get(&ABS_MT_TRACKING_ID).map_or(LAST_ID, |info| info.max.get().cast_signed());
        let mut simulated = self.simulated();
        let contacts = simulated.is.contacts().count();
        let (first, known) = (simulated.is.contacts().next().is_none(), simulated.is.contact(slot) >= 0);
        let mut changes = vec![Change::new(EV_ABS, ABS_MT_SLOT, slot)];
        if !known {
            simulated.last_id = if simulated.last_id >= last_id { 0 } else { simulated.last_id + 1 };
            changes.push(Change::new(EV_ABS, ABS_MT_TRACKING_ID, simulated.last_id));
        }
        changes.push(Change::new(EV_ABS, ABS_MT_POSITION_X, x));
        changes.push(Change::new(EV_ABS, ABS_MT_POSITION_Y, y));
        changes.extend(self.fingers(contacts, contacts + usize::from(!known)));
        let leads = first || simulated.is.contacts().next() == Some(slot);
        if leads && self.abilities.has(EV_ABS, ABS_X) {
            changes.extend([Change::new(EV_ABS, ABS_X, x), Change::new(EV_ABS, ABS_Y, y)]);
        }
        changes
    }

    fn lift(&self, slot: i32) -> Vec<Change> {
        let simulated = self.simulated();
        if !self.has_slots() {
            let touched = slot == 0 && simulated.is.is_pressed(BTN_TOUCH);
            return self.fingers(touched.into(), 0).collect();
        }
        if simulated.is.contact(slot) < 0 {
            return Vec::new();
        }
        let mut changes =
            vec![Change::new(EV_ABS, ABS_MT_SLOT, slot), Change::new(EV_ABS, ABS_MT_TRACKING_ID, -1)];
        let contacts = simulated.is.contacts().count();
        changes.extend(self.fingers(contacts, contacts.saturating_sub(1)));
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

    fn switch(&self) -> Result<u16, DeviceError> {
        let code = self.0.get("code").ok_or_else(|| wrong("code: the name or number of a switch"))?;
        layout::switch_of(code).map_err(wrong)
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
            "switch" => vec![vec![Change::new(EV_SW, arguments.switch()?, arguments.number("value")?)]],
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
                let (slot, x, y) =
                    (arguments.number_or("slot", 0)?, arguments.number("x")?, arguments.number("y")?);
                if slot == 0 && !self.has_slots() {
                    self.check(Change::new(EV_KEY, BTN_TOUCH, 1))?;
                    vec![self.touch_only(x, y)]
                } else {
                    self.check(Change::new(EV_ABS, ABS_MT_SLOT, slot))?;
                    vec![self.touch(slot, x, y)]
                }
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
