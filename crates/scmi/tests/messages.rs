//! Every message, word by word, as Linux 7.3 lays it out (drivers/firmware/arm_scmi) and DEN0056 describes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::time::Duration;

use outboard_scmi_protocols::*;
use rig::{Rig, point, short};

const DENIED: i32 = -3;
const NOT_FOUND: i32 = -4;
const NOT_SUPPORTED: i32 = -1;
const INVALID: i32 = -2;
const OUT_OF_RANGE: i32 = -5;
const HARDWARE: i32 = -9;
const PROTOCOL: i32 = -10;

const ALL: [(u8, u32); 8] = [
    (BASE, 0x2_0000),
    (POWER, 0x3_0000),
    (SYSTEM, 0x2_0000),
    (PERFORMANCE, 0x3_0000),
    (CLOCK, 0x2_0000),
    (SENSOR, 0x3_0000),
    (RESET, 0x3_0000),
    (VOLTAGE, 0x2_0000),
];

fn rig() -> Rig {
    Rig::new(Rights::ALL)
}

#[test]
fn header_is_laid_out_as_the_specification_has_it() {
    let header = Header::new(0x15, 6, Kind::Command, 0x3ff);
    assert_eq!(header.0, 6 | 0x15 << 10 | 0x3ff << 18);
    assert_eq!((header.protocol(), header.message(), header.token()), (0x15, 6, 0x3ff));
    assert_eq!(Header::new(0x15, 1, Kind::Notification, 0).0, 1 | 3 << 8 | 0x15 << 10);
}

#[test]
fn version_attributes_and_messages_of_every_protocol_are_told() {
    let mut rig = rig();
    for (protocol, version) in ALL {
        assert_eq!(rig.words(protocol, 0, &[]), [version]);
        assert_eq!(rig.status(protocol, 1, &[]), 0);
        for message in 0..=3 {
            assert_eq!(rig.status(protocol, 2, &[message]), 0);
        }
        assert_eq!(rig.status(protocol, 2, &[0x7f]), NOT_FOUND);
        assert_eq!(rig.status(protocol, 2, &[0x103]), NOT_FOUND, "a message is a byte");
        assert_eq!(rig.status(protocol, 0x7f, &[]), NOT_SUPPORTED);
    }
    assert_eq!(rig.words(SYSTEM, 2, &[3]), [3 << 30], "warm reset and suspend are possible");
    assert_eq!(rig.status(0x18, 0, &[]), NOT_SUPPORTED);
}

#[test]
fn base_says_who_is_who() {
    let mut rig = rig();
    assert_eq!(rig.words(BASE, 1, &[]), [7 | 1 << 8]);
    assert_eq!(rig.words(BASE, 3, &[]), short("Outboard"));
    assert_eq!(rig.words(BASE, 4, &[]), short("vhost-user-scmi"));
    assert_eq!(rig.words(BASE, 5, &[]), [1]);
    assert_eq!(rig.words(BASE, 6, &[0]), [7, 0x1413_1211, 0x0017_1615]);
    assert_eq!(rig.words(BASE, 6, &[5]), [2, 0x1716]);
    assert_eq!(rig.words(BASE, 6, &[7]), [0], "which ends the list");
    assert_eq!(rig.status(BASE, 6, &[8]), INVALID);
    rig.room = 16;
    assert_eq!(rig.words(BASE, 6, &[0]), [4, 0x1413_1211], "as many as there is room for");
    rig.room = 132;
    assert_eq!(rig.words(BASE, 7, &[0]), [vec![0], short("platform")].concat());
    assert_eq!(rig.words(BASE, 7, &[1]), [vec![1], short("vm7")].concat());
    assert_eq!(rig.words(BASE, 7, &[u32::MAX]), [vec![1], short("vm7")].concat());
    assert_eq!(rig.status(BASE, 7, &[2]), NOT_FOUND);
}

#[test]
fn protocol_of_which_the_view_has_nothing_is_not_there() {
    let mut rig = rig();
    rig.agent = Agent::new(View::default());
    assert_eq!(rig.words(BASE, 6, &[0]), [0]);
    for (protocol, _) in ALL.into_iter().skip(1) {
        assert_eq!(rig.status(protocol, 0, &[]), NOT_SUPPORTED);
    }
}

