//! The driver of an input device (VIRTIO 1.3, 5.8). The device is not trusted: events are judged by nobody, but counted and
//! bounded here.

use std::time::Duration;

use outboard_virtio_defs::input::{Config, Event};
use outboard_virtqueue::driver::Buffer;
use zerocopy::{FromZeros, IntoBytes};

use super::slots::Slots;
use crate::{Error, Frontend, Queue, Waiting, Wishes};

const EVENT_LEN: usize = size_of::<Event>();

/// An input device.
#[derive(Debug)]
pub struct Input {
    frontend: Frontend,
    events: Queue,
    status: Queue,
    buffers: Slots<(), EVENT_LEN>,
    feedback: Slots<(), EVENT_LEN>,
    timeout: Duration,
}

impl Input {
    /// Agrees with the device as wished, starts its queues of `depth` entries, and gives it buffers for so many events.
    ///
    /// # Errors
    /// As [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, wishes: &Wishes, depth: u16) -> Result<Self, Error> {
        let timeout = frontend.timeout();
        frontend.agree(wishes)?;
        let (events, status) = (frontend.start(0, depth)?, frontend.start(1, depth)?);
        frontend.driver_ok()?;
        let buffers = Slots::new(&mut frontend, depth)?;
        let feedback = Slots::new(&mut frontend, depth)?;
        let mut input = Self { frontend, events, status, buffers, feedback, timeout };
        input.refill()?;
        Ok(input)
    }

    /// What the device says of `select` and `subsel`: bytes, none if it knows nothing of that (VIRTIO 1.3, 5.8.5).
    ///
    /// # Errors
    /// As [`Frontend::write_config`] and [`Frontend::config`]; the device tells of more bytes than there are.
    pub fn config(&mut self, select: u8, subsel: u8) -> Result<Vec<u8>, Error> {
        self.frontend.write_config(0, &[select, subsel])?;
        let config: Config = self.frontend.config()?;
        let data = config.data.get(..config.size.into());
        Ok(data.ok_or(Error::Invalid("the device tells of more bytes than there are"))?.to_vec())
    }

    /// The next event, if one comes in time. Its buffer goes back to the device at once.
    ///
    /// # Errors
    /// The device returns a buffer without an event, or is gone.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        if !self.events.has_used() && !self.events.wait(Waiting::Interrupt, timeout)? {
            return Ok(None);
        }
        let Some((token, len)) = self.events.poll()? else { return Ok(None) };
        let mut event = Event::new_zeroed();
        self.buffers.read(token, 0, event.as_mut_bytes())?;
        self.buffers.give_back(token);
        self.refill()?;
        if len as usize != EVENT_LEN {
            return Err(Error::Invalid("a buffer came back that holds no event"));
        }
        Ok(Some(event))
    }

    /// Tells the device what to switch on or off, and waits until it has taken that.
    ///
    /// # Errors
    /// The device does not take it in time, or is gone.
    pub fn send(&mut self, event: Event) -> Result<(), Error> {
        let slot = self.feedback.vacant()?;
        self.feedback.write(slot, 0, event.as_bytes())?;
        let part = self.feedback.part(slot, 0, EVENT_LEN)?;
        self.status.add::<_, Buffer>(&[part], &[], slot.into())?;
        self.feedback.take(());
        self.status.publish()?;
        loop {
            if let Some((token, _)) = self.status.poll()? {
                self.feedback.give_back(token);
                return Ok(());
            }
            if !self.status.wait(Waiting::Interrupt, self.timeout)? {
                return Err(Error::Timeout { what: "take an event".to_owned(), after: self.timeout });
            }
        }
    }

    /// Gives the device all buffers that it has not.
    fn refill(&mut self) -> Result<(), Error> {
        while let Ok(slot) = self.buffers.vacant() {
            let part = self.buffers.part(slot, 0, EVENT_LEN)?;
            self.events.add::<Buffer, _>(&[], &[part], slot.into())?;
            self.buffers.take(());
        }
        self.events.publish()
    }

    /// The front end, for what it can do while the queues run.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }
}
