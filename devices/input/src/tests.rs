//! The device on the bench: what is done to what is simulated, and what the guest's queue then holds.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use outboard_daemon::Program;
use outboard_device::defs::input::{
    CFG_ABS_INFO, CFG_EV_BITS, CFG_ID_DEVIDS, CFG_ID_NAME, CFG_PROP_BITS, Config,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, DeviceError, Features, Group, Patience, QueueId};
use zerocopy::FromBytes;

use crate::config::Abilities;
use crate::device::{Held, Shared};
use crate::handler::{Counters, InputHandler};
use crate::host::evdev::tests::{fake, happen};
use crate::kept::Kept;
use crate::{Input, InputOptions, VhostUserInput};

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
const EVENTS: QueueId = QueueId(0);
const STATUS: QueueId = QueueId(1);

fn input(kinds: &[&str]) -> Input {
    let synthetic = kinds.iter().map(|kind| kind.parse().unwrap()).collect();
    VhostUserInput::open(InputOptions { synthetic, ..InputOptions::default() }).unwrap()
}

fn handler(input: &mut Input) -> InputHandler {
    input.handler(Group(0), Features(0)).unwrap()
}

fn bench(input: &mut Input, format: Format) -> Bench<InputHandler> {
    Bench::with(handler(input), &Setup { queues: 2, size: 64, ..Setup::new(format) })
}

fn command(input: &mut Input, command: &str, arguments: impl Into<Value>) -> Result<Value, DeviceError> {
    input.control(command, &arguments.into())
}

/// Gives the device so many buffers.
fn refill(bench: &mut Bench<InputHandler>, count: usize) {
    for _ in 0..count {
        bench.send(EVENTS, &[], &[8]);
    }
}

/// The events that have come: type, code, value.
fn events(bench: &mut Bench<InputHandler>) -> Vec<(u16, u16, i32)> {
    let mut events = Vec::new();
    while let Some(answer) = bench.receive(EVENTS) {
        assert_eq!(answer.len, 8);
        let half = |at: usize| u16::from_le_bytes(answer.outputs[0][at..at + 2].try_into().unwrap());
        let value = i32::from_le_bytes(answer.outputs[0][4..8].try_into().unwrap());
        events.push((half(0), half(2), value));
    }
    events
}

fn select(input: &mut Input, select: u8, subsel: u8) -> Config {
    input.write_config(0, &[select, subsel], &Patience::until(&|| true)).unwrap();
    Config::read_from_bytes(input.config()).unwrap()
}

#[test]
fn text_typed_comes_as_keys_pressed_and_released_frame_by_frame() {
    for format in FORMATS {
        let mut input = input(&["keyboard"]);
        let mut bench = bench(&mut input, format);
        refill(&mut bench, 64);
        command(&mut input, "type", json!({ "text": "aB" })).unwrap();
        bench.run();
        let syn = (0, 0, 0);
        let key = |code, value| [(1, code, value), syn];
        let expected = [key(30, 1), key(30, 0), key(42, 1), key(48, 1), key(48, 0), key(42, 0)];
        assert_eq!(events(&mut bench), expected.concat());
        assert_eq!(input.status()["frames"], 6);
    }
}

#[test]
fn commands_for_what_the_device_has_not_are_refused_and_do_nothing() {
    let mut keyboard = input(&["keyboard"]);
    let mut bench = bench(&mut keyboard, Format::Split);
    refill(&mut bench, 8);
    for (name, arguments) in [
        ("key", json!({ "code": "KEY_NONE", "value": 1 })),
        ("key", json!({ "code": 30, "value": 3 })),
        ("key", json!({ "code": 30 })),
        ("key", json!({ "code": 0x110, "value": 1 })),
        ("press", json!({ "codes": "KEY_A" })),
        ("type", json!({ "text": "aé" })),
        ("type", json!({ "text": "a".repeat(3000) })),
        ("move", json!({ "dx": 1 })),
        ("point", json!({ "x": 1, "y": 1 })),
        ("touch", json!({ "slot": 0, "x": 1, "y": 1 })),
        ("events", json!({ "events": [[1, 30, 1], [1, 30]] })),
        ("events", json!({ "events": [[1, 70000, 1]] })),
        ("nothing", json!({})),
    ] {
        assert!(command(&mut keyboard, name, arguments.clone()).is_err(), "{name} {arguments}");
    }
    bench.run();
    assert!(events(&mut bench).is_empty());
}

