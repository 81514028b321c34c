//! The GPIO controller (VIRTIO 1.3, 5.18). What lines do is asked of two that the user names: an output, and the input that it
//! is wired to.

use std::collections::HashSet;

use outboard_virtio_defs::gpio::{
    Config, DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, F_IRQ, GET_DIRECTION, GET_LINE_NAMES, GET_VALUE,
    IRQ_EDGE_BOTH, IRQ_EDGE_RISING, IRQ_LEVEL_HIGH, IRQ_NONE, SET_DIRECTION, SET_IRQ_TYPE, SET_VALUE,
    STATUS_ERR, STATUS_OK,
};
use outboard_virtqueue::Format;
use zerocopy::FromBytes as _;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::Placed;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// Requests that no driver makes.
const WRONG: &str = "VIRTIO 1.3, 5.18.6 (a driver must not; a guest can)";

/// The checks of this group.
pub(super) const CHECKS: &[Check] = checks! {
    "gpio.config", "there are lines, and the padding is 0", "VIRTIO 1.3, 5.18.4", config;
    "gpio.names-block", "the names are as long as the configuration says, one for each line", "VIRTIO 1.3, 5.18.6.2", names;
    "gpio.names-unique", "no two lines have the same name", "VIRTIO 1.3, 5.18.6.2", names_unique;
    "gpio.direction-round-trip", "a line goes where it was told", "VIRTIO 1.3, 5.18.6.4", direction;
    "gpio.value-before-direction", "an output begins with the level that was set before", "VIRTIO 1.3, 5.18.6.6", value_first;
    "gpio.response-length", "an answer has length 2", "VIRTIO 1.3, 5.18.6.1 and 2.7.8.2; in use: Linux", response_length;
    "gpio.line-beyond", "a line that there is not is refused", WRONG, line_beyond;
    "gpio.type-unknown", "a request that there is not is refused", WRONG, type_unknown;
    "gpio.short", "what is no whole request does no harm", WRONG, short;
    "gpio.response-room", "without room for an answer nothing is done", WRONG, response_room;
    "gpio.none-discards", "a line that is let go has no state", "VIRTIO 1.3, 5.18.6.4", none_discards;
    "gpio.irq-not-agreed", "without IRQ triggers are refused", "VIRTIO 1.3, 5.18.3", irq_not_agreed;
    "gpio.irq-on-output", "an output has no interrupts", WRONG, irq_on_output;
    "gpio.unmask-without-enable-invalid", "a buffer for a line without a trigger comes back", WRONG, unmask_without;
    "gpio.disable-returns-buffer", "a buffer comes back when the trigger goes", "VIRTIO 1.3, 5.18.6.8", disable;
    "gpio.second-buffer-of-a-line", "a second buffer for a line comes back", WRONG, second;
    "gpio.edge-latched", "an edge that comes while the line is masked is told later", "VIRTIO 1.3, 5.18.6.8", edge_latched;
    "gpio.level-not-latched", "a level that is over is not told", "VIRTIO 1.3, 5.18.6.8", level_not_latched;
    "gpio.level-again-while-active", "a level is told again as long as it lasts", "VIRTIO 1.3, 5.18.6.8", level_again;
};

