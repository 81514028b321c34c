//! The driver of a GPIO controller (VIRTIO 1.3, 5.18). The device is not trusted with statuses, values and lengths; the levels
//! of lines are what they are.

use std::time::Duration;

use outboard_guest_memory::{Piece, Segment};
use outboard_virtio_defs::gpio::{
    Config, F_IRQ, GET_DIRECTION, GET_LINE_NAMES, GET_VALUE, IRQ_STATUS_VALID, Request, SET_DIRECTION,
    SET_IRQ_TYPE, SET_VALUE, STATUS_OK,
};
use zerocopy::IntoBytes as _;

use super::exchange::Exchange;
use crate::{Error, Frontend, Queue, Waiting, Wishes};

/// Entries of each ring.
const DEPTH: u16 = 64;
/// Most bytes of names that are asked for.
const NAMES: usize = 1 << 20;
/// Bytes of an interrupt's buffer: the line and the status.
const EVENT: usize = 3;

/// A GPIO controller.
#[derive(Debug)]
pub struct Gpio {
    frontend: Frontend,
    config: Config,
    requests: Exchange,
    /// There if interrupts were agreed on: the queue, and a buffer for each line.
    events: Option<(Queue, Segment)>,
    waiting: Waiting,
}

impl Gpio {
    /// Agrees with the device as wished, on interrupts if it has them, and starts its queues.
    ///
    /// # Errors
    /// As [`Frontend::agree`] and [`Frontend::start`]; names of more than 1 MiB.
    pub fn open(mut frontend: Frontend, wishes: &Wishes) -> Result<Self, Error> {
        let wishes = Wishes { device_features: wishes.device_features | F_IRQ, ..*wishes };
        let interrupts = frontend.agree(&wishes)? & F_IRQ != 0;
        let config: Config = frontend.config()?;
        let names = config.gpio_names_size.get() as usize;
        if names > NAMES {
            return Err(Error::Invalid("names of more than 1 MiB"));
        }
        let requests = Exchange::start(&mut frontend, 0, DEPTH, names + 4096)?;
        let events = match interrupts {
            true => {
                let queue = frontend.start(1, DEPTH)?;
                Some((queue, frontend.allocate(usize::from(config.ngpio.get()).max(1) * 4)?))
            }
            false => None,
        };
        frontend.driver_ok()?;
        Ok(Self { frontend, config, requests, events, waiting: Waiting::Interrupt })
    }

