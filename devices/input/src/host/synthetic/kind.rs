//! What can be simulated, by its name on the command line, and what each can do.

use std::path::PathBuf;
use std::str::FromStr;

use outboard_device::DeviceError;
use outboard_device::defs::input::AbsInfo;

use super::codes::SWITCHES;
use super::custom;
use crate::config::{Abilities, Bits};
use crate::frame::{ABS_MT_SLOT, ABS_MT_TRACKING_ID, EV_KEY, EV_LED, EV_REL, EV_REP, EV_SW};
use crate::state::SLOTS;

const BTN_LEFT: u16 = 0x110;
const BTN_EXTRA: u16 = 0x114;
pub(super) const BTN_TOUCH: u16 = 0x14a;
/// The buttons that say how many fingers touch a pad, from one on.
pub(super) const FINGERS: [u16; 5] = [0x145, 0x14d, 0x14e, 0x14f, 0x148];
pub(super) const REL_X: u16 = 0;
pub(super) const REL_Y: u16 = 1;
pub(super) const REL_HWHEEL: u16 = 6;
pub(super) const REL_WHEEL: u16 = 8;
pub(super) const ABS_X: u16 = 0;
pub(super) const ABS_Y: u16 = 1;
pub(super) const ABS_MT_POSITION_X: u16 = 0x35;
pub(super) const ABS_MT_POSITION_Y: u16 = 0x36;
const PROP_POINTER: u16 = 0;
const PROP_DIRECT: u16 = 1;
const PROP_BUTTONPAD: u16 = 2;

/// The largest tracking id of a contact.
pub(super) const LAST_ID: i32 = 0xffff;

/// What can be simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Keyboard,
    Mouse,
    Rotary,
    Switches,
    Tablet(Size),
    SingleTouch(Size),
    MultiTouch(Size),
    Trackpad(Size),
    MultiTouchTrackpad(Size),
    /// What a file says.
    Custom(PathBuf),
}

/// How far a surface reaches, and how many contacts it tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    width: u32,
    height: u32,
    slots: u32,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "keyboard, mouse, rotary, switches, tablet[=WxH], single-touch[=WxH], multi-touch[=WxHxCONTACTS], \
                 trackpad[=WxH], multi-touch-trackpad[=WxHxCONTACTS] with at most {SLOTS}, or custom=FILE"
            )
        };
        let (name, rest) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        if let ("custom", Some(path)) = (name, rest.filter(|path| !path.is_empty())) {
            return Ok(Self::Custom(path.into()));
        }
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=1 << 20).contains(n));
        let numbers = rest.into_iter().flat_map(|rest| rest.split('x')).map(number);
        let numbers = numbers.collect::<Option<Vec<u32>>>().ok_or_else(wrong)?;
        let at = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
        let size = Size { width: at(0, 0x8000), height: at(1, 0x8000), slots: at(2, 10) };
        let few = size.slots <= SLOTS.cast_unsigned();
        match (name, numbers.len()) {
            ("keyboard", 0) => Ok(Self::Keyboard),
            ("mouse", 0) => Ok(Self::Mouse),
            ("rotary", 0) => Ok(Self::Rotary),
            ("switches", 0) => Ok(Self::Switches),
            ("tablet", 0 | 2) => Ok(Self::Tablet(size)),
            ("single-touch", 0 | 2) => Ok(Self::SingleTouch(size)),
            ("multi-touch", 0 | 2 | 3) if few => Ok(Self::MultiTouch(size)),
            ("trackpad", 0 | 2) => Ok(Self::Trackpad(size)),
            ("multi-touch-trackpad", 0 | 2 | 3) if few => Ok(Self::MultiTouchTrackpad(size)),
            _ => Err(wrong()),
        }
    }
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Keyboard => "keyboard",
            Self::Mouse => "mouse",
            Self::Rotary => "rotary",
            Self::Switches => "switches",
            Self::Tablet(_) => "tablet",
            Self::SingleTouch(_) => "single-touch",
            Self::MultiTouch(_) => "multi-touch",
            Self::Trackpad(_) => "trackpad",
            Self::MultiTouchTrackpad(_) => "multi-touch-trackpad",
            Self::Custom(_) => "custom",
        }
    }

    /// What it can do.
    ///
    /// # Errors
    /// The file that says so cannot be read, or makes no sense.
    pub(crate) fn abilities(&self) -> Result<Abilities, DeviceError> {
        let device = Abilities::default();
        Ok(match self {
            Self::Keyboard => device.with(EV_KEY, 1..=248).with(EV_LED, 0..=2).with(EV_REP, 0..=1),
            Self::Mouse => {
                device.with(EV_KEY, BTN_LEFT..=BTN_EXTRA).with(EV_REL, [REL_X, REL_Y, REL_HWHEEL, REL_WHEEL])
            }
            Self::Rotary => device.with(EV_REL, [REL_WHEEL]),
            Self::Switches => device.with(EV_SW, SWITCHES.iter().map(|(_, code)| *code)),
            Self::Tablet(size) => {
                size.surface(device).with(EV_KEY, BTN_LEFT..=BTN_EXTRA).with(EV_REL, [REL_WHEEL])
            }
            Self::SingleTouch(size) => size.screen(),
            Self::MultiTouch(size) => size.contacts(size.screen()),
            Self::Trackpad(size) => size.pad(1),
            Self::MultiTouchTrackpad(size) => size.contacts(size.pad(size.slots)),
            Self::Custom(path) => custom::read(path)?,
        })
    }
}

impl Size {
    fn surface(self, device: Abilities) -> Abilities {
        device.axis(ABS_X, range(self.width)).axis(ABS_Y, range(self.height))
    }

    /// What is touched where it shows something.
    fn screen(self) -> Abilities {
        let device = Abilities { props: Bits::of([PROP_DIRECT]), ..Abilities::default() };
        self.surface(device).with(EV_KEY, [BTN_TOUCH])
    }

    /// What is touched elsewhere by so many fingers, and is a button as a whole.
    fn pad(self, fingers: u32) -> Abilities {
        let props = Bits::of([PROP_POINTER, PROP_BUTTONPAD]);
        let fingers = FINGERS.into_iter().take(fingers as usize);
        self.surface(Abilities { props, ..Abilities::default() })
            .with(EV_KEY, [BTN_LEFT, BTN_TOUCH].into_iter().chain(fingers))
    }

    fn contacts(self, device: Abilities) -> Abilities {
        device
            .axis(ABS_MT_SLOT, range(self.slots))
            .axis(ABS_MT_POSITION_X, range(self.width))
            .axis(ABS_MT_POSITION_Y, range(self.height))
            .axis(ABS_MT_TRACKING_ID, range(LAST_ID.cast_unsigned() + 1))
    }
}

/// So many values, from 0 on.
fn range(count: u32) -> AbsInfo {
    AbsInfo { max: (count - 1).into(), ..AbsInfo::default() }
}