#[test]
fn pointers_move_within_their_range() {
    let mut input = input(&["mouse", "tablet=100x50"]);
    let mut bench = bench(&mut input, Format::Packed);
    refill(&mut bench, 32);
    command(&mut input, "move", json!({ "dx": -3, "dy": 4 })).unwrap();
    command(&mut input, "wheel", json!({ "vertical": 1 })).unwrap();
    command(&mut input, "button", json!({ "code": "BTN_LEFT", "value": 1 })).unwrap();
    command(&mut input, "point", json!({ "x": 99, "y": 49 })).unwrap();
    assert!(command(&mut input, "point", json!({ "x": 100, "y": 0 })).is_err());
    bench.run();
    let syn = (0, 0, 0);
    assert_eq!(
        events(&mut bench),
        [(2, 0, -3), (2, 1, 4), syn, (2, 8, 1), syn, (1, 0x110, 1), syn, (3, 0, 99), (3, 1, 49), syn]
    );
}

#[test]
fn contacts_come_and_go_in_their_slots() {
    let mut input = input(&["multi-touch=100x100x2"]);
    let mut bench = bench(&mut input, Format::Split);
    refill(&mut bench, 64);
    for (name, arguments) in [
        ("touch", json!({ "slot": 0, "x": 1, "y": 2 })),
        ("touch", json!({ "slot": 1, "x": 3, "y": 4 })),
        ("touch", json!({ "slot": 1, "x": 5, "y": 4 })),
        ("lift", json!({ "slot": 0 })),
        ("lift", json!({ "slot": 0 })),
        ("lift", json!({ "slot": 1 })),
    ] {
        command(&mut input, name, arguments).unwrap();
    }
    assert!(command(&mut input, "touch", json!({ "slot": 2, "x": 1, "y": 2 })).is_err());
    bench.run();
    let (slot, id, x, y) = (|n| (3, 0x2f, n), |n| (3, 0x39, n), |n| (3, 0x35, n), |n| (3, 0x36, n));
    let (touch, syn) = (|n| (1, 0x14a, n), (0, 0, 0));
    let mut expected = vec![slot(0), id(0), x(1), y(2), touch(1), (3, 0, 1), (3, 1, 2), syn];
    expected.extend([slot(1), id(1), x(3), y(4), syn, slot(1), x(5), y(4), syn]);
    expected.extend([slot(0), id(-1), syn, slot(1), id(-1), touch(0), syn]);
    assert_eq!(events(&mut bench), expected);
}

/// Lets the guest take all that there is, a ring at a time.
fn drain(bench: &mut Bench<InputHandler>) -> Vec<(u16, u16, i32)> {
    let mut all = Vec::new();
    loop {
        let room = 64 - bench.outstanding(EVENTS) as usize;
        refill(bench, room);
        bench.run();
        let some = events(bench);
        all.extend_from_slice(&some);
        if some.is_empty() {
            return all;
        }
    }
}

/// The events of somebody who types lower-case and capital letters: those of the keys A and B.
fn typed(text: &str) -> Vec<(u16, u16, i32)> {
    let mut events = Vec::new();
    let mut key = |code, value| events.extend([(1, code, value), (0, 0, 0)]);
    for character in text.chars() {
        let (shift, code) =
            (character.is_uppercase(), if character.eq_ignore_ascii_case(&'a') { 30 } else { 48 });
        shift.then(|| key(42, 1));
        key(code, 1);
        key(code, 0);
        shift.then(|| key(42, 0));
    }
    events
}

