//! One direction of one channel: every byte and every descriptor goes on as it came, malformed or not. The sender is
//! not trusted, and neither is the receiver.
//!
//! # Theory of operation
//!
//! Descriptors stick to the byte they were sent with, and a read may take bytes that were sent without any together
//! with the start of a message that has some. So the borders of messages are followed, as a receiver does: a header
//! is read alone, then its payload. What arrives of a message without a pause goes on with one sendmsg, because some
//! programs read an answer with a single recv; where its sender pauses, so do we, except within the twelve bytes of a
//! header, which nobody can act on. Only the start of a long payload is kept to be shown.
//!
//! SET_BACKEND_REQ_FD carries a socket past us. One end of a pair of our own goes on in its place, and the other end
//! and the socket that came are the next channel.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use outboard_vhost_user::message::MAX_FDS;
use outboard_vhost_user::observe::{CAPTURE, Channel, Descriptor, Seen, Side};
use outboard_vhost_user::{FrontendRequest, Header};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use zerocopy::FromBytes;

use super::back_channel::{self, BackChannel};
use super::descriptors::describe;
use super::wire::Clock;

/// The most that is read, and held, at once.
const CHUNK: usize = 64 << 10;
/// How many messages are passed on before others get their turn.
const BURST: usize = 64;

/// What came of passing on.
pub(super) enum Passed {
    /// A message went by; its connection is for others to say. `lost`: its receiver was not there any more.
    Message { seen: Seen, lost: bool },
    /// A back channel was opened.
    BackChannel(BackChannel),
    /// Something that whoever looks on should know.
    Note(String),
}

/// One direction of a channel.
#[derive(Debug)]
pub(super) struct Flow {
    from: Rc<OwnedFd>,
    to: Rc<OwnedFd>,
    side: Side,
    channel: Channel,
    message: Gathering,
    outgoing: VecDeque<Piece>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Reading.
    Open,
    /// What was read cannot go on yet.
    Blocked,
    /// The sender has stopped sending, and may still listen.
    HalfClosed,
    /// Nothing will come any more, or nobody would take it.
    Ended,
}

/// The message that is going by.
#[derive(Debug, Default)]
struct Gathering {
    bytes: Vec<u8>,
    len: u64,
    fds: Vec<Descriptor>,
    /// When the last of it went on.
    time: Duration,
    /// Was its back channel led past us?
    swapped: bool,
}

/// Bytes that go out together, with descriptors on the first of them.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<Passing>,
}

/// A descriptor, and what it is if it is not what it was.
#[derive(Debug)]
struct Passing {
    fd: OwnedFd,
    instead_of: Option<Descriptor>,
}

/// What reading brought.
enum Read {
    Some,
    Pause,
    End,
}

impl Gathering {
    fn header(&self) -> Option<Header> {
        Header::read_from_prefix(&self.bytes).ok().map(|(header, _)| header)
    }

    /// How many bytes of it are missing, as far as one can know.
    fn missing(&self) -> u64 {
        let whole = self.header().map_or(0, |header| u64::from(header.size)) + Header::LEN as u64;
        whole.saturating_sub(self.len)
    }

    fn is_complete(&self) -> bool {
        self.missing() == 0
    }
}

impl Flow {
    pub(super) fn new(from: Rc<OwnedFd>, to: Rc<OwnedFd>, side: Side, channel: Channel) -> Self {
        let (message, outgoing) = (Gathering::default(), VecDeque::new());
        Self { from, to, side, channel, message, outgoing, state: State::Open }
    }

