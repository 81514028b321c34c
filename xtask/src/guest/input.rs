//! Scenarios of the input device: what is typed, and what an evdev reader in the guest sees.

use anyhow::{Result, ensure};
use serde_json::json;

use super::bench::Bench;
use super::vm::Vm;
use crate::control::command_to;

/// What is typed.
const TEXT: &str = "Hello, World!";

/// A keyboard and a mouse in one device: every event arrives, in order, and a light comes back.
pub(super) fn input(bench: &mut Bench) -> Result<()> {
    let drive = bench.directory().join("drive.sock");
    let options = ["--drive=drive.sock", "--input-name=typist", "--serial=serial-7", "--ids=3:1234:abcd:100"];
    bench.plug("input", &options.map(str::to_owned))?;
    let events = expected();
    let settings = vec![
        ("OUTBOARD_EVENTS", events.len().to_string()),
        ("OUTBOARD_PACKED", u8::from(bench.packed()).to_string()),
    ];
    let mut vm = bench.boot("input", settings)?;
    vm.await_value("ready")?;
    command_to(&drive, "type", &json!({ "text": TEXT }))?;
    command_to(&drive, "move", &json!({ "dx": -5, "dy": 70000 }))?;
    command_to(&drive, "button", &json!({ "code": "BTN_LEFT", "value": 1 }))?;
    vm.await_value("light")?;
    ensure!(command_to(&drive, "leds", &json!({}))? == json!(["LED_CAPSL"]), "the light was not switched on");
    vm.type_line("stop")?;
    vm.finish()?;
    let seen = kernel_events(&vm, "events");
    for (at, (event, expected)) in seen.iter().zip(&events).enumerate() {
        ensure!(event == expected, "event {at} is {event:?}, not {expected:?}");
    }
    ensure!(seen.len() == events.len(), "{} events arrived, not {}", seen.len(), events.len());
    bench.stop_back_ends()
}

/// The back end over an input device that a kernel has, which is one that we simulate: it runs inside the guest.
pub(super) fn inside(bench: &mut Bench) -> Result<()> {
    let drive = bench.directory().join("drive.sock");
    let options = ["--drive=drive.sock", "--input-name=typist", "--serial=serial-7", "--ids=3:1234:1122:100"];
    bench.plug("input", &options.map(str::to_owned))?;
    let text = |events: &[[u8; 8]]| {
        let event = |&[a, b, c, d, e, f, g, h]: &[u8; 8]| {
            let (kind, code) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            format!("{kind:x}/{code:x}/{}", i32::from_le_bytes([e, f, g, h]))
        };
        events.iter().map(event).collect::<Vec<_>>().join(" ")
    };
    let events = typed();
    let mut vm = bench.boot("input-inside", vec![("OUTBOARD_EVENTS", events.len().to_string())])?;
    let key = |code: &str, value: u8| command_to(&drive, "key", &json!({ "code": code, "value": value }));
    vm.await_value("ready")?;
    command_to(&drive, "type", &json!({ "text": TEXT }))?;
    vm.await_value("light")?;
    ensure!(command_to(&drive, "leds", &json!({}))? == json!(["LED_CAPSL"]), "the light was not switched on");
    vm.type_line("on")?;
    vm.await_value("released")?;
    key("KEY_D", 1)?;
    key("KEY_D", 0)?;
    vm.await_value("shared")?;
    command_to(&drive, "type", &json!({ "text": TEXT }))?;
    vm.await_value("press")?;
    key("KEY_B", 1)?;
    vm.type_line("unplug")?;
    vm.await_value("back")?;
    key("KEY_C", 1)?;
    vm.finish()?;
    for name in ["events", "shared-events"] {
        let (seen, expected) = (vm.value(name)?, text(&events));
        ensure!(seen == expected, "{name}: {seen} arrived, and not {expected}");
    }
    let others = kernel_events(&vm, "others");
    ensure!(others == events, "others on the host heard {others:?}");
    let seen = vm.value("unplugged")?;
    ensure!(seen.trim() == "1/30/1 0/0/0 1/30/0", "of a device that is unplugged, {seen} arrived");
    bench.stop_back_ends()
}

/// The back end over input devices that programs make (uinput): all of it inside the guest.
pub(super) fn uinput(bench: &mut Bench) -> Result<()> {
    bench.boot("input-uinput", Vec::new())?.finish()
}

/// What a reader of an input device has written down: of each event what is behind its time.
fn kernel_events(vm: &Vm, name: &str) -> Vec<[u8; 8]> {
    let seen = vm.data.get(name).map(Vec::as_slice).unwrap_or_default();
    // Time, type, code, value: 24 bytes on 64-bit machines.
    seen.chunks(24).filter_map(|event| event.get(16..)?.try_into().ok()).collect()
}

/// The events of all that is done.
fn expected() -> Vec<[u8; 8]> {
    let syn = event(0, 0, 0);
    let mut events = typed();
    events.extend([event(2, 0, -5), event(2, 1, 70000), syn]);
    events.extend([event(1, 0x110, 1), syn]);
    events
}

/// The events of what is typed.
fn typed() -> Vec<[u8; 8]> {
    let syn = event(0, 0, 0);
    let mut events = Vec::new();
    let mut key = |code, value| events.extend([event(1, code, value), syn]);
    // "Hello, World!" by the codes of its keys, and whether Shift belongs to them.
    let keys = [
        (35, true),
        (18, false),
        (38, false),
        (38, false),
        (24, false),
        (51, false),
        (57, false),
        (17, true),
        (24, false),
        (19, false),
        (38, false),
        (32, false),
        (2, true),
    ];
    for (code, shift) in keys {
        if shift {
            key(42, 1);
        }
        key(code, 1);
        key(code, 0);
        if shift {
            key(42, 0);
        }
    }
    events
}

/// An event as the kernel has it, behind its time.
fn event(kind: u16, code: u16, value: i32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&code.to_le_bytes());
    bytes[4..].copy_from_slice(&value.to_le_bytes());
    bytes
}