/// What handlers share over a device of the host that is a socket, and who uses that.
fn over_fake(abilities: Abilities) -> (Arc<Shared>, Held, UnixStream) {
    let held = Held::new(|| Ok(Kept::new(Vec::new()))).unwrap();
    let (source, user) = fake(&abilities, false);
    held.with(|kept| kept.sources.push(source));
    let shared = Shared { abilities, synthetic: None, counters: Counters::default(), waits: false };
    (Arc::new(shared), held, user)
}

/// What the configuration space says of a set of bits.
fn bits(input: &mut Input, select_byte: u8, subsel: u8) -> Vec<u16> {
    let config = select(input, select_byte, subsel);
    let has = |code: &u16| config.data[usize::from(code / 8)] & (1 << (code % 8)) != 0;
    (0..8 * u16::from(config.size)).filter(has).collect()
}

#[test]
fn kinds_have_their_events_axes_and_properties_in_the_configuration_space() {
    let surface = || vec![0, 1];
    let contacts = || vec![0, 1, 0x2f, 0x35, 0x36, 0x39];
    let taps = vec![0x110, 0x145, 0x148, 0x14a, 0x14d, 0x14e, 0x14f];
    // Properties; keys, relative axes, absolute axes, switches.
    for (kind, props, codes) in [
        ("keyboard", vec![], [(1..=248).collect(), vec![], vec![], vec![]]),
        ("mouse", vec![], [(0x110..=0x114).collect(), vec![0, 1, 6, 8], vec![], vec![]]),
        ("rotary", vec![], [vec![], vec![8], vec![], vec![]]),
        ("switches", vec![], [vec![], vec![], vec![], (0..=0x10).collect()]),
        ("tablet=300x200", vec![], [(0x110..=0x114).collect(), vec![8], surface(), vec![]]),
        ("single-touch=300x200", vec![1], [vec![0x14a], vec![], surface(), vec![]]),
        ("multi-touch=300x200", vec![1], [vec![0x14a], vec![], contacts(), vec![]]),
        ("trackpad=300x200", vec![0, 2], [vec![0x110, 0x145, 0x14a], vec![], surface(), vec![]]),
        ("multi-touch-trackpad=300x200", vec![0, 2], [taps.clone(), vec![], contacts(), vec![]]),
        (
            "multi-touch-trackpad=300x200x2",
            vec![0, 2],
            [vec![0x110, 0x145, 0x14a, 0x14d], vec![], contacts(), vec![]],
        ),
    ] {
        let mut input = input(&[kind]);
        let name = select(&mut input, CFG_ID_NAME, 0);
        let said = format!("Outboard {}", kind.split('=').next().unwrap());
        assert_eq!(&name.data[..name.size.into()], said.as_bytes());
        assert_eq!(bits(&mut input, CFG_PROP_BITS, 0), props, "{kind}");
        for (subsel, codes) in [1, 2, 3, 5].into_iter().zip(&codes) {
            assert_eq!(bits(&mut input, CFG_EV_BITS, subsel), *codes, "{kind}, type {subsel}");
        }
        for (axis, last) in [(0, 299_u32), (1, 199), (0x35, 299), (0x36, 199), (0x39, 0xffff)] {
            let there = codes[2].contains(&axis.into());
            let config = select(&mut input, CFG_ABS_INFO, axis);
            assert_eq!(config.size, if there { 20 } else { 0 }, "{kind}, axis {axis}");
            assert!(!there || config.data[4..8] == last.to_le_bytes(), "{kind}, axis {axis}");
        }
    }
}

