//! A connection to a back end on which recorded messages are said, whatever they are.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outboard_vhost_user::observe::{Channel, Descriptor, Observed, Observer, Seen, Side};
use outboard_vhost_user::transport::{Transport, UnixOptions, UnixTransport};
use outboard_vhost_user::{Frame, FrontendRequest, Header};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown};

use super::compare::Difference;
use super::stand_ins::StandIns;
use crate::trace::descriptors::describe;

/// How long an answer too many is waited for, at the end.
const LULL: Duration = Duration::from_millis(100);

/// What became of an answer.
pub(super) enum Answer {
    /// It came.
    Message(Seen, Observed),
    /// It did not; why.
    None(String),
}

/// See the module.
pub(super) struct Talk {
    socket: UnixStream,
    answers: UnixTransport,
    stand_ins: StandIns,
    /// Follows the dialogue as it is.
    now: Observer,
    start: Instant,
    timeout: Duration,
}

impl Talk {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) fn open(path: &Path, timeout: Duration) -> Result<Self> {
        let socket = crate::peer::connect(path, timeout)
            .with_context(|| format!("cannot connect to {}", path.display()))?;
        socket.set_write_timeout(Some(timeout))?;
        let options = UnixOptions {
            frame_timeout: Some(timeout),
            idle_timeout: Some(timeout),
            ..UnixOptions::default()
        };
        let answers = UnixTransport::with_options(socket.try_clone()?, options);
        let (stand_ins, now, start) = (StandIns::default(), Observer::new(None), Instant::now());
        Ok(Self { socket, answers, stand_ins, now, start, timeout })
    }

    /// Says a recorded message, with stand-ins for its descriptors. The inner error is the back end's fault.
    ///
    /// # Errors
    /// It cannot be said: it was not recorded as a whole, or the host gives no stand-in.
    pub(super) fn say(&mut self, seen: &Seen) -> Result<Result<(), String>> {
        if seen.bytes.len() as u64 != seen.len {
            bail!("it is {} bytes long, and only {} were recorded", seen.len, seen.bytes.len());
        }
        let code = seen.header().map(|header| FrontendRequest(header.request));
        let fds = seen.fds.iter().map(|fd| self.stand_ins.make(code, fd)).collect::<io::Result<Vec<_>>>();
        let fds = fds.context("cannot make what it carries")?;
        self.now.see(&Seen { time: self.start.elapsed(), ..seen.clone() });
        if let Err(error) = send(self.socket.as_fd(), &seen.bytes, &fds) {
            return Ok(Err(format!("not taken: {error}")));
        }
        if !seen.is_whole() {
            // As its front end did.
            shutdown(&self.socket, Shutdown::Write)?;
        }
        Ok(Ok(()))
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// The host refuses a descriptor.
    pub(super) fn hear(&mut self) -> Result<Answer> {
        let frame = match self.answers.receive() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Answer::None("the back end closed the connection".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && error.get_ref().is_none() => {
                return Ok(Answer::None(format!("no answer within {} s", self.timeout.as_secs())));
            }
            Err(error) => return Ok(Answer::None(error.to_string())),
        };
        let seen = self.seen(&frame);
        let observed = self.now.see(&seen);
        if frame.request == FrontendRequest::GET_INFLIGHT_FD.0
            && let Some(fd) = frame.fds.into_iter().next()
        {
            self.stand_ins.inflight = Some(fd);
        }
        Ok(Answer::Message(seen, observed))
    }

    /// An answer that nobody asked for.
    pub(super) fn surplus(&mut self) -> Option<Difference> {
        self.answers.set_idle_timeout(Some(LULL));
        let Ok(Some(frame)) = self.answers.receive() else { return None };
        let seen = self.seen(&frame);
        let Observed { number, id, .. } = self.now.see(&seen);
        Some(Difference::of(number, id, "nothing", "an answer too many"))
    }

    /// What the back end has said on back channels.
    pub(super) fn back_messages(&self) -> Vec<String> {
        self.stand_ins.heard()
    }

    fn seen(&self, frame: &Frame) -> Seen {
        let bytes = frame.to_bytes();
        let (connection, channel, from) = (1, Channel::MAIN, Side::BackEnd);
        let (time, len) = (self.start.elapsed(), (Header::LEN + frame.body.len()) as u64);
        let fds: Vec<Descriptor> = frame.fds.iter().map(|fd| describe(fd.as_fd())).collect();
        Seen { connection, channel, from, time, bytes, len, fds }
    }
}

/// Sends all bytes, the descriptors with the first.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let mut fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many descriptors"));
        }
        match sendmsg(socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        fds.clear();
    }
    Ok(())
}
