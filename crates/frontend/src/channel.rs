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
}

impl Channel {
    pub(crate) fn new(transport: Box<dyn Transport>, timeout: Duration) -> Result<Self, Error> {
        let link = Arc::new(transport.as_fd().try_clone_to_owned()?);
        Ok(Self {
            transport,
            session: FrontendSession::new(),
            back: None,
            heard: Heard::default(),
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
        let frame = self.session.encode(request)?;
        self.send(frame)?;
        if !self.session.expects_reply() {
            return Ok(Reply::Ack);
        }
        let timeout = self.timeout;
        let late = || Error::Timeout { what: format!("answer {code}"), after: timeout };
        let frame = self.receive(timeout)?.ok_or_else(late)?;
        Ok(self.session.reply(frame)?)
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
        let deadline = Instant::now() + timeout;
        loop {
            let Some(ready) = self.wait(deadline)? else { return Ok(None) };
            if ready.back {
                self.hear()?;
            }
            if ready.main {
                let frame = self.transport.receive().map_err(Error::of_connection)?;
                return frame.ok_or(Error::Disconnected).map(Some);
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

    /// Serves what has come on the back channel, without waiting.
    pub(crate) fn serve_back_channel(&mut self) -> Result<(), Error> {
        while let Some(back) = &self.back {
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
            message => Err(Refusal::failed(message.code(), "nothing here serves it")),
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

    /// Waits until one of the channels is ready; `None` when the time is over first.
    fn wait(&self, deadline: Instant) -> Result<Option<Ready>, Error> {
        let main = PollFd::from_borrowed_fd(self.transport.as_fd(), PollFlags::IN);
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (count, ready) = match &self.back {
            Some(back) => {
                let mut fds = [main, PollFd::from_borrowed_fd(back.transport.as_fd(), PollFlags::IN)];
                let count = poll_until(&mut fds, deadline)?;
                let [main, back] = &fds;
                (count, Ready { main: ready(main), back: ready(back) })
            }
            None => {
                let mut fds = [main];
                let count = poll_until(&mut fds, deadline)?;
                let [main] = &fds;
                (count, Ready { main: ready(main), back: false })
            }
        };
        Ok((count != 0).then_some(ready))
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