#[test]
fn power_domain_is_described_set_and_watched() {
    let mut rig = rig();
    assert_eq!(rig.words(POWER, 1, &[]), [1, 0, 0, 0]);
    assert_eq!(rig.words(POWER, 3, &[0]), [vec![1 << 31 | 1 << 29], short("gpu")].concat());
    assert_eq!(rig.words(POWER, 5, &[0]), [0]);
    assert_eq!(rig.words(POWER, 6, &[0, 1]), []);
    assert_eq!(rig.words(POWER, 4, &[0, 0, 1 << 30]), []);
    assert_eq!(rig.words(POWER, 5, &[0]), [1 << 30]);
    assert_eq!(rig.told(), [[3 << 8 | 0x11 << 10, 1, 0, 1 << 30]]);
    assert_eq!(rig.status(POWER, 4, &[0, 0, 5]), INVALID);
    assert_eq!(rig.status(POWER, 4, &[1, 0, 0]), NOT_SUPPORTED, "nothing answers late");
    assert_eq!(rig.status(POWER, 3, &[1]), NOT_FOUND);
    assert_eq!(rig.words(POWER, 8, &[0]).len(), 17);
}

#[test]
fn system_is_asked_by_the_agent_and_asks_it() {
    let mut rig = rig();
    assert_eq!(rig.words(SYSTEM, 1, &[]), [0]);
    assert_eq!(rig.words(SYSTEM, 4, &[]), [3]);
    assert_eq!(rig.words(SYSTEM, 3, &[1, 1]), []);
    assert_eq!(rig.platform.points[&point(What::System)], 1);
    assert_eq!(rig.words(SYSTEM, 3, &[0, 0]), []);
    assert_eq!(rig.platform.points[&point(What::System)], FORCED);
    assert_eq!(rig.status(SYSTEM, 3, &[2, 0]), INVALID);
    assert_eq!(rig.status(SYSTEM, 3, &[0, 3]), NOT_SUPPORTED);
    assert_eq!(rig.status(SYSTEM, 3, &[0, 9]), INVALID);
    assert!(!rig.agent.request(0, &mut rig.notices), "it does not listen");
    assert_eq!(rig.words(SYSTEM, 5, &[1]), []);
    assert!(rig.agent.request(0, &mut rig.notices));
    assert!(rig.agent.request(1 | FORCED, &mut rig.notices));
    let header = 3 << 8 | 0x12 << 10;
    assert_eq!(rig.told(), [[header, 0, 1, 0, 5000], [header, 0, 0, 1, 0]]);
}

#[test]
fn performance_domain_is_described_set_and_watched() {
    let mut rig = rig();
    assert_eq!(rig.words(PERFORMANCE, 1, &[]), [1 | 1 << 16, 0, 0, 0]);
    assert_eq!(
        rig.words(PERFORMANCE, 3, &[0]),
        [vec![0xf << 28, 0, 1_200_000, 1200], short("cluster")].concat()
    );
    assert_eq!(rig.words(PERFORMANCE, 4, &[0, 0]), [3, 600, 20, 50, 1200, 60, 50, 1800, 150, 60]);
    assert_eq!(rig.words(PERFORMANCE, 4, &[0, 3]), [0]);
    assert_eq!(rig.status(PERFORMANCE, 4, &[0, 4]), OUT_OF_RANGE);
    rig.room = 12 + 24;
    assert_eq!(rig.words(PERFORMANCE, 4, &[0, 0]), [2 | 1 << 16, 600, 20, 50, 1200, 60, 50]);
    rig.room = 132;
    assert_eq!(rig.words(PERFORMANCE, 6, &[0]), [1800, 600]);
    for message in [9, 0xa] {
        assert_eq!(rig.words(PERFORMANCE, message, &[0, 1]), []);
    }
    assert_eq!(rig.words(PERFORMANCE, 5, &[0, 1200, 600]), []);
    assert_eq!(rig.words(PERFORMANCE, 6, &[0]), [1200, 600]);
    assert_eq!(rig.words(PERFORMANCE, 7, &[0, 600]), []);
    assert_eq!(rig.words(PERFORMANCE, 8, &[0]), [600]);
    let header = 3 << 8 | 0x13 << 10;
    assert_eq!(rig.told(), [vec![header, 1, 0, 1200, 600], vec![header | 1, 1, 0, 600]]);
    assert_eq!(rig.status(PERFORMANCE, 7, &[0, 1800]), OUT_OF_RANGE, "beyond the limit");
    assert_eq!(rig.status(PERFORMANCE, 7, &[0, 700]), OUT_OF_RANGE, "no level");
    assert_eq!(rig.status(PERFORMANCE, 5, &[0, 0, 0]), INVALID);
    assert_eq!(rig.status(PERFORMANCE, 5, &[0, 600, 1200]), OUT_OF_RANGE);
    assert_eq!(rig.status(PERFORMANCE, 5, &[0, 2000, 600]), OUT_OF_RANGE);
    assert_eq!(rig.status(PERFORMANCE, 0xb, &[0, 0]), NOT_SUPPORTED, "no fast channels");
}