    /// How to wait for the device; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        self.requests.set_waiting(waiting);
    }

    /// What the device says of itself.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// Whether it has interrupts.
    #[must_use]
    pub fn has_interrupts(&self) -> bool {
        self.events.is_some()
    }

    /// The names of the lines, empty for those that have none.
    ///
    /// # Errors
    /// The device refuses, or its block is not one of so many names; as [`raw`](Self::raw).
    pub fn names(&mut self) -> Result<Vec<String>, Error> {
        let (size, count) = (self.config.gpio_names_size.get() as usize, self.config.ngpio.get());
        if size == 0 {
            return Ok(vec![String::new(); count.into()]);
        }
        let request = Request { kind: GET_LINE_NAMES.into(), ..Request::default() };
        let (answer, len) = self.raw(&[request.as_bytes()], &[1 + size])?;
        let block = match answer.split_first() {
            Some((&STATUS_OK, block)) if len as usize == answer.len() => block,
            _ => return Err(Error::WrongReply("GET_LINE_NAMES")),
        };
        let names =
            block.strip_suffix(&[0]).ok_or(Error::WrongReply("GET_LINE_NAMES"))?.split(|byte| *byte == 0);
        let names: Vec<String> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        if names.len() == usize::from(count) { Ok(names) } else { Err(Error::WrongReply("GET_LINE_NAMES")) }
    }

    /// Which way a line goes: `DIRECTION_*`.
    ///
    /// # Errors
    /// The device refuses, as all that follow; as [`raw`](Self::raw).
    pub fn direction(&mut self, line: u16) -> Result<u8, Error> {
        self.ask(GET_DIRECTION, line, 0)
    }

    /// Sets which way a line goes.
    ///
    /// # Errors
    /// As of [`direction`](Self::direction).
    pub fn set_direction(&mut self, line: u16, direction: u8) -> Result<(), Error> {
        self.ask(SET_DIRECTION, line, direction.into()).map(drop)
    }

    /// The level of a line.
    ///
    /// # Errors
    /// As of [`direction`](Self::direction).
    pub fn value(&mut self, line: u16) -> Result<bool, Error> {
        self.ask(GET_VALUE, line, 0).map(|value| value != 0)
    }

    /// Sets the level of a line.
    ///
    /// # Errors
    /// As of [`direction`](Self::direction).
    pub fn set_value(&mut self, line: u16, high: bool) -> Result<(), Error> {
        self.ask(SET_VALUE, line, high.into()).map(drop)
    }

    /// Sets what a line's interrupts are for: `IRQ_*`.
    ///
    /// # Errors
    /// As of [`direction`](Self::direction).
    pub fn set_trigger(&mut self, line: u16, trigger: u8) -> Result<(), Error> {
        self.ask(SET_IRQ_TYPE, line, trigger.into()).map(drop)
    }

    /// Unmasks the interrupt of a line, whose buffer must not be out.
    ///
    /// # Errors
    /// There are no interrupts, or there is no such line; as [`Queue::add`].
    pub fn unmask(&mut self, line: u16) -> Result<(), Error> {
        let (queue, area) = self.events.as_mut().ok_or(Error::Invalid("no interrupts were agreed on"))?;
        let slot = area.slice(usize::from(line) * 4, EVENT).ok_or(Error::Invalid("no such line"))?;
        slot.write_from(0, &[line.to_le_bytes().as_slice(), &[0xff]].concat())?;
        let parts = (slot.piece().slice(0, 2), slot.piece().slice(2, 1));
        let (Some(request), Some(status)) = parts else { return Err(Error::Invalid("no such line")) };
        queue.add::<Piece, Piece>(&[request], &[status], line.into())?;
        queue.publish()
    }

    /// The next buffer of a line that came back: which, and whether there was an interrupt. `None`: none in that time.
    ///
    /// # Errors
    /// There are no interrupts; as [`Queue::wait`].
    pub fn interrupt(&mut self, within: Duration) -> Result<Option<(u16, bool)>, Error> {
        let waiting = self.waiting;
        let (queue, area) = self.events.as_mut().ok_or(Error::Invalid("no interrupts were agreed on"))?;
        loop {
            if let Some((token, len)) = queue.poll()? {
                let line = token as u16;
                let mut status = [0];
                area.read_into(usize::from(line) * 4 + 2, &mut status)?;
                if len != 1 {
                    return Err(Error::WrongReply("an interrupt's buffer"));
                }
                return Ok(Some((line, status == [IRQ_STATUS_VALID])));
            }
            if !queue.wait(waiting, within)? {
                return Ok(None);
            }
        }
    }

    fn ask(&mut self, kind: u16, gpio: u16, value: u32) -> Result<u8, Error> {
        let request = Request { kind: kind.into(), gpio: gpio.into(), value: value.into() };
        match (self.raw(&[request.as_bytes()], &[2])?, kind) {
            ((answer, 2), _) if answer.first() == Some(&STATUS_OK) => Ok(answer.last().copied().unwrap_or(0)),
            ((_, 2), _) => Err(Error::Invalid("the device refuses")),
            _ => Err(Error::WrongReply("a GPIO request")),
        }
    }

    /// Sends a request as it is, for tests of devices. Returns the bytes that the device may write, 0xff where it did not;
    /// and the length that it gives.
    ///
    /// # Errors
    /// The device does not answer in time; the request is too long.
    pub fn raw(&mut self, readable: &[&[u8]], writable: &[usize]) -> Result<(Vec<u8>, u32), Error> {
        self.requests.one(readable, writable)
    }

    /// Stops the queues and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, requests, events, .. } = self;
        let (queue, area) = requests.into_parts();
        let (queues, areas): (Vec<Queue>, Vec<Segment>) = [(queue, area)].into_iter().chain(events).unzip();
        frontend.reset(queues)?;
        for area in areas {
            frontend.memory().free(area);
        }
        Ok(frontend)
    }
}
