//! The zones of a disk and what requests do to them (VIRTIO 1.3, 5.2.6). Pure: no data is moved here.
//!
//! A write moves the write pointer when it is admitted, so that the next one can follow while it is under way, and
//! is *settled* when the host is done with it. What has been settled is what is to be remembered when the program
//! dies ([`Zone::done`]): it is never behind a write that was answered. A write that fails takes the pointer back if
//! nothing was admitted behind it; what it has left behind the pointer is emptied before anything else is admitted.
//!
//! The guest is hostile: every position is checked here, whatever the request.

use super::layout::{Kind, Layout};
use super::zone::{State, Zone};
use crate::request::Outcome;

/// The right to write a part of a zone, until it is [settled](Table::settle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a write that is not settled blocks its zone"]
pub(crate) struct Reservation {
    pub(crate) zone: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// What is asked of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Open,
    Close,
    Finish,
    Reset,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It ends so.
    End(Outcome),
    /// Something is under way in the zone that has to end first.
    Busy,
}

impl From<Outcome> for Refusal {
    fn from(outcome: Outcome) -> Self {
        Self::End(outcome)
    }
}

/// All zones of a disk.
pub(crate) struct Table {
    layout: Layout,
    zones: Vec<Zone>,
    open: u32,
    active: u32,
    /// Zones that were opened by a write, the oldest first; the last ones may have been closed since. Kept only if the
    /// number of open zones is limited.
    opened: Vec<u32>,
    /// One write at a time in each zone: the host wants them in order.
    in_order: bool,
    under_way: u32,
}

impl Table {
    /// Zones as they were left. More open ones than there may be are closed.
    pub(crate) fn new(layout: Layout, zones: Vec<Zone>, in_order: bool) -> Self {
        let mut table =
            Self { layout, zones, open: 0, active: 0, opened: Vec::new(), in_order, under_way: 0 };
        for at in 0..table.zones.len() {
            let Some(zone) = table.zones.get_mut(at) else { break };
            if zone.state.is_open() && layout.max_open != 0 && table.open >= layout.max_open {
                zone.state = if zone.pointer == 0 { State::Empty } else { State::Closed };
            }
            let state = zone.state;
            table.open += u32::from(state.is_open());
            table.active += u32::from(state.is_active());
            if state == State::ImplicitlyOpen {
                table.remember(at);
            }
        }
        table
    }

    pub(crate) fn zone(&self, at: usize) -> Option<&Zone> {
        self.zones.get(at)
    }

    pub(crate) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// How many are active.
    pub(crate) fn active(&self) -> u32 {
        self.active
    }

    /// Admits a write of `count` sectors. `again`: it may have been done, in part or as a whole, by a process that
    /// died; then what is behind the pointer is written once more.
    pub(crate) fn write(&mut self, sector: u64, count: u32, again: bool) -> Result<Reservation, Refusal> {
        let (at, start, zone) = self.find(sector)?;
        let end = start.checked_add(count).filter(|&end| end <= self.layout.zone);
        let end = end.ok_or(Outcome::ZoneInvalid)?;
        let granularity = self.layout.granularity.max(1);
        if !start.is_multiple_of(granularity) || !count.is_multiple_of(granularity) {
            return Err(Outcome::ZoneUnaligned.into());
        }
        if again && start < zone.pointer && end <= zone.pointer {
            if zone.is_blocked() || self.in_order && zone.under_way > 0 {
                return Err(Refusal::Busy);
            }
            return Ok(self.reserve(at, start, end));
        }
        if matches!(zone.state, State::Full | State::ReadOnly | State::Offline) {
            return Err(Outcome::ZoneInvalid.into());
        }
        if zone.is_blocked() {
            return Err(Refusal::Busy);
        }
        if start != zone.pointer && !(again && start < zone.pointer) {
            return Err(Outcome::ZoneUnaligned.into());
        }
        self.admit(at, start, end, zone)
    }

    /// Admits an append of `count` sectors to the zone that begins at `sector`.
    pub(crate) fn append(&mut self, sector: u64, count: u32) -> Result<Reservation, Refusal> {
        let (at, within, zone) = self.find(sector)?;
        if within != 0 || count > self.layout.max_append {
            return Err(Outcome::ZoneInvalid.into());
        }
        if matches!(zone.state, State::Full | State::ReadOnly | State::Offline) {
            return Err(Outcome::ZoneInvalid.into());
        }
        if !count.is_multiple_of(self.layout.granularity.max(1)) {
            return Err(Outcome::ZoneUnaligned.into());
        }
        if zone.is_blocked() {
            return Err(Refusal::Busy);
        }
        let end = zone.pointer.checked_add(count).ok_or(Outcome::ZoneInvalid)?;
        self.admit(at, zone.pointer, end, zone)
    }