fn is_gpio(cx: &Cx) -> Checked {
    if cx.kind == Kind::Gpio {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// The output and the input that the user names.
fn wired(cx: &Cx) -> Checked<(u16, u16)> {
    is_gpio(cx)?;
    cx.wired.ok_or_else(|| {
        Stop::Skip("no output and the input that it is wired to were named: --gpio-wired".to_owned())
    })
}

/// Both queues of a device that was reset, with interrupts if it has them.
struct Controller(Session);

impl Controller {
    fn open(cx: &mut Cx, format: Format, features: u64) -> Checked<Self> {
        let setup = Setup { device_features: features, size: 32, ..Setup::new(format) };
        let mut session = Session::open(cx, &setup)?;
        let queues = if session.offered_features() & F_IRQ == 0 { 1 } else { 2 };
        for index in 0..queues {
            let at = session.add_ring(index)?;
            session.start(at)?;
        }
        let mut this = Self(session);
        // What a check before has left.
        if let Some((output, input)) = cx.wired {
            for line in [output, input] {
                this.ask(SET_DIRECTION, line, DIRECTION_NONE)?;
            }
        }
        Ok(this)
    }

    /// With interrupts, and the lines wired: the output low.
    fn wired(cx: &mut Cx, format: Format, trigger: u8) -> Checked<Self> {
        let (output, input) = wired(cx)?;
        if cx.offer.features & F_IRQ == 0 {
            return Err(Stop::lacks("VIRTIO_GPIO_F_IRQ"));
        }
        let mut this = Self::open(cx, format, F_IRQ)?;
        this.well(SET_VALUE, output, 0)?;
        this.well(SET_DIRECTION, output, DIRECTION_OUT)?;
        this.well(SET_DIRECTION, input, DIRECTION_IN)?;
        this.well(SET_IRQ_TYPE, input, trigger)?;
        Ok(this)
    }

    /// A request on a queue; the length, and what was written.
    fn exchange(&mut self, at: usize, sample: &Sample) -> Checked<(u32, Vec<u8>)> {
        let placed = self.place(at, sample)?;
        let patience = self.0.patience;
        let Session { memory, rings, .. } = &mut self.0;
        let ring = rings.get_mut(at).ok_or_else(|| Stop::lacks("a ring"))?;
        let (_, len) = ring.returned(patience)?;
        Ok((len, ring.verify(memory, sample, placed, len)?))
    }

    fn place(&mut self, at: usize, sample: &Sample) -> Checked<Placed> {
        let Session { memory, rings, .. } = &mut self.0;
        let ring = rings.get_mut(at).ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, sample, 0)?;
        ring.publish()?;
        Ok(placed)
    }

    /// A request's status and value.
    fn ask(&mut self, kind: u16, line: u16, value: u8) -> Checked<[u8; 2]> {
        let (_, answer) = self.exchange(0, &request(kind, line, value, 2))?;
        answer.try_into().map_err(|_| Stop::fail("an answer of another length"))
    }

    /// A request that succeeds; the value.
    fn well(&mut self, kind: u16, line: u16, value: u8) -> Checked<u8> {
        match self.ask(kind, line, value)? {
            [STATUS_OK, value] => Ok(value),
            [status, _] => {
                Err(Stop::fail(format!("request {kind} of line {line}, {value}: status {status}")))
            }
        }
    }

    /// Unmasks a line.
    fn unmask(&mut self, line: u16) -> Checked {
        self.place(1, &buffer(line)).map(drop)
    }

    /// What the next buffer says that comes back in that time.
    fn event(&mut self, within: std::time::Duration) -> Checked<Option<(u64, u32)>> {
        let ring = self.0.rings.get_mut(1).ok_or_else(|| Stop::lacks("a ring"))?;
        ring.returned_within(within)
    }

    /// Unmasks a line, and gives what its buffer says; `None`: it is held.
    fn told(&mut self, line: u16, is_expected: bool) -> Checked<Option<u8>> {
        let sample = buffer(line);
        let placed = self.place(1, &sample)?;
        self.told_of(placed, &sample, is_expected)
    }

    /// What a buffer that is out says.
    fn told_of(&mut self, placed: Placed, sample: &Sample, is_expected: bool) -> Checked<Option<u8>> {
        let within = if is_expected { self.0.patience } else { LULL };
        let Some((_, len)) = self.event(within)? else { return Ok(None) };
        ensure!(len == 1, "a buffer of the event queue came back with length {len}");
        let Session { memory, rings, .. } = &mut self.0;
        let ring = rings.get_mut(1).ok_or_else(|| Stop::lacks("a ring"))?;
        Ok(ring.verify(memory, sample, placed, len)?.first().copied())
    }
}

fn request(kind: u16, line: u16, value: u8, room: u32) -> Sample {
    let readable = [&kind.to_le_bytes()[..], &line.to_le_bytes(), &u32::from(value).to_le_bytes()].concat();
    Sample { queue: 0, readable: vec![readable], writable: vec![room], verify: |_, _| Ok(()) }
}

fn buffer(line: u16) -> Sample {
    Sample { queue: 1, readable: vec![line.to_le_bytes().to_vec()], writable: vec![1], verify: |_, _| Ok(()) }
}

fn read_config(cx: &mut Cx) -> Checked<Config> {
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let bytes = session.wire.config(0, size_of::<Config>() as u32, 0)?;
    Config::read_from_bytes(&bytes).map_err(|_| Stop::fail("a configuration of another length"))
}

fn config(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    let config = read_config(cx)?;
    ensure!(config.ngpio.get() > 0, "there are no lines");
    ensure!(config.padding == [0; 2], "the padding is {:?}", config.padding);
    Ok(())
}

/// The names, if there are any.
fn block(cx: &mut Cx, format: Format) -> Checked<Vec<Vec<u8>>> {
    let config = read_config(cx)?;
    let (count, size) = (usize::from(config.ngpio.get()), config.gpio_names_size.get());
    if size == 0 {
        return Err(Stop::lacks("a name"));
    }
    let (len, answer) =
        Controller::open(cx, format, 0)?.exchange(0, &request(GET_LINE_NAMES, 0, 0, size + 1))?;
    ensure!(len == size + 1, "names of {size} bytes came with length {len}");
    ensure!(answer.first() == Some(&STATUS_OK), "the names have status {:?}", answer.first());
    let names = answer.get(1..).and_then(|names| names.strip_suffix(&[0]));
    let names = names.ok_or_else(|| Stop::fail("the last name has no end"))?;
    let names: Vec<Vec<u8>> = names.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    ensure!(names.len() == count, "{count} lines have {} names", names.len());
    Ok(names)
}

fn names(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    cx.each_format(|cx, format| {
        let names = block(cx, format)?;
        ensure!(names.iter().flatten().all(u8::is_ascii), "a name is not of 7 bits");
        Ok(())
    })
}

fn names_unique(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    let mut seen = HashSet::new();
    for name in block(cx, Format::Split)?.into_iter().filter(|name| !name.is_empty()) {
        let text = String::from_utf8_lossy(&name).into_owned();
        ensure!(seen.insert(name), "two lines are called {text:?}");
    }
    Ok(())
}

fn direction(cx: &mut Cx) -> Checked {
    let (output, _) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        for direction in [DIRECTION_OUT, DIRECTION_NONE, DIRECTION_IN, DIRECTION_NONE] {
            lines.well(SET_DIRECTION, output, direction)?;
            let found = lines.well(GET_DIRECTION, output, 0)?;
            ensure!(found == direction, "direction {direction} was set, and is {found}");
        }
        Ok(())
    })
}