#[test]
fn clock_is_described_set_and_watched() {
    let mut rig = rig();
    assert_eq!(rig.words(CLOCK, 1, &[]), [1]);
    let attributes = [vec![1 << 31 | 1 << 29 | 1], short("a clock of a lo"), vec![7]].concat();
    assert_eq!(rig.words(CLOCK, 3, &[0]), attributes);
    let (_, name) = rig.ask(CLOCK, 8, &[0]);
    assert_eq!((name.len(), &name[4..27]), (68, &b"a clock of a long name\0"[..]));
    let mut rates = Vec::new();
    loop {
        let words = rig.words(CLOCK, 4, &[0, rates.len() as u32]);
        let (returned, remaining) = (words[0] & 0xfff, words[0] >> 16);
        assert_eq!((words.len() as u32, returned + remaining), (1 + 2 * returned, 40 - rates.len() as u32));
        assert!(4 * words.len() <= 124);
        rates.extend(words[1..].chunks(2).map(|rate| u64::from(rate[0]) | u64::from(rate[1]) << 32));
        if remaining == 0 {
            break;
        }
    }
    assert_eq!(rates, (1..=40).map(|n| n * 1_000_000).collect::<Vec<_>>());
    assert_eq!(rig.words(CLOCK, 6, &[0]), [24_000_000, 0]);
    assert_eq!(rig.words(CLOCK, 9, &[0, 1]), []);
    for (flags, rate, becomes) in [
        (0, 5_999_999, 5_000_000),
        (4, 5_000_001, 6_000_000),
        (8, 5_500_001, 6_000_000),
        (8, 5_400_000, 5_000_000),
    ] {
        assert_eq!(rig.words(CLOCK, 5, &[flags, 0, rate, 0]), []);
        assert_eq!(rig.words(CLOCK, 6, &[0]), [becomes, 0]);
        assert_eq!(rig.told(), [[3 << 8 | 0x14 << 10, 1, 0, becomes, 0]]);
    }
    assert_eq!(rig.status(CLOCK, 5, &[0, 0, 5, 1]), INVALID, "beyond 32 bits it is not");
    assert_eq!(rig.status(CLOCK, 5, &[0, 0, 0, u32::MAX]), INVALID);
    assert_eq!(rig.status(CLOCK, 5, &[1, 0, 5_000_000, 0]), NOT_SUPPORTED, "nothing answers late");
    assert_eq!(rig.words(CLOCK, 7, &[0, 0]), []);
    assert_eq!(rig.words(CLOCK, 3, &[0])[0] & 1, 0);
    assert_eq!(rig.status(CLOCK, 7, &[0, 2]), INVALID);
}

