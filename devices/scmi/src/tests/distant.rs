//! What is the host's and takes its time.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use outboard_daemon::{Driven, Teller};
use outboard_scmi_protocols::{PERFORMANCE, Point, What};

use super::*;
use crate::handler::errands;
use crate::host::Real;
use crate::shared::Shared;
use crate::verbs::Verbs;

/// Something that says 42, but not before its gate is open.
struct Gated {
    gate: Arc<(Mutex<bool>, Condvar)>,
    /// Hears of each who comes to the gate.
    came: Sender<()>,
}

impl Real for Gated {
    fn read(&self) -> io::Result<i64> {
        let _ = self.came.send(());
        let (open, opened) = &*self.gate;
        let _open = opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap();
        Ok(42)
    }

    fn write(&self, _: i64) -> io::Result<()> {
        Ok(())
    }
}

/// Something that remembers, and lists what is done to it.
struct Listed {
    name: &'static str,
    value: Mutex<i64>,
    list: Arc<Mutex<Vec<String>>>,
}

impl Real for Listed {
    fn read(&self) -> io::Result<i64> {
        let value = *self.value.lock().unwrap();
        self.list.lock().unwrap().push(format!("{} is {value}", self.name));
        Ok(value)
    }

    fn write(&self, value: i64) -> io::Result<()> {
        *self.value.lock().unwrap() = value;
        self.list.lock().unwrap().push(format!("{} becomes {value}", self.name));
        Ok(())
    }
}

/// A device by a description, of which some is the host's.
fn device(text: &str, replace: impl FnOnce(&mut Description)) -> Arc<Verbs> {
    let mut description = Description::parse(text, Path::new("/sys")).unwrap();
    replace(&mut description);
    let shared = Arc::new(Shared::new(description, Teller::new().unwrap()));
    shared.lock().agent.listen(true);
    let errands = errands(&shared).unwrap();
    Arc::new(Verbs { shared, errands: Some(errands) })
}

fn handler(verbs: &Verbs) -> ScmiHandler {
    ScmiHandler::new(Arc::clone(&verbs.shared), verbs.errands.clone())
}

struct Slow {
    verbs: Arc<Verbs>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    comers: Receiver<()>,
}

impl Slow {
    /// A device with a sensor behind a gate that is shut.
    fn new() -> Self {
        let (gate, (came, comers)) = (Arc::default(), channel());
        let gated = Gated { gate: Arc::clone(&gate), came };
        let verbs = device("[[sensor]]\nname = 'slow'\ntrip-points = 1", |description| {
            description.host.replace(Point { what: What::Reading(0), id: 0 }, gated);
        });
        Self { verbs, gate, comers }
    }

    fn bench(&self, format: Format) -> Bench<ScmiHandler> {
        Bench::with(handler(&self.verbs), &setup(format))
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn get(&self) -> Value {
        self.verbs.command("get", &json!({ "point": "sensor.slow" })).unwrap()["value"].clone()
    }
}

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];

#[test]
fn sensor_that_hangs_is_looked_at_once_and_holds_up_neither_a_stop_nor_the_control_half() {
    for format in FORMATS {
        let slow = Slow::new();
        let mut bench = slow.bench(format);
        assert_eq!(ask(&mut bench, SENSOR, 4, &[0, 1]), [0]);
        assert_eq!(ask(&mut bench, SENSOR, 5, &[0, 3, 40, 0]), [0], "nobody waits for the first look");
        slow.comers.recv().unwrap();
        for _ in 0..100 {
            bench.pass(Duration::from_secs(1));
        }
        for _ in 0..3 {
            bench.send(COMMANDS, &[&command(BASE, 0, &[])], &[100]);
        }
        for _ in 0..3 {
            bench.begin();
            bench.restart(false, || handler(&slow.verbs));
            assert_eq!(bench.outstanding(COMMANDS), 3);
        }
        assert_eq!(
            slow.verbs.shared.backlog.calls(),
            3,
            "the thread is called no more often than it has to come"
        );
        assert_eq!(slow.get(), Value::Null, "it was never heard");
        slow.verbs.shared.forget();
        slow.open();
        bench.run();
        for _ in 0..3 {
            assert_eq!(bench.receive(COMMANDS).map(|answer| answer.len), Some(12));
        }
        // Once it was looked at, and once we have asked.
        assert!(slow.comers.try_iter().count() <= 1);
        while slow.get() != json!(42) {}
        assert_eq!(slow.verbs.command("points", &Value::Null).unwrap(), json!({ "sensor.slow": 42 }));
    }
}

#[test]
fn commands_that_were_not_begun_wait_in_the_queue_while_it_rests() {
    for format in FORMATS {
        let slow = Slow::new();
        let mut bench = slow.bench(format);
        let tokens: Vec<_> =
            (0..4).map(|_| bench.send(COMMANDS, &[&command(SENSOR, 6, &[0, 0])], &[100])).collect();
        bench.begin();
        slow.comers.recv().unwrap();
        bench.enable(COMMANDS, false);
        slow.open();
        bench.run();
        let answer = bench.receive(COMMANDS).unwrap();
        assert_eq!(answer.token, tokens[0]);
        assert_eq!(words(&answer.outputs[0][..16])[1..3], [0, 42]);
        assert_eq!(bench.receive(COMMANDS), None);
        assert_eq!(slow.comers.try_iter().count(), 0);
        bench.enable(COMMANDS, true);
        bench.run();
        let answers: Vec<_> = std::iter::from_fn(|| bench.receive(COMMANDS)).collect();
        assert_eq!(answers.iter().map(|answer| answer.token).collect::<Vec<_>>(), tokens[1..]);
        assert!(answers.iter().all(|answer| words(&answer.outputs[0][..16])[1..3] == [0, 42]));
        assert_eq!(slow.verbs.shared.status()["commands"], json!(4));
    }
}

#[test]
fn command_that_needs_several_answers_does_everything_once() {
    for format in FORMATS {
        let list = Arc::default();
        let text = "[[performance]]\nname = 'a'\nlevels = [{ level = 1 }, { level = 5 }]\nmay = ['limits']";
        let verbs = device(text, |description| {
            for (what, name, value) in [(What::MinLevel, "least", 1), (What::MaxLevel, "most", 5)] {
                let listed = Listed { name, value: Mutex::new(value), list: Arc::clone(&list) };
                description.host.replace(Point { what, id: 0 }, listed);
            }
        });
        let mut bench = Bench::with(handler(&verbs), &setup(format));
        assert_eq!(ask(&mut bench, PERFORMANCE, 9, &[0, 1]), [0]);
        assert_eq!(ask(&mut bench, PERFORMANCE, 5, &[0, 4, 2]), [0]);
        let done = ["least is 1", "most becomes 4", "least becomes 2", "most is 4", "least is 2"];
        assert_eq!(*list.lock().unwrap(), done);
        let changed = 3 << 8 | u32::from(PERFORMANCE) << 10;
        assert_eq!(told(&mut bench), Some(vec![changed, 1, 0, 4, 2]), "and is told once");
        assert_eq!(told(&mut bench), None);
    }
}
