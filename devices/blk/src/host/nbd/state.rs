//! The requests of a link: where each of them is, and what is to be sent next.
//!
//! A request has a slot from the moment it comes until it is finished. Its number in the outbox means that it has not
//! been sent as a whole. The thread that receives takes it out of its slot while it moves data, so that no other can
//! touch it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use outboard_nbd::{Command, Error, Export, REQUEST_BYTES, Request};
use rustls::ClientConnection;

use super::dial::Stream;
use super::patient::Hasty;
use super::pending::{Asked, Next, Payload, Pending};
use super::transfer::Outgoing;

/// What is encrypted at a time, in bytes: a record of TLS.
const RECORD: usize = 16 << 10;

/// What a link's lock protects.
pub(super) struct State {
    /// `None`: there is no connection.
    pub(super) stream: Option<Stream>,
    /// The export as this connection has it, or the last one had.
    pub(super) export: Export,
    pub(super) down_since: Option<Instant>,
    pub(super) closed: bool,
    /// The thread looks at deadlines by itself.
    pub(super) armed: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    outbox: VecDeque<usize>,
    /// Bytes of the first in the outbox that were sent.
    sent: usize,
    count: u32,
    arrivals: u64,
}

enum Slot {
    Free,
    Here {
        pending: Pending,
        arrival: u64,
    },
    /// With the thread that receives.
    Away {
        arrival: u64,
        deadline: Instant,
    },
}

impl State {
    pub(super) const fn new(export: Export, stream: Option<Stream>) -> Self {
        Self {
            stream,
            export,
            down_since: None,
            closed: false,
            armed: false,
            slots: Vec::new(),
            free: Vec::new(),
            outbox: VecDeque::new(),
            sent: 0,
            count: 0,
            arrivals: 0,
        }
    }

    /// Nothing is under way.
    pub(super) const fn is_idle(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    /// Takes a new request, of which this is asked.
    pub(super) fn insert(&mut self, pending: Pending, asked: Asked) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.arrivals += 1;
        self.place(index, self.arrivals, pending, asked);
    }

    fn place(&mut self, index: usize, arrival: u64, mut pending: Pending, asked: Asked) {
        self.count = self.count.wrapping_add(1);
        pending.ask(asked, u64::from(self.count) << 32 | index as u64);
        self.put(index, Slot::Here { pending, arrival });
        self.outbox.push_back(index);
    }

    fn put(&mut self, index: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(index) {
            *place = slot;
        }
    }

    /// Takes the request out of its slot that a reply is for.
    pub(super) fn take(&mut self, cookie: u64) -> Result<(usize, Pending), Error> {
        let index = (cookie & u64::from(u32::MAX)) as usize;
        let place = self.slots.get_mut(index);
        match place {
            Some(slot @ Slot::Here { .. }) => {
                if let Slot::Here { pending, arrival } = slot
                    && pending.cookie == cookie
                    && pending.sent
                {
                    let away = Slot::Away { arrival: *arrival, deadline: pending.deadline };
                    if let Slot::Here { pending, .. } = std::mem::replace(slot, away) {
                        return Ok((index, pending));
                    }
                }
                Err(Error::Protocol("it replies to what was not asked"))
            }
            _ => Err(Error::Protocol("it replies to what was not asked")),
        }
    }

    /// Puts back what [`State::take`] gave: more is to come.
    pub(super) fn put_back(&mut self, index: usize, pending: Pending) {
        if let Some(Slot::Away { arrival, .. }) = self.slots.get(index) {
            let arrival = *arrival;
            self.put(index, Slot::Here { pending, arrival });
        }
    }

    /// What was taken has been done: gives it back if that was all, or asks for the rest.
    pub(super) fn go_on(&mut self, index: usize, mut pending: Pending) -> Option<(Pending, io::Result<()>)> {
        pending.advance();
        match (pending.next(&self.export), self.slots.get(index)) {
            (Next::Ask(asked), Some(Slot::Away { arrival, .. })) => {
                self.place(index, *arrival, pending, asked);
                None
            }
            (Next::Ask(_), _) => Some((pending, Err(io::ErrorKind::NotFound.into()))),
            (Next::End(result), _) => {
                self.release(index);
                Some((pending, result))
            }
        }
    }

    /// What was taken is over.
    pub(super) fn release(&mut self, index: usize) {
        self.put(index, Slot::Free);
        self.free.push(index);
    }

