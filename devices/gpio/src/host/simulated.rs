//! The simulated chip: lines, and whoever drives them from outside.
//!
//! Its lock is held for a moment by the worker, and by what drives: that is what a simulation may do. No chip of the host
//! has one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_daemon::{Driven, Teller};
use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};
use rustix::event::{EventfdFlags, eventfd};

use super::{Chip, Direction, Edges};
use crate::options::Wire;

/// Most edges that wait; a line that changes faster than anybody looks has lost some.
const EDGES: usize = 4096;

/// See the module.
pub(crate) struct Simulated {
    state: Mutex<State>,
    bell: OwnedFd,
    teller: Teller,
}

struct State {
    lines: Vec<Line>,
    wires: Vec<Wire>,
    edges: Vec<(u32, bool)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    direction: Direction,
    /// What is driven: by the guest as an output, and from outside.
    inside: bool,
    outside: bool,
    sensed: Edges,
    fails: bool,
}

impl Line {
    fn level(&self) -> bool {
        if self.direction == Direction::Out { self.inside } else { self.outside }
    }
}

impl Simulated {
    pub(super) fn new(count: u16, wires: &[Wire], teller: Teller) -> Result<Self, DeviceError> {
        if let Some(wire) = wires.iter().find(|wire| wire.from.max(wire.to) >= count) {
            return Err(DeviceError::Invalid(format!("there is no line {}", wire.from.max(wire.to))));
        }
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(|error| DeviceError::host("cannot make an event", error))?;
        let lines = vec![Line::default(); count.into()];
        let state = Mutex::new(State { lines, wires: wires.to_vec(), edges: Vec::new() });
        Ok(Self { state, bell, teller })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a line by `change`, and tells what follows.
    fn change(&self, number: u32, change: impl FnOnce(&mut Line)) -> io::Result<()> {
        let mut state = self.state();
        let line = state.line(number)?;
        let before = *line;
        change(line);
        let after = *line;
        state.changed(number, before, after);
        let drives = |line: Line| line.direction == Direction::Out;
        if drives(after) && (!drives(before) || before.inside != after.inside) {
            let wired: Vec<u16> = state
                .wires
                .iter()
                .filter(|wire| u32::from(wire.from) == number)
                .map(|wire| wire.to)
                .collect();
            for to in wired {
                let line = state.line(to.into())?;
                let before = *line;
                line.outside = after.inside;
                let after = *line;
                state.changed(to.into(), before, after);
            }
            self.teller
                .tell(|| json!({ "event": "output", "line": number, "value": u8::from(after.inside) }));
        }
        if before.direction != after.direction {
            self.teller
                .tell(|| json!({ "event": "direction", "line": number, "direction": name(after.direction) }));
        }
        if !state.edges.is_empty() {
            // Full means that it rings.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
        Ok(())
    }
}

impl State {
    fn line(&mut self, number: u32) -> io::Result<&mut Line> {
        let line = usize::try_from(number).ok().and_then(|at| self.lines.get_mut(at));
        line.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Notes the edge of a line that changed.
    fn changed(&mut self, number: u32, before: Line, after: Line) {
        let told = if after.level() { after.sensed.rising } else { after.sensed.falling };
        let is_input = after.direction != Direction::Out;
        if is_input && told && before.level() != after.level() && self.edges.len() < EDGES {
            self.edges.push((number, after.level()));
        }
    }
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::None => "none",
        Direction::Out => "out",
        Direction::In => "in",
    }
}

/// The numbers on the chip of the guest's lines.
pub(super) struct Lines {
    chip: Arc<Simulated>,
    numbers: Vec<u32>,
}

impl Lines {
    pub(super) fn new(chip: Arc<Simulated>, numbers: &[u32]) -> Self {
        Self { chip, numbers: numbers.to_vec() }
    }

    fn number(&self, line: u16) -> io::Result<u32> {
        self.numbers.get(usize::from(line)).copied().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// A line, if it works.
    fn look(&self, line: u16) -> io::Result<Line> {
        let line = *self.chip.state().line(self.number(line)?)?;
        if line.fails { Err(io::ErrorKind::Other.into()) } else { Ok(line) }
    }

    fn change(&self, line: u16, change: impl FnOnce(&mut Line)) -> io::Result<()> {
        self.look(line)?;
        self.chip.change(self.number(line)?, change)
    }
}

impl Chip for Lines {
    fn direction(&mut self, line: u16) -> io::Result<Direction> {
        Ok(self.look(line)?.direction)
    }

    fn set_direction(&mut self, line: u16, to: Direction, level: bool) -> io::Result<()> {
        self.change(line, |line| {
            line.direction = to;
            match to {
                Direction::Out => line.inside = level,
                Direction::None => line.sensed = Edges::default(),
                Direction::In => {}
            }
        })
    }

    fn value(&mut self, line: u16) -> io::Result<bool> {
        Ok(self.look(line)?.level())
    }

    fn set_value(&mut self, line: u16, high: bool) -> io::Result<()> {
        self.change(line, |line| line.inside = high)
    }

    fn sense(&mut self, line: u16, edges: Edges) -> io::Result<()> {
        self.change(line, |line| line.sensed = edges)
    }

    fn events(&self) -> BorrowedFd<'_> {
        self.chip.bell.as_fd()
    }

    fn edges(&mut self, into: &mut Vec<(u16, bool)>) {
        let _ = rustix::io::read(&self.chip.bell, &mut [0; 8]);
        for (number, rising) in self.chip.state().edges.drain(..) {
            let line = self.numbers.iter().position(|own| *own == number);
            into.extend(line.map(|line| (line as u16, rising)));
        }
    }
}

impl Driven for Simulated {
    fn command(&self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let invalid = |what: &str| DeviceError::Invalid(format!("{command}: {what}"));
        let line = || {
            let line =
                arguments.get("line").and_then(Value::as_u64).and_then(|line| u32::try_from(line).ok());
            line.ok_or_else(|| invalid("line is missing"))
        };
        let beyond = |_| invalid("there is no such line");
        match command {
            "lines" => {
                let state = self.state();
                let lines = state.lines.iter().enumerate().map(|(number, line)| {
                    json!({
                        "line": number, "direction": name(line.direction), "value": u8::from(line.level()),
                        "outside": u8::from(line.outside), "fails": line.fails,
                    })
                });
                return Ok(Value::Array(lines.collect()));
            }
            "get" => {
                let line = *self.state().line(line()?).map_err(beyond)?;
                return Ok(json!({ "direction": name(line.direction), "value": u8::from(line.level()) }));
            }
            "set" => {
                let value = match arguments.get("value").and_then(Value::as_u64) {
                    Some(value @ 0..=1) => value == 1,
                    _ => return Err(invalid("value is 0 or 1")),
                };
                self.change(line()?, |line| line.outside = value).map_err(beyond)?;
            }
            "pulse" => {
                for _ in 0..2 {
                    self.change(line()?, |line| line.outside = !line.outside).map_err(beyond)?;
                }
            }
            "fail" => {
                let fails = arguments.get("fails").and_then(Value::as_bool);
                let fails = fails.ok_or_else(|| invalid("fails is true or false"))?;
                self.change(line()?, |line| line.fails = fails).map_err(beyond)?;
            }
            _ => return Err(DeviceError::UnknownCommand(command.to_owned())),
        }
        Ok(Value::Null)
    }
}
