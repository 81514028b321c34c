//! The driver of an I2C adapter (VIRTIO 1.3, 5.16). The device is not trusted with statuses and lengths; what chips say is
//! what it is.

use outboard_virtio_defs::i2c::{F_ZERO_LENGTH_REQUEST, FAIL_NEXT, M_RD, OK, OutHdr, seven_bit, ten_bit};
use zerocopy::IntoBytes as _;

use super::exchange::{Ask, Exchange};
use crate::{Error, Frontend, Queue, Waiting, Wishes};

/// Entries of the ring: three for each message.
const DEPTH: u16 = 64;
/// Most messages of a transfer.
const MESSAGES: usize = DEPTH as usize / 4;
/// Bytes for the messages of a transfer.
const ROOM: usize = 64 << 10;

/// An address of 7 or 10 bits. Higher bits are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I2cAddress {
    /// 0 to 0x7f.
    Seven(u8),
    /// 0 to 0x3ff.
    Ten(u16),
}

/// A message of a transfer.
#[derive(Debug)]
pub enum I2cMessage<'a> {
    /// Bytes for a chip.
    Write(I2cAddress, &'a [u8]),
    /// Bytes from a chip.
    Read(I2cAddress, &'a mut [u8]),
}

impl I2cMessage<'_> {
    fn header(&self, is_last: bool) -> OutHdr {
        let (Self::Write(address, _) | Self::Read(address, _)) = self;
        let addr = match *address {
            I2cAddress::Seven(address) => seven_bit(address),
            I2cAddress::Ten(address) => ten_bit(address),
        };
        let tied = if is_last { 0 } else { FAIL_NEXT };
        let read = if matches!(self, Self::Read(..)) { M_RD } else { 0 };
        OutHdr { addr: addr.into(), padding: 0.into(), flags: (tied | read).into() }
    }
}

/// An I2C adapter.
#[derive(Debug)]
pub struct I2c {
    frontend: Frontend,
    exchange: Exchange,
}

impl I2c {
    /// Agrees with the device as wished, and starts its queue.
    ///
    /// # Errors
    /// The device lacks the mandatory feature; as [`Frontend::agree`] and [`Frontend::start`].
    pub fn open(mut frontend: Frontend, wishes: &Wishes) -> Result<Self, Error> {
        let device_features = wishes.device_features | F_ZERO_LENGTH_REQUEST;
        let wishes = Wishes { device_features, ..*wishes };
        if frontend.agree(&wishes)? & F_ZERO_LENGTH_REQUEST == 0 {
            return Err(Error::Invalid("the device does not offer requests without data"));
        }
        let exchange = Exchange::start(&mut frontend, 0, DEPTH, ROOM)?;
        frontend.driver_ok()?;
        Ok(Self { frontend, exchange })
    }

    /// How to wait for the device; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.exchange.set_waiting(waiting);
    }

    /// Carries out a transfer of up to 16 messages and 64 KiB: a group of requests. Returns how many messages, from the
    /// first on, were answered with OK; what later reads were for stays as it is.
    ///
    /// # Errors
    /// The messages are too many or too long; the device does not answer in time, or with something else than an answer.
    pub fn transfer(&mut self, messages: &mut [I2cMessage<'_>]) -> Result<usize, Error> {
        if messages.is_empty() || messages.len() > MESSAGES {
            return Err(Error::Invalid("a transfer of so many messages"));
        }
        let last = messages.len() - 1;
        let headers: Vec<OutHdr> =
            messages.iter().enumerate().map(|(nth, message)| message.header(nth == last)).collect();
        let buffers: Vec<([&[u8]; 2], [usize; 2])> = headers
            .iter()
            .zip(messages.iter())
            .map(|(header, message)| match message {
                I2cMessage::Write(_, data) => ([header.as_bytes(), data], [0, 1]),
                I2cMessage::Read(_, into) => ([header.as_bytes(), &[]], [into.len(), 1]),
            })
            .collect();
        let asks: Vec<Ask<'_>> =
            buffers.iter().map(|(readable, writable)| (&readable[..], &writable[..])).collect();
        let answers = self.exchange.all(&asks)?;
        let mut good = 0;
        for (message, (answer, len)) in messages.iter_mut().zip(answers) {
            let Some((&OK, data)) = answer.split_last() else { break };
            if len as usize != answer.len() {
                return Err(Error::WrongReply("an I2C request"));
            }
            if let I2cMessage::Read(_, into) = message {
                into.copy_from_slice(data);
            }
            good += 1;
        }
        Ok(good)
    }

    /// Sends a request as it is, for tests of devices. Returns the bytes that the device may write, 0xff where it did not;
    /// and the length that it gives.
    ///
    /// # Errors
    /// As [`transfer`](Self::transfer).
    pub fn raw(&mut self, readable: &[&[u8]], writable: &[usize]) -> Result<(Vec<u8>, u32), Error> {
        self.exchange.one(readable, writable)
    }

    /// The front end and the queue, both for tests that step aside from the driver.
    pub fn parts(&mut self) -> (&mut Frontend, &mut Queue) {
        (&mut self.frontend, self.exchange.queue())
    }

    /// Stops the queue and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, exchange } = self;
        let (queue, area) = exchange.into_parts();
        frontend.reset([queue])?;
        frontend.memory().free(area);
        Ok(frontend)
    }
}
