//! What the guest knows of keys and axes, and what is: so that nothing stays pressed that was released while the guest had no room
//! for events. Pure.

use std::collections::BTreeMap;

use crate::config::Bits;
use crate::frame::{
    ABS_MT_FIRST, ABS_MT_LAST, ABS_MT_SLOT, ABS_MT_TRACKING_ID, Change, EV_ABS, EV_KEY, EV_REL, EV_SW,
};

/// Contacts of a touch screen that are told apart.
pub(crate) const SLOTS: i32 = 32;

/// Keys, switches and axes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    keys: Bits,
    switches: Bits,
    axes: BTreeMap<u16, i32>,
    /// What is known of each contact; one that is not there has tracking id -1.
    slots: BTreeMap<(i32, u16), i32>,
    slot: i32,
}

impl Picture {
    pub(crate) fn apply(&mut self, change: Change) {
        let Change { kind, code, value } = change;
        match kind {
            EV_KEY => self.keys.set(code, value != 0),
            EV_SW => self.switches.set(code, value != 0),
            EV_ABS if code == ABS_MT_SLOT => self.slot = value,
            EV_ABS if (ABS_MT_FIRST..=ABS_MT_LAST).contains(&code) => {
                let there = (0..SLOTS).contains(&self.slot);
                self.slots.extend(there.then_some(((self.slot, code), value)));
            }
            EV_ABS => drop(self.axes.insert(code, value)),
            _ => {}
        }
    }

    pub(crate) fn is_pressed(&self, code: u16) -> bool {
        self.keys.has(code)
    }

    /// The number of the contact in a slot, -1 for none.
    pub(crate) fn contact(&self, slot: i32) -> i32 {
        self.slots.get(&(slot, ABS_MT_TRACKING_ID)).copied().unwrap_or(-1)
    }

    /// The contacts that there are.
    pub(crate) fn contacts(&self) -> impl Iterator<Item = i32> + '_ {
        (0..SLOTS).filter(|slot| self.contact(*slot) >= 0)
    }

    /// What has to happen for this to become `other`.
    fn changes_to(&self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (kind, old, new) in [(EV_KEY, &self.keys, &other.keys), (EV_SW, &self.switches, &other.switches)]
        {
            let differs = (0..1024).filter(|code| old.has(*code) != new.has(*code));
            changes.extend(differs.map(|code| Change::new(kind, code, new.has(code).into())));
        }
        for (&code, &value) in &other.axes {
            if self.axes.get(&code) != Some(&value) {
                changes.push(Change::new(EV_ABS, code, value));
            }
        }
        let mut slot = self.slot;
        for number in 0..SLOTS {
            let (old, new) = (self.contact(number), other.contact(number));
            if old != new {
                // Another contact, or none: the one that was there has ended.
                go_to(number, &mut slot, &mut changes);
                if old >= 0 && new >= 0 {
                    changes.push(Change::new(EV_ABS, ABS_MT_TRACKING_ID, -1));
                }
                changes.push(Change::new(EV_ABS, ABS_MT_TRACKING_ID, new));
            }
            for (&(_, code), &value) in other.slots.range((number, 0)..(number + 1, 0)) {
                if code != ABS_MT_TRACKING_ID && self.slots.get(&(number, code)) != Some(&value) {
                    go_to(number, &mut slot, &mut changes);
                    changes.push(Change::new(EV_ABS, code, value));
                }
            }
        }
        if !other.slots.is_empty() {
            go_to(other.slot, &mut slot, &mut changes);
        }
        changes
    }
}

fn go_to(number: i32, slot: &mut i32, changes: &mut Vec<Change>) {
    if *slot != number {
        *slot = number;
        changes.push(Change::new(EV_ABS, ABS_MT_SLOT, number));
    }
}

/// What is, and what the guest knows of it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) is: Picture,
    told: Picture,
    /// How far things were moved without the guest's knowing.
    moved: BTreeMap<u16, i32>,
    /// The guest does not know all that is.
    pub(crate) behind: bool,
}