fn value_first(cx: &mut Cx) -> Checked {
    let (output, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        for level in [1, 0] {
            let mut lines = Controller::open(cx, format, 0)?;
            lines.well(SET_VALUE, output, level)?;
            lines.well(SET_DIRECTION, input, DIRECTION_IN)?;
            lines.well(SET_DIRECTION, output, DIRECTION_OUT)?;
            let found = lines.well(GET_VALUE, input, 0)?;
            ensure!(found == level, "level {level} was set before the direction; the line has {found}");
        }
        Ok(())
    })
}

fn response_length(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        for room in [2, 9] {
            let (len, _) = lines.exchange(0, &request(GET_DIRECTION, 0, 0, room))?;
            ensure!(len == 2, "an answer with room for {room} bytes has length {len}");
        }
        Ok(())
    })
}

fn line_beyond(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    let count = read_config(cx)?.ngpio.get();
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        for line in [count, u16::MAX] {
            let [status, _] = lines.ask(GET_DIRECTION, line, 0)?;
            ensure!(status == STATUS_ERR, "line {line} of {count} has status {status}");
        }
        Ok(())
    })
}

fn type_unknown(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        for kind in [0, 7, 0x100, u16::MAX] {
            let [status, _] = lines.ask(kind, 0, 0)?;
            ensure!(status == STATUS_ERR, "request {kind} has status {status}");
        }
        Ok(())
    })
}

fn short(cx: &mut Cx) -> Checked {
    is_gpio(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        for count in [1, 7] {
            let mut sample = request(GET_DIRECTION, 0, 0, 2);
            sample.readable.iter_mut().for_each(|bytes| bytes.truncate(count));
            let (_, answer) = lines.exchange(0, &sample)?;
            ensure!(answer.first() == Some(&STATUS_ERR), "{count} bytes of a request: {answer:?}");
        }
        lines.well(GET_DIRECTION, 0, 0).map(drop)
    })
}