#[test]
fn sensors_are_described_in_parts() {
    let mut rig = rig();
    assert_eq!(rig.words(SENSOR, 1, &[]), [2, 0, 0, 0]);
    let stamps = 1 << 30 | 0x1a << 10 | 1 << 9;
    let scalar = [
        vec![0, stamps | 1 << 8 | 2, 2 | 0x1d << 11],
        short("cpu"),
        vec![0, 100 | 0x1d << 27, -40_000i32 as u32, u32::MAX, 125_000, 0],
    ];
    let axes = [vec![1, stamps, 0x59 | 0x1a << 11 | 1 << 8 | 3 << 16], short("motion")];
    assert_eq!(rig.words(SENSOR, 3, &[0]), [vec![2], scalar.concat(), axes.concat()].concat());
    rig.room = 12 + 60;
    assert_eq!(rig.words(SENSOR, 3, &[0]), [vec![1 | 1 << 16], scalar.concat()].concat());
    assert_eq!(rig.words(SENSOR, 3, &[1]), [vec![1], axes.concat()].concat());
    rig.room = 132;
    let axis = |index, name| [vec![index, 0, 0x59 | 0x1a << 11], short(name)].concat();
    assert_eq!(
        rig.words(SENSOR, 7, &[1, 0]),
        [vec![3], axis(0, "acc_X"), axis(1, "acc_Y"), axis(2, "acc_Z")].concat()
    );
    assert_eq!(rig.words(SENSOR, 8, &[0, 0]), [2, 1000 << 5 | 0x1d, 100 << 5 | 0x1d]);
    assert_eq!(rig.words(SENSOR, 8, &[0, 1]), [1, 100 << 5 | 0x1d]);
    assert_eq!(rig.words(SENSOR, 0xc, &[0]).len(), 17);
    let names = rig.words(SENSOR, 0xd, &[1, 0]);
    assert_eq!((names[0], names.len()), (1 | 2 << 26, 18));
}

#[test]
fn sensor_is_read_with_the_time_if_that_is_asked_for() {
    let mut rig = rig();
    rig.platform.now = Duration::from_micros(77);
    assert_eq!(rig.words(SENSOR, 6, &[0, 0]), [42_000, 0, 0, 0]);
    assert_eq!(rig.words(SENSOR, 9, &[0]), [1000 << 16 | 0x1d << 11 | 1]);
    assert_eq!(rig.words(SENSOR, 0xa, &[0, 3]), [], "the interval stays");
    assert_eq!(rig.words(SENSOR, 9, &[0]), [1000 << 16 | 0x1d << 11 | 3]);
    assert_eq!(rig.words(SENSOR, 6, &[0, 0]), [42_000, 0, 77, 0]);
    rig.platform.points.insert(Point { what: What::Reading(2), id: 1 }, -5);
    assert_eq!(rig.words(SENSOR, 6, &[1, 0])[8..], [-5i32 as u32, u32::MAX, 0, 0]);
    assert_eq!(rig.status(SENSOR, 6, &[0, 1]), NOT_SUPPORTED);
    assert_eq!(rig.status(SENSOR, 6, &[2, 0]), NOT_FOUND);
    assert_eq!(rig.status(SENSOR, 0xa, &[0, 4]), INVALID, "reserved");
    rig.platform.fails = true;
    assert_eq!(rig.status(SENSOR, 6, &[0, 0]), HARDWARE);
}

#[test]
fn trip_points_are_told_when_they_are_passed() {
    let mut rig = rig();
    assert_eq!(rig.words(SENSOR, 4, &[0, 1]), []);
    assert_eq!(rig.words(SENSOR, 5, &[0, 1, 50_000, 0]), [], "upwards");
    assert_eq!(rig.words(SENSOR, 5, &[0, 1 << 4 | 2, 45_000, 0]), [], "downwards");
    assert_eq!(rig.status(SENSOR, 5, &[0, 2 << 4 | 1, 0, 0]), INVALID, "there are two");
    let mut to = |value| {
        rig.agent.changed(point(What::Reading(0)), value, &mut rig.platform, &mut rig.notices);
        rig.told()
    };
    let header = 3 << 8 | 0x15 << 10;
    assert!(to(42_000).is_empty());
    assert_eq!(to(50_000), [[header, 0, 0, 1 << 16]]);
    assert!(to(60_000).is_empty());
    assert!(to(47_000).is_empty(), "only upwards");
    assert_eq!(to(44_999), [[header, 0, 0, 1]]);
    assert_eq!(rig.words(SENSOR, 5, &[0, 0, 0, 0]), []);
    rig.agent.changed(point(What::Reading(0)), 60_000, &mut rig.platform, &mut rig.notices);
    assert!(rig.told().is_empty(), "it is off");
}

