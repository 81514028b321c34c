//! The switch against a naive one: maps, and loops over all ports.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    Decision, Egress, Entry, Fdb, Front, Learned, Limits, Mac, Membership, PortId, PortSettings, Ports,
    Retag, Vlan, Why, decide,
};

const PORTS: u16 = 5;
const AGE: u32 = 10;
const SECRET: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

fn fdb(entries: u32, per_port: u32) -> Fdb {
    Fdb::new(Limits { entries, per_port, age: AGE }, PORTS, SECRET)
}

fn vlan(id: u16) -> Vlan {
    Vlan::new(id).unwrap()
}

/// An address of one, by a number.
fn mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    Mac([2, 0, a, b, c, d])
}

fn front(from: Mac, to: Mac, tag: Option<u16>) -> Front {
    Front { to, from, tag, is_stacked: false }
}

#[test]
fn address_is_where_it_was_seen_last_and_for_as_long_as_is_said() {
    let fdb = fdb(64, 16);
    let [one, two] = [1, 2].map(PortId);
    assert_eq!(fdb.find(vlan(1), mac(7), 0), None);
    assert_eq!(fdb.learn(vlan(1), mac(7), one, 0), Learned::New);
    assert_eq!(fdb.learn(vlan(1), mac(7), one, 3), Learned::Known);
    assert_eq!([1, 2].map(|id| fdb.find(vlan(id), mac(7), 3)), [Some(one), None]);
    assert_eq!([3 + AGE, 4 + AGE].map(|now| fdb.find(vlan(1), mac(7), now)), [Some(one), None]);
    assert_eq!(fdb.learn(vlan(1), mac(7), two, 5), Learned::Moved);
    assert_eq!(fdb.find(vlan(1), mac(7), 5), Some(two));
    assert_eq!(fdb.entries(5), [Entry { vlan: vlan(1), mac: mac(7), port: two, seen: 5 }]);
    fdb.forget(one);
    assert_eq!(fdb.find(vlan(1), mac(7), 5), Some(two));
    fdb.forget(two);
    assert_eq!((fdb.find(vlan(1), mac(7), 5), fdb.entries(5)), (None, vec![]));
}

#[test]
fn port_that_invents_addresses_has_its_share_and_others_keep_theirs() {
    let fdb = fdb(64, 8);
    let [honest, hostile] = [1, 2].map(PortId);
    (0..8).for_each(|number| assert_eq!(fdb.learn(vlan(1), mac(number), honest, 0), Learned::New));
    let learned = (100..10_000).filter(|&number| fdb.learn(vlan(1), mac(number), hostile, 1) == Learned::New);
    assert!(learned.count() >= 8);
    assert_eq!(fdb.entries(1).iter().filter(|entry| entry.port == hostile).count(), 8);
    // Nor are there more to be had by taking over.
    assert_eq!(fdb.learn(vlan(1), mac(0), hostile, 1), Learned::Refused);
    assert!((0..8).all(|number| fdb.find(vlan(1), mac(number), 1) == Some(honest)));
    // Unless somebody gives it more.
    fdb.set_share(hostile, 9);
    assert_eq!(fdb.learn(vlan(1), mac(0), hostile, 1), Learned::Moved);
    fdb.set_share(hostile, 8);
    assert_eq!(fdb.learn(vlan(1), mac(0), honest, 1), Learned::Moved);
    // What is old makes room, for whoever it was.
    assert_eq!(fdb.learn(vlan(1), mac(500), hostile, 2 + AGE), Learned::New);
    assert_eq!(fdb.entries(2 + AGE).len(), 1);
}

#[test]
fn table_that_is_full_lets_nobody_push_others_out() {
    let fdb = fdb(16, 1000);
    let [honest, hostile] = [1, 2].map(PortId);
    (0..8).for_each(|number| assert_eq!(fdb.learn(vlan(1), mac(number), honest, 0), Learned::New));
    let refused =
        (100..10_000).filter(|&number| fdb.learn(vlan(1), mac(number), hostile, 1) == Learned::Refused);
    assert!(refused.count() > 0 || fdb.entries(1).len() >= 32);
    assert!((0..8).all(|number| fdb.find(vlan(1), mac(number), 1) == Some(honest)));
}

#[test]
fn address_that_is_fought_for_stays_until_the_next_second() {
    let fdb = fdb(64, 8);
    let moves = (0..30).map(|turn| fdb.learn(vlan(1), mac(7), PortId(turn % 2), 5));
    let moves: Vec<_> = moves.collect();
    assert_eq!(moves[0], Learned::New);
    assert!(moves[1..11].iter().all(|&learned| learned == Learned::Moved));
    let last = PortId(10 % 2);
    for (turn, &learned) in moves.iter().enumerate().skip(11) {
        let expected = if PortId(turn as u16 % 2) == last { Learned::Known } else { Learned::Pinned };
        assert_eq!(learned, expected, "{turn}");
    }
    assert_eq!(fdb.learn(vlan(1), mac(7), PortId(1), 6), Learned::Moved);
}