fn response_room(cx: &mut Cx) -> Checked {
    let (output, _) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        let (_, answer) = lines.exchange(0, &request(SET_DIRECTION, output, DIRECTION_IN, 1))?;
        let found = lines.well(GET_DIRECTION, output, 0)?;
        ensure!(
            answer == [STATUS_ERR] && found == DIRECTION_NONE,
            "a request with room for a byte was answered with {answer:?}, and the direction is {found}"
        );
        Ok(())
    })
}

fn none_discards(cx: &mut Cx) -> Checked {
    let (output, _) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        lines.well(SET_VALUE, output, 1)?;
        lines.well(SET_DIRECTION, output, DIRECTION_OUT)?;
        lines.well(SET_DIRECTION, output, DIRECTION_NONE)?;
        let found = lines.well(GET_DIRECTION, output, 0)?;
        ensure!(found == DIRECTION_NONE, "a line that was let go has direction {found}");
        lines.well(SET_DIRECTION, output, DIRECTION_OUT)?;
        let found = lines.well(GET_VALUE, output, 0)?;
        ensure!(found == 0, "a line that was let go has its level still");
        Ok(())
    })
}

fn irq_not_agreed(cx: &mut Cx) -> Checked {
    let (_, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::open(cx, format, 0)?;
        lines.well(SET_DIRECTION, input, DIRECTION_IN)?;
        let [status, _] = lines.ask(SET_IRQ_TYPE, input, IRQ_EDGE_RISING)?;
        ensure!(status == STATUS_ERR, "a trigger without VIRTIO_GPIO_F_IRQ has status {status}");
        Ok(())
    })
}

fn irq_on_output(cx: &mut Cx) -> Checked {
    let (output, _) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::wired(cx, format, IRQ_NONE)?;
        let [status, _] = lines.ask(SET_IRQ_TYPE, output, IRQ_EDGE_RISING)?;
        ensure!(status == STATUS_ERR, "the trigger of an output has status {status}");
        Ok(())
    })
}

fn unmask_without(cx: &mut Cx) -> Checked {
    let (_, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        // Whose trigger was never set.
        let mut lines = Controller::open(cx, format, F_IRQ)?;
        if lines.0.rings.len() < 2 {
            return Err(Stop::lacks("VIRTIO_GPIO_F_IRQ"));
        }
        lines.well(SET_DIRECTION, input, DIRECTION_IN)?;
        let told = lines.told(input, true)?;
        ensure!(told == Some(0), "a line without a trigger was unmasked: {told:?}");
        Ok(())
    })
}

fn disable(cx: &mut Cx) -> Checked {
    let (_, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::wired(cx, format, IRQ_EDGE_BOTH)?;
        let sample = buffer(input);
        let placed = lines.place(1, &sample)?;
        lines.well(SET_IRQ_TYPE, input, IRQ_NONE)?;
        let told = lines.told_of(placed, &sample, true)?;
        ensure!(told == Some(0), "the trigger is gone: {told:?}");
        Ok(())
    })
}

fn second(cx: &mut Cx) -> Checked {
    let (_, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::wired(cx, format, IRQ_EDGE_BOTH)?;
        lines.unmask(input)?;
        let told = lines.told(input, true)?;
        ensure!(told == Some(0), "a second buffer for a line: {told:?}");
        Ok(())
    })
}

fn edge_latched(cx: &mut Cx) -> Checked {
    let (output, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::wired(cx, format, IRQ_EDGE_RISING)?;
        lines.well(SET_VALUE, output, 1)?;
        let told = lines.told(input, true)?;
        ensure!(told == Some(1), "an edge came while the line was masked: {told:?}");
        Ok(())
    })
}

fn level_not_latched(cx: &mut Cx) -> Checked {
    let (output, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::wired(cx, format, IRQ_LEVEL_HIGH)?;
        lines.well(SET_VALUE, output, 1)?;
        lines.well(SET_VALUE, output, 0)?;
        let told = lines.told(input, false)?;
        ensure!(told.is_none(), "a level that is over was told: {told:?}");
        Ok(())
    })
}

fn level_again(cx: &mut Cx) -> Checked {
    let (output, input) = wired(cx)?;
    cx.each_format(|cx, format| {
        let mut lines = Controller::wired(cx, format, IRQ_LEVEL_HIGH)?;
        lines.well(SET_VALUE, output, 1)?;
        for turn in 0..3 {
            let told = lines.told(input, true)?;
            ensure!(told == Some(1), "a level lasts; unmasked for the {turn}. time: {told:?}");
        }
        Ok(())
    })
}
