//! The transfer of the device's state (vhost-user: Migrating back-end state), in the background of the messages.
//!
//! The state is a magic number, a version, the device's own part and a check sum over all of it. What comes in is
//! not trusted: it is taken over only as a whole.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use outboard_vhost_user::payload::{TransferState, device_state};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::connection::Connection;
use crate::device::Device;
use crate::dispatch::{Outcome, one, wrong};
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;
use crate::messages::Answer;

const MAGIC: &[u8; 4] = b"OBFT";
const VERSION: u8 = 1;
/// More is not the state of any device here.
const LONGEST: usize = 1 << 16;
/// How long CHECK_DEVICE_STATE waits for the other end of the pipe.
const PATIENCE: Duration = Duration::from_secs(3);

/// A transfer: under way, or over.
pub(crate) struct Transfer {
    /// Gone when the transfer is over.
    fd: Option<OwnedFd>,
    is_load: bool,
    bytes: Vec<u8>,
    /// How many bytes of a state to save were sent.
    sent: usize,
    result: Result<(), Bad>,
    faults: Faults,
}

impl Transfer {
    pub(crate) fn save(fd: OwnedFd, device: &dyn Device, faults: Faults) -> Self {
        let mut bytes = Vec::from(MAGIC);
        bytes.push(VERSION);
        bytes.extend(device.save());
        bytes.extend(sum(&bytes).to_le_bytes());
        if faults.has(Fault::StateSaveTruncated) {
            bytes.truncate(bytes.len() / 2);
        }
        Self { fd: Some(fd), is_load: false, bytes, sent: 0, result: Ok(()), faults }
    }

    pub(crate) fn load(fd: OwnedFd, faults: Faults) -> Self {
        Self { fd: Some(fd), is_load: true, bytes: Vec::new(), sent: 0, result: Ok(()), faults }
    }

    /// What to wait for, while under way.
    pub(crate) fn wants(&self) -> Option<PollFd<'_>> {
        let flags = if self.is_load { PollFlags::IN } else { PollFlags::OUT };
        // A state that was sent whole, and whose pipe a fault keeps open, needs no waiting for.
        let idle = !self.is_load && self.sent == self.bytes.len();
        self.fd.as_ref().filter(|_| !idle).map(|fd| PollFd::new(fd, flags))
    }

    /// Goes on after poll said that it can.
    pub(crate) fn step(&mut self, device: &mut dyn Device) {
        let Some(fd) = &self.fd else { return };
        let moved = if self.is_load {
            let mut block = [0; 4096];
            let read = rustix::io::read(fd, &mut block);
            if let Ok(count) = read {
                self.bytes.extend_from_slice(block.get(..count).unwrap_or_default());
            }
            read
        } else {
            let rest = self.bytes.get(self.sent..).unwrap_or_default();
            let written = rustix::io::write(fd, rest);
            self.sent += *written.as_ref().unwrap_or(&0);
            written
        };
        match moved {
            Ok(0) if self.is_load => self.end(device),
            Ok(_) if self.bytes.len() > LONGEST => self.fail("the state is too long".to_owned()),
            Ok(_) if !self.is_load && self.sent == self.bytes.len() => {
                if !self.faults.has(Fault::StateSaveOpen) {
                    self.fd = None;
                }
            }
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::PIPE) if self.faults.has(Fault::StateUnreadCrashes) => die(),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn end(&mut self, device: &mut dyn Device) {
        self.fd = None;
        self.result = match self.own_part() {
            Ok(_) if self.faults.has(Fault::StateLoadIgnored) => Ok(()),
            Ok(own) => device.load(own),
            Err(_) if self.faults.has(Fault::StateCorruptAccepted) => Ok(()),
            Err(bad) => Err(bad),
        };
    }

    fn fail(&mut self, bad: Bad) {
        self.fd = None;
        self.result = Err(bad);
    }

    /// The device's part of a state that came in.
    fn own_part(&self) -> Result<&[u8], Bad> {
        let wrong = || "not a state of this program".to_owned();
        let (rest, theirs) = self.bytes.split_last_chunk::<4>().ok_or_else(wrong)?;
        if sum(rest).to_le_bytes() != *theirs {
            return Err("the check sum is wrong".to_owned());
        }
        let (magic, rest) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        match rest.split_first() {
            Some((&VERSION, own)) if magic == MAGIC => Ok(own),
            _ => Err(wrong()),
        }
    }

    /// CHECK_DEVICE_STATE: how it went. The front end has seen the end of the pipe, or has made it; the rest of what
    /// is in it is read first.
    pub(crate) fn verdict(&mut self, device: &mut dyn Device) -> Result<(), Bad> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(wanted) = self.wants() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            match poll(&mut [wanted], Some(&timeout)) {
                Ok(0) => self.fail("the transfer does not end".to_owned()),
                _ => self.step(device),
            }
        }
        self.result.clone()
    }
}

impl Connection<'_> {
    pub(crate) fn set_device_state(&mut self, wanted: TransferState, fds: &mut Vec<OwnedFd>) -> Outcome {
        let fd = one(fds)?;
        let faults = self.faults;
        if self.transfer.is_some() && faults.has(Fault::StateOnlyOnce) {
            return Err(wrong("a state was transferred"));
        }
        if self.rings.iter().any(|ring| ring.running.is_some()) && !faults.has(Fault::StateWhileRunning) {
            return Err(wrong("rings run"));
        }
        if wanted.phase != device_state::STOPPED && !faults.has(Fault::StatePhaseUnchecked) {
            return Err(wrong(format!("phase {}", wanted.phase)));
        }
        self.transfer = match wanted.direction {
            device_state::SAVE => Some(Transfer::save(fd, self.device, faults)),
            device_state::LOAD => Some(Transfer::load(fd, faults)),
            _ if faults.has(Fault::StateDirectionUnchecked) => Some(Transfer::load(fd, faults)),
            other => return Err(wrong(format!("direction {other}"))),
        };
        let answer = if faults.has(Fault::StateAnswerZero) { 0 } else { device_state::NO_FD };
        Ok(Answer::number(answer))
    }

    pub(crate) fn check_device_state(&mut self, body: &[u8]) -> Outcome {
        self.empty(body)?;
        let verdict = match &mut self.transfer {
            Some(transfer) => transfer.verdict(self.device),
            None if self.faults.has(Fault::StateCheckCrashes) => die(),
            None => Err("nothing was transferred".to_owned()),
        };
        match verdict {
            _ if self.faults.has(Fault::StateCheckAlwaysZero) => Ok(Answer::number(0)),
            _ if self.faults.has(Fault::StateCheckAlwaysFails) => Ok(Answer::number(1)),
            Ok(()) => Ok(Answer::number(0)),
            Err(bad) => Err(bad.into()),
        }
    }
}

/// FNV-1a.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum: u32, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
