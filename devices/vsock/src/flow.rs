//! One connection of the guest: what its packets and what happens on the host make of it. No I/O but on its own end.

use std::time::Instant;

use outboard_device::defs::vsock::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use outboard_streams::{Backlog, Direction, Form, Stream};

use crate::borders::Borders;
use crate::credit::{Ours, Theirs};
use crate::packet::Key;
use crate::rules::Service;
use crate::sibling::Reply;

/// Both ways are shut.
pub(crate) const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// Packets without data that the guest is to get: a bit each.
pub(crate) mod due {
    pub(crate) const REQUEST: u8 = 1 << 0;
    pub(crate) const RESPONSE: u8 = 1 << 1;
    pub(crate) const RST: u8 = 1 << 2;
    pub(crate) const SHUTDOWN: u8 = 1 << 3;
    pub(crate) const UPDATE: u8 = 1 << 4;
    pub(crate) const CREDIT_REQUEST: u8 = 1 << 5;
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The guest has asked, and the host is being asked.
    Dialing,
    /// The host has asked, and the guest is being asked.
    Asked,
    /// It is there.
    Open,
    /// Nothing comes from the host any more, and the guest was told; it is to end it.
    Closing,
    /// It ends with the RST that is due.
    Dead,
    /// The guest knows of it no more. What it has sent goes to the host still.
    Draining,
}

/// The other end.
pub(crate) enum End {
    /// A descriptor; of messages between guests of this process, each has a byte of flags behind it.
    Stream { stream: Stream, flagged: bool },
    /// Something within this process.
    Service(Service),
    /// It is gone.
    None,
}

/// A message on its way to the guest.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    /// So many of them are with the guest.
    pub(crate) at: usize,
    pub(crate) ends_record: bool,
}

/// A connection.
pub(crate) struct Flow {
    pub(crate) key: Key,
    pub(crate) id: u64,
    pub(crate) state: State,
    pub(crate) ours: Ours,
    pub(crate) theirs: Theirs,
    pub(crate) due: u8,
    /// Ways that the guest was told are shut, or is about to be.
    pub(crate) said: u32,
    /// Ways that the guest has shut.
    pub(crate) heard: u32,
    pub(crate) end: End,
    /// Bytes of the guest that the other end did not take yet.
    pub(crate) backlog: Backlog,
    /// Of messages: the borders of those in the backlog that are whole.
    pub(crate) borders: Borders,
    /// Of messages: bytes of the one at the end of the backlog that is not.
    pub(crate) begun: usize,
    pub(crate) held: Option<Held>,
    /// The host may have something.
    pub(crate) readable: bool,
    /// The other end is closed.
    pub(crate) gone: bool,
    /// Room to write is waited for.
    pub(crate) writes: bool,
    /// The way to the host was shut there, too.
    pub(crate) shut: bool,
    /// The guest was asked for credit.
    pub(crate) asked: bool,
    pub(crate) deadline: Option<Instant>,
    /// Since when the guest knows of it no more, and the host has not taken all.
    pub(crate) drains: Option<Instant>,
    /// It has its turn.
    pub(crate) queued: bool,
    /// Bytes of the other end since there were none the last time.
    pub(crate) burst: usize,
    /// It is not asked for more at once, since much comes from it.
    pub(crate) paced: bool,
    /// Whoever asked from the host wants to hear when the guest has accepted.
    pub(crate) greeted: bool,
    /// The sibling that asked.
    pub(crate) reply: Option<Reply>,
    /// Where the next character of an endless text is.
    pub(crate) place: u32,
}

impl Flow {
    pub(crate) fn new(key: Key, state: State, end: End, ours: Ours) -> Self {
        Self {
            key,
            id: 0,
            state,
            ours,
            theirs: Theirs::default(),
            due: 0,
            said: 0,
            heard: 0,
            end,
            backlog: Backlog::default(),
            borders: Borders::default(),
            begun: 0,
            held: None,
            readable: true,
            gone: false,
            writes: false,
            shut: false,
            asked: false,
            deadline: None,
            drains: None,
            queued: false,
            burst: 0,
            paced: false,
            greeted: false,
            reply: None,
            place: 0,
        }
    }

    pub(crate) fn is_messages(&self) -> bool {
        self.key.form == Form::Messages
    }

    /// Whether the other end has taken all that the guest has sent, messages without bytes too.
    pub(crate) fn is_sent(&self) -> bool {
        self.backlog.is_empty() && self.borders.is_empty()
    }

    /// Whether data of the other end may go to the guest.
    fn gives(&self) -> bool {
        self.state == State::Open && self.said & SHUTDOWN_SEND == 0 && self.heard & SHUTDOWN_RECEIVE == 0
    }

    /// Whether the other end may have something for the guest: data, or that it ends.
    fn has_source(&self) -> bool {
        if self.held.is_some() {
            return true;
        }
        match &self.end {
            End::Stream { .. } => self.readable,
            End::Service(Service::Echo) => match self.key.form {
                Form::Bytes => !self.backlog.is_empty(),
                Form::Messages => !self.borders.is_empty(),
            },
            End::Service(Service::Chargen) => true,
            End::Service(Service::Discard) | End::None => false,
        }
    }

