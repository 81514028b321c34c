//! The device as a driver sees it, on both ring formats.

use std::ops::{Deref, DerefMut};

use outboard_device::defs::gpio::{
    DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, F_IRQ, GET_DIRECTION, GET_LINE_NAMES, GET_VALUE,
    IRQ_EDGE_BOTH, IRQ_EDGE_FALLING, IRQ_EDGE_RISING, IRQ_LEVEL_HIGH, IRQ_LEVEL_LOW, IRQ_NONE, SET_DIRECTION,
    SET_IRQ_TYPE, SET_VALUE, STATUS_ERR, STATUS_OK,
};
use outboard_device::serde_json::{Value, json};
use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId};

use crate::{Gpio, GpioHandler, GpioOptions};

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
const EVENTS: QueueId = QueueId(1);
/// Answers without a value.
const OK: [u8; 2] = [STATUS_OK, 0];
const ERR: [u8; 2] = [STATUS_ERR, 0];
/// What an event queue's buffer says.
const INVALID: &[u8] = &[0];
const VALID: &[u8] = &[1];

fn options() -> GpioOptions {
    GpioOptions { wire: vec!["0:1".parse().unwrap()], simulate: Some(8), ..GpioOptions::default() }
}

struct Rig {
    device: Gpio,
    bench: Rested,
}

/// A bench whose handler gives back what it holds before it goes.
struct Rested(Bench<GpioHandler>);

impl Drop for Rested {
    fn drop(&mut self) {
        self.0.enable(EVENTS, false);
    }
}

impl Deref for Rested {
    type Target = Bench<GpioHandler>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Rested {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Rig {
    fn new(format: Format) -> Self {
        Self::with(&options(), format, F_IRQ)
    }

    fn with(options: &GpioOptions, format: Format, agreed: u64) -> Self {
        let mut device = Gpio::open(options).unwrap();
        device.forget(Group(0));
        let handler = device.handler(Group(0), Features(agreed)).unwrap();
        let bench = Bench::with(handler, &Setup { queues: 2, size: 64, ..Setup::new(format) });
        Self { device, bench: Rested(bench) }
    }

    /// A request's answer, which is as long as the device says.
    fn ask(&mut self, kind: u16, line: u16, value: u32) -> [u8; 2] {
        let (outputs, len) = self.bench.request(&[&request(kind, line, value)], &[2]);
        assert_eq!(len, 2);
        outputs.concat().try_into().unwrap()
    }

    fn drive(&mut self, command: &str, arguments: &Value) {
        self.device.control(command, arguments).unwrap();
        self.bench.run();
    }

    fn set_outside(&mut self, line: u16, value: u8) {
        self.drive("set", &json!({"line": line, "value": value}));
    }

    fn unmask(&mut self, line: u16) {
        self.bench.send(EVENTS, &[&line.to_le_bytes()], &[1]);
        self.bench.run();
    }

    /// The next buffer of the event queue that came back.
    fn event(&mut self) -> Option<Vec<u8>> {
        let answer = self.bench.receive(EVENTS)?;
        assert_eq!(answer.len as usize, answer.outputs.concat().len());
        Some(answer.outputs.concat())
    }

    /// An input with interrupts of this kind.
    fn listen(&mut self, line: u16, trigger: u8) {
        assert_eq!(self.ask(SET_DIRECTION, line, DIRECTION_IN.into()), OK);
        assert_eq!(self.ask(SET_IRQ_TYPE, line, trigger.into()), OK);
    }
}

fn request(kind: u16, line: u16, value: u32) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &line.to_le_bytes(), &value.to_le_bytes()].concat()
}