    /// The side that sends.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel
    }

    pub(super) fn is_main(&self) -> bool {
        self.channel.is_main()
    }

    fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Does nothing come any more? Either side may still say something on the way back.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Ended | State::HalfClosed)
    }

    /// What to wait for.
    pub(super) fn awaits(&self) -> Option<PollFd<'_>> {
        let (fd, flags) = match self.state {
            State::Open => (&self.from, PollFlags::IN),
            State::Blocked => (&self.to, PollFlags::OUT),
            // The end of the other half is always told.
            State::HalfClosed => (&self.from, PollFlags::empty()),
            State::Ended => return None,
        };
        Some(PollFd::from_borrowed_fd(fd.as_fd(), flags))
    }

    /// Passes on what there is.
    pub(super) fn pump(&mut self, clock: Clock, scratch: &mut Scratch, tell: &mut dyn FnMut(Passed)) {
        if self.state == State::HalfClosed {
            self.close(Shutdown::Both);
        }
        for _ in 0..BURST {
            if self.has_ended() || self.state == State::Blocked && !self.send(clock, tell) {
                return;
            }
            match self.read(scratch, tell) {
                Ok(Read::Some) => {
                    if !self.send(clock, tell) {
                        return;
                    }
                }
                Ok(Read::Pause) => {
                    if self.message.header().is_some() {
                        self.send(clock, tell);
                    }
                    return;
                }
                Ok(Read::End) => return self.finish(clock, tell),
                Err(error) => {
                    tell(Passed::Note(format!("cannot go on: {error}")));
                    let _ = shutdown(&self.from, Shutdown::Both);
                    return self.close(Shutdown::Both);
                }
            }
        }
    }

    /// Reads until the message is complete, the sender pauses, or there is enough to be sent first.
    fn read(&mut self, scratch: &mut Scratch, tell: &mut dyn FnMut(Passed)) -> io::Result<Read> {
        let mut held = 0;
        while !self.message.is_complete() && held < CHUNK {
            let most = usize::try_from(self.message.missing()).unwrap_or(CHUNK).min(CHUNK);
            let (count, fds) = match scratch.receive(self.from.as_fd(), most) {
                Ok((0, _)) => return Ok(Read::End),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Pause),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Closed with bytes unread on its side: as good as closed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Read::End),
                Err(error) => return Err(error),
            };
            held += count;
            self.take(scratch.bytes.get(..count).unwrap_or_default(), fds, tell);
        }
        Ok(Read::Some)
    }

    fn take(&mut self, bytes: &[u8], fds: Vec<OwnedFd>, tell: &mut dyn FnMut(Passed)) {
        let room = (Header::LEN + CAPTURE).saturating_sub(self.message.bytes.len()).min(bytes.len());
        self.message.bytes.extend_from_slice(bytes.get(..room).unwrap_or_default());
        self.message.len += bytes.len() as u64;
        let fresh = self.outgoing.back().is_none_or(|piece| piece.sent > 0 || !fds.is_empty());
        if fresh {
            self.outgoing.push_back(Piece::default());
        }
        if let Some(piece) = self.outgoing.back_mut() {
            piece.bytes.extend_from_slice(bytes);
            piece.fds.extend(fds.into_iter().map(|fd| Passing { fd, instead_of: None }));
        }
        if self.carries_back_channel() {
            self.put_ourselves_between(tell);
        }
    }

    fn carries_back_channel(&self) -> bool {
        let code = FrontendRequest::SET_BACKEND_REQ_FD.0;
        self.channel.is_main()
            && self.side == Side::FrontEnd
            && !self.message.swapped
            && self.message.header().is_some_and(|header| header.request == code)
    }

    fn put_ourselves_between(&mut self, tell: &mut dyn FnMut(Passed)) {
        let mut passing = self.outgoing.iter_mut().flat_map(|piece| piece.fds.iter_mut());
        let Some(passing) = passing.find(|passing| back_channel::is_stream(passing.fd.as_fd())) else {
            return;
        };
        self.message.swapped = true;
        match back_channel::stand_in(passing.fd.as_fd()) {
            Ok((to_back_end, theirs)) => {
                passing.instead_of = Some(describe(passing.fd.as_fd()));
                let to_front_end = std::mem::replace(&mut passing.fd, theirs);
                tell(Passed::BackChannel(BackChannel { to_front_end, to_back_end }));
            }
            Err(error) => {
                tell(Passed::Note(format!("the back channel passes unseen, no socket to be had: {error}")));
            }
        }
    }

    /// Sends what is held, then tells of the message if it was complete. False: the receiver has no room, or is gone.
    fn send(&mut self, clock: Clock, tell: &mut dyn FnMut(Passed)) -> bool {
        while let Some(piece) = self.outgoing.front_mut() {
            match send_some(self.to.as_fd(), piece) {
                Ok(()) => {
                    self.message.time = clock.now();
                    // Looked at after they have gone on, and closed at once: somebody may wait for the end of a pipe.
                    for Passing { fd, instead_of } in piece.fds.drain(..) {
                        // A long message may bring some with each of its bytes.
                        if self.message.fds.len() < MAX_FDS {
                            self.message.fds.push(instead_of.unwrap_or_else(|| describe(fd.as_fd())));
                        }
                    }
                    if piece.sent == piece.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.state = State::Blocked;
                    return false;
                }
                Err(_) => {
                    self.give_up(clock, tell);
                    return false;
                }
            }
        }
        self.state = State::Open;
        if self.message.is_complete() {
            self.tell(false, tell);
        }
        true
    }

    /// The receiver is gone. The sender learns it as it would without us: it cannot send any more.
    fn give_up(&mut self, clock: Clock, tell: &mut dyn FnMut(Passed)) {
        self.message.time = clock.now();
        for piece in self.outgoing.drain(..) {
            self.message.fds.extend(piece.fds.iter().map(|passing| describe(passing.fd.as_fd())));
        }
        self.tell(true, tell);
        // Fails only if it is closed already.
        let _ = shutdown(&self.from, Shutdown::Read);
        self.state = State::Ended;
    }

    /// Nothing comes any more: the rest goes on, then the end.
    fn finish(&mut self, clock: Clock, tell: &mut dyn FnMut(Passed)) {
        if !self.send(clock, tell) {
            // Blocked: read again, and come here again, when there is room.
            return;
        }
        self.tell(false, tell);
        let both = hung_up(self.from.as_fd());
        self.close(if both { Shutdown::Both } else { Shutdown::Write });
    }

    /// Passes on that nothing will come any more, or that nobody is there any more.
    fn close(&mut self, how: Shutdown) {
        // Fails only if it is closed already.
        let _ = shutdown(&self.to, how);
        self.state = if how == Shutdown::Both { State::Ended } else { State::HalfClosed };
    }

    /// Tells of the message that went by, if one did.
    fn tell(&mut self, lost: bool, tell: &mut dyn FnMut(Passed)) {
        let Gathering { bytes, len, fds, time, .. } = std::mem::take(&mut self.message);
        if len == 0 {
            return;
        }
        let (channel, from) = (self.channel, self.side);
        tell(Passed::Message { seen: Seen { connection: 0, channel, from, time, bytes, len, fds }, lost });
    }
}

/// Room to read into.
pub(super) struct Scratch {
    bytes: Box<[u8]>,
    control: Box<[MaybeUninit<u8>]>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let control = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        Self { bytes: vec![0; CHUNK].into_boxed_slice(), control: control.into_boxed_slice() }
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<(usize, Vec<OwnedFd>)> {
        let buffer = self.bytes.get_mut(..most).unwrap_or_default();
        let mut control = RecvAncillaryBuffer::new(&mut self.control);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
        let mut fds = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                fds.extend(received);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("descriptors were lost; is the limit of open files reached?"));
        }
        Ok((message.bytes, fds))
    }
}

fn send_some(to: BorrowedFd<'_>, piece: &mut Piece) -> Result<(), Errno> {
    let fds: Vec<BorrowedFd<'_>> = piece.fds.iter().map(|passing| passing.fd.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::INVAL);
    }
    let rest = piece.bytes.get(piece.sent..).unwrap_or_default();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    piece.sent += sendmsg(to, &[IoSlice::new(rest)], &mut control, flags)?;
    Ok(())
}

/// Has the other end been closed altogether, and not only its sending half?
pub(super) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}
