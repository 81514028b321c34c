//! The UNIX stream socket (vhost-user: Communication). The peer is not trusted.
//!
//! # Theory of operation
//!
//! A stream keeps no borders, but descriptors stick to the byte they were sent with, and a read never crosses the
//! border between two messages that carry some. So the header is read alone, exactly twelve bytes, then the payload.
//! Descriptors may arrive with any of these reads; all are collected, each in its order. What a control buffer
//! cannot hold the kernel discards and says so (MSG_CTRUNC): then nobody knows which are missing, and the connection
//! is over.
//!
//! Every call asks the kernel not to block and waits with poll instead, so that it makes no difference whether the
//! socket blocks, and every wait can have an end. From the first byte of a frame to its last, one time limit runs;
//! a peer that stalls within a frame cannot hold the thread for longer. Between frames it may be silent for as long
//! as it likes, unless a limit is set for that too.
//!
//! A frame is sent with one sendmsg: some front ends read a reply with a single recv.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::Transport;
use crate::message::{Frame, Header, MAX_BODY, MAX_FDS};

/// Why a stream has lost step. Comes inside an [`io::Error`]; see [`io::Error::get_ref`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer announces a payload above the limit; it was not read.
    #[error("a payload of {size} bytes was announced, {max} is the limit")]
    Oversized {
        /// What it announces, in bytes.
        size: u32,
        /// The limit, in bytes.
        max: u32,
    },
    /// More descriptors came at once than the control buffer holds; some are lost.
    #[error("descriptors were lost: the control message did not fit")]
    ControlTruncated,
    /// More descriptors came with one frame than the limit.
    #[error("more than {max} descriptors came with one message")]
    TooManyFds {
        /// The limit.
        max: usize,
    },
    /// The peer closed within a frame.
    #[error("the peer closed within a message")]
    ClosedWithin,
    /// The peer stalled within a frame, or does not read what it is sent.
    #[error("the peer stalled within a message")]
    Stalled,
    /// An earlier error has made the stream useless.
    #[error("the stream has lost step")]
    Broken,
}