#[test]
fn lines_go_where_they_are_told_and_keep_their_level() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        let (out, into, none) = (DIRECTION_OUT.into(), DIRECTION_IN.into(), DIRECTION_NONE.into());
        let table = [
            (GET_DIRECTION, 0, 0, [STATUS_OK, DIRECTION_NONE]),
            (SET_VALUE, 0, 1, OK),
            (GET_VALUE, 1, 0, OK),
            (SET_DIRECTION, 0, out, OK),
            (GET_DIRECTION, 0, 0, [STATUS_OK, DIRECTION_OUT]),
            (GET_VALUE, 0, 0, [STATUS_OK, 1]),
            (SET_DIRECTION, 1, into, OK),
            (GET_VALUE, 1, 0, [STATUS_OK, 1]),
            (SET_VALUE, 0, 0, OK),
            (GET_VALUE, 1, 0, OK),
            (SET_VALUE, 0, 1, OK),
            (SET_DIRECTION, 0, none, OK),
            (SET_DIRECTION, 0, out, OK),
            (GET_VALUE, 0, 0, OK),
        ];
        for (nth, (kind, line, value, answer)) in table.into_iter().enumerate() {
            assert_eq!(rig.ask(kind, line, value), answer, "request {nth}");
        }
    }
}

#[test]
fn requests_that_cannot_be_are_refused() {
    let all = [
        (GET_DIRECTION, 8, 0),
        (SET_DIRECTION, 8, 1),
        (SET_DIRECTION, 0, 3),
        (SET_DIRECTION, 0, 256),
        (GET_VALUE, 65535, 0),
        (SET_VALUE, 0, 2),
        (SET_VALUE, 8, 0),
        (SET_IRQ_TYPE, 0, 5),
        (SET_IRQ_TYPE, 0, 1 << 8),
        (SET_IRQ_TYPE, 8, 1),
        (GET_LINE_NAMES, 0, 0),
        (0, 0, 0),
        (7, 0, 0),
    ];
    for format in FORMATS {
        let mut rig = Rig::new(format);
        for (kind, line, value) in all {
            assert_eq!(rig.ask(kind, line, value), ERR, "{kind} {line} {value}");
        }
        let ask = request(SET_DIRECTION, 0, DIRECTION_OUT.into());
        assert_eq!(rig.bench.request(&[&ask[..7]], &[2]), (vec![ERR.to_vec()], 2));
        assert_eq!(rig.bench.request(&[&ask], &[1]), (vec![vec![STATUS_ERR]], 1));
        assert_eq!(rig.bench.request(&[&ask], &[]), (vec![], 0));
        assert_eq!(rig.ask(GET_DIRECTION, 0, 0), OK, "without room for an answer nothing was done");
        let (outputs, len) = rig.bench.request(&[&ask[..1], &ask[1..], &[9; 100]], &[1, 1, 5]);
        assert_eq!((outputs.concat(), len), (vec![0, 0, 165, 165, 165, 165, 165], 2));
        assert_eq!(outputs[2], [UNTOUCHED; 5]);
    }
}

#[test]
fn names_are_given_whole_or_not_at_all() {
    let lines = Some("2=door,5,0=LED".parse().unwrap());
    for format in FORMATS {
        let rig = &mut Rig::with(&GpioOptions { lines: lines.clone(), ..options() }, format, F_IRQ);
        assert_eq!(rig.device.config(), [3, 0, 0, 0, 10, 0, 0, 0]);
        let ask = request(GET_LINE_NAMES, 0, 0);
        let (outputs, len) = rig.bench.request(&[&ask], &[1, 10]);
        assert_eq!((outputs.concat(), len), (b"\0door\0\0LED\0".to_vec(), 11));
        assert_eq!(rig.bench.request(&[&ask], &[10]).0[0][..2], ERR);
        // The guest's line 2 is the chip's line 0, which is wired to line 1.
        assert_eq!(rig.ask(SET_DIRECTION, 2, DIRECTION_OUT.into()), OK);
        assert_eq!(rig.ask(SET_VALUE, 2, 1), OK);
        let one = rig.device.control("get", &json!({"line": 1})).unwrap();
        assert_eq!(one, json!({"direction": "none", "value": 1}));
        assert_eq!(rig.ask(GET_DIRECTION, 3, 0), ERR);
    }
}

