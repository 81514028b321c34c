//! The table against a naive model of it: one that counts everything anew, each time.

use proptest::prelude::*;

use super::table::{Reservation, Table};
use super::zone::{State, Zone};
use super::{Command, Layout, Refusal};
use crate::request::Outcome;

const ZONE: u32 = 32;
const CAPACITY: u32 = 24;
const COUNT: u32 = 6;
const CONVENTIONAL: u32 = 1;

#[derive(Clone, Debug)]
enum Step {
    /// Relative to the write pointer.
    Write {
        zone: u32,
        ahead: i32,
        count: u32,
    },
    Append {
        zone: u32,
        within: u32,
        count: u32,
    },
    Command {
        command: Command,
        zone: u32,
        within: u32,
    },
    ResetAll,
    Release {
        zone: u32,
        well: bool,
    },
    ReleaseAll {
        well: bool,
    },
    Settle {
        which: usize,
        well: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let zone = 0..COUNT + 1;
    let command = prop::sample::select(vec![Command::Open, Command::Close, Command::Finish, Command::Reset]);
    prop_oneof![
        6 => (zone.clone(), prop_oneof![8 => Just(0_i32), 1 => -8..40_i32], prop_oneof![3 => Just(8_u32), 1 => 0..40_u32])
            .prop_map(|(zone, ahead, count)| Step::Write { zone, ahead, count: count.max(1) }),
        3 => (zone.clone(), prop_oneof![9 => Just(0_u32), 1 => Just(4_u32)], 1..6_u32)
            .prop_map(|(zone, within, fours)| Step::Append { zone, within, count: fours * 4 }),
        4 => (command, zone.clone(), prop_oneof![9 => Just(0_u32), 1 => Just(3_u32)])
            .prop_map(|(command, zone, within)| Step::Command { command, zone, within }),
        1 => Just(Step::ResetAll),
        3 => (zone, prop::bool::weighted(0.8)).prop_map(|(zone, well)| Step::Release { zone, well }),
        1 => any::<bool>().prop_map(|well| Step::ReleaseAll { well }),
        8 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(which, well)| Step::Settle { which, well }),
    ]
}

/// A zone, naively.
#[derive(Clone, Debug)]
struct Naive {
    state: State,
    pointer: u32,
    done: u32,
    held: bool,
    spoilt: bool,
    /// When it was opened by a write.
    opened: u64,
    out: Vec<Reservation>,
}

struct Model {
    zones: Vec<Naive>,
    max_open: usize,
    max_active: usize,
    time: u64,
}

type Answer = Result<(), Refusal>;

const INVALID: Answer = Err(Refusal::End(Outcome::ZoneInvalid));
const UNALIGNED: Answer = Err(Refusal::End(Outcome::ZoneUnaligned));

impl Model {
    fn new(max_open: usize, max_active: usize) -> Self {
        let zone = |at| Naive {
            state: if at < CONVENTIONAL { State::NotWp } else { State::Empty },
            pointer: 0,
            done: 0,
            held: false,
            spoilt: false,
            opened: 0,
            out: Vec::new(),
        };
        Self { zones: (0..COUNT).map(zone).collect(), max_open, max_active, time: 0 }
    }

    fn count(&self, states: &[State]) -> usize {
        self.zones.iter().filter(|zone| states.contains(&zone.state)).count()
    }

    fn open(&mut self, at: usize, to: State) -> Answer {
        use State::{Closed, ExplicitlyOpen, ImplicitlyOpen};
        let from = self.zones[at].state;
        let active = self.count(&[ImplicitlyOpen, ExplicitlyOpen, Closed]);
        if from == State::Empty && self.max_active > 0 && active == self.max_active {
            return Err(Refusal::End(Outcome::ZoneActiveResource));
        }
        let open = self.count(&[ImplicitlyOpen, ExplicitlyOpen]);
        if [State::Empty, Closed].contains(&from) && self.max_open > 0 && open == self.max_open {
            let implicit = self.zones.iter_mut().filter(|zone| zone.state == ImplicitlyOpen);
            let Some(oldest) = implicit.min_by_key(|zone| zone.opened) else {
                return Err(Refusal::End(Outcome::ZoneOpenResource));
            };
            oldest.state = if oldest.pointer == 0 { State::Empty } else { Closed };
        }
        self.time += 1;
        self.zones[at].opened = self.time;
        self.zones[at].state = to;
        Ok(())
    }