#[test]
fn device_of_a_file_is_what_the_file_says_and_does_what_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pedal.json");
    let pedal = r#"{ "name": "Pedal", "events": [
        { "event_type": "EV_ABS", "event_type_code": 3, "supported_events": { "ABS_GAS": 9 } },
        { "event_type": "EV_SW", "event_type_code": 5, "supported_events": { "SW_DOCK": 5 } }
    ], "axis_info": [ { "axis": "ABS_GAS", "axis_code": 9, "min": -1, "max": 300 } ] }"#;
    std::fs::write(&file, pedal).unwrap();
    let kind = format!("custom={}", file.display());
    let mut device = input(&[&kind]);
    let name = select(&mut device, CFG_ID_NAME, 0);
    assert_eq!(&name.data[..name.size.into()], b"Pedal");
    assert_eq!(select(&mut device, CFG_ID_DEVIDS, 0).data[..8], [6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bits(&mut device, CFG_EV_BITS, 3), [9]);
    assert_eq!(bits(&mut device, CFG_EV_BITS, 5), [5]);
    assert_eq!(select(&mut device, CFG_ABS_INFO, 9).data[..5], [0xff, 0xff, 0xff, 0xff, 44]);
    let mut bench = bench(&mut device, Format::Split);
    refill(&mut bench, 8);
    for wrong in [json!([[3, 9, 301]]), json!([[3, 8, 0]]), json!([[5, 5, 2]]), json!([[5, 4, 1]])] {
        assert!(command(&mut device, "events", json!({ "events": wrong })).is_err());
    }
    command(&mut device, "events", json!({ "events": [[3, 9, -1], [5, 5, 1]] })).unwrap();
    bench.run();
    assert_eq!(events(&mut bench), [(3, 9, -1), (5, 5, 1), (0, 0, 0)]);
    // One that is not there, one that says nothing, and one that is too long.
    for text in [None, Some(String::new()), Some(" ".repeat((1 << 20) + 1) + pedal)] {
        std::fs::remove_file(&file).unwrap_or_default();
        text.into_iter().for_each(|text| std::fs::write(&file, text).unwrap());
        let synthetic = vec![kind.parse().unwrap()];
        let opened = VhostUserInput::open(InputOptions { synthetic, ..InputOptions::default() });
        assert!(opened.err().unwrap().to_string().contains("pedal.json"));
    }
}

#[test]
fn switches_are_switched_and_wheels_turned() {
    let mut input = input(&["switches", "rotary"]);
    let mut bench = bench(&mut input, Format::Packed);
    refill(&mut bench, 8);
    for (code, value) in [(json!("SW_LIDS"), 1), (json!("SW_LID"), 2), (json!(0x11), 1), (json!(-1), 0)] {
        assert!(command(&mut input, "switch", json!({ "code": code, "value": value })).is_err());
    }
    command(&mut input, "switch", json!({ "code": "SW_TABLET_MODE", "value": 1 })).unwrap();
    command(&mut input, "switch", json!({ "code": 0, "value": 1 })).unwrap();
    command(&mut input, "switch", json!({ "code": "SW_LID", "value": 0 })).unwrap();
    command(&mut input, "wheel", json!({ "vertical": -2 })).unwrap();
    bench.run();
    let syn = (0, 0, 0);
    assert_eq!(events(&mut bench), [(5, 1, 1), syn, (5, 0, 1), syn, (5, 0, 0), syn, (2, 8, -2), syn]);
    assert!(command(&mut input, "move", json!({ "dx": 1 })).is_err());
    // A guest that begins learns how they are.
    bench.restart(true, || {
        input.forget(Group(0));
        handler(&mut input)
    });
    assert_eq!(drain(&mut bench), [(5, 1, 1), syn]);
}

