//! A connection as bytes and frames, past every rule: what a check says to a back end, and what it hears. The back
//! end is not trusted: every wait has an end.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{Frame, FrontendRequest as Code};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::verdict::{Checked, Stop, ensure};

/// What came of waiting for a frame.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A frame.
    Frame(Frame),
    /// Nothing, for as long as we wait.
    Silence,
    /// The back end closed the connection.
    Closed,
}

/// What a back end said to something that asks for an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes: 0.
    Ack,
    /// No: another number.
    Nack,
    /// It closed the connection.
    Closed,
}

/// How a back end said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum No {
    /// It answered with a number other than 0.
    Nack,
    /// It closed the connection.
    Closed,
}

/// How a front end makes sure of what it sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// By an acknowledgement where there are some, else by asking for something that has a reply.
    #[default]
    Asking,
    /// Not at all: it goes on.
    Hasty,
    /// As [`Manner::Asking`], with NEED_REPLY on what has a reply of its own, too.
    Demanding,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: OwnedFd,
    transport: UnixTransport,
    /// REPLY_ACK is agreed on: what has no reply of its own is acknowledged when asked for.
    pub(crate) acks: bool,
    /// How what is set is made sure of.
    pub(crate) manner: Manner,
    /// Messages without descriptors carry a list of none.
    pub(crate) empty_lists: bool,
}

impl Wire {
    /// Over a connected socket; no answer is waited for longer than `patience`.
    pub(crate) fn new(stream: UnixStream, patience: Duration) -> Checked<Self> {
        let options = UnixOptions {
            max_body: 1 << 20,
            frame_timeout: Some(patience),
            idle_timeout: Some(patience),
            ..UnixOptions::default()
        };
        let socket = stream.as_fd().try_clone_to_owned()?;
        let transport = UnixTransport::with_options(stream, options);
        Ok(Self { socket, transport, acks: false, manner: Manner::Asking, empty_lists: false })
    }

