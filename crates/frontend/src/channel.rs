//! The main channel and the back channel of one connection, each wait with an end. The back end is not trusted: it
//! may answer wrongly, late, or never.
//!
//! # Theory of operation
//! The main channel is half-duplex: one request, then its answer if one is due. While we wait for that answer the
//! back end may ask something on the back channel, and may even need our answer there before it gives its own; so
//! every wait looks at both. What is asked there is noted, and answered if an answer is wanted.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_vhost_user::back_channel::{Message, Outcome, Responder, Terms};
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{Answer, Frame, FrontendSession, Refusal, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Error;
use crate::options::deadline;
use crate::shared_memory::SharedMemory;

/// Messages that are taken from the back channel in a row: who sends without end is not to keep us.
const MOST_AT_ONCE: usize = 64;

/// What came on the back channel so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// How often the back end said that its configuration space has changed.
    pub config_changes: u64,
    /// Messages that it may not send, or that nothing here serves.
    pub refused: u64,
}

/// One connection.
pub(crate) struct Channel {
    transport: Box<dyn Transport>,
    pub(crate) session: FrontendSession,
    back: Option<Back>,
    pub(crate) heard: Heard,
    pub(crate) shared: SharedMemory,
    timeout: Duration,
    link: Arc<OwnedFd>,
}

/// Our end of the back channel.
struct Back {
    transport: UnixTransport,
    responder: Responder,
}

/// What is ready.
struct Ready {
    main: bool,
    back: bool,
    beside: bool,
}

/// What a wait for two was ended by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Main,
    Beside,
}

impl Channel {
    pub(crate) fn new(transport: Box<dyn Transport>, timeout: Duration) -> Result<Self, Error> {
        let link = Arc::new(transport.as_fd().try_clone_to_owned()?);
        Ok(Self {
            transport,
            session: FrontendSession::new(),
            back: None,
            heard: Heard::default(),
            shared: SharedMemory::default(),
            timeout,
            link,
        })
    }