#[test]
fn fingers_on_a_pad_are_counted_and_pressed() {
    let mut pad = input(&["trackpad=100x100"]);
    let mut bench = bench(&mut pad, Format::Split);
    refill(&mut bench, 32);
    for (name, arguments) in [
        ("touch", json!({ "x": 1, "y": 2 })),
        ("touch", json!({ "slot": 0, "x": 3, "y": 2 })),
        ("button", json!({ "code": "BTN_LEFT", "value": 1 })),
        ("lift", json!({ "slot": 1 })),
        ("lift", json!({})),
        ("lift", json!({})),
    ] {
        command(&mut pad, name, arguments).unwrap();
    }
    for wrong in [json!({ "slot": 1, "x": 1, "y": 2 }), json!({ "x": 100, "y": 2 })] {
        assert!(command(&mut pad, "touch", wrong).is_err());
    }
    bench.run();
    let (syn, key) = ((0, 0, 0), |code, value| (1, code, value));
    let mut expected =
        vec![key(0x14a, 1), key(0x145, 1), (3, 0, 1), (3, 1, 2), syn, (3, 0, 3), (3, 1, 2), syn];
    expected.extend([key(0x110, 1), syn, key(0x14a, 0), key(0x145, 0), syn]);
    assert_eq!(events(&mut bench), expected);

    let mut pad = input(&["multi-touch-trackpad=100x100"]);
    let mut bench = self::bench(&mut pad, Format::Split);
    refill(&mut bench, 64);
    for slot in [0, 1, 1] {
        command(&mut pad, "touch", json!({ "slot": slot, "x": 1, "y": 2 })).unwrap();
    }
    for slot in [0, 1] {
        command(&mut pad, "lift", json!({ "slot": slot })).unwrap();
    }
    bench.run();
    let keys: Vec<_> = events(&mut bench).into_iter().filter(|event| event.0 == 1).collect();
    let mut expected = vec![key(0x14a, 1), key(0x145, 1), key(0x145, 0), key(0x14d, 1)];
    expected.extend([key(0x145, 1), key(0x14d, 0), key(0x14a, 0), key(0x145, 0)]);
    assert_eq!(keys, expected);
}

#[test]
fn guest_that_was_slow_learns_what_is_and_nothing_stays_pressed() {
    for format in FORMATS {
        let (shared, held, user) = over_fake(Abilities::default().with(1, 1..=58));
        let handler = InputHandler::new(Arc::clone(&shared), held.take().unwrap());
        let mut bench = Bench::with(handler, &Setup { queues: 2, size: 64, ..Setup::new(format) });
        bench.run();
        let syn = (0, 0, 0);
        happen(&user, &[(1, 42, 1), syn]);
        bench.run();
        // Far more than may wait.
        for _ in 0..10 {
            happen(&user, &[(1, 30, 1), syn, (1, 30, 0), syn].repeat(500));
            bench.run();
        }
        happen(&user, &[(1, 42, 0), syn, (1, 48, 1), syn]);
        bench.run();
        assert_eq!(shared.counters.overruns.value(), 1);
        let seen = drain(&mut bench);
        let pressed =
            |code| seen.iter().rev().find(|event| (event.0, event.1) == (1, code)).map(|event| event.2);
        assert_eq!([pressed(30), pressed(42), pressed(48)], [Some(0), Some(0), Some(1)]);
        assert_eq!(shared.counters.caught_up.value(), 1);
        // And all is as ever.
        happen(&user, &[(1, 48, 0), syn]);
        bench.run();
        assert_eq!(events(&mut bench), [(1, 48, 0), syn]);
    }
}

#[test]
fn commands_for_a_guest_that_is_slow_wait_and_are_refused_before_any_is_lost() {
    for format in FORMATS {
        let mut input = input(&["keyboard"]);
        let mut bench = bench(&mut input, format);
        let mut expected = Vec::new();
        for text in ["a", "b", "aB"] {
            let text = text.repeat(2000 / text.len());
            command(&mut input, "type", json!({ "text": text })).unwrap();
            bench.run();
            expected.extend(typed(&text));
        }
        let mut down = 0;
        while command(&mut input, "key", json!({ "code": 48, "value": 1 - down })).is_ok() {
            down = 1 - down;
            expected.extend([(1, 48, down), (0, 0, 0)]);
            bench.run();
            assert!(expected.len() < 30000, "nothing is refused");
        }
        assert!(drain(&mut bench) == expected, "what arrives is not what was typed");
        command(&mut input, "type", json!({ "text": "b" })).unwrap();
        assert_eq!(drain(&mut bench), typed("b"));
        assert_eq!([&input.status()["overruns"], &input.status()["dropped"]], [0, 0]);
    }
}

