//! The device's own state, saved and loaded for migration (vhost-user: Migrating back-end state). The back end is not
//! trusted to read, to write or to end: each wait has an end, and what it says of itself is asked for at the end.
//!
//! # Theory of operation
//! The bytes travel through a pipe, beside the channel. One end goes with SET_DEVICE_STATE_FD; the back end may
//! answer with a descriptor of its own instead. It moves the bytes after its answer, but some begin before, and a pipe
//! holds only 64 KiB: so while we save, we read already as we wait for the answer. The end of the bytes is the end of
//! the file. Then CHECK_DEVICE_STATE tells how it went.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use outboard_vhost_user::payload::device_state::{ERROR_MASK, LOAD, NO_FD, SAVE, STOPPED};
use outboard_vhost_user::{ProtocolFeatures, Reply, Request};
use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::channel::Which;
use crate::{Error, Frontend};

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

impl Frontend {
    /// Saves the device's state: writes what the back end gives to `to`, and says how many bytes. No queue may run.
    /// The format is the device's own affair.
    ///
    /// [`Options::timeout`](crate::Options::timeout) is how long the back end may take from one byte to the next;
    /// `to` may put an end to bytes that never end.
    ///
    /// # Errors
    /// The back end does not do such things ([`Error::ProtocolMissing`]), refuses ([`Error::StateRefused`]), or says
    /// in the end that something went wrong (a refusal of CHECK_DEVICE_STATE); it gives nothing more in time; `to`
    /// fails; the connection fails. What was written to `to` is of no use then.
    pub fn save_state(&mut self, to: &mut impl Write) -> Result<u64, Error> {
        self.check_transfer()?;
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(&ours)?;
        self.channel.begin(transfer(SAVE, theirs))?;
        let mut saving = Saving { to, buffer: vec![0; CHUNK], saved: 0, ended: false };
        while let Which::Beside = self.channel.wait_beside(saving.source(&ours), PollFlags::IN)? {
            if let Err(error) = saving.take(&ours) {
                // The answer is due all the same: the connection goes on.
                drop(ours);
                self.channel.wait_beside(None, PollFlags::empty())?;
                self.channel.finish()?;
                return Err(error);
            }
        }
        let reply = self.channel.finish()?;
        let is_ours = matches!(reply, Reply::DeviceState { value, .. } if value & NO_FD != 0);
        let from = agreed_end(reply, ours, saving.saved == 0)?;
        // The end of a pipe that the back end does not use says nothing.
        saving.ended &= is_ours;
        while !saving.ended {
            match self.channel.wait_beside(Some(from.as_fd()), PollFlags::IN)? {
                Which::Beside => saving.take(&from)?,
                Which::Main => self.channel.unexpected()?,
            }
        }
        let saved = saving.saved;
        self.channel.ask(Request::CheckDeviceState)?;
        Ok(saved)
    }

    /// Loads a state that was saved before: gives the back end what `from` has to its end, and says how many bytes.
    /// No queue may run.
    ///
    /// # Errors
    /// As [`save_state`](Self::save_state); the back end does not take it all ([`Error::StateCut`]). The device is to
    /// be reset then.
    pub fn load_state(&mut self, from: &mut impl Read) -> Result<u64, Error> {
        self.check_transfer()?;
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(&ours)?;
        let reply = self.channel.ask(transfer(LOAD, theirs))?;
        let to = agreed_end(reply, ours, true)?;
        let mut buffer = vec![0; CHUNK];
        let (mut loaded, mut cut) = (0, false);
        while !cut {
            let len = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let taken = self.give(&to, buffer.get(..len).unwrap_or_default())?;
            loaded += taken as u64;
            cut = taken < len;
        }
        // The end of the file.
        drop(to);
        self.channel.ask(Request::CheckDeviceState)?;
        if cut { Err(Error::StateCut(loaded)) } else { Ok(loaded) }
    }

    /// Writes all of `bytes`, or as many as the back end takes before it closes its end.
    fn give(&mut self, to: &OwnedFd, bytes: &[u8]) -> Result<usize, Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.channel.wait_beside(Some(to.as_fd()), PollFlags::OUT)? {
                Which::Main => self.channel.unexpected()?,
                Which::Beside => match rustix::io::write(to, rest) {
                    Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(Errno::PIPE | Errno::CONNRESET) => break,
                    Err(error) => return Err(error.into()),
                },
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn check_transfer(&self) -> Result<(), Error> {
        if !self.has(ProtocolFeatures::DEVICE_STATE) {
            return Err(Error::ProtocolMissing(ProtocolFeatures::DEVICE_STATE));
        }
        match self.rings.keys().next() {
            Some(&index) => Err(Error::QueueState { index, state: "runs: the state is not at rest" }),
            None => Ok(()),
        }
    }
}

/// A state on its way to us.
struct Saving<'t, T> {
    to: &'t mut T,
    buffer: Vec<u8>,
    saved: u64,
    ended: bool,
}

impl<T: Write> Saving<'_, T> {
    /// What to wait for beside the answer: at its end a pipe stays readable.
    fn source<'fd>(&self, from: &'fd OwnedFd) -> Option<std::os::fd::BorrowedFd<'fd>> {
        (!self.ended).then(|| from.as_fd())
    }

    fn take(&mut self, from: &OwnedFd) -> Result<(), Error> {
        match rustix::io::read(from, &mut self.buffer) {
            Ok(0) => self.ended = true,
            Ok(len) => {
                self.to.write_all(self.buffer.get(..len).unwrap_or_default())?;
                self.saved += len as u64;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn transfer(direction: u32, fd: OwnedFd) -> Request {
    Request::SetDeviceStateFd { direction, phase: STOPPED, fd }
}

/// Which descriptor the bytes go through: ours, or one that came with the answer, if `ours` is unused so far.
fn agreed_end(reply: Reply, ours: OwnedFd, unused: bool) -> Result<OwnedFd, Error> {
    match reply {
        Reply::DeviceState { value, .. } if value & ERROR_MASK != 0 => {
            Err(Error::StateRefused((value & ERROR_MASK) as u8))
        }
        Reply::DeviceState { value, .. } if value & NO_FD != 0 => Ok(ours),
        Reply::DeviceState { fd: Some(fd), .. } if unused => {
            set_nonblocking(&fd)?;
            Ok(fd)
        }
        _ => Err(Error::WrongReply("SET_DEVICE_STATE_FD")),
    }
}

fn set_nonblocking(fd: &OwnedFd) -> Result<(), Error> {
    let flags = fcntl_getfl(fd)?;
    Ok(fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}