#[test]
fn updates_come_at_the_interval_that_was_asked_for() {
    let mut rig = rig();
    let look = |rig: &mut Rig| rig.agent.look(&mut rig.platform, &mut rig.notices);
    assert_eq!(look(&mut rig), None, "nobody listens");
    assert_eq!(rig.words(SENSOR, 0xb, &[0, 1]), []);
    assert_eq!(look(&mut rig), Some(Duration::from_secs(1)));
    assert!(rig.told().is_empty());
    assert_eq!(rig.agent.due(Duration::from_millis(999)), []);
    assert_eq!(rig.agent.due(Duration::from_secs(1)), [point(What::Reading(0))], "it is only asked");
    rig.platform.now = Duration::from_secs(1);
    assert_eq!(look(&mut rig), Some(Duration::from_secs(2)));
    assert_eq!(rig.agent.due(Duration::from_secs(1)), []);
    assert_eq!(rig.told(), [[1 | 3 << 8 | 0x15 << 10, 0, 0, 42_000, 0, 0, 0]]);
    assert_eq!(rig.words(SENSOR, 0xa, &[0, 100 << 16 | 0x1d << 11 | 1]), []);
    assert_eq!(look(&mut rig), Some(Duration::from_millis(1100)));
    assert_eq!(rig.words(SENSOR, 0xa, &[0, 0]), [], "off");
    assert_eq!(look(&mut rig), None);
    assert_eq!(rig.words(SENSOR, 0xa, &[0, 1]), []);
    rig.agent.forget();
    assert_eq!(look(&mut rig), None, "it starts anew");
}

#[test]
fn reset_domain_is_described_reset_and_watched() {
    let mut rig = rig();
    assert_eq!(rig.words(RESET, 1, &[]), [1]);
    assert_eq!(rig.words(RESET, 3, &[0]), [vec![1 << 30, 100], short("ethernet")].concat());
    assert_eq!(rig.words(RESET, 5, &[0, 1]), []);
    for (flags, state, action) in
        [(1, 0, RESET_CYCLE), (2, 0, RESET_ASSERT), (0, 1 << 31 | 1, RESET_DEASSERT)]
    {
        assert_eq!(rig.words(RESET, 4, &[0, flags, state]), []);
        assert_eq!(rig.platform.points[&point(What::Reset)], action);
        assert_eq!(rig.told(), [[3 << 8 | 0x16 << 10, 1, 0, 0]]);
    }
    assert_eq!(rig.status(RESET, 4, &[0, 4, 0]), NOT_SUPPORTED);
    assert_eq!(rig.status(RESET, 4, &[0, 0, 7]), INVALID);
}

#[test]
fn voltage_domain_is_described_and_set() {
    let mut rig = rig();
    assert_eq!(rig.words(VOLTAGE, 1, &[]), [1]);
    assert_eq!(rig.words(VOLTAGE, 3, &[0]), [vec![0], short("vdd")].concat());
    assert_eq!(rig.words(VOLTAGE, 4, &[0, 0]), [3 | 1 << 12, 800_000, 1_200_000, 25_000]);
    assert_eq!(rig.words(VOLTAGE, 6, &[0]), [7]);
    assert_eq!(rig.words(VOLTAGE, 5, &[0, 0]), []);
    assert_eq!(rig.words(VOLTAGE, 6, &[0]), [0]);
    assert_eq!(rig.status(VOLTAGE, 5, &[0, 3]), INVALID);
    assert_eq!(rig.words(VOLTAGE, 7, &[0, 0, 825_000]), []);
    assert_eq!(rig.words(VOLTAGE, 8, &[0]), [825_000]);
    assert_eq!(rig.status(VOLTAGE, 7, &[0, 0, 826_000]), OUT_OF_RANGE);
    assert_eq!(rig.status(VOLTAGE, 7, &[0, 0, u32::MAX]), OUT_OF_RANGE, "below zero");
    assert_eq!(rig.status(VOLTAGE, 7, &[0, 1, 825_000]), NOT_SUPPORTED);
}