#[test]
fn read_only_lines_and_lines_that_fail_are_refused() {
    let read_only = Some("0-1".parse().unwrap());
    for format in FORMATS {
        let rig = &mut Rig::with(&GpioOptions { read_only: read_only.clone(), ..options() }, format, F_IRQ);
        assert_eq!(rig.ask(SET_DIRECTION, 1, DIRECTION_OUT.into()), ERR);
        assert_eq!(rig.ask(SET_DIRECTION, 1, DIRECTION_IN.into()), OK);
        assert_eq!(rig.ask(SET_DIRECTION, 2, DIRECTION_OUT.into()), OK);
        rig.drive("fail", &json!({"line": 2, "fails": true}));
        assert_eq!(rig.ask(SET_VALUE, 2, 1), ERR);
        rig.drive("fail", &json!({"line": 2, "fails": false}));
        assert_eq!(rig.ask(SET_VALUE, 2, 1), OK);
    }
}

#[test]
fn edges_are_told_once_and_remembered_while_masked() {
    // What is listened to; levels from outside; how often that is an interrupt, the line being unmasked again at once.
    let table = [
        (IRQ_EDGE_RISING, [1, 0, 1, 0], 2),
        (IRQ_EDGE_FALLING, [1, 0, 1, 0], 2),
        (IRQ_EDGE_BOTH, [1, 0, 1, 0], 4),
        (IRQ_EDGE_RISING, [0, 0, 1, 1], 1),
        (IRQ_EDGE_FALLING, [0, 1, 1, 1], 0),
    ];
    for format in FORMATS {
        for (trigger, levels, count) in table {
            let mut rig = Rig::new(format);
            rig.listen(3, trigger);
            rig.unmask(3);
            let mut seen = 0;
            for level in levels {
                rig.set_outside(3, level);
                while let Some(event) = rig.event() {
                    assert_eq!(event, VALID);
                    seen += 1;
                    rig.unmask(3);
                }
            }
            assert_eq!(seen, count, "{trigger} {levels:?}");
        }
        let mut rig = Rig::new(format);
        rig.listen(3, IRQ_EDGE_BOTH);
        for level in [1, 0, 1] {
            rig.set_outside(3, level);
        }
        rig.unmask(3);
        assert_eq!(rig.event().as_deref(), Some(VALID), "edges while masked");
        rig.unmask(3);
        assert_eq!(rig.event(), None, "are one interrupt");
        rig.drive("pulse", &json!({"line": 3}));
        assert_eq!(rig.event().as_deref(), Some(VALID));
        rig.unmask(3);
        assert_eq!(rig.event().as_deref(), Some(VALID), "the second edge of a pulse");
    }
}

#[test]
fn levels_are_told_as_long_as_they_last_and_not_remembered() {
    for format in FORMATS {
        for (trigger, active) in [(IRQ_LEVEL_HIGH, 1), (IRQ_LEVEL_LOW, 0)] {
            let mut rig = Rig::new(format);
            rig.set_outside(3, 1 - active);
            rig.listen(3, trigger);
            rig.unmask(3);
            assert_eq!(rig.event(), None);
            rig.set_outside(3, active);
            assert_eq!(rig.event().as_deref(), Some(VALID));
            for _ in 0..3 {
                rig.unmask(3);
                assert_eq!(rig.event().as_deref(), Some(VALID), "it lasts");
            }
            rig.set_outside(3, 1 - active);
            rig.unmask(3);
            assert_eq!(rig.event(), None, "it is over");
            rig.set_outside(3, active);
            rig.set_outside(3, 1 - active);
            assert_eq!(rig.event().as_deref(), Some(VALID));
            rig.unmask(3);
            assert_eq!(rig.event(), None);
        }
    }
}

#[test]
fn buffers_that_wait_for_nothing_come_back() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        rig.unmask(3);
        assert_eq!(rig.event().as_deref(), Some(INVALID), "no trigger is set");
        rig.unmask(8);
        assert_eq!(rig.event().as_deref(), Some(INVALID), "there is no such line");
        rig.bench.send(EVENTS, &[&[3]], &[1]);
        rig.bench.run();
        assert_eq!(rig.event().as_deref(), Some(INVALID), "half a line");
        rig.listen(3, IRQ_EDGE_RISING);
        rig.bench.send(EVENTS, &[&3_u16.to_le_bytes()], &[]);
        rig.bench.run();
        assert_eq!(rig.event().as_deref(), Some(&[][..]), "no room");
        rig.unmask(3);
        rig.unmask(3);
        assert_eq!(rig.event().as_deref(), Some(INVALID), "one is out");
        assert_eq!(rig.event(), None);
        rig.ask(SET_IRQ_TYPE, 3, IRQ_NONE.into());
        assert_eq!(rig.event().as_deref(), Some(INVALID), "no trigger any more");
        rig.set_outside(3, 1);
        rig.listen(3, IRQ_EDGE_RISING);
        rig.unmask(3);
        assert_eq!(rig.event(), None, "an edge without a trigger is not remembered");
        rig.ask(SET_DIRECTION, 3, DIRECTION_NONE.into());
        assert_eq!(rig.event().as_deref(), Some(INVALID), "the line is free");
    }
}

