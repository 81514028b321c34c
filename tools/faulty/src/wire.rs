//! Frames on the socket: taken in whole, answered with one write. Faults of framing are here.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{Frame, Header};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use zerocopy::FromBytes;

use crate::faults::{Fault, Faults, die};

/// The longest payload that is taken in: a table of 253 regions.
const MAX_BODY: u32 = 8 + 32 * 253;
/// How long a message may take from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(3);

/// One connection's socket.
pub(crate) struct Wire {
    faults: Faults,
    transport: UnixTransport,
}

impl Wire {
    pub(crate) fn new(socket: OwnedFd, faults: Faults) -> Self {
        let endless = faults.has(Fault::OversizedAwaited);
        let options = UnixOptions {
            max_body: if endless || faults.has(Fault::OversizedCrashes) { u32::MAX } else { MAX_BODY },
            frame_timeout: if faults.has(Fault::StallEndless) || endless { None } else { Some(PATIENCE) },
            ..UnixOptions::default()
        };
        Self { faults, transport: UnixTransport::with_options(socket, options) }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }

    /// The next message; `None` when the front end has closed.
    pub(crate) fn receive(&mut self) -> io::Result<Option<Frame>> {
        if self.faults.has(Fault::ReadsOnce) || self.faults.has(Fault::CoalescedLost) {
            return self.receive_at_once();
        }
        if self.faults.has(Fault::OversizedCrashes) {
            self.crash_if_oversized()?;
        }
        self.transport.receive()
    }

    /// As a program does that believes one read to be one message.
    fn receive_at_once(&self) -> io::Result<Option<Frame>> {
        poll(&mut [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)], None)?;
        let mut fds = Vec::new();
        let mut header = [0; Header::LEN];
        let lost = self.faults.has(Fault::CoalescedLost);
        let mut bytes = vec![0; if lost { 4096 } else { Header::LEN }];
        let count = self.read_once(&mut bytes, &mut fds)?;
        if count == 0 {
            return Ok(None);
        }
        let short = || io::Error::other("a message in pieces");
        header.copy_from_slice(bytes.get(..Header::LEN).filter(|_| count >= Header::LEN).ok_or_else(short)?);
        let header = Header::read_from_bytes(&header).map_err(|_| short())?;
        let size = usize::try_from(header.size).ok().filter(|size| *size <= 4096).ok_or_else(short)?;
        let body = if lost {
            let end = Header::LEN + size;
            bytes.get(Header::LEN..end).filter(|_| count >= end).ok_or_else(short)?.to_vec()
        } else {
            let mut body = vec![0; size];
            if size > 0 && self.read_once(&mut body, &mut fds)? < size {
                return Err(short());
            }
            body
        };
        Ok(Some(Frame { request: header.request, flags: header.flags, body, fds }))
    }

    fn read_once(&self, into: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let count = recvmsg(self.as_fd(), &mut [IoSliceMut::new(into)], &mut control, flags)?.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        Ok(count)
    }

    fn crash_if_oversized(&self) -> io::Result<()> {
        let mut header = [0; Header::LEN];
        let peeked = rustix::net::recv(self.as_fd(), &mut header, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        match (peeked, Header::read_from_bytes(&header)) {
            (Ok((Header::LEN, _)), Ok(header)) if header.size > MAX_BODY => die(),
            (Err(error), _) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Sends an answer to a message with this code.
    pub(crate) fn answer(&mut self, code: u32, body: Vec<u8>, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut frame = Frame { request: code, flags: flags::OF_REPLY, body, fds };
        if self.faults.has(Fault::ReplyKeepsNeedReply) {
            frame.flags |= flags::NEED_REPLY;
        }
        if self.faults.has(Fault::ReplyWithoutFlag) {
            frame.flags &= !flags::REPLY;
        }
        if self.faults.has(Fault::ReplyVersionZero) {
            frame.flags &= !flags::VERSION_MASK;
        }
        if self.faults.has(Fault::ReplyIdWrong) {
            frame.request += 1;
        }
        if self.faults.has(Fault::ReplyTooLong) {
            frame.body.extend([0; 4]);
        }
        if self.faults.has(Fault::ReplyTooShort) {
            frame.body.truncate(4);
        }
        if self.faults.has(Fault::ReplyInPieces) {
            return self.in_pieces(&frame);
        }
        self.transport.send(frame)
    }

    /// The header, and later the payload.
    fn in_pieces(&self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.to_bytes();
        let (header, body) = bytes.split_at(Header::LEN.min(bytes.len()));
        rustix::net::send(self.as_fd(), header, rustix::net::SendFlags::NOSIGNAL)?;
        std::thread::sleep(Duration::from_millis(20));
        rustix::net::send(self.as_fd(), body, rustix::net::SendFlags::NOSIGNAL)?;
        Ok(())
    }
}
