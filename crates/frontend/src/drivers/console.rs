//! The driver of a console device (VIRTIO 1.3, 5.3): its ports, and messages about them. The device is not trusted: what it says
//! is bounded, and which ports there are is what this driver asked for.

use std::time::Duration;

use outboard_virtio_defs::console::{Config, Control, F_MULTIPORT};
use outboard_virtqueue::driver::Buffer;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::exchange::Exchange;
use super::slots::Slots;
use crate::{Error, Frontend, Queue, Waiting, Wishes};

/// Entries of each ring.
const DEPTH: u16 = 16;
/// Bytes of a buffer for the device.
const BUFFER: usize = 4096;
/// Bytes that are sent at a time, at most.
const MOST: usize = 64 << 10;
/// More ports than this are left alone.
const PORTS: u32 = 31;

/// A console device.
#[derive(Debug)]
pub struct Console {
    frontend: Frontend,
    /// By number.
    ports: Vec<Pair>,
    /// There if messages were agreed on.
    messages: Option<Pair>,
}

/// A queue each way.
#[derive(Debug)]
struct Pair {
    from_device: Queue,
    buffers: Slots<(), BUFFER>,
    to_device: Exchange,
}

impl Console {
    /// Agrees with the device as wished, on several ports if they are among the device features wished for, starts the queues
    /// of all ports that there can be, and gives it buffers.
    ///
    /// # Errors
    /// As [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, wishes: &Wishes) -> Result<Self, Error> {
        let multiport = frontend.agree(wishes)? & F_MULTIPORT != 0;
        let mut ports = vec![Pair::start(&mut frontend, 0)?];
        let mut messages = None;
        if multiport {
            let config: Config = frontend.config()?;
            messages = Some(Pair::start(&mut frontend, 2)?);
            for port in 1..config.max_nr_ports.get().min(PORTS) {
                ports.push(Pair::start(&mut frontend, 2 * port as u16 + 2)?);
            }
        }
        frontend.driver_ok()?;
        Ok(Self { frontend, ports, messages })
    }

    /// Sends bytes by a port, at most 64 KiB, and waits until the device has taken them.
    ///
    /// # Errors
    /// There is no such port; the device does not take them in time, or is gone.
    pub fn send(&mut self, port: usize, bytes: &[u8]) -> Result<(), Error> {
        self.port(port)?.to_device.one(&[bytes], &[]).map(drop)
    }

    /// What comes next by a port, if something comes in time.
    ///
    /// # Errors
    /// There is no such port; the device returns a buffer with more than there is room for, or is gone.
    pub fn receive(&mut self, port: usize, timeout: Duration) -> Result<Option<Vec<u8>>, Error> {
        self.port(port)?.receive(timeout)
    }

    /// Says something of a port: `DEVICE_READY`, `PORT_READY` or `PORT_OPEN`.
    ///
    /// # Errors
    /// Messages were not agreed on; as [`send`](Self::send).
    pub fn say(&mut self, port: u32, event: u16, value: u16) -> Result<(), Error> {
        let message = Control { id: port.into(), event: event.into(), value: value.into() };
        self.messages()?.to_device.one(&[message.as_bytes()], &[]).map(drop)
    }

    /// What the device says next, and what is behind it, if it says something in time.
    ///
    /// # Errors
    /// Messages were not agreed on; a message is too short; as [`receive`](Self::receive).
    pub fn hear(&mut self, timeout: Duration) -> Result<Option<(Control, Vec<u8>)>, Error> {
        let Some(bytes) = self.messages()?.receive(timeout)? else { return Ok(None) };
        let (message, rest) =
            Control::read_from_prefix(&bytes).map_err(|_| Error::WrongReply("a message about a port"))?;
        Ok(Some((message, rest.to_vec())))
    }

    /// The front end, for what it can do while the queues run.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    fn port(&mut self, port: usize) -> Result<&mut Pair, Error> {
        self.ports.get_mut(port).ok_or(Error::Invalid("there is no such port"))
    }

    fn messages(&mut self) -> Result<&mut Pair, Error> {
        self.messages.as_mut().ok_or(Error::Invalid("messages were not agreed on"))
    }
}

impl Pair {
    fn start(frontend: &mut Frontend, first: u16) -> Result<Self, Error> {
        let from_device = frontend.start(first, DEPTH)?;
        let to_device = Exchange::start(frontend, first + 1, DEPTH, MOST)?;
        let mut pair = Self { from_device, buffers: Slots::new(frontend, DEPTH)?, to_device };
        pair.refill()?;
        Ok(pair)
    }

    fn receive(&mut self, timeout: Duration) -> Result<Option<Vec<u8>>, Error> {
        if !self.from_device.has_used() && !self.from_device.wait(Waiting::Interrupt, timeout)? {
            return Ok(None);
        }
        let Some((token, len)) = self.from_device.poll()? else { return Ok(None) };
        let mut bytes = vec![0; BUFFER];
        let filled = bytes.get_mut(..len as usize).ok_or(Error::WrongReply("a buffer for bytes"))?;
        self.buffers.read(token, 0, filled)?;
        bytes.truncate(len as usize);
        self.buffers.give_back(token);
        self.refill()?;
        Ok(Some(bytes))
    }

    /// Gives the device all buffers that it has not.
    fn refill(&mut self) -> Result<(), Error> {
        while let Ok(slot) = self.buffers.vacant() {
            let part = self.buffers.part(slot, 0, BUFFER)?;
            self.from_device.add::<Buffer, _>(&[], &[part], slot.into())?;
            self.buffers.take(());
        }
        self.from_device.publish()
    }
}