#[test]
fn frames_of_or_to_nobody_go_nowhere() {
    let (mut ports, fdb) = (Ports::default(), fdb(64, 16));
    for port in 0..2 {
        ports.set(PortId(port), Some(PortSettings::default()));
    }
    let decide = |front| decide(&ports, &fdb, PortId(0), &front, 0);
    let broadcast = Mac([0xff; 6]);
    for from in [Mac([0; 6]), broadcast, Mac([3, 0, 0, 0, 0, 1])] {
        assert_eq!(decide(front(from, broadcast, None)), Decision::Drop(Why::Sender));
    }
    let reserved = Mac([1, 0x80, 0xc2, 0, 0, 0xe]);
    assert_eq!(decide(front(mac(1), reserved, None)), Decision::Drop(Why::Reserved));
    assert_eq!(decide(front(mac(1), broadcast, Some(1))), Decision::Drop(Why::Vlan));
    assert_eq!(fdb.entries(0), []);
    assert_eq!(decide(front(mac(1), broadcast, None)), Decision::Flood(Vlan::DEFAULT));
    assert_eq!(decide(front(mac(2), mac(1), None)), Decision::Drop(Why::Home));
    ports.set(PortId(0), None);
    let gone = crate::decide(&ports, &fdb, PortId(0), &front(mac(1), broadcast, None), 0);
    assert_eq!(gone, Decision::Drop(Why::Vlan));
}

#[test]
fn threads_that_learn_and_look_at_once_see_only_what_was_learned() {
    // Few slots: they change hands all the time. An address is at the port of its number, or nowhere.
    let fdb = fdb(4, 1000);
    std::thread::scope(|scope| {
        for port in 0..2 {
            let fdb = &fdb;
            scope.spawn(move || {
                for round in 0..20_000 {
                    let number = round % 64 * 2 + u32::from(port);
                    fdb.learn(vlan(1), mac(number), PortId(port), round / 100);
                    let other = round % 61 * 2 + 1 - u32::from(port);
                    let found = fdb.find(vlan(1), mac(other), round / 100);
                    assert!(found.is_none_or(|found| found == PortId(1 - port)), "{found:?}");
                }
            });
        }
    });
}

/// The naive switch.
#[derive(Default)]
struct Model {
    ports: BTreeMap<u16, PortSettings>,
    seen: BTreeMap<(Vlan, Mac), (PortId, u32)>,
}

impl Model {
    /// Where a frame comes out, with which tag.
    fn send(&mut self, from: PortId, front: &Front, now: u32) -> BTreeSet<(u16, Option<u16>)> {
        let mut out = BTreeSet::new();
        let Some(source) = self.ports.get(&from.0).cloned() else { return out };
        let group = front.to.0[0] & 1 == 1;
        let vlan = match (&source.membership, front.tag.map_or(0, |tag| tag & 0xfff)) {
            (Membership::Access(vlan), 0) => Some(*vlan),
            (Membership::Access(_), _) => None,
            (Membership::Trunk { native, .. }, 0) => *native,
            (Membership::Trunk { tagged, .. }, id) => Vlan::new(id).filter(|vlan| tagged.contains(*vlan)),
        };
        let Some(vlan) = vlan else { return out };
        self.seen.insert((vlan, front.from), (from, now));
        let known = self.seen.get(&(vlan, front.to)).filter(|(_, seen)| now - seen <= AGE && !group);
        let member = |settings: &PortSettings| match &settings.membership {
            Membership::Access(own) => (*own == vlan).then_some(false),
            Membership::Trunk { native, .. } if *native == Some(vlan) => Some(false),
            Membership::Trunk { tagged, .. } => tagged.contains(vlan).then_some(true),
        };
        let known =
            known.map(|(port, _)| *port).filter(|port| self.ports.get(&port.0).and_then(member).is_some());
        for (&port, settings) in &self.ports {
            let Some(tagged) = member(settings) else { continue };
            let alone = settings.isolated && source.isolated && !settings.uplink && !source.uplink;
            if port == from.0 || alone || known.is_some_and(|known| known.0 != port) {
                continue;
            }
            let priority = front.tag.map_or(0, |tag| tag & 0xf000);
            out.insert((port, tagged.then_some(priority | vlan.id())));
        }
        out
    }
}