impl From<TransportError> for io::Error {
    fn from(error: TransportError) -> Self {
        let kind = match error {
            TransportError::ClosedWithin => io::ErrorKind::UnexpectedEof,
            TransportError::Stalled => io::ErrorKind::TimedOut,
            TransportError::Broken => io::ErrorKind::NotConnected,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// Limits of a [`UnixTransport`].
#[derive(Clone, Copy, Debug)]
pub struct UnixOptions {
    /// The longest payload that is read, in bytes.
    pub max_body: u32,
    /// How many descriptors a frame can carry; at most [`MAX_FDS`].
    pub max_fds: usize,
    /// How long a frame may take from its first byte to its last, in either direction; `None`: for ever.
    pub frame_timeout: Option<Duration>,
    /// How long to wait for a frame to begin; `None`: for ever. The stream survives this one.
    pub idle_timeout: Option<Duration>,
}

impl Default for UnixOptions {
    fn default() -> Self {
        Self {
            max_body: MAX_BODY,
            max_fds: MAX_FDS,
            frame_timeout: Some(Duration::from_secs(10)),
            idle_timeout: None,
        }
    }
}

/// A connected UNIX stream socket, blocking or not.
#[derive(Debug)]
pub struct UnixTransport {
    socket: OwnedFd,
    options: UnixOptions,
    /// Room for one control message with `max_fds` descriptors.
    control: Box<[MaybeUninit<u8>]>,
    broken: bool,
}

/// What a read is part of.
#[derive(Clone, Copy)]
enum At {
    /// No byte of a frame has been read.
    Border,
    /// At least one has; the limit runs.
    Within(Deadline),
}

/// When to give up; `None`: never.
type Deadline = Option<Instant>;

impl UnixTransport {
    /// Over a connected socket, with the default limits.
    pub fn new(socket: impl Into<OwnedFd>) -> Self {
        Self::with_options(socket, UnixOptions::default())
    }

    /// Over a connected socket, with these limits.
    pub fn with_options(socket: impl Into<OwnedFd>, options: UnixOptions) -> Self {
        let options = UnixOptions { max_fds: options.max_fds.min(MAX_FDS), ..options };
        let space = rustix::cmsg_space!(ScmRights(options.max_fds));
        let control = vec![MaybeUninit::uninit(); space].into_boxed_slice();
        Self { socket: socket.into(), options, control, broken: false }
    }

    /// Sets how long to wait for a frame to begin; `None`: for ever.
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        self.options.idle_timeout = timeout;
    }

    /// Fails if the stream has lost step, and remembers if it now has.
    fn in_step<R>(&mut self, call: impl FnOnce(&mut Self) -> io::Result<R>) -> io::Result<R> {
        if self.broken {
            return Err(TransportError::Broken.into());
        }
        self.broken = true;
        let result = call(self);
        self.broken = match &result {
            Ok(_) => false,
            // Nothing was read: the next frame is still whole.
            Err(error) => error.kind() != io::ErrorKind::TimedOut || error.get_ref().is_some(),
        };
        result
    }

    fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        let mut fds = Vec::new();
        let mut header = [0; Header::LEN];
        let Some(deadline) = self.read_header(&mut header, &mut fds)? else { return Ok(None) };
        let header: Header = zerocopy::transmute!(header);
        let (size, max) = (header.size, self.options.max_body);
        if size > max {
            return Err(TransportError::Oversized { size, max }.into());
        }
        let mut body = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.read_exact(&mut body, &mut fds, deadline)?;
        Ok(Some(Frame { request: header.request, flags: header.flags, body, fds }))
    }

    /// `None` when the peer has closed before the first byte; else when the frame has to be complete.
    fn read_header(&mut self, header: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<Option<Deadline>> {
        let read = self.read_some(header, fds, At::Border)?;
        if read == 0 {
            return Ok(None);
        }
        let deadline = self.options.frame_timeout.and_then(after);
        let rest = header.get_mut(read..).unwrap_or_default();
        self.read_exact(rest, fds, deadline)?;
        Ok(Some(deadline))
    }

    fn read_exact(
        &mut self,
        mut rest: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Deadline,
    ) -> io::Result<()> {
        while !rest.is_empty() {
            match self.read_some(rest, fds, At::Within(deadline))? {
                0 => return Err(TransportError::ClosedWithin.into()),
                read => rest = rest.get_mut(read..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Reads at least one byte, or 0 at the end of the stream; adds the descriptors that came along.
    fn read_some(&mut self, buffer: &mut [u8], fds: &mut Vec<OwnedFd>, at: At) -> io::Result<usize> {
        let deadline = match at {
            At::Border => self.options.idle_timeout.and_then(after),
            At::Within(deadline) => deadline,
        };
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut self.control);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
                Ok(message) => {
                    // Taken out of the control buffer before anything is judged: what is dropped is closed.
                    for ancillary in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                            fds.extend(received);
                        }
                    }
                    if message.flags.contains(ReturnFlags::CTRUNC) {
                        return Err(TransportError::ControlTruncated.into());
                    }
                    if fds.len() > self.options.max_fds {
                        return Err(TransportError::TooManyFds { max: self.options.max_fds }.into());
                    }
                    return Ok(message.bytes);
                }
                Err(Errno::AGAIN) => {
                    if !wait(self.socket.as_fd(), PollFlags::IN, deadline)? {
                        return Err(match at {
                            At::Border => io::ErrorKind::TimedOut.into(),
                            At::Within(_) => TransportError::Stalled.into(),
                        });
                    }
                }
                Err(Errno::INTR) => {}
                // Closed with bytes unread on its side: as good as closed.
                Err(Errno::CONNRESET) if matches!(at, At::Border) => return Ok(0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `piece`: how many bytes to give the kernel at once.
    fn write_frame(&self, frame: &Frame, piece: usize) -> io::Result<()> {
        let bytes = frame.to_bytes();
        let deadline = self.options.frame_timeout.and_then(after);
        let fds: Vec<BorrowedFd<'_>> = frame.fds.iter().map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let rest = rest.get(..piece).unwrap_or(rest);
            let mut control = SendAncillaryBuffer::new(&mut space);
            // The descriptors ride on the first byte, and only on it.
            if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(TransportError::TooManyFds { max: MAX_FDS }.into());
            }
            match sendmsg(
                &self.socket,
                &[IoSlice::new(rest)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => {
                    if !wait(self.socket.as_fd(), PollFlags::OUT, deadline)? {
                        return Err(TransportError::Stalled.into());
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Transport for UnixTransport {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        self.in_step(Self::read_frame)
    }

    fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.in_step(|unix| unix.write_frame(&frame, usize::MAX))
    }

    fn send_split(&mut self, frame: Frame, piece: usize) -> io::Result<()> {
        self.in_step(|unix| unix.write_frame(&frame, piece.max(1)))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until the socket is ready; false when the time is over first.
fn wait(socket: BorrowedFd<'_>, flags: PollFlags, deadline: Deadline) -> io::Result<bool> {
    loop {
        let timeout = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return Ok(false),
            Some(left) => Some(Timespec::try_from(left).map_err(io::Error::other)?),
            None => None,
        };
        match poll(&mut [PollFd::new(&socket, flags)], timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// When `limit` will be over; never, where no clock can hold it.
fn after(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}