#[test]
fn guest_that_is_paused_goes_on_in_the_middle_of_what_is_typed() {
    for format in FORMATS {
        let mut input = input(&["keyboard"]);
        let mut bench = bench(&mut input, format);
        let shouted = "A".repeat(2000);
        command(&mut input, "type", json!({ "text": shouted })).unwrap();
        // Shift is down, and its release waits.
        refill(&mut bench, 60);
        bench.run();
        let mut seen = events(&mut bench);
        assert_eq!(seen[56..], [(1, 42, 1), (0, 0, 0), (1, 30, 1), (0, 0, 0)]);
        // One command is accepted and not taken, and one comes meanwhile.
        command(&mut input, "type", json!({ "text": "ab" })).unwrap();
        bench.restart(false, || {
            command(&mut input, "type", json!({ "text": "Ba" })).unwrap();
            handler(&mut input)
        });
        command(&mut input, "type", json!({ "text": "bb" })).unwrap();
        seen.extend(drain(&mut bench));
        assert!(seen == typed(&(shouted + "abBabb")), "what arrives is not what was typed");
    }
}

#[test]
fn guest_that_begins_hears_nothing_of_what_another_was_to_hear() {
    for format in FORMATS {
        let mut input = input(&["keyboard"]);
        let mut bench = bench(&mut input, format);
        command(&mut input, "key", json!({ "code": "KEY_LEFTSHIFT", "value": 1 })).unwrap();
        for _ in 0..3 {
            command(&mut input, "type", json!({ "text": "a".repeat(2000) })).unwrap();
            bench.run();
        }
        bench.restart(true, || {
            input.forget(Group(0));
            handler(&mut input)
        });
        assert_eq!(drain(&mut bench), [(1, 42, 1), (0, 0, 0)]);
    }
}

#[test]
fn commands_that_are_too_many_while_nobody_uses_the_device_are_told_as_what_they_leave() {
    let mut input = input(&["keyboard"]);
    for _ in 0..3 {
        command(&mut input, "type", json!({ "text": "a".repeat(2000) })).unwrap();
    }
    command(&mut input, "key", json!({ "code": "KEY_B", "value": 1 })).unwrap();
    let mut bench = bench(&mut input, Format::Split);
    let mut expected = typed(&"a".repeat(4000));
    expected.extend([(1, 48, 1), (0, 0, 0)]);
    assert!(drain(&mut bench) == expected);
}

#[test]
fn guest_that_is_paused_misses_nothing_and_one_that_begins_learns_what_is_pressed() {
    for format in FORMATS {
        let mut input = input(&["keyboard"]);
        let mut bench = bench(&mut input, format);
        refill(&mut bench, 4);
        command(&mut input, "key", json!({ "code": "KEY_A", "value": 1 })).unwrap();
        bench.run();
        assert_eq!(events(&mut bench), [(1, 30, 1), (0, 0, 0)]);
        bench.restart(false, || handler(&mut input));
        bench.run();
        assert!(events(&mut bench).is_empty(), "it knows");
        bench.restart(true, || {
            input.forget(Group(0));
            handler(&mut input)
        });
        refill(&mut bench, 4);
        bench.run();
        assert_eq!(events(&mut bench), [(1, 30, 1), (0, 0, 0)]);
        drop(bench);
        // Nobody uses the device.
        command(&mut input, "key", json!({ "code": "KEY_A", "value": 0 })).unwrap();
        let mut bench = self::bench(&mut input, format);
        refill(&mut bench, 4);
        bench.run();
        assert_eq!(events(&mut bench), [(1, 30, 0), (0, 0, 0)]);
    }
}

