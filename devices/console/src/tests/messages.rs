//! What driver and device say to each other of ports.

use super::*;
use outboard_device::defs::console::DEVICE_REMOVE;

/// A message with what is behind it.
fn told(id: u32, event: u16, value: u16, more: &[u8]) -> Vec<u8> {
    [&control(id, event, value)[..], more].concat()
}

const TWO: [&str; 4] = ["--port", "name=agent,to=null", "--size", "132x50"];

#[test]
fn driver_that_greets_is_told_of_every_port() {
    for format in FORMATS {
        let mut rig = rig(&TWO, format, true);
        assert_eq!(rig.device.profile().queues.len(), 6);
        assert_eq!(rig.device.config(), [132, 0, 50, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        let expected = [
            told(0, DEVICE_ADD, 1, b""),
            told(1, DEVICE_ADD, 1, b""),
            told(0, CONSOLE_PORT, 1, b""),
            told(0, RESIZE, 1, &[132, 0, 50, 0]),
            told(0, PORT_OPEN, 1, b""),
            told(1, PORT_NAME, 1, b"agent"),
            told(1, PORT_OPEN, 1, b""),
        ];
        assert_eq!(rig.greet(), expected);
        assert_eq!(rig.show(1)["guest_open"], true);
    }
}

#[test]
fn driver_without_room_is_told_once_when_it_has_some() {
    for format in FORMATS {
        let mut rig = rig(&TWO, format, true);
        for _ in 0..40 {
            rig.say(0, DEVICE_READY, 1);
            rig.say(0, PORT_READY, 1);
            assert_eq!(rig.received(ORDERS).len(), 2);
        }
        rig.refill(MESSAGES, 1, 7);
        rig.refill(MESSAGES, 63, 64);
        let heard = rig.received(MESSAGES);
        assert!(heard[0].is_empty(), "a buffer that is too short");
        // What was in the outbox already, and then what is so by now.
        assert!(heard.len() >= 5 && heard.len() <= 64, "{}", heard.len());
        assert!(heard[1..].contains(&told(1, DEVICE_ADD, 1, b"")));
    }
}

#[test]
fn messages_that_make_no_sense_are_counted_and_change_nothing() {
    for format in FORMATS {
        let mut rig = rig(&TWO, format, true);
        rig.refill(MESSAGES, 32, 64);
        // Before the driver is ready there are no ports to speak of.
        rig.say(1, PORT_READY, 1);
        rig.say(1, PORT_OPEN, 1);
        assert!(rig.received(MESSAGES).is_empty());
        rig.greet();
        for (id, event) in [
            (2, PORT_READY),
            (31, PORT_OPEN),
            (u32::MAX, PORT_OPEN),
            (0, DEVICE_ADD),
            (0, DEVICE_REMOVE),
            (0, CONSOLE_PORT),
            (0, 8),
            (0, u16::MAX),
        ] {
            rig.say(id, event, 1);
        }
        rig.bench.send(ORDERS, &[b"\0\0\0\0\x03\0\x01"], &[]);
        rig.bench.send(ORDERS, &[], &[16]);
        assert!(rig.received(MESSAGES).is_empty());
        assert!(rig.received(ORDERS).iter().all(Vec::is_empty));
        assert_eq!(rig.command("ports", &json!({})).unwrap()["refused"], 11);
    }
}

#[test]
fn port_that_the_driver_cannot_use_is_left_alone() {
    for format in FORMATS {
        let mut rig = rig(&["--port", "name=x,to=echo"], format, true);
        rig.greet();
        rig.say(1, PORT_READY, 0);
        rig.send(OUT_1, b"x");
        rig.refill(IN_1, 1, 8);
        assert!(rig.received(IN_1).is_empty());
        assert!(rig.received(MESSAGES).is_empty());
        rig.say(0, DEVICE_READY, 1);
        assert_eq!(rig.received(MESSAGES).len(), 2, "it begins again");
    }
}

#[test]
fn port_that_the_guest_has_closed_keeps_what_is_for_it() {
    for format in FORMATS {
        let mut rig = rig(&["--port", "name=x,to=ring"], format, true);
        rig.greet();
        rig.refill(IN_1, 2, 8);
        rig.say(1, PORT_OPEN, 0);
        rig.bench.run();
        rig.command("write", &json!({ "port": 1, "text": "later" })).unwrap();
        assert!(rig.received(IN_1).is_empty());
        rig.say(1, PORT_OPEN, 1);
        assert_eq!(rig.received(IN_1), [b"later"]);
    }
}

#[test]
fn size_that_changes_is_told_in_both_ways() {
    for (args, bytes) in [(&[][..], [100, 0, 30, 0]), (&["--rows-first"], [30, 0, 100, 0])] {
        let mut rig = rig(&[args, &["--port", "name=x,to=null"]].concat(), Format::Packed, true);
        rig.greet();
        rig.command("resize", &json!({ "cols": 100, "rows": 30 })).unwrap();
        assert_eq!(rig.received(MESSAGES), [told(0, RESIZE, 1, &bytes)]);
        rig.device.settle();
        assert_eq!(rig.device.config()[..4], [100, 0, 30, 0]);
        assert_eq!(rig.bench.config_changes(), 1);
        for arguments in [
            json!({ "cols": 0, "rows": 1 }),
            json!({ "cols": 65536, "rows": 1 }),
            json!({ "cols": 1 }),
            json!({ "port": 1, "cols": 1, "rows": 1 }),
            json!({ "port": 9, "cols": 1, "rows": 1 }),
            json!({ "cols": 1, "rows": 1, "depth": 1 }),
        ] {
            assert!(rig.command("resize", &arguments).is_err(), "{arguments}");
        }
    }
}

#[test]
fn port_comes_and_goes_while_the_guest_runs() {
    for format in FORMATS {
        let mut rig = rig(&["--max-ports", "2"], format, true);
        rig.greet();
        let add = json!({ "port": "name=later,to=echo" });
        assert_eq!(rig.command("add-port", &add).unwrap(), json!({ "port": 1 }));
        assert_eq!(rig.received(MESSAGES), [told(1, DEVICE_ADD, 1, b"")]);
        rig.say(1, PORT_READY, 1);
        rig.say(1, PORT_OPEN, 1);
        assert_eq!(rig.received(MESSAGES).len(), 2);
        for (command, arguments) in [
            ("add-port", add.clone()),
            ("add-port", json!({ "port": "name=more,to=null" })),
            ("remove-port", json!({ "port": 0 })),
            ("remove-port", json!({ "port": 5 })),
            ("read", json!({ "port": 1 })),
            ("break", json!({})),
        ] {
            assert!(rig.command(command, &arguments).is_err(), "{command}");
        }
        rig.refill(IN_1, 2, 8);
        rig.send(OUT_1, b"one");
        assert_eq!(rig.received(IN_1), [b"one"]);
        rig.command("remove-port", &json!({ "port": 1 })).unwrap();
        rig.command("add-port", &add).unwrap();
        assert_eq!(
            rig.received(MESSAGES),
            [told(1, DEVICE_REMOVE, 1, b""), told(1, DEVICE_ADD, 1, b"")],
            "in this order"
        );
        assert_eq!(rig.send(OUT_1, b"two"), 1);
        rig.say(1, PORT_READY, 1);
        rig.say(1, PORT_OPEN, 1);
        assert_eq!(rig.received(IN_1), [b"two"]);
    }
}

#[test]
fn pause_changes_nothing_and_another_driver_begins_anew() {
    for format in FORMATS {
        let mut rig = rig(&["--port", "name=x,to=echo"], format, true);
        rig.greet();
        rig.refill(IN_1, 4, 8);
        rig.restart(false);
        rig.send(OUT_1, b"on");
        assert_eq!(rig.received(IN_1), [b"on"]);
        assert!(rig.received(MESSAGES).is_empty());
        rig.restart(true);
        rig.refill(IN_1, 4, 8);
        rig.send(OUT_1, b"held");
        assert!(rig.received(IN_1).is_empty(), "the new driver has not opened it");
        assert_eq!(rig.greet().len(), 7);
        assert_eq!(rig.received(IN_1), [b"held"]);
    }
}

#[test]
fn driver_that_was_here_before_the_program_goes_on() {
    let mut device = open(&["--port", "name=x,to=echo"]).unwrap();
    let agreed = Features(F_MULTIPORT);
    let handler = device.handler(Group(0), agreed).unwrap();
    let bench = Bench::with(handler, &Setup { queues: 6, size: 64, ..Setup::new(Format::Split) });
    let mut rig = Rig { device, bench, agreed };
    rig.refill(MESSAGES, 8, 64);
    rig.refill(IN_1, 1, 8);
    rig.send(OUT_1, b"on");
    assert_eq!(rig.received(IN_1), [b"on"]);
    let expected =
        [told(0, RESIZE, 1, &[80, 0, 24, 0]), told(0, PORT_OPEN, 1, b""), told(1, PORT_OPEN, 1, b"")];
    assert_eq!(rig.received(MESSAGES), expected);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    for (args, reason) in [
        (&["--single", "--port", "name=x,to=null"][..], "--single"),
        (&["--max-ports", "1", "--port", "name=x,to=null"], "--max-ports"),
        (&["--max-ports", "32"], "--max-ports"),
        (&["--port", "name=x,to=null", "--port", "name=x,to=null"], "two ports"),
        (&["--console", "unix:/no/such/place"], "cannot"),
        (&["--console", "tcp:127.0.0.1:0,token-file=/no/token"], "/no/token"),
        (&["--size", "0x1"], "80x24"),
    ] {
        let error = open(args).err().unwrap();
        assert!(error.contains(reason), "{args:?}: {error}");
    }
}