    fn write(&mut self, zone: u32, within: u32, count: u32, append: bool) -> Answer {
        if !(CONVENTIONAL..COUNT).contains(&zone) {
            return INVALID;
        }
        let at = zone as usize;
        let Naive { state, pointer, held, spoilt, .. } = self.zones[at];
        if append && within != 0 || !append && within + count > ZONE {
            return INVALID;
        }
        let aligned = count.is_multiple_of(4) && within.is_multiple_of(4);
        if !append && !aligned {
            return UNALIGNED;
        }
        if append && count > CAPACITY || state == State::Full {
            return INVALID;
        }
        if !aligned {
            return UNALIGNED;
        }
        if held || spoilt {
            return Err(Refusal::Busy);
        }
        if !append && within != pointer {
            return UNALIGNED;
        }
        if pointer + count > CAPACITY {
            return INVALID;
        }
        if ![State::ImplicitlyOpen, State::ExplicitlyOpen].contains(&state) {
            self.open(at, State::ImplicitlyOpen)?;
        }
        let zone = &mut self.zones[at];
        zone.out.push(Reservation { zone: at as u32, start: pointer, end: pointer + count });
        zone.pointer += count;
        Ok(())
    }

    fn command(&mut self, command: Command, zone: u32, within: u32) -> Answer {
        use State::{Closed, Empty, ExplicitlyOpen, Full, ImplicitlyOpen};
        if !(CONVENTIONAL..COUNT).contains(&zone) || within != 0 {
            return INVALID;
        }
        let at = zone as usize;
        let Naive { state, pointer, held, spoilt, .. } = self.zones[at];
        if held || spoilt || command == Command::Reset && !self.zones[at].out.is_empty() {
            return Err(Refusal::Busy);
        }
        match (command, state) {
            (Command::Open, ExplicitlyOpen) | (Command::Close, Closed) => return Ok(()),
            (Command::Open, Full) | (Command::Close, Empty | Full) => return INVALID,
            (Command::Open, _) => return self.open(at, ExplicitlyOpen),
            _ => {}
        }
        let zone = &mut self.zones[at];
        match command {
            Command::Close => {
                assert!([ImplicitlyOpen, ExplicitlyOpen].contains(&state));
                zone.state = if zone.pointer == 0 { Empty } else { Closed };
            }
            Command::Finish => {
                zone.state = Full;
                zone.pointer = CAPACITY;
                zone.done = CAPACITY;
            }
            Command::Reset => {
                let out = Vec::new();
                let spoilt = pointer > 0;
                *zone = Naive { state: Empty, pointer: 0, done: 0, held: true, spoilt, opened: 0, out };
            }
            Command::Open => unreachable!(),
        }
        Ok(())
    }

    /// Whether the zone is held from now on.
    fn settle(&mut self, write: Reservation, well: bool) -> bool {
        let zone = &mut self.zones[write.zone as usize];
        zone.out.retain(|other| *other != write);
        if well {
            zone.done = zone.done.max(write.end);
        } else if zone.pointer == write.end && zone.state != State::Full {
            zone.pointer = write.start;
            zone.spoilt = true;
        }
        if !zone.out.is_empty() {
            return false;
        }
        if zone.state != State::Full {
            zone.done = zone.pointer;
            if zone.pointer == CAPACITY {
                zone.state = State::Full;
            } else if zone.pointer == 0 && zone.state != State::ExplicitlyOpen {
                zone.state = State::Empty;
            }
        }
        zone.held = zone.spoilt;
        zone.held
    }

    fn release(&mut self, at: usize, well: bool) {
        let Some(zone) = self.zones.get_mut(at) else { return };
        if zone.spoilt && !well {
            (zone.state, zone.pointer, zone.done) = (State::Full, CAPACITY, CAPACITY);
        }
        (zone.held, zone.spoilt) = (false, false);
    }
}

fn table(max_open: usize, max_active: usize) -> Table {
    table_of(max_open, max_active, false)
}