    /// Whether there are data for the guest, and room for them there.
    pub(crate) fn can_give(&self) -> bool {
        self.gives() && self.has_source() && self.has_room() && !self.paced
    }

    /// Whether the guest has room for what comes next.
    fn has_room(&self) -> bool {
        self.theirs.credit() > 0 || self.may_be_empty()
    }

    /// What comes next may be a message without bytes, which needs no room.
    fn may_be_empty(&self) -> bool {
        match (&self.held, &self.end) {
            (Some(held), _) => held.bytes.is_empty(),
            (None, End::Service(_)) => self.borders.front().is_some_and(|border| border.len == 0),
            (None, _) => self.is_messages(),
        }
    }

    /// Whether there is anything for the guest.
    pub(crate) fn has_turn(&self) -> bool {
        self.due != 0 || self.can_give()
    }

    /// It ends, and the guest is told. What was on its way is lost.
    pub(crate) fn die(&mut self) {
        if self.state == State::Draining {
            return self.drop_end();
        }
        self.state = State::Dead;
        self.due = due::RST;
        self.drop_end();
    }

    /// What is to go to the host is lost, and so is the host's end.
    pub(crate) fn drop_end(&mut self) {
        self.reply = None;
        self.backlog = Backlog::default();
        self.borders.clear();
        self.held = None;
        if let End::Stream { stream, .. } = std::mem::replace(&mut self.end, End::None) {
            stream.cut();
        }
    }

    /// The other end sends no more.
    pub(crate) fn source_ended(&mut self) {
        self.readable = false;
        // It may have been closed since its news were looked at: the guest hears of both ways at once.
        let is_gone = |end: &End| matches!(end, End::Stream { stream, .. } if stream.is_gone());
        if self.gone || is_gone(&self.end) {
            return self.other_gone();
        }
        if self.said & SHUTDOWN_SEND == 0 {
            self.said |= SHUTDOWN_SEND;
            self.due |= due::SHUTDOWN;
        }
    }

    /// The other end is closed, and has nothing more.
    fn other_gone(&mut self) {
        self.said = BOTH;
        self.due |= due::SHUTDOWN;
        self.due &= !due::UPDATE;
        self.state = State::Closing;
        if self.shut {
            // It has ended as it should. All that the guest sent is with the host's kernel, which would throw away what is
            // still on its way if it were cut off: TCP is gone as soon as both ways are shut, whoever still reads.
            self.end = End::None;
        }
        self.drop_end();
    }

    /// The other end takes no more. What the guest sends from now on is taken and dropped.
    pub(crate) fn sink_ended(&mut self) {
        self.drop_backlog();
        self.writes = false;
        if self.said & SHUTDOWN_RECEIVE == 0 && self.state == State::Open {
            self.said |= SHUTDOWN_RECEIVE;
            self.due |= due::SHUTDOWN;
        }
        self.readable = true;
    }

    fn drop_backlog(&mut self) {
        let len = self.backlog.len();
        self.backlog.skip(len);
        self.borders.clear();
        self.begun = 0;
        // No more than was held, which fits.
        self.ours.forward(len as u32);
    }

    /// Follows up what has changed: whom else is to know, and whether it is over.
    pub(crate) fn settle(&mut self) {
        if self.heard & SHUTDOWN_SEND != 0 && self.borders.is_empty() && self.begun > 0 {
            // The rest of that message never comes.
            self.drop_backlog();
        }
        if self.state == State::Open && self.heard == BOTH {
            // VIRTIO 1.3, 5.10.6.5: it is cleanly over. What the guest has sent is not lost by that.
            self.state = State::Dead;
            self.due = due::RST;
            self.held = None;
        }
        // A service has what it has not given back yet.
        let is_with_service = matches!(self.end, End::Service(_)) && self.held.is_some();
        if self.heard & SHUTDOWN_SEND != 0 && self.is_sent() && !is_with_service && !self.shut {
            self.shut = true;
            match &self.end {
                // If it is over, both ways end at once.
                End::Stream { stream, .. } if self.heard != BOTH => stream.close(Direction::Out),
                End::Service(_) if self.state == State::Open => self.source_ended(),
                _ => {}
            }
        }
        // What a service has is the guest's, and it does not want it any more.
        let is_with_nobody = self.is_sent() || matches!(self.end, End::Service(_));
        if matches!(self.state, State::Dead | State::Draining) && is_with_nobody {
            self.end = End::None;
        }
        if self.state == State::Closing && self.heard == BOTH {
            self.die();
        }
        let is_news = self.ours.is_news(self.theirs.alloc());
        if self.state == State::Open && self.said & SHUTDOWN_RECEIVE == 0 && is_news {
            self.due |= due::UPDATE;
        }
        if self.gives() && self.has_source() && !self.has_room() && !self.asked {
            self.asked = true;
            self.due |= due::CREDIT_REQUEST;
        }
    }
}
