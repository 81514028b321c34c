//! What somebody in the middle sees: bytes and descriptors that pass between a front end and a back end, decoded,
//! replies matched to their requests, and whatever breaks the protocol named. Pure; nobody is trusted.
//!
//! An [`Observer`] never refuses anything. What it cannot decode it says so of, and goes on with the next message:
//! a peer that is at fault is the reason why somebody looks.

mod agreed;
mod fields;
mod payload;
mod verdict;

pub use fields::{Field, Value};
pub use verdict::{Answered, Observed, Unanswered};

use std::collections::BTreeMap;
use std::time::Duration;

use outboard_virtio_defs::DeviceId;
use zerocopy::FromBytes;

use crate::message::Header;
use agreed::Agreed;
use verdict::Turn;

/// How many payload bytes of one message are kept to be shown or recorded. What is longer passes all the same.
pub const CAPTURE: usize = 64 << 10;

/// One of the two that talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The front end: the virtual machine monitor.
    FrontEnd,
    /// The back end: the device.
    BackEnd,
}

/// Which socket of a connection: the main one, or one that came with SET_BACKEND_REQ_FD, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel(pub u16);

impl Channel {
    /// The socket that the front end opened.
    pub const MAIN: Self = Self(0);

    /// Is it the main one?
    pub fn is_main(self) -> bool {
        self == Self::MAIN
    }
}

/// What kind of thing a descriptor stands for, as far as that matters to make another of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorKind {
    /// Something else.
    Other,
    /// A file, or memory that looks like one.
    File,
    /// An eventfd.
    Event,
    /// A socket.
    Socket,
    /// The end of a pipe that is read.
    PipeRead,
    /// The end of a pipe that is written.
    PipeWrite,
}

/// A descriptor that went by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What kind of thing it is.
    pub kind: DescriptorKind,
    /// Of a file: its size in bytes; else 0.
    pub size: u64,
    /// What the kernel calls it.
    pub name: String,
}

/// A message that went by, as it was: perhaps malformed, perhaps cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The number of the connection, counted from 1.
    pub connection: u32,
    /// The socket.
    pub channel: Channel,
    /// Who sent it.
    pub from: Side,
    /// When it was complete, counted from some common start.
    pub time: Duration,
    /// Header and payload, up to [`CAPTURE`] bytes of payload.
    pub bytes: Vec<u8>,
    /// How long it was, in bytes. Shorter than its header says when the sender closed within it.
    pub len: u64,
    /// What it carried.
    pub fds: Vec<Descriptor>,
}

impl Seen {
    /// Its header; `None` when the sender closed before it was complete.
    pub fn header(&self) -> Option<Header> {
        Header::read_from_prefix(&self.bytes).ok().map(|(header, _)| header)
    }

    /// The payload, as far as it was kept.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(Header::LEN..).unwrap_or_default()
    }

    /// Was the whole message kept?
    pub fn is_whole(&self) -> bool {
        self.header().is_some_and(|header| self.body().len() as u64 == u64::from(header.size))
    }

    /// Does it ask, or answer? By its place, not by its flags: on the main channel the front end asks, on the others
    /// the back end does.
    pub fn is_request(&self) -> bool {
        self.channel.is_main() == (self.from == Side::FrontEnd)
    }
}

/// Follows one connection.
#[derive(Debug)]
pub struct Observer {
    device: Option<DeviceId>,
    agreed: Agreed,
    count: u64,
    turns: BTreeMap<Channel, Turn>,
}

impl Observer {
    /// A connection on which nothing has been said. With the device's type, its own feature bits have names.
    pub fn new(device: Option<DeviceId>) -> Self {
        Self { device, agreed: Agreed::default(), count: 0, turns: BTreeMap::new() }
    }

    /// Takes in the next message of the connection, whichever way it went.
    pub fn see(&mut self, seen: &Seen) -> Observed {
        self.count += 1;
        let turn = self.turns.entry(seen.channel).or_default();
        verdict::judge(seen, self.count, self.device, &mut self.agreed, turn)
    }

    /// The requests that wait for an answer.
    pub fn unanswered(&self) -> impl Iterator<Item = Unanswered> {
        self.turns.values().flat_map(Turn::unanswered)
    }
}

#[cfg(test)]
mod tests;