impl State {
    /// Something happened, and is told in its turn.
    pub(crate) fn happened(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.is.apply(*change));
    }

    /// What happened was told.
    pub(crate) fn told(&mut self, changes: &[Change]) {
        changes.iter().for_each(|change| self.told.apply(*change));
    }

    /// Something happened, and there was no way to tell it.
    pub(crate) fn missed(&mut self, changes: &[Change]) {
        self.behind = true;
        self.happened(changes);
        for change in changes {
            if change.kind == EV_REL {
                let sum = self.moved.entry(change.code).or_default();
                *sum = sum.saturating_add(change.value);
            }
        }
    }

    /// What the guest has to be told to know what is.
    pub(crate) fn gap(&self) -> Vec<Change> {
        let moved = self.moved.iter().filter(|(_, sum)| **sum != 0);
        let moved = moved.map(|(&code, &sum)| Change::new(EV_REL, code, sum));
        self.told.changes_to(&self.is).into_iter().chain(moved).collect()
    }

    /// That was told.
    pub(crate) fn caught_up(&mut self) {
        self.told = self.is.clone();
        self.moved.clear();
        self.behind = false;
    }

    /// Another driver begins, and takes everything for released.
    pub(crate) fn begin(&mut self) {
        self.told = Picture::default();
        self.moved.clear();
        self.behind = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: u16 = 0x35;

    fn key(code: u16, down: bool) -> Change {
        Change::new(EV_KEY, code, down.into())
    }

    fn abs(code: u16, value: i32) -> Change {
        Change::new(EV_ABS, code, value)
    }

    fn happened_and_told(state: &mut State, changes: &[Change]) {
        state.happened(changes);
        state.told(changes);
    }

    #[test]
    fn what_was_missed_is_made_up_for_by_the_difference() {
        let mut state = State::default();
        happened_and_told(&mut state, &[key(30, true), key(31, true), abs(0, 5)]);
        assert!(state.gap().is_empty());
        state.missed(&[key(30, false), key(32, true), Change::new(EV_REL, 0, 3), abs(0, 9)]);
        state.missed(&[key(32, false), key(33, true), Change::new(EV_REL, 0, 4), abs(0, 7)]);
        assert_eq!(state.gap(), [key(30, false), key(33, true), abs(0, 7), Change::new(EV_REL, 0, 7)]);
        state.caught_up();
        assert!(state.gap().is_empty());
        state.begin();
        assert_eq!(state.gap(), [key(31, true), key(33, true), abs(0, 7)]);
    }

    #[test]
    fn contacts_missed_end_and_begin_in_their_slots() {
        let mut state = State::default();
        let touch = |slot, id, x| [abs(ABS_MT_SLOT, slot), abs(ABS_MT_TRACKING_ID, id), abs(X, x)];
        happened_and_told(&mut state, &touch(0, 7, 10));
        happened_and_told(&mut state, &touch(1, 8, 20));
        // The first is lifted, and another finger comes; the second moves; a third comes.
        state.missed(&[abs(ABS_MT_SLOT, 0), abs(ABS_MT_TRACKING_ID, -1)]);
        state.missed(&touch(0, 9, 11));
        state.missed(&[abs(ABS_MT_SLOT, 1), abs(X, 21)]);
        state.missed(&touch(3, 10, 30));
        let changes = state.gap();
        assert_eq!(
            changes,
            [
                abs(ABS_MT_SLOT, 0),
                abs(ABS_MT_TRACKING_ID, -1),
                abs(ABS_MT_TRACKING_ID, 9),
                abs(X, 11),
                abs(ABS_MT_SLOT, 1),
                abs(X, 21),
                abs(ABS_MT_SLOT, 3),
                abs(ABS_MT_TRACKING_ID, 10),
                abs(X, 30),
            ]
        );
        state.caught_up();
        let ids: Vec<i32> = state.is.contacts().map(|slot| state.is.contact(slot)).collect();
        assert_eq!(ids, [9, 8, 10]);
        // Slots beyond all that there are harm nobody.
        state.missed(&touch(SLOTS, 1, 1));
        state.missed(&touch(-1, 1, 1));
        assert_eq!(state.gap(), [abs(ABS_MT_SLOT, -1)]);
    }
}
