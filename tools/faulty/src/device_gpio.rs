//! The GPIO controller (VIRTIO 1.3, 5.18), with four lines, of which 0 is wired to 1.

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

const IRQ: u64 = 1;
const LINES: usize = 4;
const OUTPUT: usize = 0;
const INPUT: usize = 1;
const OK: u8 = 0;
const ERR: u8 = 1;
/// The event queue, and what its buffers say.
const EVENTS: u16 = 1;
const INVALID: u8 = 0;
const VALID: u8 = 1;
/// Requests.
const NAMES: u16 = 1;
const GET_DIRECTION: u16 = 2;
const SET_DIRECTION: u16 = 3;
const GET_VALUE: u16 = 4;
const SET_VALUE: u16 = 5;
const SET_TRIGGER: u16 = 6;
/// Directions and triggers.
const NONE: u8 = 0;
const OUT: u8 = 1;
const IN: u8 = 2;
const RISING: u8 = 1;
const FALLING: u8 = 2;
const HIGH: u8 = 4;
const LOW: u8 = 8;

#[derive(Clone, Copy, Default)]
struct Line {
    direction: u8,
    value: bool,
    trigger: u8,
    latched: bool,
    /// Of a level: it was told.
    told: bool,
    /// The trigger was taken away.
    ended: bool,
}

pub(crate) struct Gpio {
    faults: Faults,
    agreed: u64,
    lines: [Line; LINES],
    /// A buffer of the input waits.
    is_unmasked: bool,
}

impl Gpio {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, agreed: 0, lines: [Line::default(); LINES], is_unmasked: false }
    }

    fn names(&self) -> Vec<u8> {
        let first: &[u8] = if self.faults.has(Fault::GpioNamesTwice) { b"sense\0" } else { b"relay\0" };
        let mut names = [first, b"sense\0", b"\0", b"\0"].concat();
        if self.faults.has(Fault::GpioNamesShort) {
            names.pop();
        }
        names
    }

    fn line(&mut self, line: u16) -> Option<&mut Line> {
        let line = if self.faults.has(Fault::GpioLineBeyondTaken) { line % LINES as u16 } else { line };
        self.lines.get_mut(usize::from(line))
    }

    /// The input follows the output, and may have an edge.
    fn follow(&mut self) {
        let [output, input, ..] = &mut self.lines;
        if output.direction != OUT || input.value == output.value {
            return;
        }
        input.value = output.value;
        input.told = false;
        let edge = if input.value { RISING } else { FALLING };
        let is_level = input.trigger & (HIGH | LOW) != 0;
        if input.trigger & edge != 0 && !is_level || is_level && self.faults.has(Fault::GpioLevelLatched) {
            // A masked line remembers an edge.
            input.latched = self.is_unmasked || !self.faults.has(Fault::GpioEdgeLost);
        }
    }

    fn execute(&mut self, kind: u16, number: u16, value: u32) -> Option<u8> {
        let faults = self.faults;
        let has_irq = self.agreed & IRQ != 0 || faults.has(Fault::GpioIrqUnasked);
        let line = self.line(number)?;
        match kind {
            GET_DIRECTION if faults.has(Fault::GpioDirectionForgotten) => return Some(NONE),
            GET_DIRECTION => return Some(line.direction),
            SET_DIRECTION => match u8::try_from(value).ok()? {
                NONE if faults.has(Fault::GpioNoneKeeps) => {}
                NONE => *line = Line { ended: line.trigger != NONE, ..Line::default() },
                direction @ (OUT | IN) => {
                    line.direction = direction;
                    if faults.has(Fault::GpioValueNeedsDirection) && direction == OUT {
                        line.value = false;
                    }
                }
                _ => return None,
            },
            GET_VALUE => return Some(line.value.into()),
            SET_VALUE => line.value = value == 1,
            SET_TRIGGER if has_irq => {
                let trigger =
                    u8::try_from(value).ok().filter(|trigger| [0, 1, 2, 3, 4, 8].contains(trigger))?;
                if line.direction == OUT && trigger != NONE && !faults.has(Fault::GpioIrqOnOutput) {
                    return None;
                }
                let ended = line.trigger != NONE;
                *line = Line { trigger, latched: false, told: false, ended, ..*line };
            }
            _ if faults.has(Fault::GpioTypeOk) => {}
            _ => return None,
        }
        if usize::from(number) == OUTPUT {
            self.follow();
        }
        Some(0)
    }

    /// What a buffer says for a line now; `None`: it waits.
    fn judge(&mut self, number: u16, is_second: bool) -> Option<u8> {
        let faults = self.faults;
        let Some(line) = self.lines.get_mut(usize::from(number)) else { return Some(INVALID) };
        if is_second && !faults.has(Fault::GpioSecondHeld) {
            return Some(INVALID);
        }
        if line.trigger == NONE {
            let keeps = if line.ended { Fault::GpioDisableKeeps } else { Fault::GpioUnmaskHeld };
            return (!faults.has(keeps)).then_some(INVALID);
        }
        let active = line.trigger == HIGH && line.value || line.trigger == LOW && !line.value;
        let active = active && !(line.told && faults.has(Fault::GpioLevelOnce));
        line.told |= active;
        (std::mem::take(&mut line.latched) || active).then_some(VALID)
    }
}

