//! The device on both ring formats.

use std::path::Path;

use outboard_daemon::DriveArgs;
use outboard_device::defs::scmi::{CMDQ, EVENTQ, VIRTIO_SCMI_F_P2A_CHANNELS};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, Features, Group, QueueId};
use outboard_scmi_protocols::{BASE, CLOCK, Header, Kind, SENSOR, SYSTEM};

use crate::description::Description;
use crate::handler::ScmiHandler;
use crate::{Scmi, ScmiOptions};

mod distant;

const COMMANDS: QueueId = QueueId(CMDQ);
const EVENTS: QueueId = QueueId(EVENTQ);

fn options() -> ScmiOptions {
    ScmiOptions { description: None, sysfs: "/sys".into(), no_notify: false, driven: DriveArgs::default() }
}

fn setup(format: Format) -> Setup {
    Setup { queues: EVENTQ + 1, ..Setup::new(format) }
}

/// A device and its handler on a ring of either format.
fn each(options: &ScmiOptions, test: impl Fn(&mut Bench<ScmiHandler>, &mut Scmi)) {
    for format in [Format::Split, Format::Packed] {
        let mut device = Scmi::open(options).unwrap();
        let handler = device.handler(Group(0), Features(VIRTIO_SCMI_F_P2A_CHANNELS)).unwrap();
        test(&mut Bench::with(handler, &setup(format)), &mut device);
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn command(protocol: u8, message: u8, params: &[u32]) -> Vec<u8> {
    let header = Header::new(protocol, message, Kind::Command, 1).0;
    std::iter::once(&header).chain(params).flat_map(|word| word.to_le_bytes()).collect()
}

/// What a command is answered: status, and words behind it.
fn ask(bench: &mut Bench<ScmiHandler>, protocol: u8, message: u8, params: &[u32]) -> Vec<u32> {
    let command = command(protocol, message, params);
    let (outputs, len) = bench.request(&[&command], &[132]);
    let answer = words(&outputs[0][..len as usize]);
    assert_eq!(answer[..1], words(&command[..4]));
    answer[1..].to_vec()
}

#[test]
fn command_in_pieces_is_answered_in_pieces() {
    each(&options(), |bench, _| {
        let bytes = command(SENSOR, 6, &[0, 0]);
        let (outputs, len) = bench.request(&[&bytes[..3], &bytes[3..5], &bytes[5..]], &[1, 6, 100]);
        assert_eq!(len, 24);
        let answer = outputs.concat();
        assert_eq!(words(&answer[..24]), [words(&bytes[..4])[0], 0, 40_000, 0, 0, 0]);
    });
}

#[test]
fn command_without_header_or_without_room_is_completed_with_nothing() {
    each(&options(), |bench, _| {
        assert_eq!(bench.request(&[b"abc"], &[100]).1, 0);
        assert_eq!(bench.request(&[], &[100]).1, 0);
        assert_eq!(bench.request(&[&command(BASE, 0, &[])], &[]).1, 0);
        assert_eq!(bench.request(&[&command(BASE, 0, &[])], &[7]).1, 0);
        let long = [command(BASE, 0, &[]), vec![0; 60_000]].concat();
        assert_eq!(bench.request(&[&long], &[100]).1, 8, "a status");
        assert_eq!(bench.outstanding(COMMANDS), 0);
    });
}

#[test]
fn everything_is_there_by_default() {
    each(&options(), |bench, _| {
        assert_eq!(ask(bench, BASE, 6, &[0]), [0, 7, 0x1413_1211, 0x0017_1615]);
    });
}

#[test]
fn description_with_faults_is_refused_with_the_place() {
    let wrong = [
        ("[[clock]]\nname='a'\nrates=[2,1]", "a: values are to ascend"),
        ("[[clock]]\nname='a'\nrates=[1]\nmay=['state']", "a: there is no State to be allowed"),
        ("[[clock]]\nname='a'\nrates=[1]\nrat=1", "a: unknown field `rat`"),
        ("[[clock]]\nname='a'\nrates=[1]\n[[clock]]\nname='a'\nrates=[1]", "there are two of clock.a"),
        ("[[power]]\nname='a b'", "\"a b\" is no name"),
        ("[[power]]\nname='a'\nsource='x:y'", "\"x:y\" is no source"),
        ("[[power]]\nname='a'\nsource='sysfs:nothing/there'", "cannot open"),
        ("[[sensor]]\nname='a'\nunit='stones'", "a: there is no unit \"stones\""),
        ("[[sensor]]\nname='a'\nscale=16", "a: scale is -16 to 15"),
        (
            "[[sensor]]\nname='a'\nunit='kelvin'\nsource='iio:x/in_temp'",
            "a: what its channel measures has the unit 2",
        ),
        ("[[voltage]]\nname='a'\nlevels={min=1,max=3,step=1}\nmicrovolts=4", "a: 4 is none of its levels"),
        ("[[performance]]\nname='a'\nlevels=[]", "a: levels are to ascend"),
        ("[[fridge]]\nname='a'", "unknown field `fridge`"),
    ];
    for (text, reason) in wrong {
        let error = Description::parse(text, Path::new("/sys")).map(drop).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

/// What writes a file below `root`, in a directory that there may not be yet, and what reads one.
fn files_of(root: &Path) -> (impl Fn(&str, &str), impl Fn(&str) -> String) {
    let write = move |name: &str, text: &str| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    (write, move |name: &str| std::fs::read_to_string(root.join(name)).unwrap())
}

#[test]
fn attributes_of_the_host_are_read_and_written_and_nothing_beside_them() {
    let root = tempfile::tempdir().unwrap();
    let (write, read) = files_of(root.path());
    write("hwmon/temp1_input", "42500\n");
    write("state", "enabled\n");
    write("bus/iio/devices/iio:device0/in_accel_x_raw", "100\n");
    write("bus/iio/devices/iio:device0/in_accel_y_raw", "-200\n");
    write("bus/iio/devices/iio:device0/in_accel_scale", "0.5\n");
    write("bus/iio/devices/iio:device0/in_accel_x_offset", "-10\n");
    std::os::unix::fs::symlink("/etc/passwd", root.path().join("away")).unwrap();
    let file = root.path().join("view.toml");
    let text = "
        [[sensor]]
        name = 'cpu'
        source = 'sysfs:hwmon/temp1_input'
        [[sensor]]
        name = 'motion'
        source = 'iio:iio:device0/in_accel'
        scale = -3
        axes = ['accel_X', 'accel_Y']
        [[power]]
        name = 'gpu'
        source = 'sysfs:/state'
        may = ['state']
    ";
    std::fs::write(&file, text).unwrap();
    let options = ScmiOptions { description: Some(file.clone()), sysfs: root.path().into(), ..options() };
    each(&options, |bench, _| {
        write("state", "enabled\n");
        write("hwmon/temp1_input", "42500\n");
        assert_eq!(ask(bench, SENSOR, 6, &[0, 0])[..3], [0, 42_500, 0]);
        write("hwmon/temp1_input", "-1\n");
        assert_eq!(ask(bench, SENSOR, 6, &[0, 0])[..3], [0, u32::MAX, u32::MAX]);
        write("hwmon/temp1_input", "warm\n");
        assert_eq!(ask(bench, SENSOR, 6, &[0, 0]), [-9i32 as u32]);
        let axes = ask(bench, SENSOR, 6, &[1, 0]);
        assert_eq!((axes[1], axes[5]), (45_000, -100_000i32 as u32));
        assert_eq!(ask(bench, 0x11, 5, &[0]), [0, 0]);
        assert_eq!(ask(bench, 0x11, 4, &[0, 0, 1 << 30]), [0]);
        assert_eq!(read("state").trim_end(), "disabled");
        assert_eq!(ask(bench, 0x11, 5, &[0]), [0, 1 << 30]);
    });
    std::fs::write(&file, "[[power]]\nname='a'\nsource='sysfs:away'").unwrap();
    let error = Scmi::open(&options).map(drop).unwrap_err().to_string();
    assert!(error.contains("away"), "{error}");
}

#[test]
fn voltage_is_switched_where_the_description_says_and_a_managed_device_by_its_own_words() {
    let root = tempfile::tempdir().unwrap();
    let (write, read) = files_of(root.path());
    let file = root.path().join("view.toml");
    let text = "
        [[voltage]]
        name = 'vdd'
        levels = [900000, 1000000]
        source = 'sysfs:regulator'
        state = 'sysfs:consumer/state'
        may = ['enable']
        [[voltage]]
        name = 'vio'
        levels = [3300000]
        source = 'sysfs:regulator'
        state = 'simulated'
        [[power]]
        name = 'usb'
        source = 'sysfs:usb/power/control'
        may = ['state']
        [[power]]
        name = 'gpu'
    ";
    std::fs::write(&file, text).unwrap();
    write("regulator/microvolts", "900000\n");
    write("consumer/state", "enabled\n");
    write("usb/power/control", "auto\n");
    let options = ScmiOptions { description: Some(file), sysfs: root.path().into(), ..options() };
    each(&options, |bench, _| {
        write("consumer/state", "enabled\n");
        assert_eq!(ask(bench, 0x17, 8, &[0]), [0, 900_000]);
        assert_eq!(ask(bench, 0x17, 7, &[0, 0, 1_000_000]), [-3i32 as u32]);
        assert_eq!(ask(bench, 0x17, 5, &[0, 0]), [0]);
        assert_eq!(read("consumer/state").trim_end(), "disabled");
        assert_eq!(ask(bench, 0x17, 6, &[0]), [0, 0]);
        assert_eq!(ask(bench, 0x17, 6, &[1]), [0, 7]);
        write("usb/power/control", "auto\n");
        assert_eq!(ask(bench, 0x11, 5, &[0]), [0, 1 << 30]);
        write("usb/power/control", "on");
        assert_eq!(ask(bench, 0x11, 5, &[0]), [0, 0]);
        assert_eq!(ask(bench, 0x11, 4, &[0, 0, 1 << 30]), [0]);
        assert_eq!(read("usb/power/control"), "auto");
        assert_eq!(ask(bench, 0x11, 6, &[0, 1]), [-1i32 as u32], "nobody hears of what others do there");
        assert_eq!(ask(bench, 0x11, 6, &[1, 1]), [0]);
    });
}

#[test]
fn channels_are_told_in_the_units_that_they_are_said_to_have() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("bus/iio/devices/iio:device0");
    std::fs::create_dir_all(&directory).unwrap();
    // Channel, raw, scale; scale that is asked for; unit and reading.
    let channels = [
        ("temp", "25", "1000", -3, 2, 25_000),
        ("temp1_ambient", "25", "1000", 0, 2, 25),
        ("voltage0-voltage1", "1000", "1.5", -3, 5, 1500),
        ("current3", "-2000", "1", 0, 6, -2i32 as u32),
        ("power0", "12500", "1", -3, 7, 12_500),
        ("humidityrelative", "45", "1000", -1, 0x41, 450),
        ("pressure", "101325", "0.001", 0, 0x42, 101_325),
        ("illuminance", "300", "1", 0, 0x0d, 300),
        ("count0", "7", "1", 0, 0, 7),
    ];
    let mut text = String::new();
    for (name, raw, scale, asked, ..) in channels {
        std::fs::write(directory.join(format!("in_{name}_raw")), raw).unwrap();
        std::fs::write(directory.join(format!("in_{name}_scale")), scale).unwrap();
        let source = format!("iio:iio:device0/in_{name}");
        text += &format!("[[sensor]]\nname = '{name}'\nsource = '{source}'\nscale = {asked}\n");
    }
    let file = root.path().join("view.toml");
    std::fs::write(&file, text).unwrap();
    let options = ScmiOptions { description: Some(file), sysfs: root.path().into(), ..options() };
    each(&options, |bench, _| {
        for (id, (name, _, _, scale, unit, reading)) in (0..).zip(channels) {
            assert_eq!(ask(bench, SENSOR, 6, &[id, 0])[..2], [0, reading], "{name}");
            let kind = ask(bench, SENSOR, 3, &[id])[4];
            assert_eq!((kind & 0xff, kind >> 11 & 0x1f), (unit, scale as u32 & 0x1f), "{name}");
        }
    });
}

fn control(device: &mut Scmi, command: &str, arguments: &Value) -> Value {
    device.control(command, arguments).unwrap()
}

fn set(device: &mut Scmi, point: &str, value: i64) {
    control(device, "set", &json!({ "point": point, "value": value }));
}

/// What the guest is told next, as words, if anything.
fn told(bench: &mut Bench<ScmiHandler>) -> Option<Vec<u32>> {
    bench.send(EVENTS, &[], &[100]);
    bench.run();
    bench.receive(EVENTS).map(|answer| words(&answer.outputs[0][..answer.len as usize]))
}

const RATE_CHANGED: u32 = 3 << 8 | 0x14 << 10;
const TRIPPED: u32 = 3 << 8 | 0x15 << 10;

#[test]
fn changes_from_outside_are_told_to_whom_asked_and_of_states_the_last_is_enough() {
    each(&options(), |bench, device| {
        set(device, "clock.uart.rate", 48_000_000);
        assert_eq!(ask(bench, CLOCK, 9, &[0, 1]), [0]);
        assert_eq!(ask(bench, SENSOR, 4, &[0, 1]), [0]);
        assert_eq!(ask(bench, SENSOR, 5, &[0, 3, 50_000, 0]), [0]);
        for rate in [24_000_000, 96_000_000, 48_000_000] {
            set(device, "clock.uart.rate", rate);
        }
        for value in [40_000, 60_000, 45_000] {
            set(device, "sensor.board", value);
        }
        assert_eq!(told(bench), Some(vec![RATE_CHANGED, 0, 0, 48_000_000, 0]));
        assert_eq!(told(bench), Some(vec![TRIPPED, 0, 0, 1 << 16]), "what happened is told, each time");
        assert_eq!(told(bench), Some(vec![TRIPPED, 0, 0, 0]));
        assert_eq!(told(bench), None);
        assert_eq!(ask(bench, CLOCK, 6, &[0]), [0, 48_000_000, 0]);
        let notifications = device.status()["notifications"].clone();
        assert_eq!(notifications, json!({ "sent": 3, "merged": 2, "dropped": 0, "waiting": 0 }));
    });
}

#[test]
fn buffer_that_is_too_small_for_an_event_is_returned_and_the_event_waits() {
    each(&options(), |bench, device| {
        ask(bench, CLOCK, 9, &[0, 1]);
        set(device, "clock.uart.rate", 96_000_000);
        bench.send(EVENTS, &[], &[7]);
        bench.run();
        assert_eq!(bench.receive(EVENTS).map(|answer| answer.len), Some(0));
        assert_eq!(told(bench), Some(vec![RATE_CHANGED, 0, 0, 96_000_000, 0]));
    });
}

#[test]
fn events_that_nobody_takes_are_bounded() {
    each(&options(), |bench, device| {
        assert_eq!(ask(bench, SYSTEM, 5, &[1]), [0]);
        for _ in 0..300 {
            assert_eq!(control(device, "request", &json!({ "state": "shutdown" })), json!({ "heard": true }));
        }
        bench.run();
        let notifications = &device.status()["notifications"];
        // One is on its way already.
        assert!(notifications["dropped"].as_u64().unwrap() >= 43, "{notifications}");
        assert!(notifications["waiting"].as_u64().unwrap() <= 256, "{notifications}");
    });
}

#[test]
fn what_was_asked_for_survives_a_pause_and_not_a_new_start() {
    for format in [Format::Split, Format::Packed] {
        let mut device = Scmi::open(&options()).unwrap();
        let agreed = Features(VIRTIO_SCMI_F_P2A_CHANNELS);
        let start =
            |device: &mut Scmi| Bench::with(device.handler(Group(0), agreed).unwrap(), &setup(format));
        let mut bench = start(&mut device);
        ask(&mut bench, CLOCK, 9, &[0, 1]);
        drop(bench);
        set(&mut device, "clock.uart.rate", 96_000_000);
        let mut bench = start(&mut device);
        assert_eq!(told(&mut bench), Some(vec![RATE_CHANGED, 0, 0, 96_000_000, 0]));
        drop(bench);
        device.forget(Group(0));
        let mut bench = start(&mut device);
        set(&mut device, "clock.uart.rate", 24_000_000);
        assert_eq!(told(&mut bench), None);
    }
}

#[test]
fn notice_that_found_no_buffer_is_told_by_the_next_handler() {
    each(&options(), |bench, device| {
        assert_eq!(ask(bench, CLOCK, 9, &[0, 1]), [0]);
        set(device, "clock.uart.rate", 96_000_000);
        bench.run();
        assert_eq!(device.status()["notifications"]["waiting"], json!(1));
        let agreed = Features(VIRTIO_SCMI_F_P2A_CHANNELS);
        bench.restart(false, || device.handler(Group(0), agreed).unwrap());
        assert_eq!(told(bench), Some(vec![RATE_CHANGED, 0, 0, 96_000_000, 0]));
        assert_eq!(told(bench), None);
    });
}

#[test]
fn updates_of_a_sensor_come_by_themselves() {
    each(&options(), |bench, _| {
        assert_eq!(ask(bench, SENSOR, 0xa, &[1, 100 << 16 | 0x1d << 11 | 1]), [0]);
        assert_eq!(ask(bench, SENSOR, 0xb, &[1, 1]), [0]);
        assert_eq!(told(bench), None, "not before its time");
        std::thread::sleep(std::time::Duration::from_millis(110));
        bench.pass(std::time::Duration::from_millis(110));
        let event = told(bench).or_else(|| bench.receive(EVENTS).map(|answer| words(&answer.outputs[0])));
        let event = event.unwrap();
        assert_eq!(event[..3], [TRIPPED | 1, 0, 1]);
        assert_eq!(event[11], 9807);
    });
}

#[test]
fn points_are_listed_looked_at_and_let_fail() {
    each(&options(), |bench, device| {
        let points = control(device, "points", &Value::Null);
        assert_eq!((&points["sensor.board"], &points["clock.uart.running"]), (&json!(40_000), &json!(1)));
        assert_eq!(control(device, "get", &json!({ "point": "system" })), json!({ "value": 3 }));
        control(device, "fail", &json!({ "point": "sensor.board" }));
        assert_eq!(ask(bench, SENSOR, 6, &[0, 0]), [-9i32 as u32]);
        assert_eq!(control(device, "get", &json!({ "point": "sensor.board" })), json!({ "value": null }));
        control(device, "fail", &json!({ "point": "sensor.board", "on": false }));
        assert_eq!(ask(bench, SENSOR, 6, &[0, 0])[0], 0);
        for (command, arguments) in [
            ("get", json!({ "point": "nothing" })),
            ("set", json!({ "point": "system" })),
            ("set", json!({ "value": 1 })),
            ("request", json!({ "state": "sleep" })),
            ("dance", Value::Null),
        ] {
            assert!(device.control(command, &arguments).is_err(), "{command}");
        }
    });
}

#[test]
fn notifications_are_not_offered_if_they_are_not_wanted() {
    let device = Scmi::open(&ScmiOptions { no_notify: true, ..options() }).unwrap();
    assert_eq!(device.profile().features, Features(0));
    let device = Scmi::open(&options()).unwrap();
    assert_eq!(device.profile().features, Features(VIRTIO_SCMI_F_P2A_CHANNELS));
}
