//! Events, and frames of them: what happened at one moment, up to and with SYN_REPORT.

use outboard_device::defs::input::Event;

pub(crate) const EV_SYN: u16 = 0;
pub(crate) const EV_KEY: u16 = 1;
pub(crate) const EV_REL: u16 = 2;
pub(crate) const EV_ABS: u16 = 3;
pub(crate) const EV_MSC: u16 = 4;
pub(crate) const EV_SW: u16 = 5;
pub(crate) const EV_LED: u16 = 0x11;
pub(crate) const EV_SND: u16 = 0x12;
pub(crate) const EV_REP: u16 = 0x14;

pub(crate) const SYN_REPORT: u16 = 0;
pub(crate) const SYN_DROPPED: u16 = 3;

pub(crate) const ABS_MT_SLOT: u16 = 0x2f;
pub(crate) const ABS_MT_TRACKING_ID: u16 = 0x39;
/// The axes of a contact: from here to [`ABS_MT_LAST`], but for the slot itself.
pub(crate) const ABS_MT_FIRST: u16 = 0x30;
pub(crate) const ABS_MT_LAST: u16 = 0x3d;

/// The bytes of an event on the queues.
pub(crate) const EVENT_LEN: usize = 8;
/// A frame of more events than this is told as the state that it leaves.
pub(crate) const LONGEST: usize = 512;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: u16,
    pub(crate) code: u16,
    pub(crate) value: i32,
}

impl Change {
    pub(crate) const fn new(kind: u16, code: u16, value: i32) -> Self {
        Self { kind, code, value }
    }

    pub(crate) const SYN: Self = Self::new(EV_SYN, SYN_REPORT, 0);
}

impl From<Event> for Change {
    fn from(event: Event) -> Self {
        Self::new(event.kind.get(), event.code.get(), event.value.get().cast_signed())
    }
}

impl From<Change> for Event {
    fn from(change: Change) -> Self {
        Self {
            kind: change.kind.into(),
            code: change.code.into(),
            value: change.value.cast_unsigned().into(),
        }
    }
}

/// Gathers events until a frame is whole.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    changes: Vec<Change>,
    /// More came than a frame has room for: they are not lost to the state.
    overlong: bool,
}

/// What has happened at one moment: without the SYN_REPORT at its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) changes: Vec<Change>,
    /// It is to be told as the state that it leaves.
    pub(crate) as_state: bool,
}

impl Gathering {
    /// Adds an event; a frame if that was its end.
    pub(crate) fn add(&mut self, change: Change) -> Option<Frame> {
        match (change.kind, change.code) {
            (EV_SYN, SYN_REPORT) => {
                let as_state = std::mem::take(&mut self.overlong);
                let changes = std::mem::take(&mut self.changes);
                (!changes.is_empty()).then_some(Frame { changes, as_state })
            }
            // SYN_MT_REPORT and SYN_CONFIG: of protocols that slots have replaced.
            (EV_SYN, _) => None,
            _ => {
                self.overlong |= self.changes.len() >= LONGEST;
                self.changes.push(change);
                if self.changes.len() > 8 * LONGEST {
                    // No device has so much to say at a time.
                    self.changes.clear();
                }
                None
            }
        }
    }

    /// Forgets what was gathered: its rest is lost.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_ends_with_its_report_and_an_empty_one_is_none() {
        let mut gathering = Gathering::default();
        let [down, moved] = [Change::new(EV_KEY, 30, 1), Change::new(EV_REL, 0, 5)];
        assert_eq!(gathering.add(Change::SYN), None);
        assert_eq!((gathering.add(down), gathering.add(moved)), (None, None));
        assert_eq!(gathering.add(Change::new(EV_SYN, 2, 0)), None);
        assert_eq!(gathering.add(Change::SYN), Some(Frame { changes: vec![down, moved], as_state: false }));
        gathering.add(down);
        gathering.clear();
        assert_eq!(gathering.add(Change::SYN), None);
    }

    #[test]
    fn frame_without_end_is_told_as_state_and_bounded() {
        let mut gathering = Gathering::default();
        for _ in 0..100 * LONGEST {
            gathering.add(Change::new(EV_KEY, 30, 1));
        }
        let frame = gathering.add(Change::SYN).unwrap();
        assert!(frame.as_state && frame.changes.len() <= 8 * LONGEST);
        gathering.add(Change::new(EV_KEY, 30, 0));
        assert!(!gathering.add(Change::SYN).unwrap().as_state);
    }
}