impl Device for Gpio {
    fn features(&self) -> u64 {
        IRQ
    }

    fn queues(&self) -> u16 {
        2
    }

    fn config(&self) -> Vec<u8> {
        let padding = u8::from(self.faults.has(Fault::GpioConfigPadding));
        let size =
            if self.faults.has(Fault::GpioNamesShort) { self.names().len() + 1 } else { self.names().len() };
        vec![LINES as u8, 0, padding, padding, size as u8, 0, 0, 0]
    }

    fn set_config(&mut self, offset: u32, _: &[u8]) -> Result<(), Bad> {
        Err(format!("the configuration at {offset} is read-only"))
    }

    fn serve(&mut self, _: u16, chain: &mut Chain) -> u32 {
        let mut request = [0; 8];
        let is_whole = chain.read(0, &mut request);
        if !is_whole && self.faults.has(Fault::GpioShortDies) {
            die();
        }
        let [a, b, c, d, e, f, g, h] = request;
        let (kind, number) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
        let value = u32::from_le_bytes([e, f, g, h]);
        let room = chain.writable_len();
        let answer = if !is_whole {
            vec![ERR, 0]
        } else if kind == NAMES {
            [vec![OK], self.names()].concat()
        } else if room < 2 && !self.faults.has(Fault::GpioRoomUnseen) {
            vec![ERR, 0]
        } else {
            self.execute(kind, number, value).map_or(vec![ERR, 0], |value| vec![OK, value])
        };
        let answer = if answer.len() as u64 > room && answer.len() > 2 { vec![ERR, 0] } else { answer };
        chain.write(0, &answer);
        if self.faults.has(Fault::GpioLengthZero) { 0 } else { (answer.len() as u64).min(room) as u32 }
    }

    fn fills(&self, queue: u16) -> bool {
        queue == EVENTS
    }

    fn fill(&mut self, _: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        let mut seen = Vec::new();
        self.is_unmasked = false;
        for (nth, chain) in waiting.iter_mut().enumerate() {
            let mut number = [0; 2];
            chain.read(0, &mut number);
            let number = u16::from_le_bytes(number);
            if let Some(status) = self.judge(number, seen.contains(&number)) {
                chain.write(0, &[status]);
                return Some(vec![(nth, chain.writable_len().min(1) as u32)]);
            }
            seen.push(number);
        }
        self.is_unmasked = seen.contains(&(INPUT as u16));
        None
    }

    /// A buffer for a line may have to come back at once.
    fn pushes(&self) -> bool {
        true
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
    }

    fn reset(&mut self) {
        self.lines = [Line::default(); LINES];
        self.is_unmasked = false;
    }

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| [line.direction, line.value.into(), line.trigger]).collect()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        if state.len() != 3 * LINES {
            return Err("not the state of a GPIO controller".to_owned());
        }
        for (line, state) in self.lines.iter_mut().zip(state.chunks_exact(3)) {
            if let &[direction, value, trigger] = state {
                *line = Line { direction, value: value == 1, trigger, ..Line::default() };
            }
        }
        Ok(())
    }
}