    /// Sends bytes as they are, with one sendmsg; the descriptors ride on the first.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Checked {
        let message = SendAncillaryMessage::ScmRights(fds);
        let mut space = vec![MaybeUninit::uninit(); message.size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if (!fds.is_empty() || self.empty_lists) && !control.push(message) {
            return Err(Stop::Skip("so many descriptors cannot be sent".to_owned()));
        }
        let mut rest = bytes;
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(Stop::fail("the back end has closed the connection"));
                }
                Err(error) => return Err(error.into()),
            }
            if rest.is_empty() {
                return Ok(());
            }
            control.clear();
        }
    }

    /// Sends a message with exactly these flags.
    pub(crate) fn send_flags(&self, code: Code, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked {
        let frame = Frame { request: code.0, flags, body: body.to_vec(), fds: Vec::new() };
        self.send_bytes(&frame.to_bytes(), fds).map_err(|stop| stop.when(code))
    }

    /// Sends a message, asking for no acknowledgement.
    pub(crate) fn send(&self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked {
        let demand = if self.manner == Manner::Demanding { flags::NEED_REPLY } else { 0 };
        self.send_flags(code, flags::VERSION | demand, body, fds)
    }

    /// Waits for a frame.
    pub(crate) fn hear(&mut self) -> Checked<Heard> {
        match self.transport.receive() {
            Ok(Some(frame)) => Ok(Heard::Frame(frame)),
            Ok(None) => Ok(Heard::Closed),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Heard::Silence),
            Err(error) => Err(Stop::fail(format!("what came is no message: {error}"))),
        }
    }

    /// Waits for the reply to a request, and holds its header against the rules: its id, and flags 0x5 exactly.
    pub(crate) fn reply(&mut self, code: Code) -> Checked<Frame> {
        let frame = match self.hear().map_err(|stop| stop.when(format_args!("the reply to {code}")))? {
            Heard::Frame(frame) => frame,
            Heard::Silence => return Err(Stop::fail(format!("no reply to {code}"))),
            Heard::Closed => return Err(Stop::fail(format!("closed the connection on {code}"))),
        };
        ensure!(
            frame.request == code.0,
            "the reply to {code} has the id of {}: out of step",
            Code(frame.request)
        );
        // What was copied from our own flags is for the checks of framing to judge, not for those of set-ups.
        let copied = if self.manner == Manner::Demanding { flags::NEED_REPLY } else { 0 };
        ensure!(
            frame.flags & !copied == flags::OF_REPLY,
            "the reply to {code} has flags {:#x}, not {:#x}",
            frame.flags,
            flags::OF_REPLY
        );
        Ok(frame)
    }

    /// Asks what has a reply of its own.
    pub(crate) fn ask(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked<Frame> {
        self.send(code, body, fds)?;
        self.reply(code)
    }

    /// Asks what is answered with a layout.
    pub(crate) fn ask_for<T>(&mut self, code: Code, body: &[u8]) -> Checked<T>
    where
        T: FromBytes + IntoBytes + Immutable + KnownLayout,
    {
        parse(code, &self.ask(code, body, &[])?)
    }

    /// Asks what is answered with a number.
    pub(crate) fn ask_u64(&mut self, code: Code) -> Checked<u64> {
        self.ask_for(code, &[])
    }

    /// As [`ask_u64`](Self::ask_u64), taking whatever comes for the answer, with zeroes for what it lacks.
    pub(crate) fn ask_leniently(&mut self, code: Code) -> Checked<u64> {
        self.send(code, &[], &[])?;
        match self.hear()? {
            Heard::Frame(frame) => {
                let mut word = [0; 8];
                for (byte, came) in word.iter_mut().zip(&frame.body) {
                    *byte = *came;
                }
                Ok(u64::from_ne_bytes(word))
            }
            Heard::Silence => Err(Stop::fail(format!("no reply to {code}"))),
            Heard::Closed => Err(Stop::fail(format!("closed the connection on {code}"))),
        }
    }

    /// Waits until the back end has dealt with all that was sent before, and is in step.
    pub(crate) fn barrier(&mut self) -> Checked {
        self.ask_u64(Code::GET_FEATURES).map(drop)
    }

    /// Sends what has no reply of its own; it must be accepted.
    pub(crate) fn set(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked {
        if self.manner == Manner::Hasty {
            return self.send(code, body, fds);
        }
        if !self.acks {
            self.send(code, body, fds)?;
            return self.barrier().map_err(|stop| stop.when(format_args!("after {code}")));
        }
        self.send_flags(code, flags::VERSION | flags::NEED_REPLY, body, fds)?;
        let answer: u64 = parse(code, &self.reply(code)?)?;
        ensure!(answer == 0, "{code} was refused ({answer:#x})");
        Ok(())
    }

    /// As [`tried`](Self::tried), for back ends without REPLY_ACK, too: they can only say no by closing.
    pub(crate) fn try_set(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked<Answer> {
        let (asked, need) = if self.acks { (code, flags::NEED_REPLY) } else { (Code::GET_FEATURES, 0) };
        let sent = self.send_flags(code, flags::VERSION | need, body, fds);
        let sent = if self.acks { sent } else { sent.and_then(|()| self.send(asked, &[], &[])) };
        if sent.is_err() {
            return Ok(Answer::Closed);
        }
        match self.hear()? {
            Heard::Closed => Ok(Answer::Closed),
            Heard::Silence => Err(Stop::fail(format!("no answer to {asked} after {code}"))),
            Heard::Frame(frame) => {
                ensure!(frame.request == asked.0, "{} came for {asked}", Code(frame.request));
                let answer: u64 = parse(asked, &frame)?;
                Ok(if self.acks && answer != 0 { Answer::Nack } else { Answer::Ack })
            }
        }
    }

    /// Whether the connection still stands, and the back end is in step on it. It may have ended; it must not hang.
    pub(crate) fn is_open(&mut self) -> Checked<bool> {
        if self.send(Code::GET_FEATURES, &[], &[]).is_err() {
            return Ok(false);
        }
        match self.hear()? {
            Heard::Closed => Ok(false),
            Heard::Silence => Err(Stop::fail("the back end does not answer any more")),
            Heard::Frame(frame) => {
                ensure!(
                    frame.request == Code::GET_FEATURES.0,
                    "{} came for GET_FEATURES",
                    Code(frame.request)
                );
                Ok(true)
            }
        }
    }

    /// As [`set`](Self::set), and made sure of, whatever the manner is.
    pub(crate) fn ensure_set(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked {
        let manner = std::mem::take(&mut self.manner);
        let came = self.set(code, body, fds);
        self.manner = manner;
        came
    }

    /// As [`set`](Self::set), for what may be accepted or not.
    pub(crate) fn tried(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked<Answer> {
        if !self.acks {
            return Err(Stop::lacks("REPLY_ACK, without which nothing can be seen to be refused,"));
        }
        self.send_flags(code, flags::VERSION | flags::NEED_REPLY, body, fds)?;
        match self.hear()? {
            Heard::Closed => Ok(Answer::Closed),
            Heard::Silence => Err(Stop::fail(format!("no answer to {code} at all"))),
            Heard::Frame(frame) => {
                ensure!(frame.request == code.0, "{} came for {code}", Code(frame.request));
                let answer: u64 = parse(code, &frame)?;
                Ok(if answer == 0 { Answer::Ack } else { Answer::Nack })
            }
        }
    }

    /// As [`set`](Self::set), for what must not be accepted: a NACK, or the end of the connection, where a NACK
    /// cannot be asked for. Tells which.
    pub(crate) fn refused(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked<No> {
        match self.tried(code, body, fds)? {
            Answer::Ack => Err(Stop::fail(format!("{code} was accepted"))),
            Answer::Nack => Ok(No::Nack),
            Answer::Closed => Ok(No::Closed),
        }
    }

    /// As [`refused`](Self::refused), and the connection has to go on.
    pub(crate) fn nacked(&mut self, code: Code, body: &[u8], fds: &[BorrowedFd<'_>]) -> Checked {
        match self.refused(code, body, fds)? {
            No::Nack => self.barrier().map_err(|stop| stop.when(format_args!("after the NACK of {code}"))),
            No::Closed => Err(Stop::fail(format!("closed the connection instead of a NACK of {code}"))),
        }
    }

    /// The other side has seen the end of the connection from ours, and its own end comes back: waits for it.
    pub(crate) fn close(self) -> Checked {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both)?;
        Ok(())
    }

    /// The socket, to watch or to close half of.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A reply's payload as a layout; its size has to fit exactly.
pub(crate) fn parse<T>(code: Code, frame: &Frame) -> Checked<T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    T::read_from_bytes(&frame.body).map_err(|_| {
        let (len, wanted) = (frame.body.len(), size_of::<T>());
        Stop::fail(format!("the answer to {code} has {len} bytes, not {wanted}"))
    })
}