#[test]
fn lights_are_switched_and_other_status_is_ignored() {
    for format in FORMATS {
        let mut input = input(&["keyboard"]);
        let mut bench = bench(&mut input, format);
        let led = |code: u8, value: u8| [0x11, 0, code, 0, value, 0, 0, 0];
        bench.send(STATUS, &[&[led(1, 1), led(0, 1), led(0, 0)].concat()], &[]);
        bench.send(STATUS, &[&led(2, 1)[..3], &led(2, 1)[3..]], &[4]);
        for wrong in [led(9, 1).as_slice(), &[0x11], &[1, 0, 30, 0, 1, 0, 0, 0], &[0xff; 8]] {
            bench.send(STATUS, &[wrong], &[]);
        }
        bench.run();
        while let Some(answer) = bench.receive(STATUS) {
            assert_eq!(answer.len, 0);
        }
        assert_eq!(bench.outstanding(STATUS), 0);
        let leds = command(&mut input, "leds", json!({})).unwrap();
        assert_eq!(leds, json!(["LED_CAPSL", "LED_SCROLLL"]));
        assert_eq!(input.status()["refused"], 4);
    }
}

#[test]
fn driver_selects_in_any_way_and_writes_nothing_else() {
    let mut input = input(&["keyboard", "mouse"]);
    let patience = Patience::until(&|| true);
    assert_eq!(select(&mut input, CFG_ID_NAME, 0).data[..14], *b"Outboard input");
    for (offset, byte) in [(1, 1), (0, CFG_EV_BITS)] {
        input.write_config(offset, &[byte], &patience).unwrap();
    }
    assert_eq!(input.config()[..3], [CFG_EV_BITS, 1, 35]);
    let mut whole = [0xff; 136];
    (whole[0], whole[1]) = (CFG_EV_BITS, 2);
    input.write_config(0, &whole, &patience).unwrap();
    assert_eq!(input.config()[..10], [CFG_EV_BITS, 2, 2, 0, 0, 0, 0, 0, 0x43, 1]);
    for (offset, data) in [(2, &[1][..]), (8, &[1]), (0, &[0; 137]), (135, &[0; 2]), (u32::MAX, &[0])] {
        assert!(input.write_config(offset, data, &patience).is_err());
    }
    assert_eq!(input.config()[..2], [CFG_EV_BITS, 2]);
    input.reset();
    assert_eq!(input.config(), [0; 136]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for kind in [
        "",
        "piano",
        "mouse=1x1",
        "mouse=",
        "switches=1",
        "tablet=0x1",
        "tablet=1",
        "single-touch=1x1x1",
        "trackpad=1x1x1",
        "multi-touch=1x1x33",
        "multi-touch=1x1x1x1",
        "multi-touch-trackpad=1x1x33",
        "custom",
        "custom=",
    ] {
        assert!(kind.parse::<crate::host::synthetic::Kind>().is_err(), "{kind}");
    }
    for two in [["tablet=10x10", "multi-touch=20x20"], ["multi-touch"; 2]] {
        let synthetic = two.map(|kind| kind.parse().unwrap()).to_vec();
        assert!(VhostUserInput::open(InputOptions { synthetic, ..InputOptions::default() }).is_err());
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file, directory.path().join("none")] {
        let options = InputOptions { evdev_path: vec![path], ..InputOptions::default() };
        assert!(VhostUserInput::open(options).is_err());
    }
    let driven =
        outboard_daemon::DriveArgs { drive: Some(directory.path().join("drive")), ..Default::default() };
    drop(Arc::new(VhostUserInput::open(InputOptions { drive: driven, ..InputOptions::default() }).unwrap()));
    assert!(!directory.path().join("drive").exists());
}