    /// A connection took the place of one that is gone: everything is asked again, in the order in which it came.
    /// Returns what the new one has no use for.
    pub(super) fn ask_again(&mut self) -> Vec<(Pending, io::Result<()>)> {
        let mut order: Vec<(u64, usize)> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Slot::Here { arrival, .. } = slot {
                order.push((*arrival, index));
            }
        }
        order.sort_unstable();
        self.outbox.clear();
        self.sent = 0;
        let mut over = Vec::new();
        for (arrival, index) in order {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            let Slot::Here { pending, .. } = std::mem::replace(slot, Slot::Free) else { continue };
            match pending.next(&self.export) {
                Next::Ask(asked) => self.place(index, arrival, pending, asked),
                Next::End(result) => {
                    self.release(index);
                    over.push((pending, result));
                }
            }
        }
        over
    }

    /// Whether a request has waited for too long, be it for the rest of its data.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.slots.iter().any(|slot| match slot {
            Slot::Free => false,
            Slot::Here { pending: Pending { deadline, .. }, .. } | Slot::Away { deadline, .. } => {
                *deadline <= now
            }
        })
    }

    /// Takes those out that have waited for too long. Only without a connection, on which data might still come: none is
    /// with the thread that receives.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Pending> {
        let mut expired = Vec::new();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if !matches!(slot, Slot::Here { pending, .. } if pending.deadline <= now) {
                continue;
            }
            if let Slot::Here { pending, .. } = std::mem::replace(slot, Slot::Free) {
                self.free.push(index);
                self.outbox.retain(|&waiting| waiting != index);
                expired.push(pending);
            }
        }
        expired
    }

    /// Sends what the socket takes. True: that was all.
    pub(super) fn send(&mut self) -> io::Result<bool> {
        loop {
            let Some(Stream { socket, tls }) = &mut self.stream else { return Ok(true) };
            let (sent, flushed) = match tls {
                None if self.outbox.is_empty() => return Ok(true),
                None => (plain(&self.outbox, &self.slots, self.sent).send(socket.as_fd()), false),
                Some(tls) => {
                    let sent = encrypted(tls, &self.outbox, &self.slots, self.sent);
                    (sent, !tls.wants_write())
                }
            };
            match sent {
                Ok(count) => self.count_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if flushed && self.outbox.is_empty() {
                return Ok(true);
            }
            if let Some(Stream { socket, tls: Some(tls) }) = &mut self.stream
                && let Err(error) = tls.write_tls(&mut Hasty(&*socket))
            {
                return if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) };
            }
        }
    }

    fn count_sent(&mut self, count: usize) {
        self.sent += count;
        while let Some(&index) = self.outbox.front() {
            let Some(Slot::Here { pending, .. }) = self.slots.get_mut(index) else { break };
            let len = REQUEST_BYTES + pending.payload_len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            pending.sent = true;
            self.outbox.pop_front();
        }
    }

    /// Receives what was decrypted.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(Stream { socket, tls: Some(tls) }) = &mut self.stream else { return Ok(0) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut Hasty(&*socket))? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Says good-bye, if there is nothing else to say. Whether it is heard does not matter.
    pub(super) fn part(&mut self) {
        self.closed = true;
        let header =
            Request { command: Command::Disconnect, flags: 0, cookie: 0, offset: 0, len: 0 }.encode();
        if let Some(Stream { socket, tls }) = &mut self.stream
            && self.outbox.is_empty()
        {
            let _ = match tls {
                None => Hasty(&*socket).write(&header),
                Some(tls) => tls.writer().write(&header).and_then(|_| {
                    tls.send_close_notify();
                    tls.write_tls(&mut Hasty(&*socket))
                }),
            };
        }
    }
}

/// The requests that wait, the first from byte `skip` on, as far as one call takes them.
fn plain<'a>(outbox: &VecDeque<usize>, slots: &'a [Slot], mut skip: usize) -> Outgoing<'a> {
    let mut out = Outgoing::new();
    for &index in outbox {
        let Some(Slot::Here { pending, .. }) = slots.get(index) else { break };
        let data = skip.saturating_sub(REQUEST_BYTES);
        if !out.push(pending.header.get(skip..).unwrap_or_default())
            || !out.push_payload(pending.payload(data), pending.payload_len() - data)
        {
            break;
        }
        skip = 0;
    }
    out
}

/// Encrypts the same, as far as there is room. Returns how much that was.
fn encrypted(
    tls: &mut ClientConnection,
    outbox: &VecDeque<usize>,
    slots: &[Slot],
    mut skip: usize,
) -> io::Result<usize> {
    let mut block = [0; RECORD];
    let mut total = 0;
    for &index in outbox {
        let Some(Slot::Here { pending, .. }) = slots.get(index) else { break };
        let len = REQUEST_BYTES + pending.payload_len();
        while skip < len {
            let bytes = match skip.checked_sub(REQUEST_BYTES) {
                None => pending.header.get(skip..).unwrap_or_default(),
                Some(at) => {
                    let room = block.get_mut(..RECORD.min(len - skip)).unwrap_or_default();
                    match pending.payload(at) {
                        Payload::Chain(chain, at) => chain.peek(at, room).map_err(io::Error::other)?,
                        Payload::Bytes(bytes) => {
                            room.copy_from_slice(bytes.get(..room.len()).unwrap_or(&[0; RECORD]));
                        }
                        Payload::Zeroes => room.fill(0),
                    }
                    room
                }
            };
            let count = tls.writer().write(bytes)?;
            if count == 0 {
                return Ok(total);
            }
            skip += count;
            total += count;
        }
        skip = 0;
    }
    Ok(total)
}