    /// A sequential zone, and where in it the sector is.
    fn find(&self, sector: u64) -> Result<(usize, u32, Zone), Outcome> {
        let (at, within) = self.layout.place(sector).ok_or(Outcome::ZoneInvalid)?;
        let zone = *self.zones.get(at).ok_or(Outcome::ZoneInvalid)?;
        match zone.kind {
            Kind::Conventional => Err(Outcome::ZoneInvalid),
            Kind::Sequential => Ok((at, within, zone)),
        }
    }

    fn admit(&mut self, at: usize, start: u32, end: u32, zone: Zone) -> Result<Reservation, Refusal> {
        if end > zone.capacity {
            return Err(Outcome::ZoneInvalid.into());
        }
        if self.in_order && zone.under_way > 0 {
            return Err(Refusal::Busy);
        }
        if !zone.state.is_open() {
            self.open(at, State::ImplicitlyOpen)?;
        }
        if let Some(zone) = self.zones.get_mut(at) {
            zone.pointer = end;
        }
        Ok(self.reserve(at, start, end))
    }

    fn reserve(&mut self, at: usize, start: u32, end: u32) -> Reservation {
        self.under_way += 1;
        if let Some(zone) = self.zones.get_mut(at) {
            zone.under_way += 1;
        }
        Reservation { zone: at as u32, start, end }
    }

    /// The host is done with a write. True: its zone has to be put right before anything else happens to it, and is
    /// held until it is [released](Self::release).
    pub(crate) fn settle(&mut self, write: Reservation, well: bool) -> bool {
        let at = write.zone as usize;
        let Some(zone) = self.zones.get_mut(at) else { return false };
        self.under_way = self.under_way.saturating_sub(1);
        zone.under_way = zone.under_way.saturating_sub(1);
        // What such a zone is like now, the host knows.
        zone.spoilt |= !well && self.in_order;
        if well {
            zone.done = zone.done.max(write.end);
        } else if zone.pointer == write.end && zone.done <= write.start && zone.state != State::Full {
            zone.pointer = write.start;
            zone.spoilt = true;
        }
        if zone.under_way > 0 {
            return false;
        }
        zone.done = zone.pointer;
        zone.held |= zone.spoilt;
        let held = zone.held;
        match zone.state {
            State::ImplicitlyOpen | State::ExplicitlyOpen | State::Closed
                if zone.pointer == zone.capacity =>
            {
                self.enter(at, State::Full);
            }
            State::ImplicitlyOpen | State::Closed if zone.pointer == 0 => self.enter(at, State::Empty),
            _ => {}
        }
        held
    }

    /// Does everything to a zone but [emptying](Self::reset) it. `again` as for [`Self::write`].
    pub(crate) fn command(&mut self, command: Command, sector: u64, again: bool) -> Result<usize, Refusal> {
        let (at, within, zone) = self.find(sector)?;
        if within != 0 {
            return Err(Outcome::ZoneInvalid.into());
        }
        if zone.is_blocked() {
            return Err(Refusal::Busy);
        }
        match (command, zone.state) {
            (Command::Open, State::ExplicitlyOpen)
            | (Command::Close, State::Closed)
            | (Command::Finish, State::Full) => {}
            (Command::Close, State::Empty) if again => {}
            (Command::Open, State::Empty | State::Closed | State::ImplicitlyOpen) => {
                self.open(at, State::ExplicitlyOpen)?;
            }
            (Command::Close, State::ImplicitlyOpen | State::ExplicitlyOpen) => self.close(at),
            // ZBC and ZNS have empty and closed zones finished, too, without counting them as open in between.
            (
                Command::Finish,
                State::Empty | State::Closed | State::ImplicitlyOpen | State::ExplicitlyOpen,
            ) => {
                self.enter(at, State::Full);
                if let Some(zone) = self.zones.get_mut(at) {
                    zone.pointer = zone.capacity;
                    zone.done = zone.capacity;
                }
            }
            _ => return Err(Outcome::ZoneInvalid.into()),
        }
        Ok(at)
    }

    /// Begins to empty a zone, which is held from then on.
    pub(crate) fn reset(&mut self, sector: u64) -> Result<usize, Refusal> {
        let (at, within, zone) = self.find(sector)?;
        if within != 0 || matches!(zone.state, State::ReadOnly | State::Offline) {
            return Err(Outcome::ZoneInvalid.into());
        }
        if zone.held || zone.under_way > 0 {
            return Err(Refusal::Busy);
        }
        self.empty(at);
        Ok(at)
    }

    /// Begins to empty all zones that can be.
    pub(crate) fn reset_all(&mut self) -> Result<(), Refusal> {
        if self.under_way > 0 || self.zones.iter().any(|zone| zone.held) {
            return Err(Refusal::Busy);
        }
        for at in 0..self.zones.len() {
            let Some(zone) = self.zones.get(at) else { break };
            if !matches!(zone.state, State::NotWp | State::ReadOnly | State::Offline) {
                self.empty(at);
            }
        }
        Ok(())
    }