fn table_of(max_open: usize, max_active: usize, in_order: bool) -> Table {
    let layout = Layout {
        zone: ZONE,
        count: COUNT,
        sectors: u64::from(ZONE * COUNT),
        max_open: max_open as u32,
        max_active: max_active as u32,
        granularity: 4,
        max_append: CAPACITY,
    };
    let zone = |at| {
        if at < CONVENTIONAL { Zone::conventional(ZONE) } else { Zone::sequential(CAPACITY, State::Empty, 0) }
    };
    Table::new(layout, (0..COUNT).map(zone).collect(), in_order)
}

fn run(table: &mut Table, model: &mut Model, out: &mut Vec<Reservation>, step: &Step) {
    let base = |zone: u32| u64::from(zone * ZONE);
    let agree = |ours: Result<Reservation, Refusal>, theirs: Answer| {
        assert_eq!(ours.map(drop), theirs, "{step:?}");
        ours.ok()
    };
    match *step {
        Step::Write { zone, ahead, count } => {
            let pointer = model.zones.get(zone as usize).map_or(0, |zone| zone.pointer);
            let within = pointer.saturating_add_signed(ahead).min(ZONE - 1);
            let ours = table.write(base(zone) + u64::from(within), count, false);
            out.extend(agree(ours, model.write(zone, within, count, false)));
        }
        Step::Append { zone, within, count } => {
            let pointer = model.zones.get(zone as usize).map_or(0, |zone| zone.pointer);
            let ours = table.append(base(zone) + u64::from(within), count);
            let got = agree(ours, model.write(zone, within, count, true));
            if let Some(got) = got {
                assert_eq!((got.zone, got.start, got.end), (zone, pointer, pointer + count));
            }
            out.extend(got);
        }
        Step::Command { command: Command::Reset, zone, within } => {
            let ours = table.reset(base(zone) + u64::from(within)).map(drop);
            assert_eq!(ours, model.command(Command::Reset, zone, within), "{step:?}");
        }
        Step::Command { command, zone, within } => {
            let ours = table.command(command, base(zone) + u64::from(within), false).map(drop);
            assert_eq!(ours, model.command(command, zone, within), "{step:?}");
        }
        Step::ResetAll => {
            let busy = model.zones.iter().any(|zone| zone.held || !zone.out.is_empty());
            assert_eq!(table.reset_all(), if busy { Err(Refusal::Busy) } else { Ok(()) });
            if !busy {
                for zone in CONVENTIONAL..COUNT {
                    model.command(Command::Reset, zone, 0).unwrap();
                }
            }
        }
        Step::Release { zone, well } => {
            table.release(Some(zone as usize), well);
            model.release(zone as usize, well);
        }
        Step::ReleaseAll { well } => {
            table.release(None, well);
            (0..COUNT as usize).for_each(|at| model.release(at, well));
        }
        Step::Settle { which, well } => {
            if !out.is_empty() {
                let write = out.swap_remove(which % out.len());
                assert_eq!(table.settle(write, well), model.settle(write, well), "{step:?}");
            }
        }
    }
    for (at, (ours, theirs)) in table.zones().iter().zip(&model.zones).enumerate() {
        assert_eq!((ours.state, ours.pointer), (theirs.state, theirs.pointer), "zone {at} after {step:?}");
        assert_eq!(ours.done, theirs.done, "zone {at} after {step:?}");
    }
    let active = [State::ImplicitlyOpen, State::ExplicitlyOpen, State::Closed];
    assert_eq!(table.active() as usize, model.count(&active));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn table_agrees_with_a_naive_model_whatever_is_asked(
        limits in prop::sample::select(vec![(0, 0), (1, 1), (2, 3), (3, 3), (2, 0)]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (max_open, max_active) = limits;
        let (mut table, mut model) = (table(max_open, max_active), Model::new(max_open, max_active));
        let mut out = Vec::new();
        for step in &steps {
            run(&mut table, &mut model, &mut out, step);
        }
    }
}

#[test]
fn write_that_fails_takes_the_pointer_back_unless_others_follow() {
    let mut table = table(0, 0);
    let start = u64::from(ZONE);
    let first = table.write(start, 8, false).unwrap();
    let second = table.write(start + 8, 8, false).unwrap();
    assert!(!table.settle(first, false));
    assert_eq!(table.zone(1).unwrap().pointer, 16, "the second is behind it");
    assert!(table.settle(second, false));
    assert_eq!((table.zone(1).unwrap().pointer, table.zone(1).unwrap().done), (8, 8));
}

#[test]
fn write_that_fails_blocks_its_zone_until_what_it_left_is_gone() {
    let mut table = table(0, 0);
    let start = u64::from(ZONE);
    let first = table.write(start, 8, false).unwrap();
    let second = table.write(start + 8, 8, false).unwrap();
    assert!(!table.settle(second, false), "not while the first is under way");
    assert_eq!(table.write(start + 8, 8, false), Err(Refusal::Busy));
    assert_eq!(table.append(start, 8), Err(Refusal::Busy));
    assert!(table.settle(first, true), "the last one sees to it");
    for busy in [table.write(start + 8, 8, false).map(drop), table.reset(start).map(drop), table.reset_all()]
    {
        assert_eq!(busy, Err(Refusal::Busy));
    }
    table.release(Some(1), true);
    assert_eq!((table.zone(1).unwrap().state, table.zone(1).unwrap().pointer), (State::ImplicitlyOpen, 8));
    let third = table.write(start + 8, 8, false).unwrap();
    assert!(table.settle(third, false));
    table.release(Some(1), false);
    assert_eq!((table.zone(1).unwrap().state, table.zone(1).unwrap().done), (State::Full, CAPACITY));
}

#[test]
fn reset_that_fails_leaves_full_what_had_data_and_nothing_else() {
    let mut table = table(0, 0);
    let write = table.write(u64::from(ZONE), 8, false).unwrap();
    table.settle(write, true);
    table.reset_all().unwrap();
    table.release(None, false);
    assert_eq!([1, 2].map(|at| table.zone(at).unwrap().state), [State::Full, State::Empty]);
}

#[test]
fn write_that_fails_on_a_zoned_device_holds_its_zone_at_once() {
    let mut table = table_of(0, 0, true);
    let start = u64::from(ZONE);
    let write = table.write(start, 8, false).unwrap();
    assert!(table.settle(write, false));
    assert_eq!(table.write(start, 8, false), Err(Refusal::Busy), "until the device has said what it is like");
    table.correct(1, State::Closed, 4);
    assert_eq!(table.write(start + 4, 4, false), Err(Refusal::Busy));
    table.release(Some(1), true);
    assert!(table.write(start + 4, 4, false).is_ok());
}

#[test]
fn write_done_again_after_a_crash_is_taken_where_it_was() {
    let mut table = table(0, 0);
    let start = u64::from(ZONE);
    for at in [0, 8] {
        let write = table.write(start + at, 8, false).unwrap();
        table.settle(write, true);
    }
    assert_eq!(table.write(start, 8, false), Err(Refusal::End(Outcome::ZoneUnaligned)));
    for at in [0, 8] {
        let again = table.write(start + at, 8, true).unwrap();
        assert_eq!((again.start, again.end), (at as u32, at as u32 + 8));
        assert!(!table.settle(again, at == 8));
        assert_eq!(table.zone(1).unwrap().pointer, 16, "also if it fails");
    }
    let last = table.write(start + 16, 8, true).unwrap();
    table.settle(last, true);
    assert_eq!(table.zone(1).unwrap().state, State::Full);
    let again = table.write(start + 16, 8, true).unwrap();
    table.settle(again, true);
    assert_eq!(table.zone(1).unwrap().state, State::Full);
    assert_eq!(table.write(start + 24, 8, true), Err(Refusal::End(Outcome::ZoneInvalid)));
    assert_eq!(table.command(Command::Close, 2 * start, false), Err(Refusal::End(Outcome::ZoneInvalid)));
    assert_eq!(table.command(Command::Close, 2 * start, true), Ok(2), "closed before the crash");
}

#[test]
fn zones_left_open_beyond_the_limit_are_closed() {
    let layout = Layout {
        zone: ZONE,
        count: 3,
        sectors: u64::from(ZONE * 3),
        max_open: 1,
        max_active: 0,
        granularity: 1,
        max_append: 1,
    };
    let zones = vec![
        Zone::sequential(CAPACITY, State::ImplicitlyOpen, 4),
        Zone::sequential(CAPACITY, State::ExplicitlyOpen, 0),
        Zone::sequential(CAPACITY, State::ExplicitlyOpen, 8),
    ];
    let table = Table::new(layout, zones, false);
    let states: Vec<State> = table.zones().iter().map(|zone| zone.state).collect();
    assert_eq!(states, [State::ImplicitlyOpen, State::Empty, State::Closed]);
}