/// The tag that a frame has afterwards.
fn tag_after(front: &Front, retag: Retag) -> Option<u16> {
    match retag {
        Retag::Keep => front.tag,
        Retag::Pop => None,
        Retag::Push(tag) | Retag::Set(tag) => Some(tag),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send { from: u16, source: u32, to: Option<u32>, tag: Option<u16> },
    Set(u16, Option<PortSettings>),
    Wait(u32),
    Flush,
}

fn settings() -> impl Strategy<Value = PortSettings> {
    let membership = prop_oneof![
        (1..4_u16).prop_map(|id| Membership::Access(vlan(id))),
        prop_oneof![Just("1,2,3"), Just("1-3,native=2"), Just("2,native=1"), Just("native=3"), Just("all")]
            .prop_map(|text| text.parse().unwrap()),
    ];
    (membership, any::<bool>(), prop::bool::weighted(0.2))
        .prop_map(|(membership, isolated, uplink)| PortSettings { membership, isolated, uplink })
}

fn step() -> impl Strategy<Value = Step> {
    let tag = prop_oneof![Just(None), (0..5_u16, 0..16_u16).prop_map(|(id, high)| Some(high << 12 | id))];
    let send = (0..PORTS, 0..8_u32, prop::option::weighted(0.8, 0..8_u32), tag)
        .prop_map(|(from, source, to, tag)| Step::Send { from, source, to, tag });
    let set =
        (0..PORTS, prop::option::weighted(0.8, settings())).prop_map(|(port, set)| Step::Set(port, set));
    prop_oneof![20 => send, 2 => set, 2 => (1..AGE).prop_map(Step::Wait), 1 => Just(Step::Flush)]
}

proptest! {
    #[test]
    fn switch_does_what_a_naive_one_does(
        first in prop::collection::vec(settings(), usize::from(PORTS)),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (mut ports, fdb, mut model) = (Ports::default(), fdb(1024, 1024), Model::default());
        for (port, settings) in (0..).zip(first) {
            ports.set(PortId(port), Some(settings.clone()));
            model.ports.insert(port, settings);
        }
        let mut now = 0;
        // Addresses that were fought for stay where they are, which the naive switch knows nothing of.
        let mut moves = 0;
        for step in steps {
            match step {
                Step::Wait(time) => { now += time; moves = 0; }
                Step::Flush => { fdb.flush(); model.seen.clear(); }
                Step::Set(port, settings) => {
                    fdb.forget(PortId(port));
                    model.seen.retain(|_, (seen, _)| seen.0 != port);
                    ports.set(PortId(port), settings.clone());
                    match settings {
                        Some(settings) => model.ports.insert(port, settings),
                        None => model.ports.remove(&port),
                    };
                }
                Step::Send { from, source, to, tag } => {
                    moves += 1;
                    if moves > 8 { now += 1; moves = 0; }
                    let front = front(mac(source), to.map_or(Mac([0xff; 6]), mac), tag);
                    let from = PortId(from);
                    let expected = model.send(from, &front, now);
                    let out: Vec<Egress> = match decide(&ports, &fdb, from, &front, now) {
                        Decision::Drop(_) => vec![],
                        Decision::Unicast(egress) => vec![egress],
                        Decision::Flood(vlan) => ports.flood(from, front, vlan).collect(),
                    };
                    let got: BTreeSet<_> =
                        out.iter().map(|egress| (egress.port.0, tag_after(&front, egress.retag))).collect();
                    prop_assert_eq!(got.len(), out.len(), "nobody gets it twice");
                    prop_assert_eq!(got, expected);
                }
            }
        }
    }

    #[test]
    fn table_holds_what_a_map_holds(
        steps in prop::collection::vec((0..40_u32, 0..PORTS, 1..3_u16, 0..4_u32), 1..300),
    ) {
        let (fdb, mut model, mut now) = (fdb(256, 256), BTreeMap::new(), 0);
        for (number, port, id, time) in steps {
            now += time;
            let (key, port) = ((vlan(id), mac(number)), PortId(port));
            let learned = fdb.learn(key.0, key.1, port, now);
            let known = model.get(&key).copied().filter(|&(_, seen)| now - seen <= AGE);
            match (learned, known) {
                (Learned::Known, Some((was, _))) => prop_assert_eq!(was, port),
                (Learned::Moved, Some((was, _))) => prop_assert_ne!(was, port),
                (Learned::New | Learned::Known, None) => {}
                (Learned::Pinned, Some(_)) => continue,
                other => prop_assert!(false, "{:?}", other),
            }
            model.insert(key, (port, now));
            let mut entries: Vec<_> =
                fdb.entries(now).into_iter().map(|entry| ((entry.vlan, entry.mac), (entry.port, entry.seen))).collect();
            entries.sort();
            let expected: Vec<_> =
                model.iter().filter(|(_, (_, seen))| now - seen <= AGE).map(|(key, at)| (*key, *at)).collect();
            prop_assert_eq!(entries, expected);
        }
    }
}