    fn empty(&mut self, at: usize) {
        self.enter(at, State::Empty);
        if let Some(zone) = self.zones.get_mut(at) {
            zone.spoilt = zone.pointer > 0;
            zone.pointer = 0;
            zone.done = 0;
            zone.held = true;
        }
    }

    /// Whether nothing is under way in a zone, and nothing else holds it.
    pub(crate) fn is_quiet(&self, sector: u64) -> bool {
        let zone = self.layout.place(sector).and_then(|(at, _)| self.zones.get(at));
        zone.is_none_or(|zone| !zone.held && zone.under_way == 0)
    }

    /// Nothing else happens to a zone until it is [released](Self::release).
    pub(crate) fn hold(&mut self, at: usize) {
        if let Some(zone) = self.zones.get_mut(at) {
            zone.held = true;
        }
    }

    /// What a zone is, the host says; `pointer` is relative to its start. Kind and capacity stay.
    pub(crate) fn correct(&mut self, at: usize, state: State, pointer: u32) {
        let Some(zone) = self.zones.get_mut(at).filter(|zone| zone.kind == Kind::Sequential) else { return };
        let pointer = if state == State::Full { zone.capacity } else { pointer.min(zone.capacity) };
        (zone.pointer, zone.done, zone.spoilt) = (pointer, pointer, false);
        self.enter(at, state);
        if state == State::ImplicitlyOpen {
            self.remember(at);
        }
    }

    /// How much of a write of `count` sectors has been done: what is behind the pointer.
    pub(crate) fn done_of(&self, sector: u64, count: u32) -> u32 {
        let place = self.layout.place(sector);
        let zone = place.and_then(|(at, within)| Some((self.zones.get(at)?, within)));
        zone.map_or(0, |(zone, within)| zone.pointer.saturating_sub(within).min(count))
    }

    /// A zone that was held is as others again; `None`: all of them. Where data may be left behind the pointer, since
    /// not all went `well`, the zone is full: there is nothing behind that.
    pub(crate) fn release(&mut self, at: Option<usize>, well: bool) {
        let zones = at.map_or(0..self.zones.len(), |at| at..at + 1);
        for at in zones {
            let Some(zone) = self.zones.get_mut(at) else { break };
            zone.held = false;
            let spoilt = std::mem::take(&mut zone.spoilt);
            if spoilt && !well && !self.in_order {
                (zone.pointer, zone.done) = (zone.capacity, zone.capacity);
                self.enter(at, State::Full);
            }
        }
    }

    /// Makes a zone open, if resources allow it. VIRTIO 1.3, 5.2.6: where both kinds are used up, the active ones
    /// are named; the device may close zones that a write opened.
    fn open(&mut self, at: usize, to: State) -> Result<(), Outcome> {
        let Some(from) = self.zones.get(at).map(|zone| zone.state) else { return Err(Outcome::ZoneInvalid) };
        let Layout { max_open, max_active, .. } = self.layout;
        if !from.is_active() && max_active != 0 && self.active >= max_active {
            return Err(Outcome::ZoneActiveResource);
        }
        if !from.is_open() && max_open != 0 && self.open >= max_open {
            let oldest = self.oldest_opened().ok_or(Outcome::ZoneOpenResource)?;
            self.close(oldest);
        }
        self.enter(at, to);
        if to == State::ImplicitlyOpen {
            self.remember(at);
        }
        Ok(())
    }

    fn remember(&mut self, at: usize) {
        if self.layout.max_open != 0 {
            self.forget_closed();
            self.opened.retain(|&other| other as usize != at);
            self.opened.push(at as u32);
        }
    }

    /// Takes the zone out that has been open by a write for longest.
    fn oldest_opened(&mut self) -> Option<usize> {
        self.forget_closed();
        (!self.opened.is_empty()).then(|| self.opened.remove(0) as usize)
    }

    fn forget_closed(&mut self) {
        let state = |at: u32| self.zones.get(at as usize).map(|zone| zone.state);
        self.opened.retain(|&at| state(at) == Some(State::ImplicitlyOpen));
    }

    fn close(&mut self, at: usize) {
        let Some(zone) = self.zones.get(at) else { return };
        let to = if zone.pointer == 0 { State::Empty } else { State::Closed };
        self.enter(at, to);
    }

    fn enter(&mut self, at: usize, state: State) {
        let Some(zone) = self.zones.get_mut(at) else { return };
        self.open = self.open + u32::from(state.is_open()) - u32::from(zone.state.is_open());
        self.active = self.active + u32::from(state.is_active()) - u32::from(zone.state.is_active());
        zone.state = state;
    }
}
