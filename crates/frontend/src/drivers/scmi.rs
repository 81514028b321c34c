//! The driver of an SCMI device (VIRTIO 1.3, 5.17): commands one at a time, each waited for, and what the platform has to
//! tell. What messages mean is the caller's affair. The device is not trusted: it may answer late, never, or something
//! else.

use std::time::{Duration, Instant};

use outboard_guest_memory::Segment;
use outboard_virtio_defs::scmi::{CMDQ, EVENTQ, VIRTIO_SCMI_F_P2A_CHANNELS};

use crate::{Error, Frontend, Queue, Waiting, Wishes};

/// Bytes of a message: as many as Linux has room for, and a header.
const ROOM: usize = 256;
/// Entries of each ring, and how many messages the platform may send before one is looked at.
const DEPTH: u16 = 16;

/// An SCMI device.
#[derive(Debug)]
pub struct Scmi {
    frontend: Frontend,
    commands: Queue,
    /// A command and the room for its answer.
    area: [Segment; 2],
    /// Where the device tells of events, if that was agreed.
    events: Option<(Queue, Vec<Segment>)>,
    waiting: Waiting,
    timeout: Duration,
}

impl Scmi {
    /// Agrees with the device as wished, and on events if it has any, and starts its queues.
    ///
    /// # Errors
    /// As [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, wishes: &Wishes) -> Result<Self, Error> {
        let timeout = frontend.timeout();
        let device_features = wishes.device_features | VIRTIO_SCMI_F_P2A_CHANNELS;
        frontend.agree(&Wishes { device_features, ..*wishes })?;
        let commands = frontend.start(CMDQ, DEPTH)?;
        let area = [frontend.allocate(ROOM)?, frontend.allocate(ROOM)?];
        let events = if frontend.features() & VIRTIO_SCMI_F_P2A_CHANNELS != 0 {
            let mut queue = frontend.start(EVENTQ, DEPTH)?;
            let rooms = (0..DEPTH).map(|_| frontend.allocate(ROOM)).collect::<Result<Vec<_>, _>>()?;
            for (token, room) in rooms.iter().enumerate() {
                queue.add::<&Segment, _>(&[], &[room], token as u64)?;
            }
            Some((queue, rooms))
        } else {
            None
        };
        frontend.driver_ok()?;
        let mut this = Self { frontend, commands, area, events, waiting: Waiting::Interrupt, timeout };
        if let Some((queue, _)) = &mut this.events {
            queue.publish()?;
        }
        Ok(this)
    }

    /// How to wait for answers; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Whether the device can tell of events.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.events.is_some()
    }

    /// Sends a message, and returns what is answered, header included.
    ///
    /// # Errors
    /// The message is longer than 256 bytes; one is out that was not answered in time; the device does not answer in time,
    /// or claims to have written more than it could.
    pub fn ask(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        if self.commands.outstanding() != 0 {
            return Err(Error::Invalid("a command that was not answered is out"));
        }
        let [command, answer] = &self.area;
        let command = command.slice(0, message.len()).ok_or(Error::Invalid("a message of this length"))?;
        command.write_from(0, message)?;
        self.commands.add(&[&command], &[answer], 0)?;
        self.commands.publish()?;
        let len = loop {
            if let Some((_, len)) = self.commands.poll()? {
                break len;
            }
            if !self.commands.wait(self.waiting, self.timeout)? {
                return Err(Error::Timeout { what: "answer a command".to_owned(), after: self.timeout });
            }
        };
        read(answer, len)
    }

    /// What the platform has told unasked, header included; `None` if nothing comes within `timeout`, or nothing can.
    ///
    /// # Errors
    /// As [`Queue::wait`]; the device claims to have written more than it could.
    pub fn event(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, Error> {
        let Some((queue, rooms)) = &mut self.events else { return Ok(None) };
        let end = Instant::now() + timeout;
        let (token, len) = loop {
            if let Some(used) = queue.poll()? {
                break used;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !queue.wait(self.waiting, left)? {
                return Ok(None);
            }
        };
        let room = usize::try_from(token).ok().and_then(|token| rooms.get(token));
        let room = room.ok_or(Error::Invalid("no such buffer"))?;
        let event = read(room, len)?;
        queue.add::<&Segment, _>(&[], &[room], token)?;
        queue.publish()?;
        Ok(Some(event))
    }

    /// The front end, for what it can do while the queues run.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Stops the queues and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, commands, area, events, .. } = self;
        let (events, rooms) = events.unzip();
        frontend.reset([commands].into_iter().chain(events))?;
        for segment in area.into_iter().chain(rooms.into_iter().flatten()) {
            frontend.memory().free(segment);
        }
        Ok(frontend)
    }
}

/// What the device says that it has written.
fn read(room: &Segment, len: u32) -> Result<Vec<u8>, Error> {
    if len as usize > room.len() {
        return Err(Error::Invalid("the device claims more than there was room for"));
    }
    let mut bytes = vec![0; len as usize];
    room.read_into(0, &mut bytes)?;
    Ok(bytes)
}