#[test]
fn outputs_have_no_interrupts_and_inputs_with_them_are_not_driven() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        rig.ask(SET_DIRECTION, 2, DIRECTION_OUT.into());
        assert_eq!(rig.ask(SET_IRQ_TYPE, 2, IRQ_EDGE_RISING.into()), ERR);
        assert_eq!(rig.ask(SET_IRQ_TYPE, 2, IRQ_NONE.into()), OK);
        rig.listen(3, IRQ_EDGE_RISING);
        assert_eq!(rig.ask(SET_DIRECTION, 3, DIRECTION_OUT.into()), ERR);
        let mut rig = Rig::with(&options(), format, 0);
        assert_eq!(rig.ask(SET_DIRECTION, 3, DIRECTION_IN.into()), OK);
        assert_eq!(rig.ask(SET_IRQ_TYPE, 3, IRQ_EDGE_RISING.into()), ERR, "interrupts were not agreed on");
        rig.unmask(3);
        assert_eq!(rig.event().as_deref(), Some(INVALID));
    }
}

#[test]
fn pause_keeps_lines_and_triggers_and_a_new_driver_finds_nothing() {
    for format in FORMATS {
        let mut rig = Rig::new(format);
        rig.ask(SET_VALUE, 2, 1);
        rig.ask(SET_DIRECTION, 2, DIRECTION_OUT.into());
        rig.listen(3, IRQ_EDGE_RISING);
        rig.unmask(3);
        rig.bench.enable(EVENTS, false);
        rig.set_outside(3, 1);
        assert_eq!(rig.event(), None);
        rig.bench.enable(EVENTS, true);
        rig.bench.run();
        assert_eq!(rig.event().as_deref(), Some(VALID), "the edge of the pause");
        let Rig { mut device, bench } = rig;
        let level = |device: &mut Gpio| device.control("get", &json!({"line": 2})).unwrap();
        drop(bench);
        assert_eq!(level(&mut device), json!({"direction": "out", "value": 1}));
        device.handler(Group(0), Features(F_IRQ)).unwrap();
        assert_eq!(level(&mut device), json!({"direction": "out", "value": 1}));
        device.forget(Group(0));
        assert_eq!(level(&mut device), json!({"direction": "none", "value": 0}));
    }
}

#[test]
fn outputs_are_let_go_with_the_front_end_unless_they_are_to_be_held() {
    for hold_outputs in [false, true] {
        let mut rig = Rig::with(&GpioOptions { hold_outputs, ..options() }, Format::Split, F_IRQ);
        rig.ask(SET_VALUE, 2, 1);
        rig.ask(SET_DIRECTION, 2, DIRECTION_OUT.into());
        let Rig { mut device, bench } = rig;
        drop(bench);
        device.disconnected();
        let left = device.control("get", &json!({"line": 2})).unwrap();
        assert_eq!(left["value"], u8::from(hold_outputs));
    }
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let wire = |text: &str| GpioOptions { wire: vec![text.parse().unwrap()], ..options() };
    let lines = |text: &str| GpioOptions { lines: Some(text.parse().unwrap()), ..options() };
    for wrong in [wire("0:8"), lines("8"), lines("0=\u{e4}")] {
        assert!(Gpio::open(&wrong).is_err(), "{wrong:?}");
    }
    for text in ["0", "0:0", "a:1", "0:"] {
        assert!(text.parse::<crate::options::Wire>().is_err(), "{text}");
    }
    let without = GpioOptions { no_irq: true, ..options() };
    let device = Gpio::open(&without).unwrap();
    assert_eq!((device.profile().features, device.profile().queues.len()), (Features(0), 1));
}