#[test]
fn agent_without_rights_changes_nothing() {
    let mut rig = Rig::new(Rights::NONE);
    let before = rig.platform.points.clone();
    let asks: [(u8, u8, &[u32]); 9] = [
        (POWER, 4, &[0, 0, 1 << 30]),
        (SYSTEM, 3, &[0, 0]),
        (PERFORMANCE, 5, &[0, 1200, 600]),
        (PERFORMANCE, 7, &[0, 600]),
        (CLOCK, 5, &[0, 0, 5_000_000, 0]),
        (CLOCK, 7, &[0, 0]),
        (RESET, 4, &[0, 1, 0]),
        (VOLTAGE, 5, &[0, 0]),
        (VOLTAGE, 7, &[0, 0, 825_000]),
    ];
    for (protocol, message, params) in asks {
        assert_eq!(rig.status(protocol, message, params), DENIED);
    }
    assert_eq!(rig.platform.points, before);
    assert_eq!(rig.words(PERFORMANCE, 3, &[0])[0] >> 30, 0, "it is told so");
}

#[test]
fn agent_that_cannot_be_told_anything_cannot_ask_for_it() {
    let mut rig = rig();
    rig.agent.listen(false);
    for (protocol, message, params) in [
        (POWER, 6, &[0, 1][..]),
        (SYSTEM, 5, &[1]),
        (PERFORMANCE, 9, &[0, 1]),
        (CLOCK, 9, &[0, 1]),
        (SENSOR, 4, &[0, 1]),
        (SENSOR, 0xb, &[0, 1]),
        (RESET, 5, &[0, 1]),
    ] {
        assert_eq!(rig.status(protocol, message, params), NOT_SUPPORTED);
        assert_eq!(rig.status(protocol, 2, &[u32::from(message)]), NOT_FOUND);
    }
}

#[test]
fn request_of_another_length_than_it_has_is_a_protocol_error() {
    let mut rig = rig();
    for (protocol, _) in ALL {
        for message in 0..=0x10 {
            let header = Header::new(protocol, message, Kind::Command, 0).0.to_le_bytes();
            for length in [1, 3, 5, 63, 300] {
                let reply = rig.raw(&[&header[..], &vec![0; length]].concat());
                let status = i32::from_le_bytes(reply[4..].try_into().unwrap());
                assert!([PROTOCOL, NOT_SUPPORTED].contains(&status), "{protocol:#x}/{message}: {status}");
            }
        }
    }
    assert_eq!(rig.status(CLOCK, 6, &[]), PROTOCOL);
    assert_eq!(rig.status(CLOCK, 6, &[0, 0]), PROTOCOL);
    assert!(rig.raw(&[1, 2, 3]).is_empty(), "there is not even a header");
    let late = Header::new(CLOCK, 0, Kind::Delayed, 0).0.to_le_bytes();
    assert_eq!(rig.raw(&late)[4..], PROTOCOL.to_le_bytes());
}

#[test]
fn answer_is_never_longer_than_its_room() {
    let mut rig = rig();
    for room in 0..140 {
        rig.room = room;
        for (protocol, _) in ALL {
            for message in 0..=0x10 {
                for words in 0..4 {
                    let header = Header::new(protocol, message, Kind::Command, 0).0.to_le_bytes();
                    let reply = rig.raw(&[&header[..], &vec![0; words * 4]].concat());
                    assert!(reply.len() <= room);
                    assert!(if room < 8 { reply.is_empty() } else { reply.len() >= 8 });
                }
            }
        }
    }
}

#[test]
fn thing_whose_changes_nobody_sees_offers_no_notifications() {
    let mut view = rig::view(Rights::ALL);
    view.power[0].tells = false;
    view.performance[0].tells = false;
    view.clocks[0].tells = false;
    let mut rig = Rig::new(Rights::ALL);
    rig.agent = Agent::new(view);
    rig.agent.listen(true);
    assert_eq!(rig.words(POWER, 3, &[0])[0], 1 << 29);
    assert_eq!(rig.words(PERFORMANCE, 3, &[0])[0] & 3 << 28, 0);
    assert_eq!(rig.words(CLOCK, 3, &[0])[0] >> 31, 0);
    for (protocol, message) in [(POWER, 6), (PERFORMANCE, 9), (PERFORMANCE, 0xa), (CLOCK, 9)] {
        assert_eq!(rig.status(protocol, message, &[0, 1]), -1, "{protocol:#x}/{message}");
    }
}