    /// A descriptor that hangs up when the connection ends.
    pub(crate) fn link(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.link)
    }

    pub(crate) fn main_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }

    pub(crate) fn back_fd(&self) -> Option<BorrowedFd<'_>> {
        self.back.as_ref().map(|back| back.transport.as_fd())
    }

    /// Sends a request and takes its answer, [`Reply::Ack`] where none is due.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        let code = request.code();
        self.begin(request)?;
        if !self.session.expects_reply() {
            return Ok(Reply::Ack);
        }
        let timeout = self.timeout;
        let late = || Error::Timeout { what: format!("answer {code}"), after: timeout };
        let frame = self.receive(timeout)?.ok_or_else(late)?;
        Ok(self.session.reply(frame)?)
    }

    /// Sends a request, whose answer is still to be taken.
    pub(crate) fn begin(&mut self, request: Request) -> Result<(), Error> {
        let frame = self.session.encode(request)?;
        self.send(frame)
    }

    /// Takes the answer that [`wait_beside`](Self::wait_beside) said is there.
    pub(crate) fn finish(&mut self) -> Result<Reply, Error> {
        let frame = self.transport.receive().map_err(Error::of_connection)?.ok_or(Error::Disconnected)?;
        Ok(self.session.reply(frame)?)
    }

    /// The main channel is readable although no answer is due: it has ended, or the back end has lost step.
    pub(crate) fn unexpected(&mut self) -> Result<(), Error> {
        self.finish().map(drop)
    }

    /// Like [`ask`](Self::ask), for requests that are answered with a number.
    pub(crate) fn ask_u64(&mut self, request: Request) -> Result<u64, Error> {
        let name = request.code().name().unwrap_or("the request");
        match self.ask(request)? {
            Reply::U64(value) => Ok(value),
            _ => Err(Error::WrongReply(name)),
        }
    }

    pub(crate) fn send(&mut self, frame: Frame) -> Result<(), Error> {
        self.transport.send(frame).map_err(Error::of_connection)
    }

    /// Waits for the next frame on the main channel; `None` when the time is over.
    pub(crate) fn receive(&mut self, timeout: Duration) -> Result<Option<Frame>, Error> {
        let deadline = deadline(timeout);
        loop {
            let Some(ready) = self.wait(None, deadline)? else { return Ok(None) };
            if ready.back {
                self.hear()?;
            }
            if ready.main {
                let frame = self.transport.receive().map_err(Error::of_connection)?;
                return frame.ok_or(Error::Disconnected).map(Some);
            }
            // The back channel alone may always be ready.
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Sets up the back channel; returns the back end's end of it.
    pub(crate) fn open_back_channel(&mut self, terms: Terms) -> Result<OwnedFd, Error> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let options = UnixOptions { frame_timeout: Some(self.timeout), ..UnixOptions::default() };
        self.back = Some(Back {
            transport: UnixTransport::with_options(ours, options),
            responder: Responder::new(terms),
        });
        Ok(theirs.into())
    }

    /// Serves what has come on the back channel, without waiting; of more than is usual, a part.
    pub(crate) fn serve_back_channel(&mut self) -> Result<(), Error> {
        for _ in 0..MOST_AT_ONCE {
            let Some(back) = &self.back else { break };
            let mut fds = [PollFd::from_borrowed_fd(back.transport.as_fd(), PollFlags::IN)];
            if poll_until(&mut fds, Instant::now())? == 0 {
                break;
            }
            self.hear()?;
        }
        Ok(())
    }

    /// Takes one message from the back channel and answers it. A channel that has ended is dropped: the back end
    /// may close it whenever it likes.
    pub(crate) fn hear(&mut self) -> Result<(), Error> {
        let Some(back) = &mut self.back else { return Ok(()) };
        let frame = match back.transport.receive() {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => {
                self.back = None;
                return Ok(());
            }
        };
        let outcome = back.responder.decode(frame).and_then(|message| match message {
            Message::ConfigChange => {
                self.heard.config_changes += 1;
                Ok(Outcome::Done)
            }
            message => {
                let code = message.code();
                let done = match message {
                    Message::ShmemMap(mapping, file) => self.shared.map(&mapping, file),
                    Message::ShmemUnmap(mapping) => self.shared.unmap(&mapping),
                    _ => Err("nothing here serves it"),
                };
                done.map(|()| Outcome::Done).map_err(|reason| Refusal::failed(code, reason))
            }
        });
        if let Err(refusal) = &outcome {
            tracing::warn!("back channel: {refusal}");
            self.heard.refused += 1;
        }
        let sent = match back.responder.answer(outcome) {
            Answer::Send(frame) => back.transport.send(frame).is_ok(),
            Answer::Nothing => true,
            Answer::Close => false,
        };
        if !sent {
            self.back = None;
        }
        Ok(())
    }

    /// Waits for the main channel, and for a descriptor beside it, as long as the back end may take for anything.
    pub(crate) fn wait_beside(
        &mut self,
        beside: Option<BorrowedFd<'_>>,
        flags: PollFlags,
    ) -> Result<Which, Error> {
        let timeout = self.timeout;
        let deadline = deadline(timeout);
        loop {
            let late =
                || Error::Timeout { what: "go on with the transfer of its state".to_owned(), after: timeout };
            let ready = self.wait(beside.map(|fd| (fd, flags)), deadline)?.ok_or_else(late)?;
            if ready.back {
                self.hear()?;
            }
            if ready.main {
                return Ok(Which::Main);
            }
            if ready.beside {
                return Ok(Which::Beside);
            }
            if Instant::now() >= deadline {
                return Err(late());
            }
        }
    }

    /// Waits until one of the channels is ready, or what is waited for beside them; `None` when the time is over
    /// first.
    fn wait(
        &self,
        beside: Option<(BorrowedFd<'_>, PollFlags)>,
        deadline: Instant,
    ) -> Result<Option<Ready>, Error> {
        // A descriptor that is not there is looked at as the main channel, for nothing.
        let main = self.transport.as_fd();
        let nothing = (main, PollFlags::empty());
        let back = self.back.as_ref().map_or(nothing, |back| (back.transport.as_fd(), PollFlags::IN));
        let watched = [(main, PollFlags::IN), back, beside.unwrap_or(nothing)];
        let mut fds = watched.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
        if poll_until(&mut fds, deadline)? == 0 {
            return Ok(None);
        }
        let [main, back_ready, beside_ready] = fds.map(|fd| !fd.revents().is_empty());
        let back = back_ready && self.back.is_some();
        Ok(Some(Ready { main, back, beside: beside_ready && beside.is_some() }))
    }
}

impl Drop for Channel {
    /// Queues may still hold the link. The connection ends nonetheless, for the back end and for them.
    fn drop(&mut self) {
        // Fails for what is not a connected socket: then there is nothing to end.
        let _ = rustix::net::shutdown(&*self.link, rustix::net::Shutdown::Both);
    }
}

/// Waits for any of the descriptors; 0 when the time is over first.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<usize, Error> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(fds, Some(&timeout)) {
            Ok(count) => return Ok(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
