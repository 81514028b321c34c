//! One connection, question by question, each with an end. The back end is not trusted: whatever it does is a
//! [`Trouble`], and what was learned before stays.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{FrontendRequest, FrontendSession, Refusal, Reply, Request};

/// How a question failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// There is nobody to ask.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No answer came in time.
    #[error("no answer to {asked} within {after:?}")]
    Silent { asked: FrontendRequest, after: Duration },
    /// All questions together took too long.
    #[error("the back end answers too slowly: {after:?} are over at {asked}")]
    Slow { asked: FrontendRequest, after: Duration },
    /// The connection ended instead of an answer.
    #[error("the back end closed the connection over {asked}")]
    Closed { asked: FrontendRequest },
    /// Something came that is no answer.
    #[error("the answer to {asked} makes no sense: {reason}")]
    Nonsense { asked: FrontendRequest, reason: String },
    /// An answer came whose content does not fit. The connection is as good as before.
    #[error("the answer to {asked} does not fit: {reason}")]
    Misfit { asked: FrontendRequest, reason: &'static str },
    /// It said no. The connection is as good as before.
    #[error("{0}")]
    Refused(Refusal),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl Trouble {
    /// Nobody took the connection, or nobody heard the first question.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::Connect(error) => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
            }
            Self::Closed { asked } => {
                matches!(*asked, FrontendRequest::SET_OWNER | FrontendRequest::GET_FEATURES)
            }
            _ => false,
        }
    }
}

/// A connection on which questions are asked.
pub(super) struct Dialogue {
    transport: UnixTransport,
    pub(super) session: FrontendSession,
    timeout: Duration,
    began: Instant,
    whole: Duration,
}

impl Dialogue {
    /// Over a connected socket. Each answer may take `timeout`, all of them `whole`.
    pub(super) fn new(socket: UnixStream, timeout: Duration, whole: Duration) -> Self {
        let options = UnixOptions { frame_timeout: Some(timeout), ..UnixOptions::default() };
        Self {
            transport: UnixTransport::with_options(socket, options),
            session: FrontendSession::new(),
            timeout,
            began: Instant::now(),
            whole,
        }
    }

    /// Asks, and takes the answer; [`Reply::Ack`] where none is due.
    pub(super) fn ask(&mut self, request: Request) -> Result<Reply, Trouble> {
        let asked = request.code();
        let left = self.whole.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(Trouble::Slow { asked, after: self.whole });
        }
        let frame = self.session.encode(request).map_err(Trouble::Refused)?;
        self.transport.send(frame).map_err(|error| self.failed(asked, error))?;
        if !self.session.expects_reply() {
            return Ok(Reply::Ack);
        }
        self.transport.set_idle_timeout(Some(left.min(self.timeout)));
        let frame = self.transport.receive().map_err(|error| self.failed(asked, error))?;
        let frame = frame.ok_or(Trouble::Closed { asked })?;
        self.session.reply(frame).map_err(|refusal| match refusal {
            Refusal::Nack { .. } => Trouble::Refused(refusal),
            Refusal::Malformed { reason, .. } => Trouble::Misfit { asked, reason },
            refusal => Trouble::Nonsense { asked, reason: refusal.to_string() },
        })
    }

    /// Asks for a number.
    pub(super) fn ask_number(&mut self, request: Request) -> Result<u64, Trouble> {
        let asked = request.code();
        match self.ask(request)? {
            Reply::U64(value) => Ok(value),
            _ => Err(Trouble::Nonsense { asked, reason: "it is no number".to_owned() }),
        }
    }

    fn failed(&self, asked: FrontendRequest, error: io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::TimedOut => Trouble::Silent { asked, after: self.timeout },
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotConnected => Trouble::Closed { asked },
            io::ErrorKind::InvalidData => Trouble::Nonsense { asked, reason: error.to_string() },
            _ => Trouble::Host(error),
        }
    }
}
